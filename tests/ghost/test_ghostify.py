"""ghostify on linen models it has never seen, checkpoints both ways, and precise statistics."""

import contextlib
import functools
from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from gapjax.ghost import precise_statistics
from gapjax.ghost.linen import GhostBatchNorm, batch_statistics, ghostify
from tests.ghost.reference import ghost_batch_norm
from tests.loaders import refilled


class ResidualBlock(nn.Module):
    filters: int
    strides: int
    norm: Callable

    @nn.compact
    def __call__(self, x):
        y = nn.Conv(self.filters, (3, 3), self.strides, use_bias=False)(x)
        y = nn.relu(self.norm()(y))
        y = nn.Conv(self.filters, (3, 3), use_bias=False)(y)
        y = self.norm(scale_init=nn.initializers.zeros_init())(y)
        if x.shape != y.shape:
            x = nn.Conv(self.filters, (1, 1), self.strides, use_bias=False, name="proj")(x)
            x = self.norm(name="norm_proj")(x)
        return nn.relu(x + y)


class ResNet(nn.Module):
    """The shape of Flax's ImageNet example: the norm is a partial, made inside the model."""

    norm_kind: type[nn.Module] = nn.BatchNorm

    @nn.compact
    def __call__(self, x, train):
        norm = functools.partial(self.norm_kind, use_running_average=not train, momentum=0.9)
        x = nn.Conv(4, (3, 3), use_bias=False, name="conv_init")(x)
        x = nn.relu(norm(name="bn_init")(x))
        x = ResidualBlock(8, 2, norm)(x)
        return nn.Dense(3)(x.mean((1, 2)))


@pytest.fixture(scope="module")
def images():
    return jax.random.normal(jax.random.key(0), (8, 6, 6, 2))


@pytest.fixture(scope="module")
def variables(images):
    return ResNet().init(jax.random.key(1), images, True)


def _train(model, variables, x, ghost_size=None):
    def loss(params):
        logits, updates = model.apply(
            {**variables, "params": params}, x, True, mutable=["batch_stats"]
        )
        return jnp.square(logits).sum(), (logits, updates)

    def run():
        return jax.value_and_grad(loss, has_aux=True)(variables["params"])

    if ghost_size is None:
        return run()
    with ghostify(ghost_size):
        return run()


def test_a_model_that_was_not_edited(images, variables):
    written = ResNet(functools.partial(GhostBatchNorm, ghost_size=4))
    chex.assert_trees_all_equal(written.init(jax.random.key(1), images, True), variables)
    expected = jax.jit(lambda v, x: _train(written, v, x))(variables, images)
    found = jax.jit(lambda v, x: _train(ResNet(), v, x, 4))(variables, images)
    chex.assert_trees_all_close(found, expected, rtol=1e-6, atol=1e-6)
    with ghostify(4):
        chex.assert_trees_all_equal(ResNet().init(jax.random.key(1), images, True), variables)


class Small(nn.Module):
    norm: Callable = nn.BatchNorm

    @nn.compact
    def __call__(self, x, train):
        return self.norm(use_running_average=not train, momentum=0.9)(nn.Dense(3)(x))


@pytest.fixture(scope="module")
def small():
    x = jax.random.normal(jax.random.key(3), (8, 2))
    return x, Small().init(jax.random.key(2), x, True)


def test_around_a_jitted_function(small):
    x, variables = small

    @jax.jit
    @chex.assert_max_traces(3)
    def apply(x):
        return Small().apply(variables, x, True, mutable=["batch_stats"])

    plain, _ = apply(x)
    for _ in range(2):  # the second time from the cache of jit
        for ghost_size in (2, 4):
            with ghostify(ghost_size):
                y, _ = apply(x)
            np.testing.assert_allclose(y.reshape(-1, ghost_size, 3).mean(1), 0, atol=1e-6)
        chex.assert_trees_all_equal(apply(x)[0], plain)


class Block(nn.Module):
    """A batch norm one level down."""

    use_running_average: bool
    momentum: float

    @nn.compact
    def __call__(self, x):
        return nn.BatchNorm(self.use_running_average, momentum=self.momentum)(x)


@pytest.mark.parametrize("kind", [nn.BatchNorm, Block])
@pytest.mark.parametrize("wrap", [nn.remat, nn.jit])
def test_inside_lifted_modules(small, wrap, kind):
    x, _ = small
    model = Small(wrap(kind, static_argnums=()))
    variables = model.init(jax.random.key(2), x, True)
    for _ in range(2):  # the second time from the cache of nn.jit
        with ghostify(4):
            y, _ = model.apply(variables, x, True, mutable=["batch_stats"])
        np.testing.assert_allclose(y.reshape(2, 4, 3).mean(1), 0, atol=1e-6)


def test_what_was_called_before_changes_nothing(small):
    x, variables = small
    with ghostify(4):  # a model without batch norm beside one with it
        nn.Dense(3).init(jax.random.key(0), x)
        Small().apply(variables, x, True, mutable=["batch_stats"])
    for _ in range(2):
        with pytest.raises(ValueError, match=r"were Dense\."), ghostify(4):
            nn.Dense(3).init(jax.random.key(0), x)
        plain = Small(lambda **settings: lambda x: x)  # its statistics are left, and not used
        with pytest.raises(ValueError, match=r"were Dense, Small"), ghostify(4):
            plain.apply({"params": variables["params"]}, x, True)


def test_layers_with_ghosts_of_their_own_keep_them(small):
    x, variables = small
    own = Small(functools.partial(GhostBatchNorm, ghost_size=2))
    with ghostify(4):
        y, _ = own.apply(variables, x, True, mutable=["batch_stats"])
    np.testing.assert_allclose(y.reshape(4, 2, 3).mean(1), 0, atol=1e-6)


def test_the_innermost_context_counts(small):
    x, variables = small
    with ghostify(8), ghostify(4):
        y, _ = Small().apply(variables, x, True, mutable=["batch_stats"])
    np.testing.assert_allclose(y.reshape(2, 4, 3).mean(1), 0, atol=1e-6)


def test_rescaled_momentum_keeps_the_horizon_of_a_call(small):
    x, variables = small
    with ghostify(2, rescale_momentum=True):
        _, updates = Small().apply(variables, x, True, mutable=["batch_stats"])
    layer = variables["params"]["Dense_0"]
    _, mean, var = ghost_batch_norm(
        x @ layer["kernel"], np.zeros(3), np.ones(3), ghost_size=2, momentum=0.9**0.25
    )
    stats = updates["batch_stats"]["BatchNorm_0"]
    np.testing.assert_allclose(stats["mean"], mean, atol=1e-6)
    np.testing.assert_allclose(stats["var"], var, atol=1e-6)


class Own(nn.BatchNorm):
    @nn.compact
    def __call__(self, x, use_running_average=None):
        return x


def test_errors(small):
    x, variables = small
    with pytest.raises(ValueError, match=r"'BatchNorm_0': a batch of 6"), ghostify(4):
        Small().apply(variables, x[:6], True, mutable=["batch_stats"])
    with pytest.raises(ValueError, match=r"no flax.linen.BatchNorm .* were Dense\."), ghostify(4):
        nn.Dense(3).init(jax.random.key(0), x)
    with pytest.raises(ValueError, match=r"were Dense, Own, Small"), ghostify(4):
        Small(Own).apply(variables, x, True, mutable=["batch_stats"])
    with pytest.raises(ValueError, match="whole number"), ghostify(0):
        pass
    with pytest.raises(ZeroDivisionError), ghostify(4):  # another error is not covered up
        _ = 1 / 0


@pytest.mark.slow
def test_checkpoints_move_both_ways(tmp_path, small):
    import orbax.checkpoint as ocp

    x, variables = small
    models = {
        "plain": Small(),
        "ghost": Small(functools.partial(GhostBatchNorm, ghost_size=4)),
    }

    def train(model, variables):
        (_, (_, updates)), grads = _train(model, variables, x)
        params = jax.tree.map(lambda p, g: p - 0.1 * g, variables["params"], grads)
        return {"params": params, **updates}

    with ocp.StandardCheckpointer() as checkpointer:
        for name, other in (("plain", "ghost"), ("ghost", "plain")):
            saved = train(models[name], variables)
            checkpointer.save(tmp_path / name, saved)
            checkpointer.wait_until_finished()
            like = models[other].init(jax.random.key(7), x, True)
            loaded = checkpointer.restore(tmp_path / name, like)
            chex.assert_trees_all_equal(loaded, saved)
            chex.assert_trees_all_equal(train(models[other], loaded), train(models[other], saved))


@pytest.mark.parametrize("ghost_size", [None, 2])
def test_precise_statistics_are_those_of_the_data_set(small, ghost_size):
    x, variables = small
    params = variables["params"]

    @jax.jit
    def apply(params, x):
        ghosts = ghostify(ghost_size) if ghost_size else contextlib.nullcontext()
        with ghosts, batch_statistics():
            own = {**variables, "params": params}
            return Small().apply(own, x, True, mutable=["batch_stats"])[1]["batch_stats"]

    hidden = np.asarray(x @ params["Dense_0"]["kernel"], np.float64)
    batches = [x[:4], x[4:6], x[6:]]
    found = precise_statistics(apply, params, iter(batches))["BatchNorm_0"]
    np.testing.assert_allclose(found["mean"], hidden.mean(0), atol=1e-6)
    np.testing.assert_allclose(found["var"], hidden.var(0), rtol=1e-5)
    within = precise_statistics(apply, params, batches, variance="within")["BatchNorm_0"]
    parts = [hidden[:4], hidden[4:6], hidden[6:]]
    expected = sum(len(p) * p.var(0) for p in parts) / len(x)
    np.testing.assert_allclose(within["var"], expected, rtol=1e-5)
    with pytest.raises(ValueError, match="no examples"):
        precise_statistics(apply, params, [])
    with pytest.raises(ValueError, match="'BatchNorm_0/bias' is neither"):
        precise_statistics(lambda params, x: params, params, batches)


def test_precise_statistics_of_a_loader_that_fills_one_buffer_again():
    @jax.jit
    def apply(params, x):
        late = x
        for _ in range(50):  # takes longer than the loader does
            late = jnp.tanh(late @ late)
        return {"mean": x.mean(0) + 0 * late[0], "var": x.var(0)}

    found = precise_statistics(apply, None, refilled(64, range(6)))
    np.testing.assert_allclose(found["mean"], np.full(64, 2.5), rtol=1e-6)
