"""Parameters laid out as their module says: partition specs, given or read off the parameters.

Neither Flax nor any other library of modules is imported: linen's boxes and nnx's variables are
known by what they can be asked.
"""

from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from gapjax.training._names import Path, names_along
from gapjax.training._optimizers import trained


def annotated_shardings(state: Any, mesh: Mesh, specs: Any) -> Any:
    """The sharding of every leaf of a state whose parameters are laid out by specs.

    A leaf that is no parameter lies as the parameter does whose path its own ends in and whose
    shape it has (a momentum, an average); any other one is replicated.

    Args:
        state: with ``params``, or the parameters themselves.
        mesh: the devices.
        specs: a tree of ``PartitionSpec``, ``NamedSharding`` or None that begins as the parameters
            do; or ``"annotated"``: what these say of themselves.

    Raises:
        ValueError: specs that do not fit the parameters or the mesh; the first one.
    """
    params = trained(getattr(state, "params", state))
    given = _annotations(params) if isinstance(specs, str) else _by_path(trained(specs))
    placed: dict[Path, tuple[NamedSharding, tuple[int, ...]]] = {}
    used = set[Path]()
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        names, shape = _names(path), np.shape(leaf)
        told = next((names[:n] for n in range(len(names) + 1) if names[:n] in given), None)
        if told is None:
            raise ValueError(
                f"parameters= says nothing of params{jax.tree_util.keystr(path)}: give "
                "PartitionSpec() for what every device holds whole."
            )
        used.add(told)
        where = f"params{jax.tree_util.keystr(path)}"
        placed[names] = _sharding(given[told], mesh, where, shape), shape
    if unknown := sorted(set(given) - used):
        raise ValueError(
            f"parameters= has a spec for {'.'.join(unknown[0]) or 'a tree'}, and the state has no "
            "such parameter: give a tree like state.params."
        )
    replicated = NamedSharding(mesh, PartitionSpec())

    def one(path: Any, leaf: Any) -> NamedSharding:
        names = _names(path)
        for start in range(len(names) + 1):
            sharding, shape = placed.get(names[start:], (replicated, None))
            if shape == np.shape(leaf):
                return sharding
        return replicated

    return jax.tree_util.tree_map_with_path(one, state)


def refuse_annotations(state: Any, mesh: Mesh, parameters: str) -> None:
    """Refuse parameters that say where on this mesh they want to lie, and are to lie elsewhere."""
    params = trained(getattr(state, "params", state))
    for names, spec in _annotations(params).items():
        if axes := [axis for axis in _axes(spec) if axis in mesh.shape]:
            raise ValueError(
                f"params.{'.'.join(names)} is annotated to be split over the mesh axis "
                f"{axes[0]!r}, and parameters={parameters!r} contradicts it: say "
                'parameters="annotated", or take the annotations off.'
            )


def _annotations(params: Any) -> dict[Path, Any]:
    """What boxes and variables among the parameters say, by path; nothing of what has none."""
    nodes = jax.tree_util.tree_leaves_with_path(params, is_leaf=_speaks)
    return {_names(path): _spoken(node) for path, node in nodes}


def _speaks(node: Any) -> bool:
    return hasattr(node, "get_partition_spec") or hasattr(node, "get_metadata")


def _spoken(node: Any) -> PartitionSpec:
    if hasattr(node, "get_partition_spec"):  # a box of linen
        return node.get_partition_spec()
    if hasattr(node, "get_metadata"):  # a variable of nnx
        return PartitionSpec(*(node.get_metadata().get("out_sharding") or ()))
    return PartitionSpec()


def _by_path(specs: Any) -> dict[Path, Any]:
    leaves = jax.tree_util.tree_leaves_with_path(specs, is_leaf=_is_spec)
    for path, spec in leaves:
        if not _is_spec(spec):
            raise ValueError(
                f"parameters{jax.tree_util.keystr(path)} is a {type(spec).__name__}: give a tree "
                'of PartitionSpec or NamedSharding, or "replicated", "sharded" or "annotated".'
            )
    return {_names(path): spec for path, spec in leaves}


def _is_spec(x: Any) -> bool:
    return x is None or isinstance(x, PartitionSpec | NamedSharding)


def _names(path: Any) -> Path:
    # Boxes and variables hold their array as their only child.
    return names_along(entry for entry in path if getattr(entry, "name", None) != "value")


def _axes(spec: PartitionSpec | None) -> list[str]:
    flat: list[str] = []
    for entry in spec or ():
        flat += [] if entry is None else [entry] if isinstance(entry, str) else list(entry)
    return flat


def _sharding(given: Any, mesh: Mesh, where: str, shape: tuple[int, ...]) -> NamedSharding:
    """A sharding that fits the mesh and a parameter."""
    if isinstance(given, NamedSharding):
        if given.mesh.shape_tuple != mesh.shape_tuple:
            raise ValueError(
                f"{where} has a sharding over the mesh {dict(given.mesh.shape)}, and the step is "
                f"compiled for {dict(mesh.shape)}: use one mesh for both."
            )
        given = given.spec
    spec = PartitionSpec() if given is None else given
    if unknown := [axis for axis in _axes(spec) if axis not in mesh.shape]:
        raise ValueError(
            f"{where} is to be split over {unknown[0]!r}, and the mesh has the axes "
            f"{mesh.axis_names}: give names of its axes (of logical ones, what the rules of your "
            "module make of them)."
        )
    if len(spec) > len(shape):
        raise ValueError(f"{where} has {len(shape)} axes, and its spec {spec} has {len(spec)}.")
    for length, entry in zip(shape, spec, strict=False):
        parts = int(np.prod([mesh.shape[axis] for axis in _axes(PartitionSpec(entry))], dtype=int))
        if length % parts:
            raise ValueError(
                f"{where} of shape {shape} does not split as {spec} says: {length} over {parts} "
                "devices. Take another axis, or PartitionSpec() for that one."
            )
    return NamedSharding(mesh, spec)
