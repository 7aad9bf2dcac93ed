"""The report's section on the landscape: its tables, and the observations in words."""

from typing import Any

from gapjax.study._findings._intervals import Interval
from gapjax.study._findings._measure import Number
from gapjax.study._findings._measures import EPSILONS, MEASURES
from gapjax.study._findings._ranks import HYPER, fewest_regimes
from gapjax.study._findings._result import StudyResult
from gapjax.study._findings._surroundings import LandscapeFindings, Observations, Surroundings
from gapjax.study._report._numbers import bounds, interval, p_value, short, spread, times
from gapjax.study._report._table import Column


def section(result: StudyResult) -> dict[str, Any] | None:
    """What the template shows, or None where nothing was measured."""
    found = result.landscape
    if found is None or not found.regimes:
        return None
    taken = next(iter(found.regimes.values())).numbers
    measures = [m for m in MEASURES if any(number.name in taken for number in m.numbers)]
    numbers = [number for measure in measures for number in measure.numbers]
    on_the_way = [number for number in numbers if number.on_the_way]
    return {
        "columns": [
            Column("regime", numeric=False),
            *(Column(number.title) for number in numbers),
            Column("still falling by"),
        ],
        "rows": [
            row
            for name, one in found.regimes.items()
            for row in (
                [
                    name,
                    *(_cell(number, one.numbers[number.name], one.errors) for number in numbers),
                    spread(one.still_falling),
                ],
                *([_by_examples(name, one, numbers)] if found.part is not None else []),
            )
        ],
        "level_columns": [
            Column("loss at most"),
            Column("regime", numeric=False),
            Column("update"),
            *(Column(number.title) for number in on_the_way),
            *(
                Column(f"{number.title}, {' / '.join(reversed(result.config.baseline))}")
                for number in on_the_way
                if number.compared
            ),
        ],
        "levels": level_rows(found, result.config.baseline[1], on_the_way),
        "observations": observations(result),
        "sharpness": sharpness(result),
        "ranks": ranks(found),
        "rank_words": rank_words(result),
        "notes": [
            found.mode,
            *_part_note(found),
            *(m.note for m in measures if m.note),
            *_left_open(found, numbers),
            *_unresolved(found, numbers),
        ],
        "seeds": max(len(one.seeds) for one in found.regimes.values()),
    }


def _cell(number: Number, value: Any, errors: dict[str, float]) -> str:
    """A number over seeds; of a single seed what it leaves open by itself."""
    text = spread(value, number.scale)
    error = errors.get(number.name)
    if value.count == 1 and error is not None:
        return f"{text} ± {short(float(f'{number.scale * error:.2g}'))}"
    return text


def _by_examples(name: str, found: Surroundings, numbers: list[Number]) -> list[str]:
    """A row of text: what the choice of examples leaves open of the row above."""
    return [
        f"{name}: by examples",
        *(
            f"± {short(float(f'{n.scale * found.sampling[n.name]:.2g}'))}"
            if n.name in found.sampling
            else ""
            for n in numbers
        ),
        "",
    ]


def _part_note(found: LandscapeFindings) -> list[str]:
    """How the sampling error was found, where a part of the training set was measured on."""
    if found.part is None:
        return []
    return [
        f"by examples: half of a 95% interval of the number above over the choice of the "
        f"{found.part.examples:,} examples, beside the spread over seeds, which all share them. It "
        f"is from {found.part.parts} disjoint parts of them, on each of which the number was "
        "measured too: Student's t of their spread, and a bound on the bias of few examples. "
        "The ratios of the large batch to the small have it in their intervals; numbers without it "
        "were not measured on the parts."
    ]


def _left_open(found: LandscapeFindings, numbers: list[Number]) -> list[str]:
    """What each number leaves open at a single solution, whatever the spread over seeds."""
    told = []
    for number in numbers:
        errors = [one.errors.get(number.name) for one in found.regimes.values()]
        largest = max((error for error in errors if error is not None), default=None)
        if largest is not None:
            told.append(f"{number.title} ± {short(float(f'{number.scale * largest:.2g}'))}")
    if not told:
        return []
    return [
        f"What is left open at a single solution, the most at any of them: {', '.join(told)}. Of "
        "estimates at random this is half of a 95% interval over probes, with what the number of "
        "steps may still move; of eigenvalues, the residual."
    ]


def _unresolved(found: LandscapeFindings, numbers: list[Number]) -> list[str]:
    """Counts at a threshold that rounding does not tell from eigenvalues beside it."""
    return [
        f"{number.title} at {name}: about {one.unresolved[number.name]:.0f} eigenvalues lie within "
        "rounding of the threshold and cannot be told from it; they count as not above."
        for number in numbers
        for name, one in found.regimes.items()
        if one.unresolved.get(number.name, 0.0) >= 0.5
    ]


def level_rows(found: LandscapeFindings, large: str, numbers: list[Number]) -> list[list[str]]:
    """A row of text per level of the loss and regime: level, regime, and what was measured."""
    return [
        [
            short(level.loss) if name == next(iter(level.regimes)) else "",
            name,
            spread(at["update"]),
            *(spread(at[number.name], number.scale) for number in numbers),
            *(
                bounds(level.ratios.get(number.name, Interval(None))) if name == large else ""
                for number in numbers
                if number.compared
            ),
        ]
        for level in found.levels
        for name, at in level.regimes.items()
    ]


def sharpness(result: StudyResult) -> str | None:
    """How much sharper the large batch's solutions are, in words, by what was measured of it."""
    found = result.landscape
    if found is None:
        return None
    small, large = result.config.baseline
    ratios = {name: one for name, one in found.ratios.items() if one.mean is not None}
    keskar = [
        f"{times(ratios[name])} at ε = {epsilon:g}"
        for epsilon in EPSILONS
        if (name := f"keskar_{epsilon:g}") in ratios
    ]
    told = []
    if keskar:
        told.append(
            f"Keskar's sharpness {' and '.join(keskar)} (Keskar et al., 2017, found 9 to 220 times "
            "on their networks)"
        )
    others = ("top", "the largest eigenvalue"), ("trace", "the trace")
    told += [f"{what} {times(ratios[name])}" for name, what in others if name in ratios]
    if not told or "train_loss" not in ratios:
        return None
    apart = "In loss they do not differ significantly"
    if ratios["train_loss"].side_of(1.0):
        apart = "These are not solutions of equal loss"
    return (
        f"At {large}, as against {small}: {'; '.join(told)}. {apart}: the training loss at {large} "
        f"is {times(ratios['train_loss'])} that at {small}."
    )


def ranks(found: LandscapeFindings) -> list[dict[str, str]]:
    """A row of text per measure of sharpness: how it goes with the gap."""
    titles = {n.name: n.title for measure in MEASURES for n in measure.numbers}
    return [
        {
            "name": titles[one.number],
            "tau": interval(one.tau, 2),
            "adjusted": p_value(one.p_adjusted),
            **{axis: interval(one.psi[axis], 2) for axis in HYPER},
        }
        for one in found.ranks
    ]


def rank_words(result: StudyResult) -> str | None:
    """Whether any measure of sharpness goes with the gap significantly."""
    found = result.landscape
    if found is None or not found.ranks:
        return None
    titles = {n.name: n.title for measure in MEASURES for n in measure.numbers}
    told = [one for one in found.ranks if one.resolved]
    over = f"Over the {found.ranks[0].runs} runs of {len(found.regimes)} regimes"
    if not told:
        least = fewest_regimes(len(found.ranks))
        return (
            f"{over} no measure of sharpness correlates significantly with the gap (Kendall's rank "
            "correlation, regimes exchanged, all measures counted)"
            + (f"; it takes {least} regimes to tell." if len(found.regimes) < least else ".")
        )
    parts = []
    for way, sign in (("with", 1), ("against", -1)):
        own = [one for one in told if _sign(one.tau) == sign]
        if own:
            names = ", ".join(
                f"{titles[one.number]} ({interval(one.tau, 2)}, p = {p_value(one.p_adjusted)})"
                for one in own
            )
            parts.append(f"these go {way} the gap: {names}")
    within = [
        f"{titles[one.number]} by {axis}"
        for one in told
        for axis in HYPER
        if one.psi[axis].side_of(0.0) == _sign(one.tau)
    ]
    rest = f"that is left for {', '.join(within)}" if within else "none of it is resolved"
    return f"{over} {'; '.join(parts)}. Among runs that differ in batch or rate alone {rest}."


def _sign(value: Interval) -> int:
    return 1 if (value.mean or 0.0) > 0 else -1


def observations(result: StudyResult) -> list[tuple[str, str]]:
    """What Keskar et al. (2017, section 2.1) put forward, each answered with numbers."""
    found = result.landscape
    if found is None or found.observations is None:
        return []
    seen = found.observations
    small, large = result.config.baseline
    answers = [
        ("Does the large batch overfit?", _overfitting(result, seen)),
        (
            "Is it drawn to saddle points?",
            " ".join(_saddle(found, seen, name) for name in (small, large)).strip(),
        ),
        (
            "Does it stop at the nearest minimum?",
            f"{small} ends {times(seen.distance_ratio)} as far from the start as {large} (3 to 10 "
            "in the paper).",
        ),
    ]
    if found.between is not None:
        way = found.between
        answers.append(
            (
                "Are the minima different ones?",
                f"On the straight line from {small} to {large} the training loss rises by at most "
                f"{bounds(way.barrier)} above the chord between its ends, of which the higher lies "
                f"at {bounds(way.higher_end)}."
                + (" There is no barrier between them." if not way.barrier.mean else ""),
            )
        )
    return [(question, answer) for question, answer in answers if answer]


def _saddle(found: LandscapeFindings, seen: Observations, name: str) -> str:
    """The negative part of a regime's spectrum, in words; empty where it was not measured."""
    taken, told = found.regimes[name].numbers, []
    if {"smallest", "top"} <= set(taken):
        told.append(
            f"the smallest eigenvalue is {bounds(seen.smallest_to_largest[name])} times the largest"
        )
    if "negative_mass" in taken:
        error = found.regimes[name].errors.get("negative_mass")
        known = "" if error is None else f" (at each solution known to ± {short(100 * error)})"
        share = bounds(seen.negative_mass[name], 100)
        told.append(f"{share}% of the absolute spectrum is negative{known}")
    return f"At {name} {', and '.join(told)}." if told else ""


def _overfitting(result: StudyResult, seen: Observations) -> str:
    task, (small, large) = result.config.task, result.config.baseline
    metric = task.headline.replace("_", " ")
    unit = " points" if task.headline in task.percent else ""
    test = result.gap.beside(large, small)  # of the training set single examples are not kept

    def points(value: Interval) -> str:
        # A difference of shares is of whole examples: what is less is rounding, and would be told.
        places = 5 if unit else 15
        ends = (value.mean, value.low, value.high)
        rounded = (None if end is None else round(end, places) for end in ends)
        return bounds(Interval(*rounded), task.scale(task.headline)) + unit

    return (
        f"{large}'s training {metric} differs from {small}'s by {points(seen.train_difference)} "
        f"and its test {metric} by {points(test.difference if test else Interval(None))} (over "
        f"seeds and test examples). It ends {points(seen.below_own_peak)} from the best that its "
        "own test curve ever reached: no more than that could be won by stopping early."
    )
