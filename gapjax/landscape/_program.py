"""Functions as they trace at present: programs are shared by equal traces, and by no others.

A function that closes over arrays has them compiled in as constants. Called again after one of
them changed it must not meet the old program, though it is the same function.
"""

import dataclasses
import hashlib
import re
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr

Partial = jax.tree_util.Partial


@dataclasses.dataclass(frozen=True)
class _AsTraced:
    """A function that equals itself only where it traced to the same."""

    function: Callable[..., Any]
    trace: bytes

    def __call__(self, *args: Any, **options: Any) -> Any:
        return self.function(*args, **options)


def as_partial(function: Callable[..., Any]) -> Partial:
    """A function as an argument of jit; arrays in a `jax.tree_util.Partial` stay arguments."""
    if isinstance(function, Partial):
        return function
    if not callable(function):
        raise ValueError(f"expected a function, not {function!r}.")
    return Partial(function)


def as_traced(function: Partial, jaxpr: ClosedJaxpr) -> Partial:
    """The function, told from itself at other times by what it was traced to."""
    return Partial(_AsTraced(function.func, _digest(jaxpr)), *function.args, **function.keywords)


def trace_anew(kernel: Callable[..., Any], *args: Any) -> tuple[ClosedJaxpr, Any]:
    """What a function is traced to now, with its constants, and the shapes of its results."""
    # JAX remembers the traces of a function that it has seen; this one it has not.
    return jax.make_jaxpr(lambda *args: kernel(*args), return_shape=True)(*args)


def _digest(jaxpr: ClosedJaxpr) -> bytes:
    """Equal for equal programs with equal constants.

    Of a derivative of its own (`jax.custom_vjp`) it sees the function, not the rule.
    """
    text = re.sub(r" at 0x[0-9a-f]+", "", str(jaxpr))  # where an object lies is no part of it
    digest = hashlib.sha256(text.encode())
    for constant in _constants(jaxpr):
        if jax.dtypes.issubdtype(constant.dtype, jax.dtypes.prng_key):
            constant = jax.random.key_data(constant)
        digest.update(np.asarray(constant).tobytes())
    return digest.digest()


def _constants(jaxpr: ClosedJaxpr | Jaxpr) -> Iterator[Any]:
    """The constants of a program, and of those inside it."""
    yield from getattr(jaxpr, "consts", ())
    for equation in jaxpr.eqns:
        for inner in jax.tree.leaves(equation.params):
            if isinstance(inner, ClosedJaxpr | Jaxpr):
                yield from _constants(inner)
