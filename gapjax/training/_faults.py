"""Numbers that are not finite: found inside the compiled step, named on the host."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gapjax._precision import widen
from gapjax.training._history import History
from gapjax.training._optimizers import trained

ON_FAULT = ("ignore", "stop", "skip")


class NumericalFault(FloatingPointError):
    """A loss or a gradient was not finite.

    Attributes:
        update: the update at which it was found, counted from 1.
        parameter: the path of the first parameter whose gradient was not finite; ``"loss"`` if
            only the loss was not.
    """

    def __init__(self, update: int, parameter: str):
        self.update, self.parameter = update, parameter
        where = "the loss" if parameter == "loss" else f"the gradient of {parameter}"
        super().__init__(
            f"update {update}: {where} is not finite. Lower the learning rate, clip the gradient, "
            'or go on without such updates: on_fault="skip".'
        )

    def __reduce__(self) -> tuple[Any, ...]:
        # Made anew from its message, as Python would, it could not be: a pool of processes hangs.
        return type(self), (self.update, self.parameter)


def find_fault(loss: jax.Array, grads: Any) -> jax.Array:
    """Which leaf of the gradient is the first that is not finite, in the order of ``tree.leaves``.

    Told by the sum of its squares, so a gradient whose squared norm overflows counts as not finite
    too. An optimizer that clips takes the same sums, and the compiler takes them once for both.

    Args:
        loss: the loss.
        grads: the gradient.

    Returns:
        int32, shape ``()``: the number of the leaf, -1 if all is finite, the number of leaves if
        only the loss is not.
    """
    squares = [jnp.sum(jnp.square(jnp.abs(widen(leaf)))) for leaf in jax.tree.leaves(grads)]
    bad = ~jnp.stack([jnp.isfinite(x) for x in (*squares, loss)])
    return jnp.where(jnp.any(bad), jnp.argmax(bad), -1).astype(jnp.int32)


def fault_path(params: Any, fault: Any) -> str | None:
    """The path of the parameter that a fault in the metrics names.

    Args:
        params: the parameters, or any tree of their structure.
        fault: ``metrics["fault"]`` or ``metrics["skipped"]`` of one update.

    Returns:
        The path, ``"loss"`` if only the loss was not finite, None if there was no fault.

    Example:
        >>> fault_path({"dense": {"bias": 0.0, "kernel": 0.0}}, 1)
        "['dense']['kernel']"
    """
    number = int(fault)
    leaves = jax.tree_util.tree_leaves_with_path(trained(params))
    paths = [jax.tree_util.keystr(path) for path, _ in leaves]
    return None if number < 0 else [*paths, "loss"][number]


def say_skipped(history: History, params: Any) -> str | None:
    """In words, how many updates of a run were skipped; None if none was."""
    skipped = history.metrics.get("skipped") if isinstance(history.metrics, dict) else None
    if skipped is None or not np.any(skipped >= 0):
        return None
    first = int(np.argmax(skipped >= 0))
    where = fault_path(params, skipped[first])
    what = "loss" if where == "loss" else f"gradient of {where}"
    return (
        f"{np.count_nonzero(skipped >= 0)} updates were skipped; the first, update "
        f"{history.step[first]}, because its {what} was not finite."
    )
