"""Made-up curves whose laws are known."""

import math

import numpy as np
import pytest

from gapjax import diffusion, study
from gapjax.diffusion import log_spaced
from gapjax.study import _diffusion, _diffusion_report
from gapjax.study._measure import jackknife, ratio_of_means, with_interval


def _study(laws, *, updates=400, boundary=200, seeds=6, noise=0.0, diverged=(), rng=None):
    """Regimes and history; a law maps updates [T] to distance [T]; each seed has its own speed."""
    rng = rng or np.random.default_rng(0)
    speed = 1 + 0.05 * rng.normal(size=seeds)
    regimes, history = {}, {}
    for name, (law, batch) in laws.items():
        marks = np.array(log_spaced(updates))
        distance = law(marks)[:, None] * speed
        distance = distance + noise * rng.normal(size=distance.shape)
        rows = distance.tolist()
        for i in diverged if name == "LB" else ():
            for t in range(len(rows) // 2, len(rows)):
                rows[t][i] = None
        regimes[name] = {
            "batch_size": batch,
            "updates": updates,
            "epochs": updates * batch / 6400,
            "boundaries": [boundary] if boundary else [],
            "seeds": list(range(seeds)),
            "diverged": [{"seed": i, "update": 9} for i in diverged if name == "LB"],
        }
        history[name] = {"update": marks.tolist(), "distance": rows}
    _diffusion.add_diffusion(regimes, history)
    return study.StudyResult({}, regimes, history)


def _log(a, b):
    return lambda t: a + b * np.log(t)


def _power(c, p):
    return lambda t: c * t**p


def test_log_law_wins_on_its_own_curves_and_the_interval_covers_its_slope():
    found = _study({"SB": (_log(1.0, 2.0), 16)}, noise=0.05).regimes["SB"]["diffusion"]
    assert found["better"] == "log"
    assert found["favours"] == {"log": 6, "power": 0, "neither": 0}
    assert found["log"]["slope"]["low"] < 2.0 < found["log"]["slope"]["high"]
    assert found["log"]["r2"]["mean"] > found["power"]["r2"]["mean"]
    assert found["delta_aic"]["low"] > 0 and found["mean_curve"]["better"] == "log"


def test_power_law_wins_on_its_own_curves():
    found = _study({"SB": (_power(0.5, 0.6), 16)}, noise=0.02).regimes["SB"]["diffusion"]
    assert found["better"] == "power" and found["favours"]["power"] == 6
    assert found["power"]["exponent"]["low"] < 0.6 < found["power"]["exponent"]["high"]
    assert found["delta_aic"]["high"] < 0


def test_numbers_are_those_of_the_fits_to_each_seed():
    result = _study({"SB": (_log(1.0, 2.0), 16)}, noise=0.05)
    found = result.regimes["SB"]["diffusion"]
    t = np.array(result.history["SB"]["update"])
    curves = np.array(result.history["SB"]["distance"])
    fits = [diffusion.fit_diffusion(t, one, first=10, last=200) for one in curves.T]
    assert found["log"]["slope"]["values"] == [fit.log_slope for fit in fits]
    assert found["delta_aic"]["values"] == [fit.delta_aic for fit in fits]
    assert tuple(found["updates"]) == fits[0].step_range
    assert found["points"] == fits[0].num_points
    # Least squares is linear: the slope of the mean is the mean of the slopes.
    np.testing.assert_allclose(
        found["mean_curve"]["log_slope"], found["log"]["slope"]["mean"], rtol=1e-2
    )


def test_points_of_the_learning_curve_do_not_move_the_slope():
    laws = {"SB": (_log(1.0, 2.0), 16)}
    result = _study(laws, noise=0.05)
    again = _study(laws, noise=0.05)
    history = again.history["SB"]
    extra = [t for t in range(30, 200, 7) if t not in history["update"]]
    order = np.argsort(history["update"] + extra)
    history["update"] = np.array(history["update"] + extra)[order].tolist()
    history["distance"] = np.array(history["distance"] + [[50.0] * 6] * len(extra))[order].tolist()
    _diffusion.add_diffusion(again.regimes, again.history)
    assert again.regimes == result.regimes


def test_fits_start_past_the_ballistic_start_where_points_are_left():
    curve = {"SB": (_log(1.0, 2.0), 16)}
    assert _study(curve, boundary=200).regimes["SB"]["diffusion"]["updates"][0] == 10
    assert _study(curve, boundary=0).regimes["SB"]["diffusion"]["updates"] == [10, 400]
    short = _study(curve, boundary=12)
    assert short.regimes["SB"]["diffusion"]["updates"] == [1, 12]
    row = _diffusion_report.section(short)["fits"][0]
    assert row["updates"].endswith("†")


def test_too_few_points_are_no_fit():
    result = _study({"SB": (_log(1.0, 2.0), 16), "LB": (_log(1.0, 1.0), 160)}, boundary=4)
    assert [r["diffusion"] for r in result.regimes.values()] == [None, None]
    page = _diffusion_report.section(result)
    assert page["nothing"] and not page["beside"]
    assert page["findings"] == [
        "No law was fitted to the distance in any regime: fewer than 5 points before the rate "
        "first drops, or every seed diverged."
    ]


def test_seeds_that_diverged_are_left_out_also_of_the_pairs():
    laws = {"SB": (_log(1.0, 2.0), 16), "LB": (_log(1.0, 1.0), 160)}
    found = _study(laws, diverged=(1, 4)).regimes["LB"]["diffusion"]
    assert found["seeds"] == 4 and sum(found["favours"].values()) == 4
    # What seeds share cancels in the ratio, if pairs are pairs.
    np.testing.assert_allclose(found["beside_small"]["slopes"]["mean"], 0.5, rtol=1e-6)
    nobody = _study(laws, diverged=range(6)).regimes
    assert nobody["LB"]["diffusion"] is None and nobody["SB"]["diffusion"]["seeds"] == 6


def test_curves_beside_the_small_batch_on_either_axis():
    # Per epoch, an update of LB is ten of SB's: on that axis log t makes it 2 log 10 shorter.
    laws = {"SB": (_log(1.0, 2.0), 16), "LB": (_log(1.0, 2.0), 160)}
    beside = _study(laws).regimes["LB"]["diffusion"]["beside_small"]
    assert beside["updates"]["difference"]["mean"] < 1e-12
    np.testing.assert_allclose(beside["updates"]["ratio"]["mean"], 1.0)
    epochs = beside["epochs"]
    assert epochs["range"] == pytest.approx([10 * 160 / 6400, 200 * 16 / 6400], rel=0.1)
    t = np.array([m for m in log_spaced(400) if 10 <= m <= 20])
    small = 1 + 2 * np.log(10 * t)
    expected = math.sqrt(np.mean(((1 + 2 * np.log(t)) / small - 1) ** 2))
    np.testing.assert_allclose(epochs["difference"]["mean"], expected, rtol=1e-2)
    np.testing.assert_allclose(epochs["ratio"]["mean"], 1.0, rtol=2e-2)


def test_no_small_batch_nothing_beside_it():
    result = _study({"LB": (_log(1.0, 1.0), 160)})
    assert result.regimes["LB"]["diffusion"]["beside_small"] is None


def test_intervals_of_ratios_cover_the_truth():
    rng = np.random.default_rng(1)
    cases, seeds, t = 400, 5, np.array(log_spaced(60))
    hits = []
    for _ in range(cases):
        speed = 1 + 0.1 * rng.normal(size=seeds)  # of a seed, in both regimes
        small, own = (
            _diffusion._Curves(
                t,
                (a + b * np.log(t))[:, None] * speed + 0.2 * rng.normal(size=(len(t), seeds)),
                tuple(range(seeds)),
                60,
                16,
            )
            for a, b in ((1.0, 2.0), (0.5, 1.2))
        )
        ratio = _diffusion._compare(own, small, 1.0, 1.0)["ratio"]
        hits.append(ratio["low"] <= 0.6 <= ratio["high"])
    assert 0.92 < np.mean(hits) < 0.98


@pytest.mark.parametrize("seeds", [3, 8])
def test_fieller_covers_the_truth_also_for_few_seeds(seeds):
    rng = np.random.default_rng(seeds)
    shared = rng.normal(size=(2000, seeds))
    top = 3 + 0.2 * shared + 0.3 * rng.normal(size=shared.shape)
    bottom = 2 + 0.2 * shared
    hits = [r["low"] <= 1.5 <= r["high"] for r in map(ratio_of_means, top, bottom)]
    assert 0.93 < np.mean(hits) < 0.97


def test_ratio_to_something_like_zero_has_no_bound():
    ratio = ratio_of_means(np.array([1.0, 2.0, 3.0]), np.array([-1.0, 0.5, 1.0]))
    assert ratio["low"] is None and ratio["high"] is None
    assert ratio_of_means(np.ones(2), np.zeros(2))["mean"] is None
    assert ratio_of_means(np.array([1.0]), np.array([2.0])) == {
        "mean": 0.5,
        "low": None,
        "high": None,
    }


def test_jackknife_of_the_mean_is_students_interval():
    values = np.array([1.0, 2.5, 2.0, 4.0])
    student = with_interval(values)
    found = jackknife(lambda x: x.mean(), values)
    np.testing.assert_allclose([found[k] for k in found], [student[k] for k in found])
    assert jackknife(lambda x: x.mean(), values, least=2.3)["low"] == 2.3
    assert with_interval(np.array([3.0, np.nan]))["low"] is None


def test_report_says_which_law_and_who_comes_closer():
    laws = {
        "SB": (_log(1.0, 2.0), 16),
        "LB": (_power(0.8, 0.3), 160),
        "LB+LR+GBN": (_log(1.0, 1.9), 160),
    }
    text = " ".join(_diffusion_report.findings(_study(laws, noise=0.02)))
    assert "For SB the log-t law beats the power law" in text
    assert "6 of 6 seeds agree" in text
    assert "For LB the log-t law does not beat the power law" in text
    assert "Update by update, LB+LR+GBN comes closer to SB than LB does" in text
    laws["LB+LR+GBN"], laws["LB"] = laws["LB"], laws["LB+LR+GBN"]
    text = " ".join(_diffusion_report.findings(_study(laws, noise=0.02)))
    assert "Update by update, LB+LR+GBN comes no closer to SB than LB does" in text


def test_one_seed_is_reported_without_intervals():
    laws = {"SB": (_log(1.0, 2.0), 16), "LB": (_log(1.0, 1.0), 160)}
    page = _diffusion_report.section(_study(laws, seeds=1, noise=0.01))
    assert "[no bound]" in page["fits"][0]["slope"] and "[no bound]" in page["beside"][0]["slopes"]
    assert "in the one seed)" in page["findings"][0] and "±" not in page["fits"][0]["delta"]


def test_a_curve_that_follows_neither_law_is_marked():
    page = _diffusion_report.section(_study({"SB": (lambda t: 5 + np.sin(3 * np.log(t)), 16)}))
    assert page["poor"] and page["fits"][0]["better"].endswith("‡")
    assert "neither law fits well" in page["findings"][0]
