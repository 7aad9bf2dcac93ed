"""Normalizing inputs by the mean and the deviation of the whole training split."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gapjax import _checks
from gapjax.data._dataset import NORMALIZATIONS, named_leaves

_ROWS = 4096  # examples summed at a time, in float64


class ChannelStatistics(NamedTuple):
    """Mean and standard deviation of each channel or feature; of pixels between 0 and 1."""

    mean: np.ndarray
    std: np.ndarray


def channel_statistics(x: np.ndarray) -> ChannelStatistics:
    """The statistics that :func:`normalize` takes, over all axes but the last, on the host.

    Args:
        x: images ``[N, H, W, C]``, ``uint8`` (their pixels count from 0 to 1) or floats; or
            features, floats of shape ``[N, F]`` or ``[N, ..., F]``: the whole training split.

    Returns:
        Two ``float32`` arrays ``[C]``, summed in float64.

    Raises:
        ValueError: whole numbers that are no pixels, or no example.

    Example:
        >>> images = np.array([0, 255], np.uint8).reshape(2, 1, 1, 1)
        >>> mean, std = channel_statistics(images)
        >>> mean.tolist(), std.tolist()
        ([0.5], [0.5])
        >>> channel_statistics(np.array([[0.0, 10.0], [2.0, 10.0]])).std.tolist()
        [1.0, 0.0]
    """
    x = np.asarray(x)
    pixels = x.dtype == np.uint8 and x.ndim == 4
    if not (pixels or jnp.issubdtype(x.dtype, jnp.floating)) or x.ndim < 2 or not x.size:
        raise ValueError(
            f"x has dtype {x.dtype} and shape {x.shape}; it must be uint8 images [N, H, W, C], or "
            "floats [N, ..., features], of at least one example."
        )
    axes, total, squares = tuple(range(x.ndim - 1)), np.zeros(x.shape[-1]), np.zeros(x.shape[-1])
    count = x.size // x.shape[-1]

    def parts() -> Any:
        for first in range(0, len(x), _ROWS):
            part = x[first : first + _ROWS].astype(np.float64)
            yield part / 255.0 if pixels else part

    low, high = np.full_like(total, np.inf), np.full_like(total, -np.inf)
    for part in parts():
        total += part.sum(axes)
        low, high = np.minimum(low, part.min(axes)), np.maximum(high, part.max(axes))
    mean = total / count
    for part in parts():
        squares += np.square(part - mean).sum(axes)
    # What never varies differs from its mean by rounding, which is no deviation to divide by.
    std = np.where(low < high, np.sqrt(squares / count), 0.0)
    return ChannelStatistics(mean.astype(np.float32), std.astype(np.float32))


def normalize(
    x: jax.Array, mean: jax.typing.ArrayLike = 0.0, std: jax.typing.ArrayLike = 1.0
) -> jax.Array:
    """``(x - mean) / std`` as ``float32``, of ``x / 255`` where x are pixels.

    Args:
        x: ``uint8`` pixels or floats, ``[..., C]``.
        mean: of each channel or feature; see :func:`channel_statistics`.
        std: likewise; one that never varies (0) is divided by 1.

    Returns:
        ``float32``, of the same shape.

    Example:
        >>> normalize(jnp.array([0, 255], jnp.uint8), mean=0.5, std=0.5).tolist()
        [-1.0, 1.0]
    """
    mean, std = jnp.asarray(mean, jnp.float32), jnp.asarray(std, jnp.float32)
    scaled = x.astype(jnp.float32)
    if x.dtype == jnp.uint8:
        scaled = scaled / 255.0
    return (scaled - mean) / jnp.where(std == 0, 1.0, std)


@dataclasses.dataclass(frozen=True, eq=False)
class Normalizer:
    """What :func:`fit_normalizer` gives: call it on the inputs of a batch.

    Attributes:
        how: ``"channel"``, ``"feature"`` or None.
        statistics: of every array that is normalized, by its path among the inputs.
    """

    how: str | None
    statistics: dict[str, ChannelStatistics]

    def __call__(self, inputs: Any) -> Any:
        """The inputs, normalized; arrays that are not stay as they are."""

        def one(path: Any, leaf: Any) -> Any:
            found = self.statistics.get(jax.tree_util.keystr(path))
            return leaf if found is None else normalize(leaf, *found)

        return jax.tree_util.tree_map_with_path(one, inputs)


def fit_normalizer(inputs: Any, how: str | None) -> Normalizer:
    """How to normalize the inputs of a network, from those of the whole training split.

    Args:
        inputs: an array or a pytree of arrays with a leading axis of examples, on the host.
        how: as ``Dataset.normalize``: ``"channel"`` for every array of images ``[N, H, W, C]``,
            ``"feature"`` for every other array of floats ``[N, ..., F]``, per last axis, None for
            none.

    Returns:
        A function from inputs to inputs, traceable, for batches of any size.

    Raises:
        ValueError: an unknown word, or inputs that hold nothing of the kind.

    Example:
        >>> table = np.array([[0.0, 3.0], [2.0, 3.0]], np.float32)
        >>> fit_normalizer(table, "feature")(jnp.asarray(table)).tolist()
        [[-1.0, 0.0], [1.0, 0.0]]
    """
    if how is None:
        return Normalizer(None, {})
    _checks.one_of("normalize", how, NORMALIZATIONS)
    leaves = named_leaves(inputs)
    floats = {k: jnp.issubdtype(x.dtype, jnp.floating) for k, x in leaves.items()}
    images = {k: x.ndim == 4 and (floats[k] or x.dtype == np.uint8) for k, x in leaves.items()}
    features = {k: floats[k] and x.ndim > 1 and not images[k] for k, x in leaves.items()}
    kinds = {"channel": images, "feature": features}
    wanted = {path: leaf for path, leaf in leaves.items() if kinds[how][path]}
    if not wanted:
        kind = "images [N, H, W, C]" if how == "channel" else "floats [N, ..., features], no images"
        fitting = " or ".join([*(repr(n) for n in kinds if any(kinds[n].values())), "None"])
        has = ", ".join(f"{p or 'the array'} {x.dtype}{list(x.shape)}" for p, x in leaves.items())
        raise ValueError(
            f"normalize={how!r} wants {kind}, and the inputs hold {has}: give the data set "
            f"normalize={fitting}, or inputs of that kind."
        )
    return Normalizer(how, {path: channel_statistics(leaf) for path, leaf in wanted.items()})
