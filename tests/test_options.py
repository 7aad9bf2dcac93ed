"""Errors of options are what was said, whatever frame they came in."""

import pytest

from gapjax import _options

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
