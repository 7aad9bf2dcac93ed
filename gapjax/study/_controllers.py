"""What the batch of ``GROW`` may go by in place of the drops of the rate: controllers by name."""

import functools
import inspect
from collections.abc import Callable
from typing import Any

from gapjax import _checks, growth

Make = Callable[..., growth.Controller]

# A look of a study is a mean over seeds and many small batches: two in a row are enough.
_DWELL = 2

BRANCHING = "branching"

CONTROLLERS: dict[str, tuple[str, Make]] = {
    "noise-scale": (
        "where the gradient noise scale is above 1.3 times the batch",
        functools.partial(growth.noise_scale_controller, min_dwell=_DWELL),
    ),
    "norm-test": (
        "where the gradient of a batch is too noisy to point downhill",
        functools.partial(growth.norm_test_controller, min_dwell=_DWELL),
    ),
    "cabs": (
        "with rate times noise over loss",
        functools.partial(growth.cabs_controller, min_dwell=_DWELL),
    ),
    BRANCHING: (
        "where branches show that twice the batch trains as well (GROW+LINEAR for SGD, GROW+LR "
        "for Adam)",
        growth.branching_controller,
    ),
}

_FORMS = (
    "a growth.Controller, or a function (initial, maximum) that gives one, such as "
    "growth.noise_scale_controller"
)


def controller(name: str, value: Any) -> Any:
    """Refuse what is no controller: a name, a ``growth.Controller``, or what makes one."""
    if isinstance(value, str):
        return _checks.one_of(name, value, CONTROLLERS)
    if value is None or isinstance(value, growth.Controller) or callable(value):
        return value
    raise ValueError(
        f"{name} must be one of {', '.join(CONTROLLERS)}, {_FORMS}, or None, not {value!r}."
    )


def make_controller(study: Any) -> growth.Controller | None:
    """The controller of a study, from its small batch to its large one.

    Raises:
        ValueError: a function of the user's that gives no controller, or one without sizes.
    """
    given = study.controller
    if given is None or isinstance(given, growth.Controller):
        return given
    make = CONTROLLERS[given][1] if isinstance(given, str) else given
    try:
        made = make(study.small_batch, maximum=study.large_batch)
    except TypeError as error:
        raise ValueError(f"controller must be {_FORMS}; it raised: {error}") from error
    if not isinstance(made, growth.Controller):
        raise ValueError(f"controller must be {_FORMS}, and gave {made!r}.")
    return made


def check_controller(study: Any) -> None:
    """Refuse a controller that drives nothing, or that could not drive what it is asked to."""
    if study.controller is None:
        return
    named = study.controller if isinstance(study.controller, str) else "of your own"
    if all(regime.batch != "grow" for regime in study.regimes):
        raise ValueError(
            f"controller {named} drives the batch of GROW, and no regime is: name GROW among the "
            "regimes, or leave the controller out."
        )
    if study.tune:
        raise ValueError(
            f"controller {named} measures the noise at one rate, and tune={study.tune} tries many "
            "in one population: leave one of them out."
        )
    made = make_controller(study)
    assert made is not None
    try:
        inspect.signature(made.update).bind(None, None, loss=1.0, learning_rate=1.0)
    except TypeError as error:
        raise ValueError(
            "update of the controller must take (state, measured, *, loss=None, "
            f"learning_rate=None): {error}."
        ) from None
    sizes = _checks.several("sizes() of the controller", made.sizes())
    for size in sizes:
        _checks.positive_int("a size of the controller", size)
    if not sizes or sizes != sorted(set(sizes)):
        raise ValueError(f"sizes() of the controller must be rising sizes, not {sizes!r}.")
