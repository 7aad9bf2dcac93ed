"""The presets by name."""

from gapjax import _checks
from gapjax.study._presets._digits import DIGITS
from gapjax.study._presets._hoffer import HOFFER
from gapjax.study._presets._keskar import KESKAR
from gapjax.study._presets._language import LANGUAGE
from gapjax.study._presets._preset import Preset
from gapjax.study._study import Study

PRESETS: dict[str, Preset] = {**DIGITS, **LANGUAGE, **HOFFER, **KESKAR}


def preset(name: str) -> Study:
    """A study by the name of its preset.

    Args:
        name: one of ``PRESETS``.

    Returns:
        The study.

    Raises:
        ValueError: an unknown name.

    Example:
        >>> preset("digits").seeds
        8
    """
    _checks.one_of("preset", name, PRESETS)
    return PRESETS[name].study
