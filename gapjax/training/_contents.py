"""What a checkpoint holds, in a form that can be compared and checked.

Storage may hand back other bits than were written without an error: files of arrays carry no
checksum of their data. So every leaf is summed up where it lies, before it is written and after it
is read. The sums are of integers, hence the same on any number of devices and hosts.
"""

import zlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gapjax.training._packing import is_packed, pack, room, unpack
from gapjax.training._sharding import put

FORMAT = 2


def bundle(state: Any, past: Any) -> tuple[list[Any], dict[str, Any]]:
    """What to write of a state and its past (a tree on the host), and its description as JSON."""
    leaves, old = _raw(state), jax.tree.leaves(past)
    packed = [is_packed(leaf) for leaf in leaves]
    small, large = _part(leaves, packed)
    numbered = jax.tree.unflatten(jax.tree.structure(past), range(len(old)))
    about = {
        "leaves": describe(state),
        "checksums": _checksums(leaves),
        "packed": packed,
        "past": {"tree": numbered, "leaves": describe(old), "checksum": checksum(old)},
    }
    return [pack([*small, *old]), *large], about


def wanted(about: dict[str, Any], like: Any) -> list[Any]:
    """What to read for a state like this one: NumPy arrays, or shapes and layouts."""
    small, large = _part(_specs(like), about["packed"])
    return [room([*small, *_past_specs(about)]), *large]


def unbundle(about: dict[str, Any], found: list[Any], like: Any) -> tuple[Any, Any]:
    """The state, as the tree that ``like`` is, and its past, of what was read.

    Raises:
        ValueError: an array is not what was saved.
    """
    packed, (small, _) = about["packed"], _part(_specs(like), about["packed"])
    held = unpack(found[0], [*small, *_past_specs(about)])
    old, sources = held[len(small) :], {True: iter(held), False: iter(found[1:])}
    leaves, structure = jax.tree.flatten(like)
    state = [_placed(next(sources[p]), leaf) for p, leaf in zip(packed, leaves, strict=True)]
    sums = _checksums(_raw(state))
    for (path, *_), was, now in zip(about["leaves"], about["checksums"], sums, strict=True):
        if was != now:
            raise ValueError(f"{path or 'the state'} is not what was saved")
    if checksum(old) != about["past"]["checksum"]:
        raise ValueError("its history is not what was saved")
    past = jax.tree.map(lambda number: old[number], about["past"]["tree"])
    return jax.tree.unflatten(structure, state), past


def _part(leaves: list[Any], packed: list[bool]) -> tuple[list[Any], list[Any]]:
    """Those that are packed and those that are not."""
    pairs = list(zip(leaves, packed, strict=True))
    return [leaf for leaf, is_in in pairs if is_in], [leaf for leaf, is_in in pairs if not is_in]


def _raw(tree: Any) -> list[Any]:
    """The leaves, random keys as their numbers and Python numbers as arrays."""

    def leaf(x: Any) -> Any:
        if _is_key(x):
            return jax.random.key_data(x)
        return x if isinstance(x, jax.Array | np.ndarray) else np.asarray(x)

    return [leaf(x) for x in jax.tree.leaves(tree)]


def _specs(like: Any) -> list[Any]:
    """What the raw leaves of a tree like this one are: NumPy arrays, or shapes and layouts.

    An array that is not bound to devices is read as NumPy, so that it stays unbound.
    """

    def leaf(x: Any) -> Any:
        shape = jax.eval_shape(jax.random.key_data, x) if _is_key(x) else x
        if isinstance(x, jax.ShapeDtypeStruct) or (isinstance(x, jax.Array) and x.committed):
            return jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=x.sharding)
        shape = shape if hasattr(shape, "shape") else np.asarray(shape)
        return np.empty(shape.shape, shape.dtype)

    return [leaf(x) for x in jax.tree.leaves(like)]


def _past_specs(about: dict[str, Any]) -> list[Any]:
    rows = about["past"]["leaves"]
    return [jax.ShapeDtypeStruct(shape, jnp.dtype(kind)) for _, kind, shape in rows]


def _placed(x: Any, like: Any) -> Any:
    """A leaf that was read, where and as what the old one is."""
    (spec,) = _specs(like)
    sharding = getattr(spec, "sharding", None)  # None: bound to no device
    if isinstance(like, jax.Array | jax.ShapeDtypeStruct) and not isinstance(x, jax.Array):
        # This must not ask other processes, which may not have come so far.
        x = jnp.asarray(x) if sharding is None else put(x, sharding)
    return jax.random.wrap_key_data(x, impl=jax.random.key_impl(like)) if _is_key(like) else x


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


def _checksums(leaves: list[Any]) -> list[int]:
    """A 32-bit sum per raw leaf; one flipped bit always changes it."""
    # Without 64-bit types JAX would cut such arrays: hand their halves over.
    halves = [
        x.reshape(*x.shape, 1).view(np.uint32) if isinstance(x, np.ndarray) and _is_wide(x) else x
        for x in leaves
    ]
    return [int(value) for value in jax.device_get(_sums(halves))] if halves else []


def checksum(leaves: list[Any]) -> int:
    """One checksum of arrays that this process holds, taken on the host: nothing is compiled."""
    total = 0
    for leaf in map(np.asarray, _raw(leaves)):
        total = zlib.crc32(np.ascontiguousarray(leaf).reshape(-1).view(np.uint8).data, total)
    return total


def reason(error: BaseException) -> str:
    """The telling part of an error, in a line."""
    text = " ".join(str(error).split()).partition(" [tensorstore_spec")[0].rstrip(".")
    text = text or type(error).__name__
    if len(text) <= 200:
        return text
    for known in ("No space left on device", "Permission denied", "File too large"):
        if known in text:
            return known
    return f"...{text[-197:]}"  # the innermost cause comes last, and with it the file


def _is_key(x: Any) -> bool:
    return jnp.issubdtype(getattr(x, "dtype", np.dtype(bool)), jax.dtypes.prng_key)


def _is_wide(x: np.ndarray) -> bool:
    return x.dtype.itemsize == 8 and x.dtype.kind in "iuf"


@jax.jit
def _sums(leaves: list[jax.Array]) -> jax.Array:
    return jnp.stack([_sum(leaf) for leaf in leaves])


def _sum(x: jax.Array) -> jax.Array:
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
