"""Many small arrays as one: orbax takes about a millisecond for every array, however small."""

import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

SMALL = 1 << 20  # bytes; larger arrays cost more to write than to open


def is_packed(leaf: Any) -> bool:
    """Whether a raw leaf goes into the pack: small, and all of it at hand in every process.

    Orbax does not save arrays without elements, so these always do.
    """
    at_hand = not isinstance(leaf, jax.Array) or (
        leaf.is_fully_addressable or leaf.is_fully_replicated
    )
    return leaf.size == 0 or (at_hand and leaf.nbytes <= SMALL)


def pack(leaves: Sequence[Any]) -> np.ndarray:
    """The bytes of all leaves, one after another; never empty."""
    held = jax.device_get([leaf for leaf in leaves if leaf.size])
    parts = [np.ascontiguousarray(leaf).reshape(-1).view(np.uint8) for leaf in held]
    return np.concatenate([*parts, np.zeros(1, np.uint8)])


def room(specs: Sequence[Any]) -> np.ndarray:
    """An array as large as the pack of leaves of these shapes and types."""
    return np.empty(sum(map(_bytes, specs)) + 1, np.uint8)


def unpack(packed: np.ndarray, specs: Sequence[Any]) -> list[np.ndarray]:
    """The arrays of these shapes and types, in the order in which they were packed."""
    ends = np.cumsum([_bytes(spec) for spec in specs])
    parts = np.split(packed, ends)[:-1]  # copied, since they start anywhere
    return [
        part.copy().view(spec.dtype).reshape(spec.shape)
        for part, spec in zip(parts, specs, strict=True)
    ]


def _bytes(spec: Any) -> int:
    return math.prod(spec.shape) * np.dtype(spec.dtype).itemsize
