"""The grammar of regimes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gapjax.study import BATCHES, REMEDIES, Regime, Remedy, Study

ALONE = list(REMEDIES)


def test_batches_and_remedies_are_read():
    assert (Regime.parse("SB").batch, Regime.parse("LB").batch) == ("small", "large")
    assert (Regime.parse("GROW").batch, Regime.parse("96+LR").batch) == ("grow", 96)
    names = [remedy.name for remedy in Regime.parse("LB+LR+GBN+RA").remedies]
    assert names == ["LR", "GBN", "RA"]
    assert Regime("mine", 96, ("LR", REMEDIES["GBN"])).remedies == (
        REMEDIES["LR"],
        REMEDIES["GBN"],
    )


@given(st.sampled_from([*BATCHES, "48"]), st.sets(st.sampled_from(ALONE), max_size=2))
def test_every_two_remedies_go_together_or_say_why_not(batch, remedies):
    text = "+".join([batch, *sorted(remedies)])
    excluded = {x for name in remedies for x in REMEDIES[name].excludes}
    gradients = [name for name in remedies if REMEDIES[name].gradient is not None]
    if excluded & {batch, *remedies} or len(gradients) == 2:
        with pytest.raises(ValueError, match="leave") as found:
            Regime.parse(text)
        assert text in str(found.value)
        return
    regime = Regime.parse(text)
    assert regime.name == text and {r.name for r in regime.remedies} == remedies
    assert regime.batch_name == batch


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("LBB", "regime 'LBB' must start with its batch.*not 'LBB'"),
        ("LB+LRR", r"remedy of regime LB\+LRR must be one of .* Did you mean 'LR'"),
        ("LB+lr", "must be one of"),
        ("+LR", "not ''"),
        ("LB+", "must be one of"),
        ("0+LR", "must be a whole number of at least 1, not 0"),
        ("-3", "not '-3'"),
        ("LB+LR+LR", "names remedy LR twice"),
        ("LB+LR+LINEAR", "LR and LINEAR exclude each other"),
        ("LB+SAM+PENALTY", "SAM and PENALTY each say how the gradient is taken"),
        ("SEESAW+LR", "LR .* does not go with SEESAW: leave it out"),
        ("LB+LATE", "LATE .* does not go with LB: leave it out"),
        ("LB+RA+LONG", "RA and LONG exclude each other"),
        ("", "not ''"),
    ],
)
def test_mistakes_are_named(text, message):
    with pytest.raises(ValueError, match=message):
        Regime.parse(text)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch": "big"}, "batch of regime x must be one of 'small', 'large'"),
        ({"batch": 1.5}, "batch of regime x must be a whole number"),
        ({"batch": True}, "batch of regime x must be a whole number"),
        ({"remedies": "LR"}, r"must be several, such as \('LR', 'GBN'\)"),
        ({"remedies": (3,)}, "names or Remedy objects, not 3"),
        ({"remedies": None}, "must be several"),
        ({"name": ""}, "must be a text that can be printed"),
        ({"name": "a\nb"}, "must be a text that can be printed"),
        ({"name": 3}, "must be a text that can be printed"),
    ],
)
def test_mistakes_of_construction_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        Regime(**{"name": "x", **arguments})


def test_a_remedy_of_ones_own_may_exclude_others():
    mine = Remedy("MINE", "mine", optimizer=lambda tx, plan: tx, excludes=("GBN", "SB"))
    assert Regime("LB+mine", remedies=(mine,)).has("MINE")
    with pytest.raises(ValueError, match="MINE and GBN exclude each other"):
        Regime("x", remedies=("GBN", mine))
    with pytest.raises(ValueError, match=r"MINE .* does not go with SB"):
        Regime("x", "small", (mine,))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "A+B"}, r"a word without \+"),
        ({"name": ""}, r"a word without \+"),
        ({"meaning": " "}, "needs a meaning"),
        ({"loss": 3}, "loss of remedy X must be a function, not 3"),
        ({"excludes": "LR"}, r"excludes of remedy X must be names, such as \('LR',\), not 'LR'"),
        ({"excludes": None}, "excludes of remedy X must be names, .* not None"),
        ({"excludes": ("LR", 3)}, "excludes of remedy X must be names"),
    ],
)
def test_what_is_no_remedy(arguments, message):
    with pytest.raises(ValueError, match=message):
        Remedy(**{"name": "X", "meaning": "nothing", **arguments})


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("regimes", ("SB", "SB"), "each under a name of its own"),
        ("regimes", (), "at least one"),
        ("regimes", "SB", r"must be several, such as \('SB', 'LB\+LR'\)"),
        ("regimes", (3,), "a text such as"),
        ("baseline", ("SB",), "names of two regimes"),
        ("baseline", ("SB", "SB"), "names of two regimes"),
        ("baseline", "SB", "baseline must be several"),
    ],
)
def test_regimes_of_a_study(field, value, message):
    with pytest.raises(ValueError, match=message):
        Study(**{field: value})
