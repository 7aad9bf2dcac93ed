import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gapjax import ghost, models
from tests.models import reference

IMAGES = np.random.default_rng(0).normal(size=(8, 8, 8, 3)).astype(np.float32)
SMALL = models.ResNet(blocks=(1, 1), widths=(4, 8), num_outputs=5)


def _sizes(model):
    images = jax.ShapeDtypeStruct((2, 32, 32, 3), "float32")
    variables = jax.eval_shape(model.init, jax.random.key(0), images)
    return {
        name: sum(leaf.size for leaf in jax.tree.leaves(part)) for name, part in variables.items()
    }


@pytest.mark.parametrize(
    ("depth", "shortcut", "size"),
    [
        # Of the public re-implementations that follow the paper: 0.27M and 0.66M in its table.
        (20, "padding", 269_722),
        (44, "padding", 658_586),
        (20, "projection", 272_474),
        (44, "projection", 661_338),
    ],
)
def test_sizes_are_the_papers(depth, shortcut, size):
    sizes = _sizes(models.resnet(depth, shortcut=shortcut))
    assert sizes["params"] == size
    n = (depth - 2) // 6
    channels = 16 + 2 * n * (16 + 32 + 64) + (32 + 64) * (shortcut == "projection")
    assert sizes["batch_stats"] == 2 * channels


@pytest.mark.parametrize("shortcut", ["projection", "padding"])
def test_logits_equal_loops_in_float64(shortcut):
    model = SMALL.clone(shortcut=shortcut)
    variables = jax.jit(model.init)(jax.random.key(1), IMAGES)
    params = jax.tree.map(lambda x: np.asarray(x, np.float64), variables["params"])

    def conv_norm(x, number, stride=1):
        kernel = params[f"Conv_{number}"]["kernel"]
        return reference.norm(reference.conv(x, kernel, stride=stride))

    relu = functools.partial(np.maximum, 0)
    x = relu(conv_norm(IMAGES.astype(np.float64), 0))
    x = relu(conv_norm(relu(conv_norm(x, 1)), 2) + x)
    out = conv_norm(relu(conv_norm(x, 3, stride=2)), 4)
    if shortcut == "projection":
        x = conv_norm(x, 5, stride=2)
    else:
        x = np.concatenate([x[:, ::2, ::2], np.zeros_like(x[:, ::2, ::2])], -1)
    x = relu(out + x)
    expected = x.mean((1, 2)) @ params["Dense_0"]["kernel"] + params["Dense_0"]["bias"]
    apply = jax.jit(functools.partial(model.apply, train=True, mutable=["batch_stats"]))
    logits, _ = apply(variables, IMAGES)
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4)


def test_bottlenecks_equal_loops_in_float64():
    model = models.ResNet((1, 1), (2, 3), 5, block="bottleneck", stem="imagenet")
    network, params, state = reference.drawn(model, IMAGES)
    layers = jax.tree.map(lambda x: np.asarray(x, np.float64), params)
    kept = jax.tree.map(lambda x: np.asarray(x, np.float64), state["batch_stats"])

    def conv_norm(x, number, stride=1):
        name = f"BatchNorm_{number}"
        x = reference.conv(x, **layers[f"Conv_{number}"], stride=stride)
        return reference.norm(x, **layers[name], **kept[name])

    relu = functools.partial(np.maximum, 0)
    x = relu(conv_norm(IMAGES.astype(np.float64), 0, stride=2))
    x = reference.max_pool(x, 3, 2, padding=1)
    for first, stride in ((1, 1), (5, 2)):
        out = relu(conv_norm(relu(conv_norm(x, first)), first + 1, stride))
        x = relu(conv_norm(out, first + 2) + conv_norm(x, first + 3, stride))
    expected = reference.dense(x.mean((1, 2)), **layers["Dense_0"])
    outputs, _ = jax.jit(functools.partial(network.apply, train=False))(params, state, IMAGES)
    np.testing.assert_allclose(outputs, expected, rtol=1e-4, atol=1e-4)


def test_kernels_start_as_in_the_paper():
    model = models.ResNet(blocks=(1,), widths=(32,))
    params = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 2, 2, 3)))["params"]
    kernel = params["Conv_2"]["kernel"]
    assert kernel.shape == (3, 3, 32, 32)
    np.testing.assert_allclose(kernel.std(), np.sqrt(2 / (9 * 32)), rtol=0.03)
    assert set(params["Conv_2"]) == {"kernel"}
    last = params["Dense_0"]  # as PyTorch draws it
    assert 0.9 < np.abs(last["kernel"]).max() * 32**0.5 <= 1 + 1e-6
    assert 0 < np.abs(last["bias"]).max() <= 32**-0.5


def test_ghosts_go_in_by_norm_and_by_ghostify():
    norm = functools.partial(ghost.linen.GhostBatchNorm, ghost_size=4, momentum=0.9**0.5)
    plain, ghosted = models.as_network(SMALL), models.as_network(SMALL.clone(norm=norm))
    params, state = jax.jit(plain.init)(jax.random.key(0), IMAGES)

    @jax.jit
    def outputs(params, state):
        ghosts = plain.apply(params, state, IMAGES, train=True, ghost_size=4)
        same = ghosted.apply(params, state, IMAGES, train=True)
        halves = [plain.apply(params, state, x, train=True)[0] for x in (IMAGES[:4], IMAGES[4:])]
        return ghosts, same, jnp.concatenate(halves)

    ghosts, same, halves = outputs(params, state)
    chex.assert_trees_all_close(ghosts, same, atol=1e-5)
    np.testing.assert_allclose(ghosts[0], halves, atol=1e-4)
    logits, kept = plain.apply(params, state, IMAGES, train=False)
    assert kept is state and logits.shape == (8, 5)


def test_mistakes_are_named():
    with pytest.raises(ValueError, match=r"depth must be 6n \+ 2 .* not 45: use 44 or 50"):
        models.resnet(45)
    with pytest.raises(ValueError, match="not 3: use 8 or 14"):
        models.resnet(3)
    with pytest.raises(ValueError, match="Did you mean 'projection'"):
        models.resnet44(shortcut="project")
    with pytest.raises(ValueError, match=r"blocks=\(1,\) and widths=\(16, 32, 64\) must"):
        models.ResNet(blocks=(1,))
