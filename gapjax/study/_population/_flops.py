"""What the compiler's count of floating-point operations leaves out."""

import math
from typing import Any

from jax.extend.core import Jaxpr, jaxprs_in_params


def of_later_turns(program: Jaxpr) -> float:
    """Operations of a program's loops beyond the first turn of each, which is all XLA counts.

    Of matrix products and convolutions alone. A loop whose number of turns is not known beforehand
    is left at one: that over the updates of a segment, for the cost of one update.
    """
    total = 0.0
    for equation in program.eqns:
        for inner in jaxprs_in_params(equation.params):
            later = of_later_turns(inner)
            if equation.primitive.name == "scan":
                turns = equation.params["length"] - 1
                later += turns * (later + _of_one_turn(inner))
            total += later
    return total


def _of_one_turn(program: Jaxpr) -> float:
    """Operations with every loop gone through once."""
    return sum(
        _of(equation) + sum(map(_of_one_turn, jaxprs_in_params(equation.params)))
        for equation in program.eqns
    )


def _of(equation: Any) -> float:
    """A multiplication and an addition for each term of each number that comes out."""
    name, given = equation.primitive.name, equation.params
    if name == "dot_general":
        (contracted, _), _ = given["dimension_numbers"]
        terms = math.prod(equation.invars[0].aval.shape[i] for i in contracted)
    elif name == "conv_general_dilated":
        kernel, (out, *_) = equation.invars[1].aval.shape, given["dimension_numbers"].rhs_spec
        # Of an input spread by zeros, as that of a gradient through strides, the zeros are free.
        terms = math.prod(kernel) / kernel[out] / math.prod(given["lhs_dilation"])
    else:
        return 0.0
    return 2.0 * math.prod(equation.outvars[0].aval.shape) * terms
