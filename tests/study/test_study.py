import optax
import pytest

from gapjax.study import PRESETS, Regime, Study, preset


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("seeds", 0, "seeds must be a whole number of at least 1"),
        ("seeds", 1.5, "seeds must be a whole number"),
        ("epochs", 0, "epochs must be a finite number above 0"),
        ("epochs", float("nan"), "epochs must be a finite number"),
        ("learning_rate", -0.1, "learning_rate must be a finite number above 0"),
        ("weight_decay", -1.0, "weight_decay must not be negative"),
        ("weight_decay", float("nan"), "weight_decay must not be negative"),
        ("momentum", 1.0, "momentum must be below 1"),
        ("validation", 1.0, "validation must lie between"),
        ("decay_at", (0.7, 0.5), "rising fractions"),
        ("decay_at", (0.5, 1.5), "rising fractions"),
        ("small_batch", 640, "must be smaller than large_batch"),
        ("model", "digits_mlp", "Did you mean 'digits-mlp'"),
        ("optimizer", "sgdd", "Did you mean 'sgd'"),
        ("optimizer", optax.sgd(0.1), "function from a learning-rate schedule"),
        ("regimes", ("SB", "LBB"), "Did you mean 'LB'"),
        ("regimes", ("SB", "SB"), "each under a name of its own"),
        ("regimes", (), "at least one"),
        ("regimes", ("LB", "LB+MATCH"), "follows SB, which must be among the regimes before it"),
        ("regimes", ("LB+MATCH", "SB"), "follows SB, which must be among the regimes before it"),
    ],
)
def test_mistakes_are_named_at_construction(field, value, message):
    with pytest.raises(ValueError, match=message):
        Study(**{field: value})


def test_names_become_regimes():
    own = Regime("LB+linear", rule="linear")
    study = Study(regimes=("SB", own))
    assert [r.name for r in study.regimes] == ["SB", "LB+linear"]


def test_presets():
    assert preset("digits") == Study()
    assert all(isinstance(study, Study) and about for about, study in PRESETS.values())
    with pytest.raises(ValueError, match="Did you mean 'digits'"):
        preset("digit")
