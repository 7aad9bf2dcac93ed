"""What a checkpoint holds, in a form that can be compared and checked.

Storage may hand back other bits than were written without an error: files of arrays carry no
checksum of their data. So every leaf is summed up where it lies, before it is written and after it
is read. The sums are of integers, hence the same on any number of devices and hosts.
"""

import hashlib
import json
import zlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

FORMAT = 1


def raw(tree: Any) -> list[Any]:
    """The leaves, random keys as their numbers and Python numbers as arrays."""

    def leaf(x: Any) -> Any:
        if _is_key(x):
            return jax.random.key_data(x)
        return x if isinstance(x, jax.Array | np.ndarray) else np.asarray(x)

    return [leaf(x) for x in jax.tree.leaves(tree)]


def filled(leaves: list[Any]) -> list[Any]:
    """The leaves that hold something: orbax does not save arrays without elements."""
    return [leaf for leaf in leaves if leaf.size]


def wanted(like: Any) -> list[Any]:
    """What to read for the raw leaves of a tree like this one: NumPy arrays, or shapes and layouts.

    An array that is not bound to devices is read as NumPy, so that it stays unbound.
    """

    def leaf(x: Any) -> Any:
        shape = jax.eval_shape(jax.random.key_data, x) if _is_key(x) else x
        if isinstance(x, jax.ShapeDtypeStruct) or (isinstance(x, jax.Array) and x.committed):
            return jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=x.sharding)
        shape = shape if hasattr(shape, "shape") else np.asarray(shape)
        return np.empty(shape.shape, shape.dtype)

    return [leaf(x) for x in jax.tree.leaves(like)]


def alike(found: list[Any], like: Any) -> Any:
    """What was read of the leaves that are filled, as the tree that ``like`` is."""
    rest = iter(found)

    def leaf(template: Any, old: Any) -> Any:
        x = next(rest) if template.size else np.empty(template.shape, template.dtype)
        if _is_key(old):
            return jax.random.wrap_key_data(jnp.asarray(x), impl=jax.random.key_impl(old))
        if isinstance(old, jax.Array | jax.ShapeDtypeStruct) and not isinstance(x, jax.Array):
            sharding = getattr(template, "sharding", None)  # None: bound to no device
            return jnp.asarray(x) if sharding is None else jax.device_put(x, sharding)
        return x

    leaves, structure = jax.tree.flatten(like)
    return jax.tree.unflatten(structure, map(leaf, wanted(like), leaves))


def describe(tree: Any) -> list[list[Any]]:
    """A row per leaf: its path, type and shape, as JSON."""

    def row(path: Any, x: Any) -> list[Any]:
        x = x if hasattr(x, "shape") else np.asarray(x)
        return [jax.tree_util.keystr(path), str(x.dtype), list(x.shape)]

    return [row(path, leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)]


def mismatch(about: dict[str, Any], like: Any, *, config: Any, version: str) -> str | None:
    """In words, why a checkpoint does not belong to this run, and what to do; None if it does."""
    for name, label, here in (
        ("format", "checkpoint format", FORMAT),
        ("gapjax", "gapjax release", version),
    ):
        if about.get(name) != here:
            remedy = f"go on with gapjax {about.get('gapjax')}"
            return f"{label}: {about.get(name)} there, {here} here; {remedy}"
    there, here = about["config"], config
    if there != here:
        if isinstance(there, dict) and isinstance(here, dict):
            name = next(n for n in {**here, **there} if here.get(n) != there.get(n))
            there, here = f"{name}={there.get(name)!r}", f"{name}={here.get(name)!r}"
        return f"run: {there} there, {here} here; go on with the settings of that run"
    leaf = _difference(about["leaves"], describe(like))
    return leaf and f"state: {leaf}; make network and optimizer as they were"


def _difference(there: list[list[Any]], here: list[list[Any]]) -> str | None:
    """In words, the first leaf in which two descriptions differ."""
    theirs, ours = ({path: (kind, shape) for path, kind, shape in rows} for rows in (there, here))
    for path in [*theirs, *ours]:
        if theirs.get(path) != ours.get(path):
            sides = []
            for side in (theirs, ours):
                kind, shape = side.get(path, ("", []))
                sides.append(f"{kind}{shape}" if path in side else "missing")
            return f"{path or 'the state'} is {sides[0]} there and {sides[1]} here"
    return None


def checksums(leaves: list[Any]) -> list[int]:
    """A 32-bit sum per raw leaf; one flipped bit always changes it."""
    # Without 64-bit types JAX would cut such arrays: hand their halves over.
    halves = [
        x.reshape(*x.shape, 1).view(np.uint32) if isinstance(x, np.ndarray) and _is_wide(x) else x
        for x in leaves
    ]
    return [int(value) for value in jax.device_get(_checksums(halves))] if halves else []


def crc(tree: Any) -> int:
    """A checksum of a tree of arrays on the host, its structure included."""
    total = zlib.crc32(json.dumps(describe(tree)).encode())
    for leaf in jax.tree.leaves(tree):
        total = zlib.crc32(np.ascontiguousarray(leaf).view(np.uint8).data, total)
    return total


def reason(error: Exception) -> str:
    """The telling part of an error, in a line."""
    text = " ".join(str(error).split()) or type(error).__name__
    for known in ("No space left on device", "Permission denied", "File too large"):
        if known in text:
            return known
    return text if len(text) <= 200 else f"{text[:197]}..."


def seal(about: dict[str, Any]) -> dict[str, Any]:
    """A JSON object with its own hash."""
    return {**about, "seal": _digest(about)}


def is_sealed(about: Any) -> bool:
    """Whether a JSON object is what ``seal`` gave."""
    return isinstance(about, dict) and about.get("seal") == _digest(
        {name: value for name, value in about.items() if name != "seal"}
    )


def _digest(about: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:32]


def _is_key(x: Any) -> bool:
    return jnp.issubdtype(getattr(x, "dtype", np.dtype(bool)), jax.dtypes.prng_key)


def _is_wide(x: np.ndarray) -> bool:
    return x.dtype.itemsize == 8 and x.dtype.kind in "iuf"


@jax.jit
def _checksums(leaves: list[jax.Array]) -> jax.Array:
    return jnp.stack([_checksum(leaf) for leaf in leaves])


def _checksum(x: jax.Array) -> jax.Array:
    """The sum of all words times odd weights, modulo 2^32; no reshape, so any sharding stays."""
    if jnp.issubdtype(x.dtype, jnp.complexfloating):
        x = jnp.stack([x.real, x.imag], axis=-1)
    if x.dtype == jnp.bool_ or jnp.issubdtype(x.dtype, jnp.integer):
        words = x if x.dtype.itemsize == 8 else x.astype(jnp.uint32)
    else:
        words = x
    if words.dtype != jnp.uint32:
        width = {1: jnp.uint8, 2: jnp.uint16}.get(x.dtype.itemsize, jnp.uint32)
        words = jax.lax.bitcast_convert_type(words, width).astype(jnp.uint32)
    place = jnp.zeros(words.shape, jnp.uint32)
    for axis, prime in zip(range(words.ndim), _PRIMES * words.ndim, strict=False):
        steps = jax.lax.broadcasted_iota(jnp.uint32, words.shape, axis)
        place += steps * jnp.uint32(prime)
    return jnp.sum(words * (place * jnp.uint32(2) + jnp.uint32(1)), dtype=jnp.uint32)


_PRIMES = (1, 7919, 104729, 1299709, 15485863, 179424673)
