"""The examples of a batch: how many there are, and how much each of them counts."""

import collections
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp


def count_examples(batch: Any, *, leading: int = 1) -> int:
    """How many examples a batch holds: the leading axis that all of its leaves share.

    Args:
        batch: a pytree of arrays, or of ``jax.ShapeDtypeStruct``.
        leading: how many leading axes belong to the examples; 2 where they come in microbatches,
            ``[A, B / A, ...]``.

    Returns:
        The number of examples, the product of these axes.

    Raises:
        ValueError: there are no arrays, or they disagree; the odd ones are named.

    Example:
        >>> import numpy as np
        >>> count_examples({"x": np.ones((8, 3)), "y": np.ones(8)})
        8
    """
    shapes = {
        f"batch{jax.tree_util.keystr(path)}": jnp.shape(leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(batch)
    }
    counts = collections.Counter(s[:leading] for s in shapes.values() if len(s) >= leading)
    common, votes = counts.most_common(1)[0] if counts else ((), 0)
    if shapes and votes == len(shapes):
        return math.prod(common)
    if not shapes:
        raise ValueError("this batch holds no arrays: give arrays with a leading axis of examples.")
    majority = votes > len(shapes) - votes
    odd = [name for name in shapes if not majority or shapes[name][:leading] != common]
    told = ", ".join(f"{name} has shape {shapes[name]}" for name in odd[:3])
    if majority:
        told += f", where the others begin with {', '.join(map(str, common))}"
    axes = "a leading axis" if leading == 1 else f"{leading} leading axes"
    raise ValueError(
        f"the leaves of a batch must share {axes} of examples: {told}. Let the loss close over "
        "what is not one per example, or say with weight_fn= how much a batch counts."
    )


def example_weights(batch: Any) -> jax.Array | None:
    """How much each example of a batch counts, by its own mask.

    A mask is the entry ``"mask"`` of a dictionary or the field ``mask`` of a tuple or dataclass,
    such as ``growth.Batch``: ``[B]``, or ``[B, T]`` for examples of T parts (tokens), whose sum
    over T counts. Where the examples inside such a batch (``data``) have a mask too, both hold.

    Args:
        batch: a pytree of arrays with a leading axis of B examples.

    Returns:
        Weights of shape ``[B]``, float32; None where there is no mask.

    Raises:
        ValueError: a mask of another rank, which may mean something else.

    Example:
        >>> import numpy as np
        >>> example_weights({"x": np.ones(3), "mask": np.array([True, True, False])}).tolist()
        [1.0, 1.0, 0.0]
    """
    weights = part_weights(batch)
    return weights if weights is None or weights.ndim == 1 else weights.sum(axis=1)


def effective_examples(batch: Any) -> Any:
    """As many examples, all counting alike, as have a mean as noisy as the mean of these.

    Of examples that count fully or not at all, how many count; with other weights, ``(sum w)^2 /
    sum w^2``.

    Args:
        batch: a pytree of arrays with a leading axis of B examples.

    Returns:
        B where there is no mask; else float32, shape ``()``.

    Example:
        >>> import numpy as np
        >>> float(effective_examples({"x": np.ones(3), "mask": np.array([True, True, False])}))
        2.0
    """
    weights = example_weights(batch)
    if weights is None:
        return count_examples(batch)
    total, squares = jnp.sum(weights), jnp.sum(jnp.square(weights))
    return total * (total / jnp.where(squares > 0, squares, 1))


def noise_sizes(
    weights: jax.Array, sizes: Any, total: Callable[[jax.Array], jax.Array] = jnp.sum
) -> tuple[jax.Array, jax.Array]:
    r"""The sizes b and B that the noise of a mean over unequal parts is told by.

    The mean gradient over parts a, each with weight :math:`w_a` and :math:`n_a` examples, is as
    noisy as that of B examples, and the mean of :math:`|g_a|^2` by weight as that of b,

    .. math:: 1/B = \sum_a p_a^2 / n_a, \qquad 1/b = \sum_a p_a / n_a, \qquad
        p_a = w_a / \sum_a w_a.

    Args:
        weights: of the parts; one of weight 0 adds nothing.
        sizes: the ``effective_examples`` of each.
        total: the sum over parts.

    Returns:
        b and B; the same number where only one part has any weight.

    Example:
        >>> counts = jnp.array([16.0, 4.0, 0.0])
        >>> [round(float(size), 3) for size in noise_sizes(counts, counts)]
        [10.0, 20.0]
    """
    whole = total(weights)
    shares = jnp.where(weights > 0, weights / jnp.where(whole > 0, whole, 1), 0)
    noise = shares / jnp.where(weights > 0, sizes, 1)
    return 1 / total(noise), 1 / total(shares * noise)


def part_weights(batch: Any) -> jax.Array | None:
    """How much each part of each example counts: `example_weights` before their sum over T.

    Args:
        batch: a pytree of arrays with a leading axis of B examples.

    Returns:
        Weights of shape ``[B]`` or ``[B, T]``, float32; None where there is no mask.

    Raises:
        ValueError: a mask of another rank, which may mean something else.

    Example:
        >>> import numpy as np
        >>> part_weights({"x": np.ones((1, 3)), "mask": np.array([[True, True, False]])}).tolist()
        [[1.0, 1.0, 0.0]]
    """
    if isinstance(batch, Mapping):
        mask, inner = batch.get("mask"), None
    elif hasattr(batch, "shape"):
        return None
    else:
        mask, inner = getattr(batch, "mask", None), getattr(batch, "data", None)
    weights = None if inner is None else part_weights(inner)
    if mask is None:
        return weights
    if jnp.ndim(mask) not in (1, 2):
        raise ValueError(
            f"the mask of this batch has shape {jnp.shape(mask)}, and a weight of examples has [B] "
            "or [B, T]: say with weight_fn= what counts, or give the entry another name."
        )
    own = jnp.asarray(mask).astype(jnp.float32)
    if weights is None:
        return own
    parts = max(own.ndim, weights.ndim)
    one, two = (w[:, None] if w.ndim < parts else w for w in (own, weights))
    return one * two
