"""Files of a study's folder with every field missing, of another type, or not finite.

What is changed by hand is sealed again, so that only the schema can tell. Each row is refused in
one line that names the field.
"""

import copy
import dataclasses
import json
import shutil

import pytest

from gapjax import cli, study
from gapjax._seal import seal
from gapjax.study._results import _folder
from gapjax.study._results._records import RegimeRecord

WRONG = {"text": "x", "list": [[]], "object": {"x": {}}, "true": True, "NaN": float("nan")}
# What may be missing: what has a default, and what no report needs.
UNREAD = {("curves", "flops"), ("files", "checkpoints/LB")} | {
    (field.name,)
    for field in dataclasses.fields(RegimeRecord)
    if {field.default, field.default_factory} != {dataclasses.MISSING}
}
# Fields that may hold anything: what a study was, as a whole, and how it was run.
FREE = ("environment", "hyper", "of", "seal")


def _fields(value, place=()):
    """The places in a record, none of a list but its first."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if key not in FREE:
                yield (*place, key)
                yield from _fields(inner, (*place, key))
    elif isinstance(value, list) and value:
        yield (*place, 0)
        yield from _fields(value[0], (*place, 0))


def _changed(value, place, change):
    value = copy.deepcopy(value)
    inner = value
    for key in place[:-1]:
        inner = inner[key]
    if change == "missing":
        del inner[place[-1]]
    else:
        inner[place[-1]] = WRONG[change]
    value.pop("seal")
    return seal(value)


def _takes(there, change):
    """Whether the schema takes such a value in place of another."""
    wrong = WRONG.get(change)
    if change == "missing" or isinstance(wrong, float):
        return False
    return isinstance(there, type(wrong)) and not isinstance(there, dict | list)


@pytest.fixture
def folder(finished, tmp_path):
    shutil.copytree(finished[0], tmp_path / "run")
    return tmp_path / "run"


def _told(folder, capsys):
    code = cli.main(["report", str(folder)])
    output, errors = capsys.readouterr()
    assert code == 2 and output == "" and errors.count("\n") == 1, errors
    assert "delete " in errors and "--repair" in errors
    return errors


def _rows(good):
    """Every field with every change that the schema does not take."""
    for where in _fields(good):
        there = good
        for key in where:
            there = there[key]
        for change in ("missing", *WRONG):
            last_of_list = change == "missing" and isinstance(where[-1], int)
            # Of what is null the record itself does not tell what else it may be.
            unread = where in UNREAD and (change == "missing" or there is None)
            if not (last_of_list or unread or _takes(there, change)):
                yield where, change


def test_every_field_of_a_record_is_checked(folder, capsys):
    path = folder / "regimes" / "LB.json"
    good = json.loads(path.read_text())
    rows = list(_rows(good))
    assert len(rows) > 300
    for where, change in rows:
        path.write_text(json.dumps(_changed(good, where, change)))
        errors = _told(folder, capsys)
        # By its name, by that of what it is the only part of, or by the file it is a checksum of.
        named = any(str(key) in errors for key in where) or where[0] == "files"
        assert named, (where, change, errors)


def test_fields_of_the_configuration_are_checked(folder, capsys):
    path = folder / "config.json"
    good = json.loads(path.read_text())
    read = {*_folder.StudyFields.__annotations__} - {"dataset", "model", "momentum", "b1"}
    rows = [
        (where, change)
        for where, change in _rows(good)
        if where[0] != "study" or (len(where) > 1 and where[1] in read)
    ]
    assert len(rows) > 60
    for where, change in rows:
        path.write_text(json.dumps(_changed(good, where, change)))
        assert cli.main(["report", str(folder)]) == 2
        _, errors = capsys.readouterr()
        assert errors.count("\n") == 1, (where, change, errors)
        named = any(str(key) in errors for key in where) or where == ("format",)
        assert named, (where, change, errors)


CONTENTS = {
    "nothing": (b"", "no JSON"),
    "no fields": (b"{}", "missing required field"),
    "null": (b"null", "its top level"),
    "deep lists": (b"[" * 200_000, "nested too deep"),
    "deep objects": (b'{"name": ' * 5000 + b"1" + b"}" * 5000, "nested too deep"),
    "another encoding": (b"\xff\xfe{}", "it is not what a study writes"),
    "zeros": (b"\x00" * 100, "it is not what a study writes"),
    "a name twice": (b'{"name": "LB", "name": 3}', "expected `str`"),
}


@pytest.mark.parametrize("content", CONTENTS)
@pytest.mark.parametrize("name", ["config.json", "regimes/LB.json"])
def test_what_is_no_record_at_all(folder, capsys, content, name):
    data, said = CONTENTS[content]
    (folder / name).write_bytes(data)
    errors = _told(folder, capsys)
    assert said in errors or "missing required field" in errors


def test_a_later_version_is_told(folder, capsys):
    config = json.loads((folder / "config.json").read_text())
    config.pop("seal")
    (folder / "config.json").write_text(json.dumps(seal({**config, "format": 99})))
    assert cli.main(["report", str(folder)]) == 2
    assert "was written by a later gapjax" in capsys.readouterr().err


def test_a_report_is_written_where_it_was_read(folder, capsys, monkeypatch):
    monkeypatch.setenv("HOME", str(folder.parent))
    (folder / "report.html").unlink()
    assert cli.main(["report", "~/run"]) == 0
    assert (folder / "report.html").exists()
    assert "report.html" in capsys.readouterr().out
    study.load_result("~/run")
