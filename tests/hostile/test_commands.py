"""Hostile command lines: for each exit code 2 and one line that says what to change, nothing made.

The table is made of lists: every option of a study with values that cannot be, every command with
paths and names that cannot be.
"""

import pytest

from gapjax import cli

NUMBERS = ["x", "", "nan", "inf", "-inf", "1e400", "-1", "0x10", "1,5", "١٢x", "--", "1e39j"]
WHOLE = [*NUMBERS, "1.5", "1e3", "99999999999999999999999", "None"]
WORDS = ["", " ", "x\ty", "SB LB", "../..", "$HOME", "a" * 3000, "\ud800", "é", "{}", "__class__"]
OPTIONS = {
    "seeds": WHOLE,
    "first-seed": WHOLE,
    "small-batch": WHOLE,
    "large-batch": WHOLE,
    "ghost-size": WHOLE,
    "tune": WHOLE,
    "evaluations": WHOLE,
    "batch-devices": ["x", "1.5", ""],
    "epochs": NUMBERS,
    "learning-rate": NUMBERS,
    "warmup": NUMBERS,
    "cooldown": NUMBERS,
    "decay-at": NUMBERS,
    "decay-factor": NUMBERS,
    "momentum": NUMBERS,
    "b1": NUMBERS,
    "weight-decay": NUMBERS,
    "clip-norm": NUMBERS,
    "validation": NUMBERS,
    "loss-levels": NUMBERS,
    "landscape-examples": [*WHOLE, "49"],
    "maximum": NUMBERS,
    "plateau-factor": NUMBERS,
    "plateau-epochs": NUMBERS,
    "tune-also": [*WORDS, "momentum", "momentum=", "momentum=0.9", "momentum=a:b"],
    "factorial": WORDS,
    "keep": WORDS,
    "model": WORDS,
    "task": WORDS,
    "optimizer": WORDS,
    "schedule": WORDS,
    "regimes": WORDS,
    "baseline": WORDS,
    "augment": WORDS,
}
PLACES = {
    "empty": "",
    "blank": " ",
    "nothing": "/nowhere/at all",
    "device": "/dev/null",
    "zeros": "/dev/zero",
    "inside a device": "/dev/null/x",
    "address": "gs://bucket/there",
    "web": "https://example.org/x",
    "file": "file:///tmp",
    "home of nobody": "~nobody-of-this-name/x",
    "zero byte": "a\0b",
    "no UTF-8": "/tmp/\udcff\udcfe",
    "long": "x" * 5000,
    "long path": "/".join(["x" * 200] * 30),
    "not ours": "/proc/1/x",
}
NAMES = {
    "empty": "",
    "blank": " ",
    "path": "../x",
    "absolute": "/etc/passwd",
    "capitals": "MNIST",
    "markup": "<script>",
    "digits": "digits",
    "pydoc": "pydoc",
    "version": "mnist:1.0.0",
    "star": "mnist:*",
    "config": "own/config",
    "surrogate": "\udcff",
    "zero byte": "a\0b",
    "long": "x" * 5000,
    "quotes": "a'b\"c",
    "line": "a\nb",
    "option": "-x",
    "dots": "..",
    "percent": "%s%n",
    "braces": "{0}",
}
LINES = {
    "nothing known": ["x"],
    "a signal": ["\a"],
    "an option": ["--seeds", "3"],
    "long": ["x" * 10_000],
    "surrogate": ["\udcff"],
    "zero byte": ["a\0b"],
    "presets with more": ["presets", "--x"],
    "remedies with more": ["remedies", ""],
    "report without": ["report"],
    "report of two": ["report", "a", "b"],
    "report of an option": ["report", "--out"],
    "data without": ["data"],
    "data of something": ["data", "export"],
    "data import without": ["data", "import"],
    "data import without from": ["data", "import", "x"],
    "text without": ["data", "import", "text"],
    "text of nothing": ["data", "import", "text", "x"],
    "text of no length": ["data", "import", "text", "x", "--from", ".", "--sequence-length", "x"],
    "text of length 0": ["data", "import", "text", "x", "--from", ".", "--sequence-length", "0"],
    "text of length -1": ["data", "import", "text", "x", "--from", ".", "--sequence-length=-1"],
    "preset": ["study", "digitz"],
    "preset in capitals": ["study", "DIGITS"],
    "preset of zero": ["study", "a\0b"],
    "two presets": ["study", "digits", "smith-digits"],
    "empty preset": ["study", ""],
    "option without value": ["study", "--seeds"],
    "option twice known": ["study", "--seeds", "0", "--seeds", "0"],
    "option unknown": ["study", "--sed", "3"],
    "option of dashes": ["study", "---"],
    "flag with value": ["study", "--landscape", "yes"],
    "factors that exclude each other": ["study", "--factorial", "RA", "LONG"],
    "rules that exclude each other": ["study", "--factorial", "LR", "LINEAR"],
    "a factor twice": ["study", "--factorial", "LR", "LR"],
    "too many factors": ["study", "--factorial", "LR", "GBN", "RA", "EMA", "SAM", "NOISE"],
    "an empty range": ["study", "--tune", "4", "--tune-also", "momentum=0.9:0.9"],
    "a range backwards": ["study", "--tune", "4", "--tune-also", "momentum=0.9:0.8"],
    "a negative range": ["study", "--tune", "4", "--tune-also", "weight_decay=-1:0"],
    "a range of no number": ["study", "--tune", "4", "--tune-also", "momentum=0.5:nan"],
    "an axis twice": ["study", "--tune", "4", "--tune-also", *["momentum=0.5:0.9"] * 2],
    "a range that nothing tunes": ["study", "--tune-also", "momentum=0.5:0.9"],
    "a loss that is never met": ["study", "--keep", "loss=0"],
    "a loss at a rate of 0": ["study", "--keep", "loss=0.1", "--schedule", "cosine"],
    "a plateau longer than all": ["study", "--keep", "plateau", "--plateau-epochs", "200"],
    "more than fits": ["study", "--large-batch", "2000"],
}


def _rows():
    for name, arguments in LINES.items():
        yield f"line: {name}", arguments
    for option, values in OPTIONS.items():
        for value in values:
            yield f"--{option}={value[:20]!r}", ["study", f"--{option}={value}"]
    for name, place in PLACES.items():
        yield f"report {name}", ["report", place]
        yield f"import from {name}", ["data", "import", "mine", f"--from={place}"]
        yield f"import text from {name}", ["data", "import", "text", "mine", f"--from={place}"]
    for name, place in PLACES.items():
        if name not in ("device", "zeros", "nothing"):
            yield f"data-dir {name}", ["study", "--dataset", "mine", f"--data-dir={place}"]
        yield (
            f"data-dir of an import {name}",
            ["data", "import", "m", "--from=.", "--data-dir", place],
        )
    for name in NAMES:
        yield f"import named {name}", ["data", "import", NAMES[name], "--from", "."]
        yield f"text named {name}", ["data", "import", "text", NAMES[name], "--from", "."]
        if name not in ("digits", "pydoc"):
            yield f"dataset {name}", ["study", "--dataset", NAMES[name]]


ROWS = dict(_rows())


@pytest.mark.parametrize("row", ROWS)
def test_a_hostile_line_is_one_line_and_exit_code_2(row, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "data"))
    code = cli.main(ROWS[row])
    output, errors = capsys.readouterr()
    assert code == 2 and output == ""
    assert errors.startswith("gapjax: ") and errors.endswith("\n") and errors[:-1].isprintable()
    assert len(errors) < 1500 and "Traceback" not in errors
    assert list(tmp_path.iterdir()) == []


def test_the_table_is_long_enough():
    assert len(ROWS) > 300
