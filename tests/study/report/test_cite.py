"""What a study builds on is cited, and what has no entry is said."""

import dataclasses
import re

import pytest

from gapjax import models, study
from gapjax.study._report import _cite


@pytest.mark.parametrize("name", study.REMEDIES)
def test_every_remedy_has_its_source(name):
    source = study.REMEDIES[name].source
    named = re.findall(r"arXiv:(\d+\.\d+)|doi:(\S+\w)", source)
    assert named and len(_cite.find_entries(source)) == len(named)


@pytest.mark.parametrize("name", study.OPTIMIZERS)
def test_every_optimizer_has_its_source(name):
    assert any(name.startswith(start) for start in _cite._FIELDS["optimizer"])


@pytest.mark.parametrize("name", models.NETWORKS)
def test_every_network_has_its_source(name):
    assert name == "digits-mlp" or any(name.startswith(s) for s in _cite._FIELDS["model"])


def test_entries_are_bibtex_and_all_keys_that_are_named_are_there():
    entries = _cite._entries()
    for key, text in entries.items():
        assert text.count("{") == text.count("}")
        assert re.search(rf"^@\w+\{{{key},$", text, re.M)
        for field in ("author", "title", "year"):
            assert re.search(rf"^  {field} = \{{.+\}},$", text, re.M), (key, field)
    assert {name for name, _ in study.BATCHES.values()} == {*_cite._BATCHES, "small", "large"}
    assert {*study.CONTROLLERS} == {*_cite._CONTROLLERS}
    named = {key for known in _cite._FIELDS.values() for keys in known.values() for key in keys}
    own = (*_cite._BATCHES.values(), *_cite._CONTROLLERS.values(), _cite._SOFTWARE)
    fixed = (_cite._GAP, _cite._STATISTICS, _cite._NOISE, _cite._LANDSCAPE)
    assert named | {key for keys in (*fixed, *own) for key in keys} <= set(entries)


def test_what_a_study_used_is_cited_and_nothing_else(finished):
    text = study.bibliography(finished[1])
    keys = re.findall(r"^@\w+\{(.+),$", text, re.M)
    assert len(set(keys)) == len(keys)
    assert {"hoffer2017train", "ioffe2015batch", "polyak1964some", "jax2018github"} <= set(keys)
    assert not {"foret2021sharpness", "kingma2015adam", "mccandlish2018empirical"} & set(keys)
    assert "% the generalization gap, remedy LR, remedy GBN\n@inproceedings{hoffer2017train" in text
    assert "% dataset: no entry for blobs, to be cited by hand" in text


def test_other_studies_are_cited_otherwise(finished):
    result = finished[1]
    values = {"optimizer": "adamw", "schedule": "wsd", "model": "wrn16-4", "noise_scale": True}
    config = dataclasses.replace(
        result.config,
        study={
            **result.config.study,
            **values,
            "dataset": {"name": "cifar100"},
            "regimes": [
                *result.config.study["regimes"],
                {"name": "SEESAW", "batch": "seesaw", "remedies": []},
            ],
        },
    )
    record = dataclasses.replace(result.regimes["LB"], remedies=["SAM", "MINE"])
    changed = dataclasses.replace(
        result, config=config, regimes={**result.regimes, "LB": record, "SEESAW": record}
    )
    keys = re.findall(r"^@\w+\{(.+),$", study.bibliography(changed), re.M)
    assert {
        "loshchilov2019decoupled",
        "haegele2024scaling",
        "zagoruyko2016wide",
        "krizhevsky2009learning",
        "foret2021sharpness",
        "meterez2025seesaw",
        "mccandlish2018empirical",
    } <= set(keys)
    assert "kingma2015adam" not in keys
    told = "% remedy MINE: of this study's own, to be cited by hand\n"
    assert told in study.bibliography(changed)


def test_a_remedy_of_ones_own_is_cited_as_it_says(finished):
    result = finished[1]
    sources = {"MINE": "Doe 2025, arXiv:2501.00001", "SHARP": "Foret et al. 2021, arXiv:2010.01412"}
    record = dataclasses.replace(
        result.regimes["LB"], remedies=["MINE", "SHARP", "OTHER"], sources=sources
    )
    regimes = {**result.regimes, "LB": record}
    text = study.bibliography(dataclasses.replace(result, regimes=regimes))
    assert "% remedy MINE: Doe 2025, arXiv:2501.00001" in text
    assert "% remedy SHARP\n@inproceedings{foret2021sharpness" in text
    assert "% remedy OTHER: of this study's own, to be cited by hand" in text
