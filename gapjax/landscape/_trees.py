"""Parameter trees as flat vectors: the part that a predicate selects, in one fixed order."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

Where = Callable[[str, Any], bool]


@dataclasses.dataclass(frozen=True)
class Layout:
    """How the selected leaves of a tree lie in a flat vector; hashable, hence static in jit."""

    treedef: Any
    shapes: tuple[tuple[int, ...], ...]
    dtypes: tuple[str, ...]
    keep: tuple[bool, ...]
    dtype: str

    @property
    def size(self) -> int:
        """Length of the flat vector."""
        return sum(self.sizes)

    @property
    def sizes(self) -> list[int]:
        """Elements of each selected leaf."""
        return [math.prod(s) for s, kept in zip(self.shapes, self.keep, strict=True) if kept]

    @property
    def like(self) -> Any:
        """The tree of shapes and dtypes."""
        leaves = [jax.ShapeDtypeStruct(s, d) for s, d in zip(self.shapes, self.dtypes, strict=True)]
        return jax.tree.unflatten(self.treedef, leaves)

    def select(self, tree: Any) -> list[jax.Array]:
        """The selected leaves, in order."""
        leaves = jax.tree.leaves(tree)
        return [leaf for leaf, kept in zip(leaves, self.keep, strict=True) if kept]

    def replace(self, tree: Any, selected: Sequence[jax.Array]) -> Any:
        """The tree with its selected leaves replaced."""
        fresh = iter(selected)
        leaves = [
            next(fresh) if kept else leaf
            for leaf, kept in zip(jax.tree.leaves(tree), self.keep, strict=True)
        ]
        return jax.tree.unflatten(self.treedef, leaves)

    def join(self, selected: Sequence[jax.Array]) -> jax.Array:
        """Selected leaves as one vector."""
        return jnp.concatenate([jnp.asarray(leaf).astype(self.dtype).ravel() for leaf in selected])

    def split(self, vector: jax.Array, dtype: str | None = None) -> list[jax.Array]:
        """One vector as selected leaves, each in its own dtype unless one is given."""
        shapes = [s for s, kept in zip(self.shapes, self.keep, strict=True) if kept]
        dtypes = [d for d, kept in zip(self.dtypes, self.keep, strict=True) if kept]
        parts, start = [], 0
        for shape, own, size in zip(shapes, dtypes, self.sizes, strict=True):
            part = jax.lax.slice_in_dim(vector, start, start + size)
            parts.append(part.reshape(shape).astype(dtype or own))
            start += size
        return parts

    def ravel(self, tree: Any) -> jax.Array:
        """A whole tree to the flat vector of its selected leaves."""
        check_match(self.like, tree, "the tree given")
        return self.join(self.select(tree))

    def unravel(self, vector: jax.Array) -> Any:
        """A flat vector to a whole tree, zero in the leaves that were not selected."""
        outside = self.like
        if not all(self.keep):
            outside = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), outside)
        return self.replace(outside, self.split(vector))

    def move(self, params: Any, vector: jax.Array) -> Any:
        """`params` with the vector added to its selected leaves, each leaf in its own dtype."""
        moved = [
            (leaf.astype(self.dtype) + step).astype(leaf.dtype)
            for leaf, step in zip(self.select(params), self.split(vector, self.dtype), strict=True)
        ]
        return self.replace(params, moved)


def path_names(tree: Any) -> list[str]:
    """The path of every leaf, as ``Dense_0/kernel``."""
    return [
        jax.tree_util.keystr(path, simple=True, separator="/")
        for path, _ in jax.tree_util.tree_leaves_with_path(tree)
    ]


def layout_of(params: Any, where: Where | None = None) -> Layout:
    """The layout of a tree's selected leaves; refuses what has no derivative."""
    names, leaves = path_names(params), jax.tree.leaves(params)
    if not leaves:
        raise ValueError("the parameters hold no array; pass the tree of arrays to differentiate.")
    keep = [where is None or bool(where(n, x)) for n, x in zip(names, leaves, strict=True)]
    if not any(keep):
        raise ValueError(
            "where= selects no parameter; it is asked where(path, leaf) with these paths: "
            + ", ".join(names)
            + "."
        )
    dtypes = [jnp.result_type(leaf) for leaf in leaves]
    for name, dtype, kept in zip(names, dtypes, keep, strict=True):
        if kept and not jnp.issubdtype(dtype, jnp.floating):
            raise ValueError(
                f"parameter {name} is {dtype}: curvature needs real floating point parameters; "
                "leave it out with where=, or close over it in the loss."
            )
    # Half precision is kept in the parameters, but vectors and sums are at least float32.
    wide = any(kept and dtype.itemsize > 4 for dtype, kept in zip(dtypes, keep, strict=True))
    return Layout(
        jax.tree.structure(params),
        tuple(tuple(jnp.shape(leaf)) for leaf in leaves),
        tuple(str(d) for d in dtypes),
        tuple(keep),
        "float64" if wide else "float32",
    )


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
