"""Statistics of a batch and of a data set, in linen and nnx, and put back into the state."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx

from gapjax import ghost, models
from gapjax.ghost import linen as ghost_linen
from gapjax.ghost import nnx as ghost_nnx


class Linen(nn.Module):
    norm: type[nn.Module] = nn.BatchNorm

    @nn.compact
    def __call__(self, x, train):
        x = self.norm(use_running_average=not train, momentum=0.9)(nn.Dense(4)(x))
        x = nn.BatchNorm(use_running_average=not train, name="last")(nn.Dense(3)(nn.relu(x)))
        return x


class Nnx(nnx.Module):
    def __init__(self, rngs):
        self.one, self.two = nnx.Linear(5, 4, rngs=rngs), nnx.Linear(4, 3, rngs=rngs)
        self.norm = nnx.BatchNorm(4, momentum=0.9, rngs=rngs)
        self.last = nnx.BatchNorm(3, rngs=rngs)
        self.dropout = nnx.Dropout(0.0, rngs=rngs)

    def __call__(self, x):
        return self.last(self.two(self.dropout(nnx.relu(self.norm(self.one(x))))))


MODELS = {"linen": Linen(), "ours": Linen(ghost_linen.GhostBatchNorm), "nnx": Nnx}


@pytest.fixture(scope="module")
def x():
    return 3 + 2 * jax.random.normal(jax.random.key(0), (24, 5))


@pytest.fixture(scope="module", params=MODELS)
def network(request, x):
    network = models.as_network(MODELS[request.param])
    params, state = network.init(jax.random.key(1), x)
    # As after some training: the statistics of another batch, and far from 0 and 1.
    for _ in range(3):
        _, state = network.apply(params, state, 5 - x, train=True)
    return network, params, state


def _kinds(state):
    """The leaves that are statistics, and the others."""
    leaves = jax.tree.leaves_with_path(state)
    named = {jax.tree_util.keystr(path): leaf for path, leaf in leaves}
    stats = {n: v for n, v in named.items() if "mean" in n or "var" in n}
    return stats, {n: v for n, v in named.items() if n not in stats}


def test_evaluation_with_the_statistics_of_a_batch_is_training_on_it(network, x):
    network, params, state = network
    found = jax.jit(network.batch_statistics)(params, state, x)
    assert len(found) == 2 and all(set(kinds) == {"mean", "var"} for kinds in found.values())
    replaced = ghost.with_statistics(state, found)
    trained, _ = network.apply(params, state, x, train=True)
    evaluated, _ = network.apply(params, replaced, x, train=False)
    np.testing.assert_allclose(evaluated, trained, atol=2e-5)
    chex.assert_trees_all_equal(_kinds(replaced)[1], _kinds(state)[1])
    chex.assert_trees_all_equal_shapes_and_dtypes(replaced, state)


def test_pooled_statistics_go_back_into_the_state(network, x):
    network, params, state = network
    apply = jax.jit(lambda params, x: network.batch_statistics(params, state, x))
    pooled = ghost.precise_statistics(apply, params, [x[:10], x[10:]])
    first = next(name for name in pooled if "last" not in name)
    whole = apply(params, x)[first]  # the second layer sees what the first makes of its batch
    for kind in ("mean", "var"):
        np.testing.assert_allclose(pooled[first][kind], whole[kind], rtol=1e-4, atol=1e-5)
    replaced = ghost.with_statistics(state, pooled)
    chex.assert_trees_all_equal(ghost.batch_norms(replaced), pooled)


def test_contexts_of_flax_give_the_same(x):
    network = models.as_network(MODELS["linen"])
    params, state = network.init(jax.random.key(1), x)
    found = network.batch_statistics(params, state, x)
    with ghost_linen.batch_statistics():
        _, after = network.apply(params, state, x, train=True)
    for statistics in (after, after["batch_stats"]):  # whole, or what linen's apply updates
        chex.assert_trees_all_equal(
            ghost.with_statistics(state, statistics), ghost.with_statistics(state, found)
        )
    model = Nnx(nnx.Rngs(2))
    alone = ghost_nnx.batch_statistics(model)
    alone(x)
    kept = nnx.state(model)
    replaced = ghost.with_statistics(kept, nnx.state(alone, nnx.BatchStat))
    assert type(replaced) is type(kept)
    nnx.update(model, replaced)
    np.testing.assert_array_equal(model.last.mean[...], alone.last.mean[...])
    np.testing.assert_array_equal(model.one.kernel[...], alone.one.kernel[...])


def test_statistics_of_another_model_are_refused():
    state = {"batch_stats": {"norm": {"mean": jnp.zeros(3), "var": jnp.ones(3)}}}
    with pytest.raises(ValueError, match=r"'other/mean' has no place .* batch norms are norm\."):
        ghost.with_statistics(state, {"other": {"mean": jnp.zeros(3)}})
    with pytest.raises(ValueError, match=r"'norm/mean' has shape \(4,\).*\(3,\) there"):
        ghost.with_statistics(state, {"norm": {"mean": jnp.zeros(4)}})
    with pytest.raises(ValueError, match="'norm/bias' is neither"):
        ghost.with_statistics(state, {"norm": {"bias": jnp.zeros(3)}})
    half = jax.tree.map(lambda a: a.astype(jnp.bfloat16), state)
    half = ghost.with_statistics(half, {"norm": {"mean": jnp.ones(3)}})
    assert half["batch_stats"]["norm"]["mean"].dtype == jnp.bfloat16


def _flax_and_ours(kind):
    """A norm of Flax's and one of ours without ghosts: (x) -> y, each with its own statistics."""
    if kind == "nnx":
        return [
            cls(4, momentum=0.9, rngs=nnx.Rngs(0))
            for cls in (nnx.BatchNorm, ghost_nnx.GhostBatchNorm)
        ]

    def called(module):
        kept = module.init(jax.random.key(0), jnp.zeros((2, 4)))

        def norm(x):
            y, changed = module.apply(kept, x, mutable=["batch_stats"])
            kept.update(changed)
            return y

        return norm

    classes = nn.BatchNorm, ghost_linen.GhostBatchNorm
    return [called(cls(use_running_average=False, momentum=0.9)) for cls in classes]


@pytest.mark.parametrize("kind", ["linen", "nnx"])
@pytest.mark.parametrize("outlier", [1e4, 1e8, 1e12, np.inf, np.nan])
def test_a_bad_example_does_not_outlast_its_batch(kind, outlier):
    flax, ours = _flax_and_ours(kind)
    clean = 1 + jax.random.normal(jax.random.key(0), (30, 16, 4))
    for step, x in enumerate(clean):
        x = x.at[3].set(outlier) if step == 2 else x
        wanted, found = flax(x), ours(x)
        if step != 2:
            np.testing.assert_allclose(found, wanted, atol=1e-5, err_msg=str(step))


@pytest.mark.parametrize("kind", ["linen", "nnx"])
def test_the_running_mean_saves_a_mean_far_from_zero(kind):
    flax, ours = _flax_and_ours(kind)
    x = np.float32(3000) + jax.random.normal(jax.random.key(0), (60, 64, 4))
    for batch in x:
        wanted, found = flax(batch), ours(batch)
    exact = np.asarray(x[-1], np.float64)
    exact = (exact - exact.mean(0)) / np.sqrt(exact.var(0) + 1e-5)
    off = np.abs(wanted - exact).max()
    assert np.abs(found - exact).max() < 1e-3 < off


def test_statistics_of_a_data_set_replace_those_that_are_no_numbers(network, x):
    network, params, state = network
    lost = jax.tree.map(
        lambda leaf: (
            jnp.full_like(leaf, np.nan) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf
        ),
        state,
    )
    wanted = network.batch_statistics(params, state, x)
    for own, other in zip(
        _kinds(wanted)[0].values(),
        _kinds(network.batch_statistics(params, lost, x))[0].values(),
        strict=True,
    ):
        np.testing.assert_allclose(own, other, rtol=1e-5)
