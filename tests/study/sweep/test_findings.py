"""What a sweep says of measurements that are known: recovered knees, budgets, edges, warnings."""

import dataclasses
import math

import numpy as np
import pytest

from gapjax import study
from gapjax.study._results._records import Curves, TaskFacts
from gapjax.study._sweep._findings import find, find_point
from gapjax.study._sweep._goal import make_goal
from gapjax.study._sweep._page import sweep_csv
from gapjax.study._sweep._records import SizeRecord, SweepConfig, keep_record, read_record

FACTS = TaskFacts("x", "loss", False, ["loss"], [], False)
SHARED = {"seeds": 4, "first_seed": 3, "rates": 3, "rate_factor": 2.0, "watch": "validation"}
CONFIG = SweepConfig(SHARED, FACTS, {}, 1000, 64, 1024, 128)
GOAL = make_goal(FACTS, 1.0, "validation")


def record(size, steps, remedy="none", last=None, **changes):
    """Curves that fall in a line from 2 before the first update, to 1 after so many; [R, S]."""
    steps = np.asarray(steps, np.float64)
    update = np.arange(0, (last or CONFIG.most_updates) + 1)
    loss = 2.0 - update[:, None] / steps.reshape(1, -1)
    values = {"validation_loss": loss.tolist(), "test_loss": (loss + 0.5).tolist()}
    seconds = (0.25 * update).tolist()
    settings = {
        "remedy": remedy,
        "parts": [] if remedy == "none" else [remedy],
        "batch_size": size,
        "ghost_size": None,
        "rates": [0.1 * 2**r for r in range(len(steps))],
        "seeds": list(range(3, 3 + steps.shape[1])),
        "flops": 7.0,
        "diverged": [0] * steps.size,
        "seconds": 1.0,
        "target": None,
        "curves": Curves(update.tolist(), (size * update).tolist(), seconds, values),
    }
    return SizeRecord(**{**settings, **changes})


def hyperbola(size, least, critical, rng=None):
    """Steps of 3 rates and 4 seeds; the middle rate is the best."""
    noise = 1.0 if rng is None else np.exp(0.03 * rng.normal(size=(1, 4)))
    return least * (1 + critical / size) * np.array([[1.5], [1.0], [1.2]]) * np.ones((3, 4)) * noise


def test_the_knee_is_recovered_and_what_a_remedy_does_to_it():
    rng, sizes = np.random.default_rng(0), (4, 8, 16, 32, 64, 128)
    records = [record(s, hyperbola(s, 5, 20, rng)) for s in sizes]
    records += [record(s, hyperbola(s, 5, 60, rng), "MINE") for s in sizes]
    result = find(CONFIG, records, GOAL)
    fit = result.lines["none"].fit
    assert fit.critical_batch == pytest.approx(20, rel=0.1)
    assert fit.critical_batch_interval[0] < 20 < fit.critical_batch_interval[1]
    shift = result.shifts["MINE"]
    assert shift.low < 3 < shift.high and shift.mean == pytest.approx(3, rel=0.15)
    said = study.sweep_finding(result)
    assert "the critical batch size is 20" in said and "MINE moves it up" in said
    low, high = (f"{5 * end:.3g}" for end in fit.critical_batch_interval)
    least, most = (f"{end:.3g}" for end in fit.twenty_percent_interval)
    assert f"Up to {fit.twenty_percent_batch:.3g} [{least}, {most}] a larger batch costs" in said
    assert f"from {5 * fit.critical_batch:.3g} [{low}, {high}] on no larger one" in said
    rows = list(study.sweep_rows(result))
    assert len(rows) == 12 and len(rows[0]) == len(study.sweep_columns(result))
    assert all(len(row) == len(study.fit_columns()) for row in study.fit_rows(result))
    assert not any("†" in cell for row in rows for cell in row)


def test_the_best_rate_is_that_of_the_fewest_updates_among_those_that_all_seeds_reach_with():
    steps = np.array([[10.0, 10, 10, np.inf], [30, 30, 30, 30], [40, 40, 40, 40]])
    point = find_point(CONFIG, record(16, steps), GOAL)
    assert point.best == 1 and not point.at_edge and point.learning_rate == 0.2
    assert point.steps.mean == pytest.approx(30)
    assert point.examples.mean == pytest.approx(480)
    assert point.flops.mean == pytest.approx(210)
    costs = point.steps, point.examples, point.flops, point.seconds
    assert [cost.p_value for cost in costs] == [None] * 4  # in other units it would be another one
    assert point.seconds.mean == pytest.approx(30 * 0.25 / 12)  # of one of 12 members
    assert [trial.reached for trial in point.trials] == [3, 4, 4]


def test_an_interval_over_seeds_is_of_the_logarithm():
    steps = np.array([[8.0, 16.0, 32.0, 16.0]])
    found = find_point(CONFIG, record(16, steps), GOAL).steps
    logs = np.log(steps[0])
    half = 3.182446 * logs.std(ddof=1) / 2
    assert found.mean == pytest.approx(16)
    assert found.low == pytest.approx(16 * math.exp(-half), rel=1e-5)


def test_budgets_choose_on_validation_and_tell_the_test():
    steps = np.array([[20.0] * 4, [10.0] * 4])
    found = find_point(CONFIG, record(32, steps), GOAL).budgets
    assert {name: budget.updates for name, budget in found.items()} == {
        "same examples": 32,
        "same updates": 64,
        "unlimited": 128,
    }
    best = found["same examples"]
    assert (best.learning_rate, best.update, best.examples) == (0.2, 32, 1024)
    assert best.validation.mean == pytest.approx(2 - 3.2)
    assert best.test.mean == pytest.approx(2 - 3.2 + 0.5)


def test_a_size_that_was_not_trained_for_as_many_examples_does_not_tell_that_budget():
    found = find_point(CONFIG, record(4, np.full((1, 2), 10.0), last=128), GOAL)
    assert set(found.budgets) == {"same updates", "unlimited"}  # as many examples: 256 updates


def test_a_size_that_stopped_early_tells_the_budgets_that_it_was_trained_for():
    found = find_point(CONFIG, record(32, np.full((1, 2), 10.0), last=40), GOAL)
    assert set(found.budgets) == {"same examples"} and found.best == 0


def test_a_diverged_seed_is_no_best():
    good, bad = record(32, np.full((2, 2), 20.0)), []
    for row in good.curves.values["validation_loss"]:
        bad.append([None, row[1], row[2], row[3]])
    values = {**good.curves.values, "validation_loss": bad}
    curves = Curves(good.curves.update, good.curves.examples, good.curves.seconds, values)
    found = find_point(CONFIG, record(32, np.full((2, 2), 20.0), curves=curves), GOAL)
    assert found.best == 1 and found.trials[0].reached == 1
    assert found.budgets["unlimited"].learning_rate == 0.2


def test_what_makes_a_fit_doubtful_is_said():
    sizes = (2, 4, 8)
    records = [record(s, hyperbola(s, 2, 60)[::-1][:2]) for s in sizes]
    records.append(record(16, np.full((2, 4), np.inf)))
    said = " ".join(study.sweep_notes(find(CONFIG, records, GOAL)))
    assert "every size lies below the critical batch" in said
    assert "at the edge" in said and "batch 16 never reached the target" in said


def test_perfect_scaling_and_none_at_all_are_said():
    def found(steps):
        records = [record(s, np.full((1, 2), steps(s))) for s in (1, 2, 4, 8)]
        return study.sweep_finding(find(CONFIG, records, GOAL))

    assert "halves the updates up to 8" in found(lambda size: 96 / size)
    assert "save no updates" in found(lambda size: 12)


def test_two_sizes_are_too_few_for_a_fit():
    records = [record(s, hyperbola(s, 5, 20)) for s in (4, 8)]
    result = find(CONFIG, records, GOAL)
    assert result.lines["none"].fit is None and "a fit needs 3" in study.sweep_finding(result)


def test_a_target_that_no_size_reaches_is_an_error_with_the_best():
    result = find(CONFIG, [record(8, np.full((1, 2), 1000.0))], GOAL)
    with pytest.raises(ValueError, match=r"no size reached .* the best was 1\.872, at batch 8"):
        result.check_reached()


def test_the_noise_scale_is_a_ratio_of_means_on_the_way():
    made = record(8, np.full((1, 2), 10.0))
    count = len(made.curves.update)
    noise = [[4.0, 8.0]] * 11 + [[1e9, 1e9]] * (count - 11)
    values = {
        **made.curves.values,
        "gradient_noise": noise,
        "gradient_norm": [[0.5, 1.5]] * count,
    }
    curves = Curves(made.curves.update, made.curves.examples, made.curves.seconds, values)
    point = find_point(CONFIG, record(8, np.full((1, 2), 10.0), curves=curves), GOAL)
    assert point.noise_scale == pytest.approx(6.0)


def test_the_noise_scale_is_of_the_seeds_that_got_there():
    steps = np.array([[10.0, np.inf]])
    made = record(8, steps)
    count = len(made.curves.update)
    values = {
        **made.curves.values,
        "gradient_noise": [[6.0, 1e9]] * count,
        "gradient_norm": [[2.0, 1.0]] * count,
    }
    curves = Curves(made.curves.update, made.curves.examples, made.curves.seconds, values)
    point = find_point(CONFIG, record(8, steps, curves=curves), GOAL)
    assert point.trial.reached == 1
    assert point.noise_scale == pytest.approx(3.0)


def test_a_best_rate_at_the_edge_is_told_with_the_answer():
    records = [record(s, hyperbola(s, 5, 20)) for s in (4, 16)]
    records.append(record(64, hyperbola(64, 5, 20)[[1, 0, 2]]))
    said = study.sweep_finding(find(CONFIG, records, GOAL))
    assert said.endswith(
        "At batch 64 the best rate is at the edge of those tried, so fewer updates may do."
    )


def test_what_is_tuned_beside_the_rate_is_told_with_it():
    hyper = [{"momentum": 0.9}, {"momentum": 0.95}, {"momentum": 0.8}]
    records = [record(s, hyperbola(s, 5, 20), hyper=hyper) for s in (4, 16, 64)]
    sweep = {**SHARED, "tune_also": ["momentum=0.8:0.99"]}
    result = find(dataclasses.replace(CONFIG, sweep=sweep), records, GOAL)
    point = result.lines["none"].points[0]
    assert point.trial.hyper == {"momentum": 0.95}
    assert point.budgets["unlimited"].hyper in hyper
    assert not point.at_edge
    assert next(iter(study.sweep_rows(result)))[2] == "0.2 (momentum 0.95)"
    assert "best of 3 settings of learning rate, momentum at each size" in study.sweep_finding(
        result
    )
    note = study.sweep_notes(result)[0]
    assert "2 random draws about it: the rate within a factor of 2, momentum=0.8:0.99" in note
    header, first, *_ = sweep_csv(result).splitlines()
    assert header.split(",")[:4] == ["remedy", "batch_size", "learning_rate", "momentum"]
    assert first.split(",")[:5] == ["none", "4", "0.1", "0.9", "0"]


def test_records_of_rates_alone_are_read_as_they_were_written(tmp_path):
    path, own = tmp_path / "x.json", record(8, hyperbola(8, 5, 20))
    keep_record(path, own)
    assert read_record(path) == own and own.trials == [(r, {}) for r in own.rates]


def stopped(size, steps, target):
    """A record that went on until its own target was certain: the slowest rate's updates."""
    full = record(size, steps)
    last = int(np.ceil(np.max(steps) * (2 - target))) + 1
    return record(size, steps, last=last, target=target) if last < 128 else full


def test_what_stopped_at_another_target_answers_only_what_it_knows():
    sizes, easier = (4, 8, 16, 32), make_goal(FACTS, 1.6, "validation")
    steps = {size: hyperbola(size, 5, 20) for size in sizes}
    never = find(CONFIG, [record(size, steps[size]) for size in sizes], GOAL)
    asked = [stopped(size, steps[size], 1.5) for size in sizes]
    found = find(CONFIG, asked, GOAL)
    assert found.lines["none"].unknown == sizes and not found.lines["none"].points
    with pytest.raises(ValueError, match="stopped at another target"):
        found.check_reached()
    mixed = find(CONFIG, [*asked[:1], *(record(size, steps[size]) for size in sizes[1:])], GOAL)
    assert mixed.lines["none"].unknown == sizes[:1]
    assert [point.batch_size for point in mixed.lines["none"].points] == list(sizes[1:])
    assert "batch 4 stopped at another target" in " ".join(study.sweep_notes(mixed))
    assert not never.lines["none"].unknown
    there = find(CONFIG, asked, easier).lines["none"]  # an easier one, which is certain too
    assert not there.unknown and len(there.points) == len(sizes)


def test_an_easier_target_whose_first_rate_is_not_known_is_not_answered():
    # At 1.5 the first rate is there and leads; the second has not fallen to 1.9 yet.
    one = record(8, np.array([[20.0, 20.0], [200.0, 200.0]]), last=12, target=1.5)
    assert one.answers(make_goal(FACTS, 1.5, "validation"), 128)
    assert one.answers(make_goal(FACTS, 1.9, "validation"), 128)  # the second cannot overtake
    assert not one.answers(make_goal(FACTS, 1.2, "validation"), 128)
    assert dataclasses.replace(one, diverged=[3] * 4).answers(GOAL, 128)  # none ever will


def test_every_remedy_lies_inside_the_figure_of_updates():
    from matplotlib.figure import Figure

    sizes = (4, 8, 16)
    records = [record(s, np.full((1, 4), 60.0 + s)) for s in sizes]
    records += [record(s, np.full((1, 4), 3.0 + s / 9), "MINE") for s in sizes]
    result, axis = find(CONFIG, records, GOAL), Figure().subplots()
    study.plot_steps(result, axis)
    low, high = axis.get_ylim()
    means = [point.steps.mean for line in result.lines.values() for point in line.points]
    assert len(means) == 6 and all(low < mean < high for mean in means)
