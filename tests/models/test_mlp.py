import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from gapjax import ghost, models


def _size(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


@pytest.mark.parametrize(
    ("model", "inputs", "widths"),
    [(models.f1(), 784, [512] * 5), (models.digits_mlp(), 64, [128] * 3)],
)
def test_sizes_are_the_papers(model, inputs, widths):
    variables = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((2, inputs)))
    sizes = [inputs, *widths]
    dense = sum(a * b + b for a, b in zip(sizes, [*widths, 10], strict=True))
    assert _size(variables["params"]) == dense + 2 * sum(widths)  # and scale, bias of each norm
    assert _size(variables["batch_stats"]) == 2 * sum(widths)


def test_norm_comes_before_relu_and_is_exchangeable():
    seen = []

    def norm(use_running_average):
        seen.append(use_running_average)
        return lambda x: x - 5.0  # after it, ReLU gives 0 everywhere

    model = models.MLP((4, 4), norm=norm)
    logits, _ = model.init_with_output(jax.random.key(0), jnp.ones((3, 5)), train=True)
    assert seen == [False, False]
    assert (logits == logits[0]).all()


def test_ghost_norm_goes_in_and_moves_only_what_it_should():
    norm = functools.partial(ghost.linen.GhostBatchNorm, ghost_size=4, momentum=0.9)
    x = jax.random.normal(jax.random.key(1), (8, 6))
    plain, ghosted = models.MLP((5,), norm=nn.BatchNorm), models.MLP((5,), norm=norm)
    variables = ghosted.init(jax.random.key(0), x)
    assert plain.init(jax.random.key(0), x)["params"].keys() != {}
    halves = [ghosted.apply(variables, h, True, mutable=["batch_stats"])[0] for h in (x[:4], x[4:])]
    whole, _ = ghosted.apply(variables, x, True, mutable=["batch_stats"])
    assert jnp.allclose(jnp.concatenate(halves), whole, atol=1e-5)
