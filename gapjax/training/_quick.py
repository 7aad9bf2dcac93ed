"""Programs that run once: what they cost is their compilation."""

from collections.abc import Callable
from typing import Any

import jax

_LEVEL = "xla_backend_optimization_level"


def jit_once(function: Callable[..., Any], *, run: bool = True, **options: Any) -> Any:
    """``jax.jit`` of what runs once or never, so that its compilation is most of what it costs.

    On CPU most of that goes into machine code that runs fast: with little of it random numbers for
    the start of a network compile 5 times faster, and give the same bits. Elsewhere it is
    ``jax.jit``.

    Args:
        function: what to compile.
        run: whether it will run at all; where it is only looked at nothing is optimized.
        **options: of ``jax.jit``.

    Returns:
        The compiled function.

    Example:
        >>> jit_once(lambda x: x + 1)(1).item()
        2
    """
    if jax.default_backend() == "cpu":
        given = options.get("compiler_options") or {}
        options["compiler_options"] = {_LEVEL: int(run), **given}
    return jax.jit(function, **options)
