"""The ``gapjax`` command: thin, over ``gapjax.study`` and ``gapjax.data``."""

import os
import signal
import sys
import textwrap
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from gapjax import _checks, _commands, _signals, _streams
from gapjax._text import one_line


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; what the user must change ends with exit code 2 and one line."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        try:
            return _run(arguments)
        finally:
            sys.stdout.flush()
    except BrokenPipeError:  # whoever read the output has had enough of it, such as head
        _streams.give_up(sys.stdout)
        return 128 + signal.SIGPIPE
    except OSError as error:
        if not _streams.cannot_write(error):
            raise
        _streams.give_up(sys.stdout)
        print(f"gapjax: cannot write to standard output: {error.strerror}.", file=sys.stderr)
        return 2


def _run(arguments: list[str]) -> int:
    name = arguments[0] if arguments else "--help"
    if name in (*_commands.HELP, "help"):
        print(_usage(), end="")
        return 0
    if name == "--version":
        import gapjax

        print(gapjax.__version__)
        return 0
    from gapjax import training

    try:
        _checks.one_of("command", name, _COMMANDS)
        command = _COMMANDS[name]
        if command.text is not None and {*arguments[1:]} & {*_commands.HELP}:
            print(f"gapjax {name} {command.takes}".rstrip(), f"\n\n{command.text}")
            return 0
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            command.run(arguments[1:])
        return 0
    except KeyboardInterrupt:
        code, text = 130, f"interrupted. {_signals.GO_ON}"
    except (ValueError, OSError) as error:
        if isinstance(error, OSError) and (
            isinstance(error, BrokenPipeError) or _streams.cannot_write(error)
        ):
            raise
        code, text = 2, str(error)
        if isinstance(error, OSError) and error.filename:
            text = f"{os.fsdecode(error.filename)}: {error.strerror}."
    print(f"gapjax: {one_line(text)}", file=sys.stderr)
    if "--distributed" in arguments:
        training.leave(code)  # other processes may not have failed
    return code


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    print(f"gapjax: {one_line(str(message))}", file=sys.stderr)


class _Command(NamedTuple):
    """A command: what it takes, what it does, and its own help where it is not tyro's."""

    run: Callable[[list[str]], None]
    takes: str
    does: str
    text: str | None = None


_COMMANDS: dict[str, _Command] = {
    "study": _Command(
        _commands.study_command,
        "[PRESET]",
        "train every regime over many seeds, print the table, write the report (--help shows every "
        "field with its default; --landscape measures the solutions too, --dry-run tells what the "
        "study needs and trains nothing)",
    ),
    "sweep": _Command(
        _commands.sweep_command,
        "[PRESET]",
        "how large may the batch be: updates and examples to a target at many batch sizes, the "
        "critical batch size, what remedies do to it (--help shows every field)",
    ),
    "report": _Command(
        _commands.report_command,
        "DIR",
        "draw the report of the folder of a study or a sweep again",
        "Read the results in DIR, the folder of a study (finished, or under way), and write\n"
        "DIR/report.html again. Nothing is trained.",
    ),
    "figures": _Command(
        _commands.figures_command,
        "DIR",
        "write a study's figures for a paper",
        "Write into DIR/figures, of every figure of the study in DIR: SVG and PDF with fonts\n"
        "embedded, for one column and for two, and a CSV of all that is drawn.",
    ),
    "table": _Command(
        _commands.table_command,
        "DIR [--format FORMAT] [--columns HEADING ...]",
        "print a study's table: latex, markdown or csv",
        "Print the table of the study in DIR as markdown (the default), latex (a tabular with\n"
        "booktabs) or csv (plain numbers), with all columns or with those that are named by their\n"
        "headings, or by how these begin.",
    ),
    "cite": _Command(
        _commands.cite_command,
        "DIR",
        "print BibTeX of every method that a study used",
        "Print BibTeX of what the study in DIR builds on: the sources of its remedies, its\n"
        "optimizer, schedule, network, data, statistics and software.",
    ),
    "presets": _Command(
        _commands.presets_command,
        "[NAME ...]",
        "the presets there are, or those that are named",
        "List the presets of gapjax study, all or those that are named: data, sizes, time, what\n"
        "the paper found and what was found here.",
    ),
    "remedies": _Command(
        _commands.remedies_command,
        "",
        "the batches and remedies that regimes are made of",
        "List the batches and the remedies that regimes are made of, with their sources.",
    ),
    "data": _Command(
        _commands.data_command,
        "import NAME --from DIR",
        "write a TFDS folder from local files (import text NAME: windows of any text)",
    ),
}


def _usage() -> str:
    lines = ["gapjax: study and close the large-batch generalization gap\n"]
    for name, command in _COMMANDS.items():
        first = f"  gapjax {name} {command.takes}".rstrip()
        about = textwrap.wrap(command.does, 62)
        if len(first) > 35:
            lines.append(first)
            first = ""
        lines.append(f"{first:36}  {about[0]}")
        lines += [f"{'':36}  {line}" for line in about[1:]]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    from gapjax.__main__ import main as program

    sys.exit(program())
