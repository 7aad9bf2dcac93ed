"""Hyperparameters beside the rate that tuning may draw at random, by their texts."""

from typing import Any, NamedTuple

import numpy as np

from gapjax import _checks
from gapjax.study._optimizers import taken_by


class Axis(NamedTuple):
    """A hyperparameter that is drawn at random.

    Attributes:
        name: of it.
        low: the lower end of its range.
        high: the upper end.
    """

    name: str
    low: float
    high: float

    def draw(self, shares: np.ndarray) -> np.ndarray:
        """Values at shares of the range: of decays in 1 - value, and of what spans scales, by logs.

        Example:
            >>> Axis("momentum", 0.9, 0.99).draw(np.array([0.0, 0.5, 1.0])).round(3).tolist()
            [0.9, 0.968, 0.99]
        """
        if self.name in ("momentum", "b1"):
            return 1 - (1 - self.low) * ((1 - self.high) / (1 - self.low)) ** shares
        if self.name == "weight_decay" and self.low > 0:
            return self.low * (self.high / self.low) ** shares
        return self.low + (self.high - self.low) * shares


# The axes that there are, and between what their values lie.
AXES: dict[str, dict[str, float]] = {
    "momentum": {"least": 0, "below": 1},
    "b1": {"least": 0, "below": 1},
    "weight_decay": {"least": 0, "most": 1e6},
    "warmup": {"least": 0, "most": 1},
}


def parse_axis(name: str, text: Any) -> str:
    """Refuse what is no axis: ``"momentum=0.8:0.99"``.

    Raises:
        ValueError: an unknown axis, a range that is empty or has an end that cannot be.
    """
    as_axis(name, text)
    return text


def as_axis(name: str, text: Any) -> Axis:
    """An axis by its text."""
    what, _, ends = text.partition("=") if isinstance(text, str) else ("", "", "")
    if what not in AXES or ends.count(":") != 1:
        near = _checks.near_matches(what, AXES) if what and what not in AXES else ""
        raise ValueError(
            f"{name} must be AXIS=LOW:HIGH, such as momentum=0.8:0.99, with an axis of "
            f"{', '.join(AXES)}, not {text!r}.{near}"
        )
    try:
        low, high = map(float, ends.split(":"))
    except ValueError:
        raise ValueError(f"{name} must have numbers as its ends, not {text!r}.") from None
    for end in (low, high):
        _checks.number(f"an end of {name}={text}", end, **AXES[what])
    if low >= high:
        raise ValueError(f"{name}={text} is empty: its low end must be below its high end.")
    return Axis(what, low, high)


def check_axes(study: Any) -> None:
    """Refuse axes that are named twice, that nothing tunes, or that the optimizer does not have."""
    axes = [as_axis("tune_also", text) for text in study.tune_also]
    names = [axis.name for axis in axes]
    if len(set(names)) < len(names):
        raise ValueError(f"tune_also names an axis twice: {', '.join(study.tune_also)}.")
    if axes and not study.tune:
        raise ValueError("tune_also says what to tune beside the rate: say how much with tune=8.")
    for name in names:
        if name != "warmup" and name not in taken_by(study.optimizer):
            takes = ", ".join((*taken_by(study.optimizer), "warmup"))
            raise ValueError(f"tune_also: the optimizer has no {name}; it has {takes}.")
        known = isinstance(study.optimizer, str) or name == "warmup"
        if not known and getattr(study, name) is None:
            raise ValueError(
                f"tune_also: what {name} is without tuning is not known of a function: say it with "
                f"{name}=0.9, or another number."
            )
