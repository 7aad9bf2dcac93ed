"""What a checkpoint holds, in a form that can be compared and checked.

Storage may hand back other bits than were written without an error: files of arrays carry no
checksum of their data. So every leaf is summed up where it lies, before it is written and after it
is read. The sums are of integers, hence the same on any number of devices and hosts.
"""

import math
import zlib
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gapjax.training._names import names_along
from gapjax.training._sharding import outside_meshes, put

FORMAT = 3
SMALL = 1 << 20  # bytes; up to there it costs less to fetch arrays together than one by one
_PYTHON = (bool, int, float, complex)
_KINDS = {bool: "b", int: "iu", float: "fV", complex: "c"}  # V: bfloat16 and its like

Tree = dict[str, Any]  # nested, of arrays


def bundle(state: Any) -> tuple[Tree, dict[str, Any]]:
    """What to write of a state, as a tree that anyone can read, and its description as JSON.

    Raises:
        ValueError: a leaf that is neither an array nor a number.
    """
    paths, leaves = _flat(state)
    for path, leaf in zip(paths, leaves, strict=True):
        unfit = _unfit(leaf)
        if unfit:
            raise ValueError(
                f"state{jax.tree_util.keystr(path)} {unfit}; a checkpoint holds arrays and "
                "numbers, as JAX has them. Keep it out of the state, or turn it into one."
            )
    raw, names = [_raw(leaf) for leaf in leaves], _names(paths)
    about = {
        "leaves": describe(state),
        "names": names,
        "checksums": _checksums(raw),
    }
    small = [i for i, leaf in enumerate(raw) if _is_small(leaf)]
    for i, held in zip(small, jax.device_get([raw[i] for i in small]), strict=True):
        raw[i] = np.asarray(held)
    return _nested(names, raw), about


def _unfit(leaf: Any) -> str:
    """What is wrong with a leaf, if anything is."""
    if isinstance(leaf, jax.Array):
        return ""
    if isinstance(leaf, np.ma.MaskedArray):
        return "is a masked array"
    if isinstance(leaf, np.ndarray | np.generic):
        dtype = leaf.dtype
        if dtype.kind in "biufc":
            return "" if dtype.isnative and dtype.char not in "gG" else f"holds {dtype.str}"
        return "" if jnp.issubdtype(dtype, np.number) else f"holds {dtype}"
    if isinstance(leaf, int) and not -(2**63) <= leaf < 2**64:
        return f"is {leaf}, more than 64 bits"
    return "" if isinstance(leaf, _PYTHON) else f"is a {type(leaf).__name__}"


def wanted(about: dict[str, Any], like: Any) -> Tree:
    """What to read for a state like this one: NumPy arrays, or shapes and layouts."""
    rows = zip(about["leaves"], _flat(like)[1], strict=True)
    return _nested(about["names"], [_spec(row, leaf) for row, leaf in rows])


def unbundle(about: dict[str, Any], found: Tree, like: Any) -> Any:
    """The state, as the tree that ``like`` is, of what was read.

    Raises:
        ValueError: an array is not what was saved.
    """
    leaves, structure = jax.tree.flatten(like)
    rows = list(zip(about["leaves"], about["names"], leaves, strict=True))
    raw = [_read(row, names, found, leaf) for row, names, leaf in rows]
    sums = _checksums(raw)
    for (path, *_), was, now in zip(about["leaves"], about["checksums"], sums, strict=True):
        if was != now:
            raise ValueError(f"{path or 'the state'} is not what was saved")
    state = [_as_leaf(x, row, leaf) for x, (row, _, leaf) in zip(raw, rows, strict=True)]
    return jax.tree.unflatten(structure, state)


def _flat(tree: Any) -> tuple[list[Any], list[Any]]:
    named = jax.tree_util.tree_leaves_with_path(tree)
    return [path for path, _ in named], [leaf for _, leaf in named]


def names_of(tree: Any) -> list[str]:
    """The names of the leaves of a tree, with slashes."""
    return ["/".join(name) for name in _names(_flat(tree)[0])]


def _names(paths: list[Any]) -> list[list[str]]:
    """The keys by which each leaf is found in a nested dictionary."""
    return [[_key(name) for name in names_along(path)] or ["state"] for path in paths]


def _key(key: str) -> str:
    """One step of a path; orbax joins them by dots, storage by slashes, so those are spelled."""
    for sign in "%./":
        key = key.replace(sign, f"%{ord(sign):02X}")
    return key or "%"


def _nested(names: Sequence[Sequence[str]], leaves: Sequence[Any]) -> Tree:
    """Leaves in nested dictionaries, without those that have no elements, which orbax refuses."""
    tree: Tree = {}
    for (*parents, last), leaf in zip(names, leaves, strict=True):
        if math.prod(leaf.shape) == 0:
            continue
        inner = tree
        for parent in parents:
            inner = inner.setdefault(parent, {})
        inner[last] = leaf
    return tree


def _raw(x: Any) -> Any:
    """A leaf as an array: random keys as their numbers, Python's numbers as NumPy's."""
    if _is_key(x):
        return jax.random.key_data(x)
    return x if isinstance(x, jax.Array | np.ndarray) else np.asarray(x)


def _is_small(leaf: Any) -> bool:
    """Whether to fetch a leaf with others: small, and all of it at hand in every process."""
    at_hand = isinstance(leaf, jax.Array) and (
        leaf.is_fully_addressable or leaf.is_fully_replicated
    )
    return at_hand and leaf.nbytes <= SMALL


def _spec(row: list[Any], like: Any) -> Any:
    """How to read a leaf: as NumPy, or onto the devices that ``like`` is bound to, if it is large.

    An array that is not bound to devices is read as NumPy, so that it stays unbound.
    """
    _, kind, shape, *_ = row
    if _is_key(like):
        data = jax.eval_shape(jax.random.key_data, like)
        kind, shape = data.dtype, data.shape
    dtype = np.asarray(_PYTHON_OF[kind](0)).dtype if kind in _PYTHON_OF else jnp.dtype(kind)
    dtype = np.dtype(np.uint64) if kind == "uint" else dtype
    sharding = _sharding(like)
    large = math.prod(shape) * dtype.itemsize > SMALL
    if large and sharding is not None:
        return jax.ShapeDtypeStruct(tuple(shape), dtype, sharding=sharding)
    return np.empty(tuple(shape), dtype)


_PYTHON_OF: dict[str, Any] = {kind.__name__: kind for kind in _PYTHON} | {"uint": int}


def _is_unsigned(x: Any) -> bool:
    """Whether a number is a whole one that only an unsigned type holds."""
    return isinstance(x, int) and x >= 2**63


def _sharding(like: Any) -> Any:
    """Where a leaf is bound to; None if to no device."""
    bound = isinstance(like, jax.ShapeDtypeStruct) or (
        isinstance(like, jax.Array) and like.committed
    )
    return like.sharding if bound else None


def _read(row: list[Any], names: list[str], found: Tree, like: Any) -> Any:
    """A raw leaf out of what was read, where the old one is."""
    spec = _spec(row, like)
    x: Any = found
    if math.prod(spec.shape) == 0:
        x = np.empty(spec.shape, spec.dtype)
    else:
        for name in names:
            x = x[name]
    on_device = isinstance(like, jax.Array | jax.ShapeDtypeStruct) and row[1] not in _PYTHON_OF
    return x if isinstance(x, jax.Array) or not on_device else _placed(x, like)


def _placed(x: Any, like: Any) -> jax.Array:
    """A host array where another one lies; it does not ask processes that have not come so far."""
    sharding = _sharding(like)
    return jnp.asarray(x) if sharding is None else put(x, sharding)


def _as_leaf(x: Any, row: list[Any], like: Any) -> Any:
    """A leaf of the kind of the old one: a random key, an array, one of Python's numbers.

    A counter that began as a number and became an array stays one, and a number that a state of
    arrays is restored from becomes one.
    """
    _, kind, *_ = row
    if _is_key(like):
        return jax.random.wrap_key_data(x, impl=_impl(like))
    if isinstance(like, jax.Array | jax.ShapeDtypeStruct):
        return _placed(x.astype(like.dtype), like) if kind in _PYTHON_OF else x
    if isinstance(like, _PYTHON) and not isinstance(like, np.generic):
        return _PYTHON_OF[kind](x.item()) if kind in _PYTHON_OF else jnp.asarray(x)
    return x[()] if isinstance(like, np.generic) else x


def describe(tree: Any) -> list[list[Any]]:
    """A row per leaf: its path, type and shape, as JSON."""

    def row(path: Any, x: Any) -> list[Any]:
        where = jax.tree_util.keystr(path)
        if isinstance(x, _PYTHON) and not isinstance(x, np.generic):
            return [where, "uint" if _is_unsigned(x) else type(x).__name__, []]
        x = x if hasattr(x, "shape") else np.asarray(x)
        return [where, str(x.dtype), list(x.shape)]

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
        if not _alike(theirs.get(path), ours.get(path)):
            sides = []
            for side in (theirs, ours):
                kind, shape = side.get(path, ("", []))
                sides.append(f"{kind}{shape}" if path in side else "missing")
            return f"{path or 'the state'} is {sides[0]} there and {sides[1]} here"
    return None


def _alike(a: Any, b: Any) -> bool:
    """Whether two leaves can stand for each other; a number and an array of its kind can."""
    if a is None or b is None or a[1] != b[1]:
        return a == b
    a, b = ((_PYTHON_OF[kind].__name__ if kind in _PYTHON_OF else kind, s) for kind, s in (a, b))
    for one, other in ((a[0], b[0]), (b[0], a[0])):
        if one in _PYTHON_OF and other not in _PYTHON_OF:
            return not _is_key_type(other) and jnp.dtype(other).kind in _KINDS[_PYTHON_OF[one]]
    return a == b


def _is_key_type(kind: str) -> bool:
    return kind.startswith("key<")


def _checksums(leaves: list[Any]) -> list[int]:
    """A 32-bit sum per raw leaf; one flipped bit always changes it."""
    # Without 64-bit types JAX would cut such arrays: hand their halves over.
    halves = [
        x.reshape(*x.shape, 1).view(np.uint32) if isinstance(x, np.ndarray) and _is_wide(x) else x
        for x in leaves
    ]
    groups: dict[Any, list[int]] = {}  # no program takes arrays of two meshes
    for i, x in enumerate(halves):
        groups.setdefault(_home(x), []).append(i)
    sums = [0] * len(halves)
    with outside_meshes():
        for group in groups.values():
            found = jax.device_get(_sums([halves[i] for i in group]))
            for i, value in zip(group, found, strict=True):
                sums[i] = int(value)
    return sums


def _home(x: Any) -> Any:
    """What arrays of one program have to share: devices, and how these are laid out."""
    if not (isinstance(x, jax.Array) and x.committed):
        return None
    mesh = getattr(x.sharding, "mesh", None)
    return frozenset(x.sharding.device_set), mesh and (mesh.axis_names, mesh.axis_types)


def checksum(leaves: Sequence[Any]) -> int:
    """One checksum of arrays that this process holds, taken on the host: nothing is compiled."""
    total = 0
    for leaf in leaves:
        held = np.ascontiguousarray(np.asarray(_raw(leaf)))
        total = zlib.crc32(held.reshape(-1).view(np.uint8).data, total)
    return total


def _is_key(x: Any) -> bool:
    return jnp.issubdtype(getattr(x, "dtype", np.dtype(bool)), jax.dtypes.prng_key)


def _impl(like: Any) -> Any:
    """The kind of a random key, also of a ``jax.ShapeDtypeStruct``."""
    impls: list[Any] = []
    jax.eval_shape(lambda key: impls.append(jax.random.key_impl(key)), like)
    return impls[0]


def _is_wide(x: np.ndarray) -> bool:
    return x.dtype.itemsize >= 8 and x.dtype.kind in "iufc"


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
