"""What a sweep asks: every mistake found at once, in one line."""

import pytest

from gapjax import study
from gapjax.study._sweep._run import prepare
from tests.study.conftest import tiny_study
from tests.study.sweep.conftest import tiny_sweep


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"batch_sizes": (16, 32, 16)}, "each size once; 16 repeats"),
        ({"batch_sizes": ()}, "at least one size"),
        ({"batch_sizes": (0, 8)}, "whole number of at least 1, not 0"),
        ({"batch_sizes": (8.5,)}, "whole number of at least 1, not 8.5"),
        ({"batch_sizes": "16"}, "batch_sizes must be a list, not '16'"),
        ({"batch_sizes": 16}, "batch_sizes must be a list, not 16"),
        ({"target": 0}, "above 0 and below 1, not 0"),
        ({"target": 1.5}, "0.1 for an accuracy of 90%"),
        ({"target": "low"}, "target must be a finite number"),
        ({"remedies": ()}, "at least one"),
        ({"remedies": "GBN"}, "remedies must be a list, not 'GBN'"),
        ({"remedies": ("none", "none")}, "each once"),
        ({"remedies": ("GBM",)}, "Did you mean 'GBN'"),
        ({"remedies": ("LR+LINEAR",)}, "exclude each other"),
        ({"remedies": ("LR+RA",)}, "RA .* does not go with a sweep"),
        ({"remedies": ("LONG",)}, "LONG .* does not go with a sweep"),
        ({"remedies": ("MATCH",)}, "MATCH follows the small batch"),
        ({"rates": 0}, "rates must be a whole number of at least 1"),
        ({"rate_factor": 1}, "rate_factor must be a finite number above 1"),
        ({"epochs": -1}, "epochs must be a finite number above 0"),
        ({"limit": 0.5}, "limit must be a finite number of at least 1"),
        ({"watch": "test"}, "watch must be one of 'validation', 'train'"),
        ({"stop_at_target": 1}, "stop_at_target must be True or False"),
        ({"remedies": ("PLATEAU",)}, "PLATEAU .* does not go with a sweep"),
        ({"study": "digits"}, "study must be a Study"),
        ({"tune_also": "momentum=0.8:0.9"}, "tune_also must be a list"),
        ({"tune_also": ("b1=0.8:0.9",)}, "the optimizer has no b1; it has"),
        ({"tune_also": ("momentum=0.9:0.8",)}, "is empty: its low end"),
        ({"tune_also": ("momentum=0.8:0.9",), "rates": 1}, "room for the rule alone"),
        (
            {"study": tiny_study(keep="loss=0.1")},
            "cannot have keep='loss=0.1': every size trains until the target",
        ),
        ({"study": tiny_study(keep="plateau")}, "cannot have keep='plateau'"),
    ],
)
def test_mistakes_are_found_at_construction(changes, said):
    settings = {"study": tiny_study(), "batch_sizes": (8, 16), "target": 0.3, **changes}
    with pytest.raises(ValueError, match=said) as error:
        study.Sweep(**settings)
    assert "\n" not in str(error.value)


def test_sizes_beyond_the_data_are_found_before_training():
    with pytest.raises(
        ValueError, match=r"a batch of 64 is larger than the 51 training examples that"
    ):
        prepare(tiny_sweep((16, 64)))


def test_every_size_has_as_many_rates_around_the_rule_of_the_root():
    jobs, _ = prepare(tiny_sweep((8, 32), rates=3, remedies=("none", "LINEAR")))
    rates = {job.plan.name: [rate for rate, _ in job.trials] for job in jobs}
    assert rates["8"] == pytest.approx([0.05 / 3, 0.05, 0.15])
    assert rates["32"] == pytest.approx([0.1 / 3, 0.1, 0.3])
    assert rates["32+LINEAR"] == pytest.approx([0.2 / 3, 0.2, 0.6])
    assert {float(job.plan.schedule()(job.plan.updates - 1) / job.plan.rate) for job in jobs} == {1}
    assert len({job.plan.updates for job in jobs}) == 1


def test_a_remedy_of_ones_own_has_its_curve():
    mine = study.Remedy("MINE", "nothing at all")
    asked = tiny_sweep((8, 16), remedies=("none", mine, ("LR", mine)))
    assert [name for name, _ in asked.remedies] == ["none", "MINE", "LR+MINE"]


def test_other_axes_are_drawn_alike_at_every_size():
    axes = ("momentum=0.5:0.9", "weight_decay=1e-5:1e-2")
    jobs, _ = prepare(tiny_sweep(tune_also=axes, rates=6))
    by_rule, _ = prepare(tiny_sweep(rates=1))
    for job, rule in zip(jobs, by_rule, strict=True):
        middle = rule.trials[0][0]
        rates, hyper = zip(*job.trials, strict=True)
        assert len(rates) == 6 and rates[0] == pytest.approx(middle)
        assert all(middle / 27.01 < rate < 27.01 * middle for rate in rates)
        assert all(0.5 <= x["momentum"] <= 0.9 and 1e-5 <= x["weight_decay"] <= 1e-2
                   for x in hyper[1:])  # fmt: skip
        assert hyper[1:] == tuple(own for _, own in jobs[0].trials[1:])


@pytest.mark.parametrize("epochs", [3, 6, 7, 12, 20])
def test_the_budget_is_a_tenth_of_the_study(epochs):
    asked = study.Sweep(study.Study(epochs=epochs), (16, 64), 0.1)
    assert asked.updates(1280) == epochs * 8  # of 80 to an epoch
    assert asked.most_updates(1280) == epochs * 16
