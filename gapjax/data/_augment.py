"""Augmentation on the device: pure functions of images and a key per example."""

import functools
import numbers
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

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
    base = _key_of(seed)

    def one(epoch: jax.Array, example: jax.Array) -> jax.Array:
        return jax.random.fold_in(jax.random.fold_in(base, epoch), example)

    return jax.vmap(one)(epoch, example)


def _key_of(seed: Any) -> jax.Array:
    """The key of a seed, of all of its words."""
    if not isinstance(seed, numbers.Integral) or seed < 1 << 32:
        return jax.random.key(seed)
    return jax.random.fold_in(_key_of(int(seed) >> 32), int(seed) & 0xFFFFFFFF)


def pad_crop(keys: jax.Array, images: jax.Array, *, padding: int = 4) -> jax.Array:
    """Pad every image with zeros and cut its own size out of it at a random place.

    Args:
        keys: a key per example, ``[B]``; :func:`flip` may be given the same ones.
        images: ``[B, H, W, C]``, of any type.
        padding: pixels on each side; every one of the ``(2 * padding + 1)**2`` places is as likely.

    Returns:
        Images of the same shape and type.

    Example:
        >>> images = jnp.ones((4, 8, 8, 3))
        >>> pad_crop(jax.random.split(jax.random.key(0), 4), images, padding=2).shape
        (4, 8, 8, 3)
    """
    _checks.positive_int("padding", padding)
    _check_images(images)
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

    Example:
        >>> images = jnp.arange(12.0).reshape(4, 1, 3, 1)
        >>> flip(jax.random.split(jax.random.key(0), 4), images).shape
        (4, 1, 3, 1)
    """
    _check_images(images)
    tossed = jax.vmap(lambda key: jax.random.bernoulli(jax.random.fold_in(key, 1)))(keys)
    return jnp.where(tossed[:, None, None, None], images[:, :, ::-1], images)


def _check_images(images: jax.Array) -> None:
    if jnp.ndim(images) != 4:
        raise ValueError(
            f"images must be [B, H, W, C], not of shape {list(jnp.shape(images))}; grey ones need "
            "a last axis of 1: images[..., None]."
        )


# What the command line knows; a number behind the name, as in "pad-crop:2", is its first argument.
AUGMENTATIONS: dict[str, Callable[..., jax.Array]] = {"pad-crop": pad_crop, "flip": flip}


def make_augment(transforms: Sequence[str | Callable[[jax.Array, Any], Any]]) -> Callable[..., Any]:
    """Several augmentations as one function of keys and a batch.

    Args:
        transforms: each the name of one (``"pad-crop"``, ``"pad-crop:2"`` for a padding of 2,
            ``"flip"``), which acts on every array of images ``[B, H, W, C]`` of a batch; or any
            function ``(key, batch) -> batch``. Such a function is called for each example alone, as
            a batch of one with a key of its own, so what happens to an example does not depend on
            those beside it.

    Returns:
        ``(keys [B], batch) -> batch``, traceable; keys are those of :func:`example_keys`.

    Raises:
        ValueError: no list, an unknown name, a number that does not fit, or no function.

    Example:
        >>> augment = make_augment(["flip", lambda key, batch: {"x": batch["x"] + 1}])
        >>> keys = example_keys(0, 0, jnp.arange(3))
        >>> augment(keys, {"x": jnp.zeros((3, 4, 4, 1))})["x"].mean().item()
        1.0
    """
    if isinstance(transforms, str) or callable(transforms):
        raise ValueError(
            f"augment must be a list of augmentations, not {transforms!r}: put it into brackets."
        )
    given = _checks.several("augment", transforms)
    each = [_named(t) if isinstance(t, str) else _own(t, i) for i, t in enumerate(given)]

    def augment(keys: jax.Array, batch: Any) -> Any:
        # Each draws its own numbers, whatever the others are.
        for number, transform in enumerate(each):
            own = jax.vmap(lambda key, n=number: jax.random.fold_in(key, n))(keys)
            batch = transform(own, batch)
        return batch

    return augment


def _named(text: str) -> Callable[..., Any]:
    name, _, number = text.partition(":")
    _checks.one_of("augment", name, AUGMENTATIONS)
    function = AUGMENTATIONS[name]
    if number:
        if name != "pad-crop" or not number.isdecimal() or not int(number):
            raise ValueError(
                f"augment {text!r}: only pad-crop takes a number, the pixels of its padding, such "
                "as pad-crop:2."
            )
        function = functools.partial(pad_crop, padding=int(number))

    def transform(keys: jax.Array, batch: Any) -> Any:
        ranks = [leaf.ndim for leaf in jax.tree.leaves(batch)]
        if 4 not in ranks:
            raise ValueError(
                f"augment {text!r} takes images [B, H, W, C], and this batch has none: give a "
                "function (key, batch) -> batch."
            )
        return jax.tree.map(lambda x: function(keys, x) if x.ndim == 4 else x, batch)

    return transform


def _own(function: Any, place: int) -> Callable[..., Any]:
    if not callable(function):
        raise ValueError(
            f"augment[{place}] must be one of {', '.join(AUGMENTATIONS)} or a function "
            f"(key, batch) -> batch, not {function!r}."
        )

    def one(key: jax.Array, example: Any) -> Any:
        alone = function(key, jax.tree.map(lambda x: x[None], example))
        return jax.tree.map(lambda x: x[0], alone)

    return jax.vmap(one)
