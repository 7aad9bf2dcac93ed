"""Ghost batch norm as PyTorch users know it: torch.nn.BatchNorm called ghost by ghost, in order."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.speed import ghost_norm
from gapjax._cores import cores
from gapjax.ghost.linen import GhostBatchNorm

torch = pytest.importorskip("torch")


@pytest.mark.parametrize("shape", [(24, 5), (24, 3, 4, 5)])
@pytest.mark.parametrize("momentum", [0.1, 0.01])
def test_is_torch_ghost_by_ghost(shape, momentum):
    ghost_size = 8
    kind = torch.nn.BatchNorm1d if len(shape) == 2 else torch.nn.BatchNorm2d
    norm = kind(5, momentum=momentum)
    layer = GhostBatchNorm(momentum=1 - momentum, ghost_size=ghost_size, variance="unbiased")
    x = jax.random.normal(jax.random.key(0), (3, *shape)) * 2 + 1
    variables = layer.init(jax.random.key(0), x[0], False)
    train = jax.jit(lambda v, x: layer.apply(v, x, False, mutable=["batch_stats"]))
    for batch in x:
        y, updates = train(variables, batch)
        variables = {**variables, **updates}
        features_first = torch.from_numpy(np.moveaxis(np.asarray(batch), -1, 1).copy())
        chunks = [norm(chunk) for chunk in features_first.split(ghost_size)]
        expected = np.moveaxis(torch.cat(chunks).detach().numpy(), 1, -1)
        np.testing.assert_allclose(y, expected, atol=1e-5)
    stats = variables["batch_stats"]
    np.testing.assert_allclose(stats["mean"], norm.running_mean.numpy(), atol=1e-5)
    np.testing.assert_allclose(stats["var"], norm.running_var.numpy(), rtol=1e-5, atol=1e-5)
    assert jnp.all(stats["var"] > 0)


@pytest.mark.parametrize("shape", [(8, 5), (8, 3, 4, 5)])
def test_the_benchmark_times_it_on_as_many_threads_as_there_are_cores(shape):
    x = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    steps, told = ghost_norm._torch_steps(x, x, (2, 4))
    assert told == {"torch": torch.__version__, "torch_threads": cores()}
    assert [*steps] == ["torch BatchNorm", "torch chunks of 2", "torch chunks of 4"]
    for step in steps.values():
        step()
