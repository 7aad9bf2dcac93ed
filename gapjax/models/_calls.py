"""How modules of the wild are called: with which inputs, and how they are told that they train."""

import functools
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

_FLAGS: Mapping[str, Callable[[bool], bool]] = {
    "train": lambda train: train,
    "training": lambda train: train,
    "is_training": lambda train: train,
    "is_train": lambda train: train,
    "deterministic": lambda train: not train,
    "use_running_average": lambda train: not train,
    "eval": lambda train: not train,
    "is_eval": lambda train: not train,
    "evaluate": lambda train: not train,
    "inference": lambda train: not train,
}


class Arguments(NamedTuple):
    """What a module is called with."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]


def signature(build: Callable[..., Any]) -> inspect.Signature:
    """What a function, a class or a partial of one is called with."""
    partial = functools.partial(build)  # of a partial, the same once more
    if inspect.isclass(partial.func):  # those of nnx hide it in their metaclass
        init: Any = partial.func.__init__
        return inspect.signature(functools.partial(init, None, *partial.args, **partial.keywords))
    return inspect.signature(partial)


def train_flags(names: Iterable[str], train: bool) -> dict[str, bool]:
    """Those of some names that tell a module whether it trains, with what they say."""
    return {name: _FLAGS[name](train) for name in names if name in _FLAGS}


def arguments(call: Callable[..., Any], inputs: Any, *, train: bool) -> Arguments:
    """The arguments for a module's call.

    Inputs are its first argument. They are several arguments by name where they are a mapping whose
    every key names one.

    Raises:
        ValueError: the call takes several inputs, and those given do not say which is which.
    """
    parameters = inspect.signature(call).parameters.values()
    named = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    flags = train_flags((p.name for p in named), train)
    asked = {p.name: p for p in named if p.name not in _FLAGS}
    required = [name for name, p in asked.items() if p.default is p.empty]
    positional = any(
        p.name not in _FLAGS and p.kind not in (p.KEYWORD_ONLY, p.VAR_KEYWORD) for p in parameters
    )
    # A single field may be a dict's own: a module that takes x may well want {"x": ...} whole.
    fields = isinstance(inputs, Mapping) and set(inputs) <= set(asked)
    if fields and (len(inputs) > 1 or not positional):
        return Arguments((), {**inputs, **flags})
    if len(required) > 1:
        raise ValueError(
            f"the network takes {', '.join(required)}, so its inputs must be a dict with these "
            f"keys, not {_told(inputs)}."
        )
    if positional:
        return Arguments((inputs,), flags)
    return Arguments((), {**dict.fromkeys(required or list(asked)[:1], inputs), **flags})


def key_of(inputs: Any) -> jax.Array:
    """A key fixed by a batch: passes over it draw the same, and other batches draw something else.

    Folds in a hash of the numbers of each array, the sum of a scrambling of their bits, which is
    the same however a batch is laid out over devices.
    """
    key = jax.random.key(0)
    for leaf in map(jnp.asarray, jax.tree.leaves(inputs)):
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaf = jax.random.key_data(leaf)
        parts = [jnp.real(leaf), jnp.imag(leaf)] if jnp.iscomplexobj(leaf) else [leaf]
        for part in parts:
            if jnp.issubdtype(part.dtype, jnp.floating):
                bits = jax.lax.bitcast_convert_type(part.astype(jnp.float32), jnp.uint32)
            else:
                bits = part.astype(jnp.uint32)
            bits = bits * jnp.uint32(0x9E3779B1)
            bits = (bits ^ (bits >> 15)) * jnp.uint32(0x85EBCA77)
            key = jax.random.fold_in(key, jnp.sum(bits ^ (bits >> 13), dtype=jnp.uint32))
    return key


def no_key(name: str, train: bool) -> str:
    """What to say to who gives no key to a network that draws."""
    return (
        f"model {name} draws random numbers in {'training' if train else 'evaluation'} (dropout, "
        f"say), and has no key to draw with: apply(..., train={train}, key=key)."
    )


def _told(inputs: Any) -> str:
    if isinstance(inputs, Mapping):
        return f"one with {', '.join(map(repr, inputs))}"
    shape = getattr(inputs, "shape", None)
    return type(inputs).__name__ if shape is None else f"an array of shape {list(shape)}"
