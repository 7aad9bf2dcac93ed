"""What a rule multiplies the learning rate by when the batch grows."""

from typing import Any

RULES = ("sqrt", "linear", "none")


def rule_factor(ratio: Any, rule: str) -> Any:
    """The factor of the rate when the batch grows by `ratio` (a number or an array)."""
    if rule == "sqrt":
        return ratio**0.5
    return ratio if rule == "linear" else ratio**0
