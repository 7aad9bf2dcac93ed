"""A small network and its data, with the exact Hessian in float64."""

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np


def apply(params, batch):
    """Two tanh layers; where types show shardings, the hidden units come together again."""
    hidden = jnp.tanh(batch["x"] @ params["first"]["kernel"] + params["first"]["bias"])
    mesh = jax.typeof(hidden).sharding.mesh
    if jax.sharding.AxisType.Explicit not in mesh.axis_types:
        return hidden @ params["second"]["kernel"] + params["second"]["bias"]
    out = jnp.dot(
        hidden, params["second"]["kernel"], out_sharding=jax.NamedSharding(mesh, jax.P("data"))
    )
    return out + params["second"]["bias"]


def output_loss(outputs, batch):
    """Mean cross entropy."""
    log_p = jax.nn.log_softmax(outputs)
    return -jnp.mean(
        jnp.sum(log_p * jax.nn.one_hot(batch["y"], log_p.shape[1], dtype=log_p.dtype), 1)
    )


def loss(params, batch):
    """Mean cross entropy of the network."""
    return output_loss(apply(params, batch), batch)


def make(seed=0, examples=90, features=6, hidden=10, classes=4):
    """Parameters, and one batch with all the examples."""
    rng = np.random.default_rng(seed)
    params = {
        "first": {
            "kernel": rng.normal(size=(features, hidden)) / features**0.5,
            "bias": rng.normal(size=hidden) / 10,
        },
        "second": {
            "kernel": rng.normal(size=(hidden, classes)) / hidden**0.5,
            "bias": rng.normal(size=classes) / 10,
        },
    }
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), params)
    x = rng.normal(size=(examples, features)) * np.linspace(0.3, 2, features)
    y = rng.integers(0, classes, examples)
    return params, {"x": x.astype(np.float32), "y": y.astype(np.int32)}


def split(batch, size):
    """The batch in batches; the last one may be ragged."""
    count = len(batch["y"])
    return [jax.tree.map(lambda a: a[i : i + size], batch) for i in range(0, count, size)]


def placed(params, batches, axes):
    """Hidden units over "model", examples over "data", on a mesh of 2 x 4 devices."""
    mesh = jax.make_mesh((2, 4), ("data", "model"), axis_types=(axes, axes))
    specs = {
        "first": {"kernel": jax.P(None, "model"), "bias": jax.P("model")},
        "second": {"kernel": jax.P("model"), "bias": jax.P()},
    }
    params = jax.tree.map(lambda p, s: jax.device_put(p, jax.NamedSharding(mesh, s)), params, specs)
    return params, jax.device_put(batches, jax.NamedSharding(mesh, jax.P("data")))


def dense(function, params, batch):
    """The float64 Hessian of function(params, batch) in flat parameters."""
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf, np.float64)), params)
        data = jax.tree.map(
            lambda a: jnp.asarray(np.asarray(a, np.float64 if a.dtype.kind == "f" else a.dtype)),
            batch,
        )
        flat, unravel = jax.flatten_util.ravel_pytree(wide)
        return np.asarray(jax.hessian(lambda v: function(unravel(v), data))(flat))


def matrix_of(op):
    """The matrix of an operator, column by column."""
    units = np.eye(op.size, dtype=op.dtype)
    return np.stack([op.space.flat(op.apply(op.space.split(e))) for e in units], axis=1)
