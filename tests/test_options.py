"""Errors of options are what was said, whatever frame they came in."""

import pytest

from gapjax import _options, study

UNICODE = """\
╭─ Unrecognized options ────────────────────╮
│ Unrecognized options: --frm, latex        │
│ ───────────────────────────────────────── │
│ For full helptext, run gapjax table --help│
╰───────────────────────────────────────────╯
"""
NARROW = """\
╭─ Unrecognized options ╮
│ Unrecognized options: │
│ --frm, latex          │
╰───────────────────────╯
"""
ASCII = """\
 Unrecognized options
 --------------------------------------
  Unrecognized options: --frm, latex
  -------------------------------------
  For full helptext, run gapjax table
  --help
"""
HINT = """\
 Unrecognized options
 --------------------------------------
  Unrecognized options: ---, --formt
  -------------------------------------
  Perhaps you meant:
      --format STR
          latex (default: markdown)
  -------------------------------------
"""
SEVERAL = """\
╭─ Required options ──────────────────────╮
│ Missing: --from                         │
│ ─────────────────────────────────────── │
│ Unrecognized options: --frm             │
│ ─────────────────────────────────────── │
│ Argument helptext:                      │
│ ─────────────────────────────────────── │
│ --from STR                              │
╰─────────────────────────────────────────╯
"""


@pytest.mark.parametrize(
    ("box", "said"),
    [
        (UNICODE, "Unrecognized options: --frm, latex."),
        (NARROW, "Unrecognized options: --frm, latex."),
        (ASCII, "Unrecognized options: --frm, latex."),
        (HINT, "Unrecognized options: ---, --formt. Did you mean --format?"),
        (SEVERAL, "Missing: --from Unrecognized options: --frm."),
    ],
)
def test_a_boxed_error_is_said_once(box, said):
    assert _options._essence(box) == said


def _parsed(preset, *arguments):
    fields = _options.fields_of(study.preset(preset), {}, about="")
    return _options.parse(fields, list(arguments), prog="gapjax study")


@pytest.mark.parametrize("preset", ["digits", "hoffer-c1-cifar10-small"])
def test_what_a_preset_turns_on_or_off_can_be_said_either_way(preset):
    before = _parsed(preset).controls
    assert before is study.preset(preset).controls
    assert _parsed(preset, "--controls").controls is True
    assert _parsed(preset, "--no-controls").controls is False


def test_a_schedule_that_a_preset_has_in_code_is_the_default_which_a_name_takes_the_place_of():
    own = study.preset("hoffer-c1-cifar10-small").schedule
    assert callable(own)
    assert _parsed("hoffer-c1-cifar10-small").schedule is own
    assert _parsed("hoffer-c1-cifar10-small", "--schedule", "of-the-preset").schedule is own
    assert _parsed("hoffer-c1-cifar10-small", "--schedule", "cosine").schedule == "cosine"
