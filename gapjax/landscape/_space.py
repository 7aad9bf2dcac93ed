"""Parameter trees as vectors: their floating leaves that a predicate selects, left where they lie.

Nothing here joins leaves or moves them: a vector is a tuple of arrays, each in the shape and with
the sharding of its parameter, and sums over a vector are sums over its leaves.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from gapjax import _checks

Where = Callable[[str, Any], bool]
Vector = tuple[jax.Array, ...]


@dataclasses.dataclass(frozen=True)
class VectorSpace:
    """The vectors of a tree's selected leaves; hashable, hence static in jit.

    Attributes:
        treedef: the structure of the whole tree.
        shapes: of every leaf.
        dtypes: of every leaf.
        shardings: of every leaf over several devices, None for the others.
        keep: whether a leaf is selected.
        dtype: of every array of a vector.
    """

    treedef: Any
    shapes: tuple[tuple[int, ...], ...]
    dtypes: tuple[Any, ...]
    shardings: tuple[NamedSharding | None, ...]
    keep: tuple[bool, ...]
    dtype: str

    @property
    def size(self) -> int:
        """The number of selected parameters."""
        return sum(map(math.prod, self.chosen(self.shapes)))

    @property
    def size_per_device(self) -> int:
        """The most of them that one device holds."""
        shapes, shardings = self.chosen(self.shapes), self.chosen(self.shardings)
        return sum(
            math.prod(shape if sharding is None else sharding.shard_shape(shape))
            for shape, sharding in zip(shapes, shardings, strict=True)
        )

    @property
    def num_local_devices(self) -> int:
        """Over how many devices of this process the selected parameters lie."""
        meshes = [place.mesh for place in self.chosen(self.shardings) if place is not None]
        return max((len(mesh.local_devices) for mesh in meshes), default=1)

    @property
    def like(self) -> Any:
        """The tree of shapes and dtypes."""
        leaves = map(jax.ShapeDtypeStruct, self.shapes, self.dtypes)
        return jax.tree.unflatten(self.treedef, list(leaves))

    @property
    def names(self) -> list[str]:
        """The paths of the selected leaves."""
        return self.chosen(path_names(self.like))

    @property
    def abstract(self) -> tuple[jax.ShapeDtypeStruct, ...]:
        """What a vector looks like."""
        every = zip(self.chosen(self.shapes), self.chosen(self.shardings), strict=True)
        return tuple(
            jax.ShapeDtypeStruct(shape, self.dtype, sharding=place) for shape, place in every
        )

    def chosen(self, leaves: Iterable[Any]) -> list[Any]:
        """Of something for every leaf, that for the selected ones."""
        return [leaf for leaf, kept in zip(leaves, self.keep, strict=True) if kept]

    def select(self, tree: Any) -> list[Any]:
        """The selected leaves of a tree, as they are."""
        return self.chosen(jax.tree.leaves(tree))

    def only(self, tree: Any) -> Any:
        """The tree with nothing (None) in place of the leaves that are not selected."""
        leaves = zip(jax.tree.leaves(tree), self.keep, strict=True)
        return jax.tree.unflatten(self.treedef, [leaf if kept else None for leaf, kept in leaves])

    def replace(self, tree: Any, selected: Iterable[Any]) -> Any:
        """The tree with its selected leaves replaced."""
        fresh = iter(selected)
        leaves = [
            next(fresh) if kept else leaf
            for leaf, kept in zip(jax.tree.leaves(tree), self.keep, strict=True)
        ]
        return jax.tree.unflatten(self.treedef, leaves)

    def vector(self, tree: Any, what: str = "the tree given") -> Vector:
        """A tree of the structure and shapes of the parameters, as a vector."""
        check_match(self.like, tree, what)
        return self.placed(jnp.asarray(leaf).astype(self.dtype) for leaf in self.select(tree))

    def placed(self, arrays: Iterable[Any]) -> Vector:
        """Arrays of a vector, or of a block of rows, on the devices of their parameters."""
        every = zip(arrays, self.chosen(self.shapes), self.chosen(self.shardings), strict=True)
        return tuple(
            jnp.asarray(array)
            if place is None
            else jax.device_put(array, _stacked(place, array.ndim - len(shape)))
            for array, shape, place in every
        )

    def embed(self, vector: Vector) -> Any:
        """A vector as a tree like the parameters, in their dtypes; 0 in leaves not selected.

        A leading axis that all arrays of the vector have stays at the front.
        """
        own = iter(vector)
        rows = vector[0].shape[: vector[0].ndim - len(self.chosen(self.shapes)[0])]
        every = zip(self.shapes, self.dtypes, self.shardings, self.keep, strict=True)
        leaves = [
            next(own).astype(dtype)
            if kept
            else jnp.zeros((*rows, *shape), dtype, device=_stacked(place, len(rows)))
            for shape, dtype, place, kept in every
        ]
        return jax.tree.unflatten(self.treedef, leaves)

    def split(self, flat: Any) -> Vector:
        """A flat array of all selected entries, in order, as a vector."""
        shapes = self.chosen(self.shapes)
        stops = np.cumsum([math.prod(shape) for shape in shapes])
        parts = zip(shapes, [0, *stops[:-1]], stops, strict=True)
        return self.placed(
            jnp.asarray(flat[start:stop]).astype(self.dtype).reshape(shape)
            for shape, start, stop in parts
        )

    def flat(self, vector: Vector) -> np.ndarray:
        """A vector on the host, ``[size]`` float64; gathered where it lies on several devices."""
        return np.concatenate([np.asarray(_gathered(x), np.float64).ravel() for x in vector])

    def tangents(self, vector: Vector) -> list[jax.Array]:
        """The arrays of a vector in the dtypes of their parameters."""
        dtypes = self.chosen(self.dtypes)
        return [leaf.astype(dtype) for leaf, dtype in zip(vector, dtypes, strict=True)]

    def as_vector(self, leaves: Iterable[jax.Array]) -> Vector:
        """Selected leaves, such as derivatives, as a vector; the compiler leaves it in place."""
        places = self.chosen(self.shardings)
        return tuple(
            _held(leaf.astype(self.dtype), place)
            for leaf, place in zip(leaves, places, strict=True)
        )

    def zeros(self, *rows: int) -> Vector:
        """The vector of zeros, or a block of them."""
        return self.maker(_zeros, rows, rows=len(rows))()

    def normal(self, key: jax.Array) -> Vector:
        """A vector of independent standard normal entries; of several keys, one row for each.

        The same numbers on any number of devices.
        """
        return self.maker(_drawn, jax.random.normal, rows=key.ndim)(key)

    def signs(self, key: jax.Array) -> Vector:
        """A vector of independent random signs, the same on any number of devices."""
        return self.maker(_drawn, jax.random.rademacher, rows=key.ndim)(key)

    def zeros_maker(self) -> Callable[[], Vector]:
        """`zeros` for many calls, which then cost less each."""
        return self.maker(_zeros, ())

    def maker(
        self, function: Callable[..., Vector], option: Any, *, rows: int = 0
    ) -> Callable[..., Vector]:
        """A function that makes vectors of nothing, each part on the device where it lies."""
        places = tuple(_stacked(place, rows) for place in self.chosen(self.shardings))
        # Equal functions share their programs, whichever jit they come through.
        made = jax.jit(function, static_argnums=(0, 1), out_shardings=places)
        return functools.partial(made, self, option)


def _zeros(space: VectorSpace, rows: tuple[int, ...]) -> Vector:
    return tuple(jnp.zeros((*rows, *shape), space.dtype) for shape in space.chosen(space.shapes))


def _drawn(space: VectorSpace, draw: Any, key: jax.Array) -> Vector:
    def one(key: jax.Array) -> Vector:
        return tuple(
            draw(jax.random.fold_in(key, index), shape, space.dtype)
            for index, shape in enumerate(space.chosen(space.shapes))
        )

    return jax.vmap(one)(key) if key.ndim else one(key)


def _stacked(place: NamedSharding | None, rows: int) -> NamedSharding | None:
    """Where an array with leading axes lies, if each row lies like its parameter."""
    if place is None:
        return None
    return place.update(spec=PartitionSpec(*[None] * rows, *place.spec))


def _gathered(array: jax.Array) -> jax.Array:
    """An array that this process can read."""
    sharding = array.sharding
    if array.is_fully_addressable or not isinstance(sharding, NamedSharding):
        return array
    return jax.device_put(array, sharding.update(spec=PartitionSpec()))


def _held(array: jax.Array, place: NamedSharding | None) -> jax.Array:
    """Inside jit: an array that stays where its parameter is."""
    kinds = set() if place is None else set(place.mesh.axis_types)
    if kinds == {AxisType.Auto}:
        return lax.with_sharding_constraint(array, place)
    if kinds == {AxisType.Explicit}:
        return jax.sharding.reshard(array, place)
    return array


def space_of(params: Any, where: Where | None = None) -> VectorSpace:
    """The vectors of a tree's floating leaves, or of those among them that `where` selects.

    Integers, booleans and keys are no parameters: they are left out everywhere.

    Raises:
        ValueError: a tree without floating arrays, complex parameters, a `where` that selects
            nothing, or only arrays without entries.
    """
    names, leaves = path_names(params), jax.tree.leaves(params)
    dtypes = [jnp.result_type(leaf) for leaf in leaves]
    for name, dtype in zip(names, dtypes, strict=True):
        if jnp.issubdtype(dtype, jnp.complexfloating):
            raise ValueError(
                f"parameter {name} is {dtype}: curvature needs real parameters. Keep the real and "
                "the imaginary part as two arrays, and join them in the loss."
            )
    if where is not None:
        _checks.function("where", where)
    real = [jnp.issubdtype(dtype, jnp.floating) for dtype in dtypes]
    if not any(real):
        raise ValueError(
            "the parameters hold no array of floating point numbers: "
            + (", ".join(f"{n} is {d}" for n, d in zip(names, dtypes, strict=True)) or "no array")
            + ". Pass the tree of arrays to differentiate."
        )
    keep = [
        is_real and (where is None or bool(where(name, leaf)))
        for name, leaf, is_real in zip(names, leaves, real, strict=True)
    ]
    if not any(keep):
        raise ValueError(
            "where= selects no parameter; it is asked where(path, leaf) with these paths: "
            + ", ".join(name for name, is_real in zip(names, real, strict=True) if is_real)
            + "."
        )
    shapes = tuple(tuple(jnp.shape(leaf)) for leaf in leaves)
    every = zip(names, shapes, keep, strict=True)
    chosen = [(name, shape) for name, shape, kept in every if kept]
    if not any(math.prod(shape) for _, shape in chosen):
        raise ValueError(
            "the parameters selected hold no number: "
            + ", ".join(f"{name} has shape {shape}" for name, shape in chosen)
            + ". Pass or select arrays with entries."
        )
    # Half precision may be kept in the parameters, but vectors and sums are at least float32.
    wide = any(kept and dtype.itemsize > 4 for dtype, kept in zip(dtypes, keep, strict=True))
    return VectorSpace(
        jax.tree.structure(params),
        shapes,
        tuple(dtypes),
        tuple(_place_of(leaf) for leaf in leaves),
        tuple(keep),
        "float64" if wide else "float32",
    )


def _place_of(leaf: Any) -> NamedSharding | None:
    sharding = getattr(leaf, "sharding", None)
    over_several = isinstance(sharding, NamedSharding) and sharding.num_devices > 1
    return sharding if over_several else None


def widened(params: Any) -> Any:
    """Parameters with float32 copies of those kept in fewer bits.

    A displacement of a bfloat16 number by less than a 256th of it is rounded away.
    """

    def leaf(x: Any) -> Any:
        dtype = jnp.result_type(x)
        narrow = jnp.issubdtype(dtype, jnp.floating) and dtype.itemsize < 4
        return jnp.asarray(x).astype(jnp.float32) if narrow else x

    return jax.tree.map(leaf, params)


def combination(trees: Sequence[Any], weights: Iterable[Any]) -> Any:
    """The weighted sum of trees, at least in float32 or complex64.

    Integers, booleans and keys come from the first.
    """
    weights = list(weights)

    def leaf(*leaves: Any) -> Any:
        dtype = jnp.result_type(leaves[0])
        if not jnp.issubdtype(dtype, jnp.inexact):
            return leaves[0]
        least = "complex64" if jnp.issubdtype(dtype, jnp.complexfloating) else "float32"
        wide = dtype if dtype.itemsize > jnp.dtype(least).itemsize else least
        total = jnp.zeros_like(leaves[0], wide)
        for weight, x in zip(weights, leaves, strict=True):
            total = total + jnp.asarray(weight).astype(wide) * jnp.asarray(x).astype(wide)
        return total

    return jax.tree.map(leaf, *trees)


def inner(one: Vector, two: Vector) -> jax.Array:
    """The inner product with a vector: of a vector a scalar, of a block one for each row."""
    return sum(
        lax.dot_general(
            a,
            b,
            ((tuple(range(a.ndim - b.ndim, a.ndim)), tuple(range(b.ndim))), ((), ())),
            precision="highest",
            out_sharding=_everywhere(b),
        )
        for a, b in zip(one, two, strict=True)
    )  # type: ignore[return-value]


def rows_combined(weights: jax.Array, block: Vector) -> Vector:
    """The sum of the rows of a block, weighted; several for weights of several rows."""
    last = jnp.ndim(weights) - 1
    return tuple(
        lax.dot_general(weights, rows, (((last,), (0,)), ((), ())), precision="highest")
        for rows in block
    )


@jax.jit
def l2_norm(vector: Vector) -> jax.Array:
    """The Euclidean length, of any size: infinite only where it exceeds the dtype's largest number.

    Where the sum of the squares leaves the range in which it is exact to rounding, the vector is
    first divided by a power of two of the size of its largest entry.
    """
    square = inner(vector, vector)
    limits, size = jnp.finfo(square.dtype), sum(leaf.size for leaf in vector)
    # Squares that are flushed to zero add up to less than size * tiny.
    safe = (square > size * float(limits.tiny / limits.eps)) & (square < limits.max)
    # A loop of at most one pass: mapped over rows, a cond would select between whole vectors, which
    # costs more, and which arrays with shardings in their types refuse.
    once = lax.while_loop(
        lambda state: ~state[0],
        lambda _: (jnp.ones_like(safe), _rescaled_norm(vector)),
        (safe, jnp.sqrt(square)),
    )
    return once[1]


def _rescaled_norm(vector: Vector) -> jax.Array:
    """The length by entries of at most 1; an entry that is not finite is the length itself."""
    tops = [jnp.max(jnp.abs(leaf), initial=0) for leaf in vector]
    largest = functools.reduce(jnp.maximum, tops)
    limits = jnp.finfo(largest.dtype)
    # Powers whose inverse is a normal number too.
    exponent = jnp.clip(jnp.frexp(largest)[1], limits.minexp + 6, limits.maxexp - 8)
    down, up = (jnp.ldexp(jnp.ones_like(largest), sign * exponent) for sign in (-1, 1))
    small = tuple(leaf * down for leaf in vector)
    return jnp.where(jnp.isfinite(largest), jnp.sqrt(inner(small, small)) * up, largest)


@jax.jit
def scaled(vector: Vector, factor: Any) -> Vector:
    """The vector times a number."""
    return tuple(leaf * jnp.asarray(factor).astype(leaf.dtype) for leaf in vector)


@jax.jit
def times(one: Vector, two: Vector) -> Vector:
    """The product entry by entry."""
    return tuple(a * b for a, b in zip(one, two, strict=True))


@jax.jit
def magnitudes(vector: Vector) -> Vector:
    """The absolute value of every entry."""
    return tuple(jnp.abs(leaf) for leaf in vector)


def _everywhere(array: jax.Array) -> NamedSharding | None:
    """What types with shardings ask for where a sum runs over devices: a copy on each."""
    mesh = jax.typeof(array).sharding.mesh
    return NamedSharding(mesh, PartitionSpec()) if AxisType.Explicit in mesh.axis_types else None


def path_names(tree: Any) -> list[str]:
    """The path of every leaf, as ``Dense_0/kernel``."""
    return [
        jax.tree_util.keystr(path, simple=True, separator="/")
        for path, _ in jax.tree_util.tree_leaves_with_path(tree)
    ]


def check_match(like: Any, tree: Any, what: str) -> None:
    """Refuses a tree that is not of the structure and shapes of `like`, naming the path."""
    expected = dict(zip(path_names(like), jax.tree.leaves(like), strict=True))
    found = dict(zip(path_names(tree), jax.tree.leaves(tree), strict=True))
    for name, leaf in expected.items():
        if name not in found:
            raise ValueError(f"{what} has no leaf at {name!r}, where the parameters have one.")
        if jnp.shape(found[name]) != jnp.shape(leaf):
            raise ValueError(
                f"{what} has shape {jnp.shape(found[name])} at {name!r}, "
                f"where the parameters have {jnp.shape(leaf)}."
            )
    for name in found:
        if name not in expected:
            raise ValueError(f"{what} has a leaf at {name!r}, where the parameters have none.")
    wanted: Any = jax.tree.structure(like)
    given: Any = jax.tree.structure(tree)
    if wanted != given:
        raise ValueError(
            f"{what} has the leaves of the parameters in another container: "
            f"{given} against {wanted}."
        )
