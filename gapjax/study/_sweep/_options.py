"""A sweep on the command line: its fields besides those of a study, and their help."""

from typing import Any

from gapjax.study._population._splits import num_left
from gapjax.study._presets._list import PRESETS

# Fields of a study that a sweep has no use for, or has its own word for.
SWEEP_WITHOUT = (
    "regimes",
    "baseline",
    "factorial",
    "large_batch",
    "epochs",
    "keep",
    "maximum",
    "plateau_factor",
    "plateau_epochs",
    "controls",
    "schedule",
    "decay_at",
    "decay_factor",
    "cooldown",
    "tune",
    "tune_also",
    "evaluations",
    "loss_levels",
    "landscape_examples",
    "landscape_seeds",
    "landscape_measures",
    "controller",
)

_DOUBLINGS = 7


def sweep_options(name: str) -> dict[str, tuple[Any, Any, str]]:
    """The options of a sweep of a preset, by name: type, default, help.

    Sizes double from the small batch on, up to 64 times it, as far as the data go. A target of 0.1
    is that of an error; of any other headline metric none would fit all.

    Args:
        name: of the preset.

    Returns:
        By name: type, default, help.

    Example:
        >>> sweep_options("digits")["batch_sizes"][1]
        (16, 32, 64, 128, 256, 512, 1024)
    """
    preset = PRESETS[name]
    study, task = preset.study, preset.study.task
    left = num_left(study, preset.used)
    sizes = tuple(s for s in (study.small_batch * 2**k for k in range(_DOUBLINGS)) if s <= left)
    target = 0.1 if task.maximize and task.headline in task.percent else None
    return {
        "batch_sizes": (tuple[int, ...], sizes, "the batch sizes"),
        "target": (
            float | None,
            target,
            "to reach: of the error, 1 - the headline metric, where that is a fraction such as an "
            "accuracy; else of the headline metric itself, such as a loss",
        ),
        "remedies": (
            tuple[str, ...],
            ("none",),
            "a curve for each: none, or remedies joined by +, such as LR+GBN",
        ),
        "rates": (int, 5, "learning rates tried at each size, around the rule of the square root"),
        "rate_factor": (float, 3.0, "from one of them to the next"),
        "tune_also": (
            tuple[str, ...],
            (),
            "tune these beside the rate, at random in their ranges, such as momentum=0.8:0.99 "
            "weight_decay=1e-5:1e-2; as many trials as rates",
        ),
        "epochs": (
            float | None,
            None,
            "passes of the small batch over the data that make the budgets of equal examples and "
            "equal updates; None: a tenth of the preset's",
        ),
        "limit": (float, 2.0, "the most updates at any size, in budgets of equal updates"),
        "watch": (str, "validation", "what the target is of: validation, or train for its loss"),
        "stop_at_target": (bool, False, "end a size once it is certain which rate is first there"),
    }


SWEEP_HELP = """How large may the batch be? Train many batch sizes to a target and fit the knee.

At every size, under every remedy, as many learning rates are tried, each with all seeds. The rate
is constant after any warm-up. What is in the folder already is not trained again: sizes, remedies
and another target can be added.

PRESET sets the defaults below (see `gapjax presets`)."""
