"""What a preset is: a study, the facts that its data has, and what the paper found."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

from gapjax.study._controls import with_controls
from gapjax.study._plan import Plan, make_plans
from gapjax.study._study import Study

# Sustained on the networks of the presets, in GFLOP/s: what estimates of time divide by. On 2 cores
# convolutions and attention reach a fifth of what dense matrices do; on a large device small
# networks reach less than this.
DENSE_GFLOPS, CPU_GFLOPS, GPU_GFLOPS = 100.0, 20.0, 10_000.0
STARTING = 15.0  # seconds to compile the programs of a regime, and to write what it found


@dataclasses.dataclass(frozen=True)
class Preset:
    """A study with a name.

    Attributes:
        meaning: what it is, in a line.
        study: its settings.
        num_examples: how many training examples its data set has, for estimates before it is there.
        mflops: of one training example, forward and backward, in millions.
        num_test: how many test examples its data set has.
        cpu_gflops: what its network sustains on 2 cores, in GFLOP/s.
        paper: what the paper reports of a regime, test accuracy in per cent; ``None`` where it has
            no such regime.
        source: of the paper's numbers.
        verified: whether they were read in the paper itself, or are recalled.
        differs: what differs from the paper.
        found: what a run of it found, of those kept under ``benchmarks/results/papers``.
    """

    meaning: str
    study: Study
    _: dataclasses.KW_ONLY
    num_examples: int
    mflops: float
    num_test: int = 10_000
    cpu_gflops: float = CPU_GFLOPS
    paper: Mapping[str, float] = dataclasses.field(default_factory=dict)
    source: str = ""
    verified: bool = False
    differs: str = ""
    found: str = ""

    @functools.cached_property
    def plans(self) -> dict[str, Plan]:
        """What its regimes will do, its controls too."""
        study = with_controls(self.study, self.used)
        return make_plans(study, study.all_regimes, self.used)

    @property
    def used(self) -> int:
        """How many examples are trained on."""
        return self.study.train_examples or self.num_examples

    @property
    def gflop(self) -> float:
        """Its operations: of training, and of looks at both splits, which go forward alone."""
        trained = sum(plan.examples for plan in self.plans.values())
        looks = sum(len(plan.evaluations) for plan in self.plans.values())
        seen = trained + looks * (self.used + self.num_test) / 3
        return self.study.seeds * seen * self.mflops / 1e3

    def seconds(self, gflops: float) -> float:
        """An estimate of its time, from its operations and its programs."""
        return self.gflop / gflops + STARTING * len(self.plans)

    def told(self, name: str) -> str:
        """The preset in a few lines: data, size, time, and what the paper found."""
        study, used = self.study, self.used
        of = f"{used:,} of {self.num_examples:,}" if used < self.num_examples else f"{used:,}"
        cpu, gpu = (_time(self.seconds(rate)) for rate in (self.cpu_gflops, GPU_GFLOPS))
        lines = [
            name,
            f"    {self.meaning}",
            f"    {study.model} on {study.dataset}, {of} examples; batches of "
            f"{study.small_batch:,} and {study.large_batch:,}, {study.epochs:g} epochs, "
            f"{study.seeds} seeds, {len(self.plans)} regimes",
            f"    by its FLOPs about {cpu} on 2 cores, {gpu} on an H100",
        ]
        if self.paper:
            found = ", ".join(f"{regime} {value:g}" for regime, value in self.paper.items())
            how = "" if self.verified else ", recalled, not verified"
            lines.append(f"    the paper's test accuracy %: {found} ({self.source}{how})")
        if self.differs:
            lines.append(f"    differs: {self.differs}")
        if self.found:
            lines.append(f"    found: {self.found}")
        return "\n".join(lines)


def steps(values: Mapping[float, float], num_updates: int, peak: float) -> Any:
    """A schedule of plateaus: from a share of the updates on, the peak times a value."""
    import optax

    ends = sorted(values)
    return optax.join_schedules(
        [optax.constant_schedule(peak * values[end]) for end in ends],
        [round(end * num_updates) for end in ends[1:]],
    )


def _time(seconds: float) -> str:
    for size, unit in (
        (365.25 * 86400.0, "years"),
        (86400.0, "days"),
        (3600.0, "hours"),
        (60.0, "min"),
    ):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(1.0, seconds):.0f} s"
