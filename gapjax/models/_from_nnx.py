"""A function that makes an nnx module as a ``Network``."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

# Imported here, not where they are used: inside a traced function that would change what jax keys
# its programs by, and compile each of them once more.
from gapjax import ghost
from gapjax.ghost import nnx as ghost_nnx
from gapjax.models._calls import arguments, key_of, no_key, signature
from gapjax.models._network import Network


class _NoKey(Exception):
    """A stream that has no key was drawn from."""


class _Keyless(nnx.RngStream):
    """A stream that cannot be drawn from.

    Its class is kept through every transformation of nnx, unlike its counter, of which a scan over
    what is rematerialized makes a new object whether it was drawn from or not.
    """

    def __call__(self) -> jax.Array:
        raise _NoKey


class _Parts(NamedTuple):
    """A module taken apart: structure, parameters, what it draws with, its other variables."""

    graph: Any
    params: Any
    keys: Any
    counts: Any
    rest: Any


def from_nnx(build: Callable[..., nnx.Module], name: str, *, fresh: bool) -> Network:
    """The functional view of the nnx modules that ``build`` makes."""
    make = _maker(build, name)

    def init(key: jax.Array, inputs: Any) -> tuple[Any, Any]:
        parts = _apart(make(nnx.Rngs(key), inputs))
        return nnx.to_pure_dict(parts.params), nnx.to_pure_dict(parts.rest)

    def template(inputs: Any) -> _Parts:
        # The structure alone: no array of this model is computed. Not by nnx.eval_shape, which lays
        # parameters out on the mesh at hand, and names of axes may mean another.
        return jax.eval_shape(lambda: _apart(make(nnx.Rngs(0), inputs)))

    def module(params: Any, model_state: Any, inputs: Any, train: bool, key: Any) -> Any:
        parts = template(inputs)
        nnx.replace_by_pure_dict(parts.params, params)
        nnx.replace_by_pure_dict(parts.rest, model_state)
        _reseed(parts, jax.random.key(0) if key is None else key)
        model = nnx.merge(*parts)
        if key is None:
            for _, node in nnx.iter_graph(model):
                if isinstance(node, nnx.RngStream):
                    node.__class__ = _Keyless
        (model.train if train else model.eval)()
        for name in ("training", "is_training", "is_train"):
            model.set_attributes(**{name: train}, raise_if_not_found=False)
        return model

    def called(model: Any, inputs: Any, train: bool) -> Any:
        args, kwargs = arguments(model.__call__, inputs, train=train)
        capture: Any = nnx.capture(model)  # nothing: what is sown is dropped
        return capture(*args, **kwargs)

    def apply(
        params: Any,
        model_state: Any,
        inputs: Any,
        *,
        train: bool,
        key: jax.Array | None = None,
        ghost_size: int | None = None,
    ) -> tuple[Any, Any]:
        model = module(params, model_state, inputs, train, key)
        if train and ghost_size is not None:
            model = ghost_nnx.ghostify(model, ghost_size, rescale_momentum=True)
        try:
            outputs = called(model, inputs, train)
        except _NoKey as error:
            raise ValueError(no_key(name, train)) from error
        if not train:
            return outputs, model_state
        return outputs, _those_of(model_state, nnx.to_pure_dict(_apart(model).rest))

    def batch_statistics(params: Any, model_state: Any, inputs: Any) -> Any:
        if not ghost.batch_norms(model_state):
            return {}
        model = module(params, model_state, inputs, True, key_of(inputs))
        model = ghost_nnx.batch_statistics(model)
        called(model, inputs, True)
        after = _those_of(model_state, nnx.to_pure_dict(_apart(model).rest))
        return ghost.batch_norms(after)

    def partition_specs(inputs: Any) -> Any:
        return nnx.to_pure_dict(nnx.get_partition_spec(template(inputs).params))

    return Network(init, apply, batch_statistics, fresh, name, build, partition_specs)


def _maker(build: Callable[..., Any], name: str) -> Callable[[nnx.Rngs, Any], nnx.Module]:
    """``(rngs, inputs) -> module``, whatever of it ``build`` takes, and how."""
    parameters = signature(build).parameters.values()
    by_name = {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    needed = [
        p.name
        for p in parameters
        if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
    ]
    positional = [p.name for p in parameters if p.kind not in (p.KEYWORD_ONLY, p.VAR_KEYWORD)]
    others = [n for n in needed if n not in ("rngs", "inputs")]
    if "rngs" not in by_name and others and others[0] in positional:
        others = others[1:]  # rngs by another name
    elif "rngs" not in by_name:
        raise ValueError(
            f"model {name} takes no rngs to draw its weights from: give a function from rngs to an "
            "nnx.Module, or a module that was built already."
        )
    if others:
        settings = "".join(f"{n}=..., " for n in others)
        raise ValueError(
            f"model {name} needs {', '.join(others)} besides rngs: "
            f"lambda rngs: {name}({settings}rngs=rngs) says what they are."
        )

    def make(rngs: nnx.Rngs, inputs: Any) -> nnx.Module:
        seen = {"inputs": inputs} if "inputs" in by_name else {}
        model = build(rngs=rngs, **seen) if "rngs" in by_name else build(rngs, **seen)
        if not isinstance(model, nnx.Module):
            raise ValueError(
                f"model {name} gave {type(model).__name__} when called with rngs; "
                "it must give an nnx.Module."
            )
        return model

    return make


def _apart(model: nnx.Module) -> _Parts:
    parts: Any = nnx.split(model, nnx.Param, nnx.RngKey, nnx.RngCount, ...)
    return _Parts(*parts)


def _reseed(parts: _Parts, key: jax.Array) -> None:
    """Give every stream of a model a key of its own, whatever it is called."""
    for i, (_, found) in enumerate(nnx.to_flat_state(parts.keys)):
        own = jax.random.fold_in(key, i)
        found.set_value(jax.random.split(own, found.shape) if found.shape else own)
    for _, found in nnx.to_flat_state(parts.counts):
        found.set_value(jnp.zeros(found.shape, found.dtype))


def _those_of(before: Any, after: Any) -> Any:
    """The variables that were there before; not what ``sow`` added."""
    if not isinstance(before, dict):
        return after
    return {name: _those_of(value, after[name]) for name, value in before.items()}
