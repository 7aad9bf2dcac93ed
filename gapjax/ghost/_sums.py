"""Two sums over the same elements in one pass over them, and the transpose of that.

Batch norm takes two sums forward, of x and its square, and two backward, of the cotangent and its
product with x. As sums of their own, XLA on CPU makes two reductions of each pair: everything is
read twice, and ``x - shift`` is first written to memory, since its fast reductions take arrays,
not expressions. One reduction of two operands takes expressions and reads them once. Over many
rows at a time it is slow, so rows are added in parts; that rounds less, too. On other platforms
both sums are left to the compiler, which makes one kernel of them by itself.

They are primitives, since only those can say how they are transposed without giving up
``jax.jvp`` or ``jax.vmap``, and what to do on one platform alone.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

# Rows added in one go, the loop over them unrolled, the better first: fewer write more sums of
# parts, more take registers that are not there, and below 8 it does not pay.
_ROWS = (*range(16, 7, -1), *range(17, 33))


def rows_per_part(together: int) -> int:
    """Of so many rows that lie together, how many are added in one go; 0: none in particular."""
    if not isinstance(together, int):  # a number that is not known yet
        return 0
    return next((n for n in _ROWS if together % n == 0), 0)


def sums(a: jax.Array, b: jax.Array, axes: Sequence[int], part: int) -> Sequence[jax.Array]:
    """``a.sum(axes)`` and ``b.sum(axes)``, for arrays of one shape.

    Args:
        a: One array.
        b: The other.
        axes: The axes to sum over, in order.
        part: As from ``rows_per_part``; the rows are the elements along ``axes``, in order.
    """
    if not part or not axes or _is_split_beside(a, axes):
        return a.sum(axes), b.sum(axes)
    return _sums.bind(a, b, shape=a.shape, axes=tuple(axes), part=part)


def spread(
    a: jax.Array, b: jax.Array, shape: Sequence[int], axes: Sequence[int], part: int
) -> Sequence[jax.Array]:
    """What ``sums`` has summed over, given back as axes to broadcast over; its transpose."""
    if not part or not axes or any(jax.typeof(a).sharding.spec):
        return jnp.expand_dims(a, axes), jnp.expand_dims(b, axes)
    return _spread.bind(a, b, shape=tuple(shape), axes=tuple(axes), part=part)


def _is_split_beside(a: jax.Array, axes: Sequence[int]) -> bool:
    """Whether types say that an axis beside those of the sum lies on several devices."""
    spec = jax.typeof(a).sharding.spec
    return any(name is not None for axis, name in enumerate(spec) if axis not in axes)


def _sum_both(*pair: Any, shape: Any, axes: Any, part: int) -> list[jax.Array]:
    return [a.sum(axes) for a in pair]


def _spread_both(*pair: Any, shape: Any, axes: Any, part: int) -> list[jax.Array]:
    return [jnp.broadcast_to(jnp.expand_dims(a, axes), shape) for a in pair]


def _sum_both_in_parts(*pair: Any, shape: Any, axes: Any, part: int) -> list[jax.Array]:
    first, end = axes[0], axes[-1] + 1
    if axes != tuple(range(first, end)) or end == len(shape):
        return _sum_both(*pair, shape=shape, axes=axes, part=part)
    rows = math.prod(shape[first:end])
    cut = [a.reshape(*shape[:first], rows // part, part, *shape[end:]) for a in pair]
    zeros = [jnp.zeros((), a.dtype) for a in pair]
    parts = lax.reduce(cut, zeros, lambda a, b: list(map(lax.add, a, b)), (first + 1,))
    return [a.sum(first) for a in parts]


def _linear(name: str, function: Callable[..., Any]) -> Primitive:
    """A primitive of two arrays that is linear in both at once."""
    primitive = Primitive(name)
    primitive.multiple_results = True
    primitive.def_impl(function)

    def abstract(*avals: Any, **params: Any) -> Any:
        return jax.make_jaxpr(functools.partial(function, **params))(*avals).out_avals

    def batched(pair: Any, at: Any, *, shape: Any, axes: Any, part: int) -> Any:
        (size,) = {a.shape[i] for a, i in zip(pair, at, strict=True) if i is not None}
        pair = [
            jnp.broadcast_to(a, (size, *a.shape)) if i is None else jnp.moveaxis(a, i, 0)
            for a, i in zip(pair, at, strict=True)
        ]
        axes = tuple(axis + 1 for axis in axes)
        return primitive.bind(*pair, shape=(size, *shape), axes=axes, part=part), (0, 0)

    primitive.def_abstract_eval(abstract)
    batching.primitive_batchers[primitive] = batched
    mlir.register_lowering(primitive, mlir.lower_fun(function, multiple_results=True))
    return primitive


def _transposes(one: Primitive, other: Primitive) -> None:
    def rule(cotangents: Any, *pair: Any, **params: Any) -> Any:
        back = other.bind(*map(ad.instantiate_zeros, cotangents), **params)
        return [b if ad.is_undefined_primal(a) else None for a, b in zip(pair, back, strict=True)]

    ad.deflinear2(one, rule)


_sums = _linear("ghost_sums", _sum_both)
_spread = _linear("ghost_spread", _spread_both)
_transposes(_sums, _spread)
_transposes(_spread, _sums)
mlir.register_lowering(
    _sums, mlir.lower_fun(_sum_both_in_parts, multiple_results=True), platform="cpu"
)
