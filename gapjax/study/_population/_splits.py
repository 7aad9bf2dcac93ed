"""The training set cut in two: what is trained on, and what is held out to judge by."""

from typing import Any, NamedTuple

from gapjax import growth
from gapjax.study._population._setup import count, rows_of


class Splits(NamedTuple):
    """The training set cut for tuning, or for branches: the same cut for every regime and seed."""

    train: Any
    validation: Any


def num_left(study: Any, examples: int) -> int:
    """How many of so many examples the validation split leaves to train on.

    Raises:
        ValueError: it leaves none.
    """
    held = max(1, round(study.validation * examples))
    if held >= examples:
        raise ValueError(
            f"validation={study.validation:g} leaves none of {examples} examples to train on."
        )
    return examples - held


def hold_out(study: Any, split: Any) -> Splits:
    """The cut, at random."""
    examples = count(split)
    held = examples - num_left(study, examples)
    order = growth.epoch_order(study.first_seed, 0, examples)
    return Splits(rows_of(split, order[held:]), rows_of(split, order[:held]))
