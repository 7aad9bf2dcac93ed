"""What a sweep asks: which batch sizes, trained to which target, under which remedies."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from gapjax import _checks
from gapjax.study._budget import parse_keep, round_up
from gapjax.study._regimes import Regime
from gapjax.study._remedies import Remedy
from gapjax.study._study import Study

_LENGTHS = (
    "RA",
    "LONG",
    "PLATEAU",
)  # they say how long a regime trains, which here the target does
_SHARE = 0.1


@dataclasses.dataclass(frozen=True)
class Sweep:
    r"""How many updates, and how many examples, a target takes at each of several batch sizes.

    At every size, under every remedy, as many learning rates are tried, each with all seeds, as one
    compiled program. They lie by a fixed factor around :math:`\eta \sqrt{B / B_0}`, where
    :math:`\eta` and :math:`B_0` are the study's rate and small batch (a remedy that names another
    rule moves the middle). The rate that reaches the target in the fewest updates, the geometric
    mean over seeds, is the one that counts. The rate is constant after the study's warm-up: the
    updates to a target would otherwise depend on where the schedule ends.

    Three budgets are told besides: as many *examples* as the study's small batch sees in
    ``epochs``, as many *updates* as it makes in them, and all that was trained.

    Attributes:
        study: data set, network, task, optimizer, seeds, the rate at the small batch, the share
            that is held out for validation. Its regimes and its schedule are not used.
        batch_sizes: the sizes, each once.
        target: of the error, 1 less the headline metric, where that is a fraction of which more is
            better (an accuracy); else of the headline metric itself, such as a loss.
        remedies: what to do about large batches, a curve each: ``"none"``, or remedies joined by
            ``+`` as in regimes, ``"LR+GBN"``; or a tuple of names and ``Remedy`` objects.
        rates: how many learning rates are tried at each size.
        rate_factor: from one of them to the next.
        tune_also: tuned beside the rate, ``"momentum=0.8:0.99"``, as in a study. Then as many
            trials as there would be rates are the rule itself and draws at random, the rate from
            the same range; the same draws at every size.
        epochs: passes of the small batch that make the budgets of equal examples and equal updates;
            by default a tenth of the study's.
        limit: the most updates at any size, in budgets of equal updates.
        watch: ``"validation"``, the headline metric on the split held out; or ``"train"``, where
            the target is of the training loss.
        stop_at_target: whether a size ends as soon as it is certain which rate gets to the target
            first; the budgets are then told as far as they were trained.

    Raises:
        ValueError: sizes that repeat, a target that cannot be, a remedy that does not fit.

    Example:
        >>> Sweep(Study(), (16, 64, 256), target=0.1, remedies=("none", "LR+GBN")).updates(1024)
        128
    """

    study: Study
    batch_sizes: Sequence[int]
    target: float
    remedies: Sequence[Any] = ("none",)
    _: dataclasses.KW_ONLY
    rates: int = 5
    rate_factor: float = 3.0
    tune_also: Sequence[str] = ()
    epochs: float | None = None
    limit: float = 2.0
    watch: str = "validation"
    stop_at_target: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.study, Study):
            raise ValueError(f"study must be a Study, not {self.study!r}.")
        if parse_keep("keep", self.study.keep).stops:
            raise ValueError(
                f"the study of a sweep cannot have keep={self.study.keep!r}: every size trains "
                "until the target; for one of the training loss say target= and watch='train'."
            )
        sizes = [
            _checks.positive_int("A batch size", size)
            for size in _checks.several("batch_sizes", self.batch_sizes)
        ]
        if not sizes:
            raise ValueError("batch_sizes must name at least one size, such as 16 64 256.")
        repeated = sorted({size for size in sizes if sizes.count(size) > 1})
        if repeated:
            raise ValueError(
                f"batch_sizes must name each size once; {', '.join(map(str, repeated))} repeats."
            )
        object.__setattr__(self, "batch_sizes", tuple(sorted(sizes)))
        object.__setattr__(self, "remedies", _remedies(self.remedies))
        epochs = _SHARE * self.study.epochs if self.epochs is None else self.epochs
        own = {
            "rates": _checks.whole("rates", self.rates, least=1, most=1000),
            "rate_factor": _checks.number("rate_factor", self.rate_factor, above=1),
            "epochs": _checks.number("epochs", epochs, above=0, most=1e9),
            "limit": _checks.number("limit", self.limit, least=1),
        }
        for name, value in own.items():  # 1 and 1.0 are one sweep
            object.__setattr__(self, name, value)
        axes = tuple(_checks.several("tune_also", self.tune_also))
        object.__setattr__(self, "tune_also", axes)
        if axes:
            dataclasses.replace(self.study, tune=1, tune_also=axes)  # refuses what is no axis
            if self.rates < 2:
                raise ValueError(
                    f"tune_also={axes} draws settings beside the rule, and rates={self.rates} "
                    "leaves room for the rule alone: try more, rates=8."
                )
        _checks.one_of("watch", self.watch, ("validation", "train"))
        if not isinstance(self.stop_at_target, bool):
            raise ValueError(f"stop_at_target must be True or False, not {self.stop_at_target!r}.")
        self._check_target()

    def _check_target(self) -> None:
        from gapjax.study._results._records import task_facts
        from gapjax.study._sweep._goal import make_goal

        make_goal(task_facts(self.study.task), self.target, self.watch)

    def updates(self, num_examples: int) -> int:
        """The budget of equal updates, with so many examples to train on."""
        assert self.epochs is not None
        return max(1, round_up(self.epochs * num_examples / self.study.small_batch))

    def most_updates(self, num_examples: int) -> int:
        """The most updates that any size makes."""
        assert self.epochs is not None
        # As the plan of a study over so many epochs counts them.
        return max(1, round_up(self.epochs * self.limit * num_examples / self.study.small_batch))

    def regime(self, size: int, remedy: "tuple[str, tuple[Remedy, ...]]") -> Regime:
        """The regime of a size under a remedy."""
        name, parts = remedy
        return Regime(f"{size}{'' if name == NONE else f'+{name}'}", size, parts)


NONE = "none"


def _remedies(given: Any) -> tuple[tuple[str, tuple[Remedy, ...]], ...]:
    """Each curve's name, and its remedies."""
    found: list[tuple[str, tuple[Remedy, ...]]] = []
    for entry in _checks.several("remedies", given):
        if isinstance(entry, Remedy):
            entry = (entry,)
        if isinstance(entry, tuple) and len(entry) == 2 and isinstance(entry[1], tuple):
            entry = entry[1] or NONE  # as this function made it
        names = entry.split("+") if isinstance(entry, str) else entry
        if entry in (NONE, ()):
            found.append((NONE, ()))
            continue
        names = tuple(_checks.several("remedies", names))
        label = "+".join(getattr(one, "name", str(one)) for one in names)
        parts = Regime(f"{label} of --remedies", 1, names).remedies
        for part in parts:
            if part.name in _LENGTHS:
                raise ValueError(
                    f"remedy {part.name} ({part.meaning}) does not go with a sweep, where every "
                    "size trains until the target; leave it out."
                )
            if part.name == "MATCH":
                raise ValueError(
                    "remedy MATCH follows the small batch of a study, which a sweep has not; leave "
                    "it out."
                )
        found.append(("+".join(part.name for part in parts), parts))
    names = [name for name, _ in found]
    if not names or len(set(names)) < len(names):
        raise ValueError(f"remedies must be at least one, each once: {', '.join(names)!r}.")
    return tuple(found)
