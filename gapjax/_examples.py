"""The examples of a batch: how many there are, and how much each of them counts."""

import collections
import math
from collections.abc import Mapping
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
