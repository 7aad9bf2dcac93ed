"""Augmentation on the device: pure functions of images and a key per example."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gapjax import _checks


def example_keys(
    seed: int, epoch: jax.typing.ArrayLike, example: jax.typing.ArrayLike
) -> jax.Array:
    """A key for each example of a batch, from the seed, the epoch and the number of the example.

    Where an example stands in a batch, how large the batch is and which device holds it are no part
    of its key, so a growing batch changes nothing about augmentation. ``GrowingBatches(...,
    with_index=True)`` delivers what is needed.

    Args:
      seed: a whole number.
      epoch: ``[B]``, the epoch of each example; or one for all.
      example: ``[B]``, the number of each example in the data.

    Returns:
      Keys, ``[B]``.

    Example:
      >>> keys = example_keys(0, jnp.array([0, 0]), jnp.array([7, 9]))
      >>> images = pad_crop(keys, jnp.zeros((2, 8, 8, 1), jnp.uint8), padding=1)
      >>> images.shape
      (2, 8, 8, 1)
    """
    example = jnp.asarray(example)
    epoch = jnp.broadcast_to(jnp.asarray(epoch), example.shape)
    base = jax.random.key(seed)

    def one(epoch: jax.Array, example: jax.Array) -> jax.Array:
        return jax.random.fold_in(jax.random.fold_in(base, epoch), example)

    return jax.vmap(one)(epoch, example)


def pad_crop(keys: jax.Array, images: jax.Array, *, padding: int = 4) -> jax.Array:
    """Pad every image with zeros and cut its own size out of it at a random place.

    Args:
      keys: a key per example, ``[B]``; :func:`flip` may be given the same ones.
      images: ``[B, H, W, C]``, of any type.
      padding: pixels on each side; every one of the ``(2 * padding + 1)**2`` places is as likely.

    Returns:
      Images of the same shape and type.
    """
    _checks.positive_int("padding", padding)
    sides = ((padding, padding), (padding, padding), (0, 0))

    def one(key: jax.Array, image: jax.Array) -> jax.Array:
        row, column = jax.random.randint(jax.random.fold_in(key, 0), (2,), 0, 2 * padding + 1)
        start = (row, column, jnp.zeros_like(row))
        return jax.lax.dynamic_slice(jnp.pad(image, sides), start, image.shape)

    return jax.vmap(one)(keys, images)


def flip(keys: jax.Array, images: jax.Array) -> jax.Array:
    """Mirror every image left to right with probability one half.

    Args:
      keys: a key per example, ``[B]``; :func:`pad_crop` may be given the same ones.
      images: ``[B, H, W, C]``, of any type.

    Returns:
      Images of the same shape and type.
    """
    tossed = jax.vmap(lambda key: jax.random.bernoulli(jax.random.fold_in(key, 1)))(keys)
    return jnp.where(tossed[:, None, None, None], images[:, :, ::-1], images)


class ChannelStatistics(NamedTuple):
    """Mean and standard deviation of each channel, of pixels between 0 and 1."""

    mean: np.ndarray
    std: np.ndarray


def channel_statistics(images: np.ndarray) -> ChannelStatistics:
    """The statistics that :func:`normalize` takes, on the host.

    Args:
      images: ``uint8``, ``[N, H, W, C]``: those of the training split.

    Returns:
      Two ``float32`` arrays ``[C]``, exact up to their rounding.

    Example:
      >>> images = np.array([0, 255], np.uint8).reshape(2, 1, 1, 1)
      >>> mean, std = channel_statistics(images)
      >>> mean.tolist(), std.tolist()
      ([0.5], [0.5])
    """
    if images.dtype != np.uint8 or images.ndim != 4:
        raise ValueError(
            f"images have dtype {images.dtype} and shape {images.shape}; they must be uint8 "
            "[N, H, W, C]."
        )
    values = np.arange(256) / 255.0
    counts = np.stack(
        [np.bincount(images[..., c].reshape(-1), minlength=256) for c in range(images.shape[-1])]
    )
    weights = counts / counts.sum(axis=1, keepdims=True)
    mean = weights @ values
    std = np.sqrt((weights * (values - mean[:, None]) ** 2).sum(axis=1))
    return ChannelStatistics(mean.astype(np.float32), std.astype(np.float32))


def normalize(
    images: jax.Array, mean: jax.typing.ArrayLike = 0.0, std: jax.typing.ArrayLike = 1.0
) -> jax.Array:
    """``(images / 255 - mean) / std`` as ``float32``.

    Args:
      images: ``uint8``, ``[..., C]``.
      mean: of each channel, for pixels between 0 and 1; see :func:`channel_statistics`.
      std: likewise; a channel that never varies (0) is divided by 1.

    Returns:
      ``float32`` images of the same shape.

    Example:
      >>> normalize(jnp.array([0, 255], jnp.uint8), mean=0.5, std=0.5).tolist()
      [-1.0, 1.0]
    """
    mean, std = jnp.asarray(mean, jnp.float32), jnp.asarray(std, jnp.float32)
    scaled = images.astype(jnp.float32) / 255.0
    return (scaled - mean) / jnp.where(std == 0, 1.0, std)
