"""Regimes: a batch and remedies, the same words in Python and on the command line."""

import dataclasses
import itertools
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from gapjax import _checks
from gapjax.study._remedies import REMEDIES, Remedy, check_together, find_remedies

# What the command line calls them, and what they mean.
BATCHES: dict[str, tuple[str, str]] = {
    "SB": ("small", "the small batch"),
    "LB": ("large", "the large batch"),
    "GROW": (
        "grow",
        "from small towards large, growing where the rate would drop, or by a controller",
    ),
    "HYBRID": ("hybrid", "likewise at the first drop; the later ones stay drops of the rate"),
    "SEESAW": (
        "seesaw",
        "from small towards large, doubling where any schedule would halve the rate, which falls "
        "by the square root of that (Adam) or stays (SGD)",
    ),
}
_WORDS = {word: name for name, (word, _) in BATCHES.items()}
STANDARD = ("SB", "LB", "LB+LR", "LB+LR+GBN", "LB+LR+GBN+RA")


@dataclasses.dataclass(frozen=True)
class Regime:
    """How a study trains: with which batch, and which remedies.

    Attributes:
        name: what tables, figures and files call it.
        batch: ``"small"`` or ``"large"`` (the study's sizes), a number of examples, or a batch that
            grows from small to large in place of the drops of the rate (Smith et al. 2018):
            ``"grow"`` at each of them, or where a smooth rate has halved (with a controller, by
            what it measures, and the rate keeps its drops), ``"hybrid"`` at the first; or
            ``"seesaw"``, which grows where any schedule would halve the rate (Meterez et al. 2025).
        remedies: names from ``REMEDIES``, or ``Remedy`` objects of your own.

    Raises:
        ValueError: an unknown word, a batch that is not positive, or remedies that exclude each
            other.

    Example:
        >>> Regime.parse("160+LINEAR+WARMUP").batch
        160
        >>> [remedy.name for remedy in Regime("LB+LR", remedies=("LR",)).remedies]
        ['LR']
    """

    name: str
    batch: str | int = "large"
    remedies: tuple[Remedy, ...] = ()

    if TYPE_CHECKING:  # what is given may be names, what is kept are remedies

        def __init__(
            self, name: str, batch: str | int = "large", remedies: Sequence[Remedy | str] = ()
        ) -> None: ...

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name.strip() or not self.name.isprintable():
            raise ValueError(
                f"the name of a regime must be a text that can be printed, not {self.name!r}."
            )
        if isinstance(self.batch, str):
            _checks.one_of(f"batch of regime {self.name}", self.batch, _WORDS)
        else:
            _checks.positive_int(f"batch of regime {self.name}", self.batch)
        remedies: Any = self.remedies
        if isinstance(remedies, str | Remedy) or not hasattr(remedies, "__iter__"):
            raise ValueError(
                f"remedies of regime {self.name} must be several, such as ('LR', 'GBN'), not "
                f"{remedies!r}."
            )
        object.__setattr__(self, "remedies", find_remedies(remedies, self.name))
        check_together(self.name, self.batch_name, self.remedies)

    @property
    def batch_name(self) -> str:
        """What the command line calls the batch (``SB``, ``LB``, ``GROW``, or a number)."""
        return _WORDS[self.batch] if isinstance(self.batch, str) else str(self.batch)

    @property
    def grows(self) -> bool:
        """Whether the batch grows."""
        return self.batch_name in ("GROW", "HYBRID", "SEESAW")

    def has(self, remedy: str) -> bool:
        """Whether a remedy of this name is among its remedies."""
        return any(own.name == remedy for own in self.remedies)

    @classmethod
    def parse(cls, text: str) -> "Regime":
        """A regime by its words: a batch, then remedies, joined by ``+``.

        Args:
            text: ``"SB"``, ``"LB"``, ``"GROW"``, ``"HYBRID"``, ``"SEESAW"`` or a number of
                examples, then any of ``REMEDIES``: ``"LB+LR+GBN"``.

        Raises:
            ValueError: a word that is neither, with the nearest.

        Example:
            >>> Regime.parse("LB+LR+GBN").batch
            'large'
        """
        if not isinstance(text, str):
            raise ValueError(f"a regime is a text such as 'LB+LR+GBN', or a Regime, not {text!r}.")
        batch, *remedies = text.split("+")
        if re.fullmatch("[0-9]+", batch):
            return cls(text, _checks.positive_int(f"batch of regime {text}", int(batch)), remedies)
        if batch not in BATCHES:
            near = _checks.near_matches(batch, BATCHES)
            raise ValueError(
                f"regime {text!r} must start with its batch, one of {', '.join(BATCHES)} or a "
                f"number of examples, not {batch!r}.{near}"
            )
        return cls(text, BATCHES[batch][0], remedies)


def as_regime(regime: Regime | str) -> Regime:
    """A regime by its words, or as it is."""
    return regime if isinstance(regime, Regime) else Regime.parse(regime)


MOST_FACTORS = 5


def with_combinations(study: Any, regimes: tuple[Regime, ...]) -> tuple[Regime, ...]:
    """The regimes of a study with all combinations of its factors on the large batch.

    Of the regimes that stand by default only the two ends are kept.

    Raises:
        ValueError: factors that are unknown, named twice or too many, or that exclude each other.
    """
    factors = study.factorial
    if not factors:
        return regimes
    if len(factors) > MOST_FACTORS or len(set(factors)) < len(factors):
        raise ValueError(
            f"factorial must name at most {MOST_FACTORS} remedies, each once, not "
            f"{' '.join(factors)}: {len(factors)} make {2 ** len(factors)} regimes."
        )
    for factor in factors:
        _checks.one_of("factorial", factor, REMEDIES)
    if tuple(regime.name for regime in regimes) == STANDARD:
        regimes = regimes[:1]
    large = study.baseline[1] if len(study.baseline) == 2 else "LB"
    known = {regime.name: regime for regime in regimes}
    base = known.get(large) or Regime.parse(large)
    for name, own in (
        ("+".join([large, *some]), some)
        for size in range(len(factors) + 1)
        for some in itertools.combinations(factors, size)
    ):
        remedies = (*base.remedies, *(REMEDIES[factor] for factor in own))
        known.setdefault(name, Regime(name, base.batch, remedies))
    return tuple(known.values())


def check_baseline(baseline: tuple[str, ...], names: list[str], *, usual: tuple[str, str]) -> None:
    """Refuse ends of the gap that are no two regimes; the usual ones may be missing.

    Raises:
        ValueError: with what would fit.
    """
    if len(baseline) != 2 or baseline[0] == baseline[1]:
        raise ValueError(
            f"baseline must be the names of two regimes, such as ('SB', 'LB'), not {baseline!r}."
        )
    unknown = [name for name in baseline if name not in names]
    if unknown and baseline != usual:  # without its usual ends a study tells of no gap
        raise ValueError(
            f"baseline names {unknown[0]}, which is none of the regimes {', '.join(names)}: name "
            f"it among the regimes too.{_checks.near_matches(unknown[0], names)}"
        )
