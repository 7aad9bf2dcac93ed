import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gapjax import ghost, models

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


def _conv(x, kernel, stride):
    """A convolution as loops, in float64, padded as its kernel needs."""
    size = kernel.shape[0]
    x = np.pad(x, [(0, 0)] + [(size // 2, size // 2)] * 2 + [(0, 0)])
    starts = range(0, x.shape[1] - size + 1, stride)
    out = np.empty((len(x), len(starts), len(starts), kernel.shape[-1]))
    for i, row in enumerate(starts):
        for j, column in enumerate(starts):
            patch = x[:, row : row + size, column : column + size]
            out[:, i, j] = np.einsum("bijc,ijco->bo", patch, kernel)
    return out


@pytest.mark.parametrize("shortcut", ["projection", "padding"])
def test_logits_equal_loops_in_float64(shortcut):
    model = SMALL.clone(shortcut=shortcut)
    variables = jax.jit(model.init)(jax.random.key(1), IMAGES)
    params = jax.tree.map(lambda x: np.asarray(x, np.float64), variables["params"])

    def conv_norm(x, number, stride=1):
        x = _conv(x, params[f"Conv_{number}"]["kernel"], stride)
        mean, var = x.mean((0, 1, 2)), x.var((0, 1, 2))
        return (x - mean) / np.sqrt(var + 1e-5)

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


def test_kernels_start_as_in_the_paper():
    model = models.ResNet(blocks=(1,), widths=(32,))
    params = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 2, 2, 3)))["params"]
    kernel = params["Conv_2"]["kernel"]
    assert kernel.shape == (3, 3, 32, 32)
    np.testing.assert_allclose(kernel.std(), np.sqrt(2 / (9 * 32)), rtol=0.03)
    assert set(params["Conv_2"]) == {"kernel"}


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
