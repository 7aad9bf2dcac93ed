import pytest

from gapjax.study import REGIMES, Regime


def test_standard_regimes_are_cumulative():
    assert list(REGIMES)[:5] == ["SB", "LB", "LB+LR", "LB+LR+GBN", "LB+LR+GBN+RA"]
    settings = [(r.batch, r.rule, r.ghost, r.keep) for r in REGIMES.values()][:5]
    assert settings == [
        ("small", "none", False, "epochs"),
        ("large", "none", False, "epochs"),
        ("large", "sqrt", False, "epochs"),
        ("large", "sqrt", True, "epochs"),
        ("large", "sqrt", True, "updates"),
    ]


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"batch": "big"}, "batch of regime x must be one of 'small', 'large'"),
        ({"batch": 0}, "batch of regime x must be a whole number"),
        ({"rule": "sqr"}, "Did you mean 'sqrt'"),
        ({"keep": "update"}, "Did you mean 'updates'"),
        ({"batch": "grow", "rule": "sqrt"}, "takes the place of the learning rate's drops"),
        ({"growths": 1}, 'growths goes with batch="grow"'),
        ({"batch": "grow", "growths": 0}, "growths of regime x must be a whole number"),
        ({"name": "a/b"}, "file name"),
        ({"name": ""}, "file name"),
    ],
)
def test_mistakes_are_named(kwargs, message):
    with pytest.raises(ValueError, match=message):
        Regime(**{"name": "x", **kwargs})
