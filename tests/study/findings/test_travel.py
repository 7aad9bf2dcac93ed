"""Made-up curves whose laws are known."""

import dataclasses
import math
import re

import numpy as np
import pytest

from gapjax import diffusion
from gapjax.diffusion import log_spaced
from gapjax.study._findings import _travel
from gapjax.study._findings._travel import find_travel
from gapjax.study._report import _travel as _section
from gapjax.study._results._records import Convex, Curves, Diverged, RegimeRecord, Run, over_seeds
from tests.study.report.test_words import made

NONE = {"momentum": 0.5}  # a memory of two updates: the ballistic start is ten


def _records(laws, *, updates=400, boundary=200, seeds=6, noise=0.0, diverged=()):
    """Regimes; a law maps updates [T] to distance [T]; each seed has its own speed."""
    rng = np.random.default_rng(0)
    speed = 1 + 0.05 * rng.normal(size=seeds)
    marks = np.array(log_spaced(updates))
    records = {}
    for name, (law, batch) in laws.items():
        distance = law(marks)[:, None] * speed
        distance = distance + noise * rng.normal(size=distance.shape)
        lost = list(diverged) if name == "LB" else []
        distance[len(marks) // 2 :, lost] = np.nan
        run = Run(
            0.1,
            {},
            {"distance": over_seeds(distance[-1])},
            over_seeds(np.zeros(seeds)),
            [Diverged(i, 9, None) for i in lost],
        )
        rows = [[None if math.isnan(v) else v for v in row] for row in distance.tolist()]
        records[name] = RegimeRecord(
            name=name,
            remedies=name.split("+")[1:],
            batch_size=batch,
            batch_sizes=[(0, batch)],
            ghost_size=None,
            updates=updates,
            epochs=updates * batch / 6400,
            examples=updates * batch,
            seconds=1.0,
            budget="same epochs",
            boundaries=[boundary] if boundary else [],
            seeds=list(range(seeds)),
            run=run,
            rule=None,
            tuning=None,
            curves=Curves(
                marks.tolist(), (marks * batch).tolist(), [0.0] * len(marks), {"distance": rows}
            ),
        )
    return records


def _found(laws, **settings):
    return find_travel(_records(laws, **settings), "SB", NONE)


def _page(laws, **settings):
    records = _records(laws, **settings)
    blank = made({name: np.zeros((2, 3)) for name in records})
    return dataclasses.replace(blank, regimes=records, travel=find_travel(records, "SB", NONE))


def _log(a, b):
    return lambda t: a + b * np.log(t)


def _power(c, p):
    return lambda t: c * t**p


def test_log_law_wins_on_its_own_curves_and_the_interval_covers_its_slope():
    found = _found({"SB": (_log(1.0, 2.0), 16)}, noise=0.05)["SB"]
    assert found.better == "log" and found.delta_aic > 6
    assert found.log_slope.low < 2.0 < found.log_slope.high
    assert found.log_r2 > found.power_r2


def test_power_law_wins_on_its_own_curves():
    found = _found({"SB": (_power(0.5, 0.6), 16)}, noise=0.02)["SB"]
    assert found.better == "power" and found.delta_aic < -6
    assert found.power_exponent.low < 0.6 < found.power_exponent.high


def test_numbers_are_those_of_one_fit_to_all_seeds():
    records = _records({"SB": (_log(1.0, 2.0), 16)}, noise=0.05)
    found = find_travel(records, "SB", NONE)["SB"]
    t = np.array(records["SB"].curves.update)
    curves = records["SB"].curves.array("distance")
    fit = diffusion.fit_diffusion(t, curves.T, first=10, last=200)
    assert found.slopes == fit.slopes.tolist() and found.delta_aic == fit.delta_aic
    assert (found.log_slope.low, found.log_slope.high) == fit.log_interval
    assert (found.updates, found.points) == (fit.step_range, fit.num_points)


@pytest.mark.parametrize(
    ("study", "first"),
    [
        ({"optimizer": "sgd", "momentum": None}, 50),
        ({"optimizer": "sgd", "momentum": 0.0}, 5),
        ({"optimizer": "adam", "b1": 0.75}, 20),
        ({"optimizer": "mine [0123]"}, 50),
    ],
)
def test_fits_start_after_the_memory_of_the_optimizer(study, first):
    records = _records({"SB": (_log(1.0, 2.0), 16)})
    found = find_travel(records, "SB", study)["SB"]
    assert found.updates[0] == min(t for t in records["SB"].curves.update if t >= first)
    own = dataclasses.replace(records["SB"].run, hyper={"momentum": 0.5, "b1": 0.5})
    tuned = {"SB": dataclasses.replace(records["SB"], run=own)}
    assert find_travel(tuned, "SB", study)["SB"].updates[0] == 10


def test_points_of_the_learning_curve_do_not_move_the_slope():
    records = _records({"SB": (_log(1.0, 2.0), 16)}, noise=0.05)
    curves = records["SB"].curves
    extra = [t for t in range(30, 200, 7) if t not in curves.update]
    order = np.argsort(curves.update + extra)
    rows = curves.values["distance"] + [[50.0] * 6] * len(extra)
    more = Curves(
        np.array(curves.update + extra)[order].tolist(),
        curves.examples + extra,
        [0.0] * len(rows),
        {"distance": np.array(rows)[order].tolist()},
    )
    again = {"SB": dataclasses.replace(records["SB"], curves=more)}
    assert find_travel(again, "SB", NONE) == find_travel(records, "SB", NONE)


def test_fits_start_past_the_ballistic_start_where_points_are_left():
    curve = {"SB": (_log(1.0, 2.0), 16)}
    assert _found(curve, boundary=200)["SB"].updates[0] == 10
    assert _found(curve, boundary=0)["SB"].updates == (10, 400)
    short = _page(curve, boundary=12)
    assert short.travel["SB"].updates == (1, 12)
    assert _section.section(short)["fits"][0]["updates"].endswith("†")


def test_too_few_points_are_no_fit():
    result = _page({"SB": (_log(1.0, 2.0), 16), "LB": (_log(1.0, 1.0), 160)}, boundary=4)
    assert list(result.travel.values()) == [None, None]
    page = _section.section(result)
    assert page["nothing"] and not page["beside"]
    assert page["findings"] == [
        "No law was fitted to the distance in any regime: fewer than 5 points before the rate "
        "first drops, or every seed diverged."
    ]


def test_seeds_that_diverged_are_left_out_also_of_the_pairs():
    laws = {"SB": (_log(1.0, 2.0), 16), "LB": (_log(1.0, 1.0), 160)}
    found = _found(laws, diverged=(1, 4))["LB"]
    assert found.seeds == len(found.slopes) == 4
    # What seeds share cancels in the ratio, if pairs are pairs.
    np.testing.assert_allclose(found.beside.slopes.mean, 0.5, rtol=1e-6)
    nobody = _found(laws, diverged=range(6))
    assert nobody["LB"] is None and nobody["SB"].seeds == 6


def test_curves_beside_the_small_batch_on_either_axis():
    # Per epoch, an update of LB is ten of SB's: on that axis log t makes it 2 log 10 shorter.
    laws = {"SB": (_log(1.0, 2.0), 16), "LB": (_log(1.0, 2.0), 160)}
    beside = _found(laws)["LB"].beside
    assert beside.updates.difference.mean < 1e-12
    np.testing.assert_allclose(beside.updates.ratio.mean, 1.0)
    epochs = beside.epochs
    wanted = [10 * 160 / 6400, 200 * 16 / 6400]
    assert [epochs.first, epochs.last] == pytest.approx(wanted, rel=0.1)
    t = np.array([m for m in log_spaced(400) if 10 <= m <= 20])
    small = 1 + 2 * np.log(10 * t)
    expected = math.sqrt(np.mean(((1 + 2 * np.log(t)) / small - 1) ** 2))
    np.testing.assert_allclose(epochs.difference.mean, expected, rtol=1e-2)
    np.testing.assert_allclose(epochs.ratio.mean, 1.0, rtol=2e-2)


def test_no_small_batch_nothing_beside_it():
    assert _found({"LB": (_log(1.0, 1.0), 160)})["LB"].beside is None


@pytest.mark.montecarlo
def test_intervals_of_ratios_cover_the_truth():
    rng = np.random.default_rng(1)
    cases, seeds, t = 400, 5, np.array(log_spaced(60))
    hits = []
    for _ in range(cases):
        speed = 1 + 0.1 * rng.normal(size=seeds)  # of a seed, in both regimes
        small, own = (
            _travel._Curves(
                t,
                (a + b * np.log(t))[:, None] * speed + 0.2 * rng.normal(size=(len(t), seeds)),
                tuple(range(seeds)),
                60,
                16,
            )
            for a, b in ((1.0, 2.0), (0.5, 1.2))
        )
        ratio = _travel._compare(own, small, 1.0, 1.0, 1).ratio
        hits.append(ratio.low <= 0.6 <= ratio.high)
    assert 0.92 < np.mean(hits) < 0.98


def test_report_says_which_law_and_who_comes_closer():
    laws = {
        "SB": (_log(1.0, 2.0), 16),
        "LB": (_power(0.8, 0.3), 160),
        "LB+LR+GBN": (_log(1.0, 1.9), 160),
    }
    text = " ".join(_section.findings(_page(laws, noise=0.02)))
    assert "For SB the log-t law beats the power law" in text
    assert "(updates 10 to 181, 6 seeds; its AIC is " in text
    assert "For LB the log-t law does not beat the power law" in text
    first = r"Update by update, LB's distance differs from SB's by {} \(root mean square\)\."
    share = r"[-\d]+ \[[-\d]+, [-\d]+\]%"
    assert re.search(rf"{first.format(share)} Closer: LB\+LR\+GBN {share}\.", text)
    laws["LB+LR+GBN"], laws["LB"] = laws["LB"], laws["LB+LR+GBN"]
    text = " ".join(_section.findings(_page(laws, noise=0.02)))
    assert re.search(rf"{first.format(share)} Farther: LB\+LR\+GBN {share}\.", text)
    laws["LB+LR"] = laws["LB"]
    text = " ".join(_section.findings(_page(laws, noise=0.02)))
    assert re.search(rf"Farther: LB\+LR\+GBN {share}\. Neither for sure: LB\+LR {share}\.", text)


def test_a_convex_network_stands_beside_and_the_page_says_what_the_law_cannot_show():
    page = _page({"SB": (_log(1.0, 2.0), 16)}, noise=0.05)
    t = np.array(log_spaced(400))
    rows = (1 + np.log(t))[:, None] * np.array([1.0, 1.1, 0.9])
    page = dataclasses.replace(
        page, convex=_travel.convex_travel(Convex(64, 0.1, 0.5, t.tolist(), rows.tolist()))
    )
    shown = _section.section(page)
    assert shown["fits"][-1]["name"] == "convex control" and shown["convex"]
    assert "For a linear network, trained on all its examples at once" in shown["findings"][1]
    assert "without a random potential" in shown["limits"]


def test_one_seed_is_reported_without_intervals():
    laws = {"SB": (_log(1.0, 2.0), 16), "LB": (_log(1.0, 1.0), 160)}
    page = _section.section(_page(laws, seeds=1, noise=0.01))
    assert "[no bound]" in page["beside"][0]["slopes"]
    assert "one seed; its AIC" in page["findings"][0]
    assert any("fewer than 3 seeds" in note for note in page["notes"])


def test_a_curve_that_follows_neither_law_is_marked():
    page = _section.section(_page({"SB": (lambda t: 5 + np.sin(3 * np.log(t)), 16)}))
    assert page["poor"] and page["fits"][0]["better"].endswith("‡")
    assert "neither law fits well" in page["findings"][0]


def test_a_first_update_of_what_is_left_over_is_not_the_batch_of_the_early_phase():
    records = _records({"SB": (_log(1, 2), 16)})
    own = records["SB"]
    records["SB"] = dataclasses.replace(
        own, batch_sizes=[(0, 3), (1, 16), (200, 53)], batch_size=53, boundaries=[200]
    )
    assert _travel._curves(records["SB"]).batch == 16
    assert find_travel(records, "SB", NONE)["SB"].updates[1] > 100
