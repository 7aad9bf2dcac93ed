"""Two processes with four devices each: the curvature of one process."""

import json

import jax
import numpy as np
import pytest
from jax.sharding import AxisType

from gapjax import landscape, training
from tests.landscape import networks
from tests.processes import finish, start

pytestmark = pytest.mark.processes


def measure(params, batches):
    """A few numbers of every kind."""
    loss, key = networks.loss, jax.random.key(0)
    op = landscape.hessian(loss, params, lambda: iter(batches))
    pairs = landscape.eigh_topk(op, key, 2, basis_size=4, max_matvecs=7)
    once = {"maxiter": 1, "num_starts": 1}
    sharpness = [
        landscape.sam_sharpness(loss, params, batches),
        landscape.keskar_sharpness(loss, params, batches, **once),
        landscape.keskar_sharpness(loss, params, batches, subspace_dim=2, key=key, **once),
    ]
    lengths = [np.sum(np.square(leaf)) for leaf in jax.tree.leaves(_whole(pairs.vectors))]
    return {
        "values": pairs.values.tolist(),
        "lengths": float(np.sum(lengths)),
        "trace": landscape.trace(op, key, 2).mean,
        "sharpness": [found.value for found in sharpness],
    }


def _whole(tree):
    """Arrays that this process can read."""

    def leaf(x):
        if x.is_fully_addressable:
            return x
        return jax.device_put(x, jax.NamedSharding(x.sharding.mesh, jax.P()))

    return jax.tree.map(leaf, tree)


def problem():
    params, batch = networks.make(hidden=8, examples=64)
    return params, networks.split(batch, 32)


def main():
    training.connect()
    found = {}
    for axes in (AxisType.Auto, AxisType.Explicit):
        found[axes.name] = measure(*networks.placed(*problem(), axes))
    try:
        landscape.recorded(landscape.from_matvec(lambda v: v, jax.numpy.ones(2)), "never made")
    except ValueError as error:
        found["refused"] = str(error)
    print(json.dumps(found))


def test_two_processes_measure_as_one_does():
    one = measure(*problem())
    np.testing.assert_allclose(one["lengths"], 2, rtol=1e-5)
    command = ["-c", f"import {__name__} as here; here.main()"]
    outputs = finish(start([command, command], devices=4), 600)
    for _, errors, code in outputs:
        assert code == 0, errors[-3000:]
    results = [json.loads(out) for out, *_ in outputs]
    assert results[0] == results[1]
    for axes in ("Auto", "Explicit"):
        for name, expected in one.items():
            np.testing.assert_allclose(results[0][axes][name], expected, rtol=2e-3)
    assert "resume=" in results[0]["refused"]
