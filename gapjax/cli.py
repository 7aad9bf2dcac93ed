"""The ``gapjax`` command: thin, over ``gapjax.study`` and ``gapjax.data``."""

import contextlib
import dataclasses
import os
import shlex
import signal
import sys
import textwrap
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Annotated, Any, NamedTuple

from gapjax import _checks, _options, _paths, _signals, _streams, _tensorboard, _terminal

_HELP = ("-h", "--help")

# How a study is run, which is no part of what it is: name, type, default, help.
_RUN: dict[str, tuple[type, Any, str]] = {
    "out": (str, "", "folder for results and report; a study that was interrupted there goes on"),
    "landscape": (bool, False, "measure the solutions too: curvature, sharpness, end to end"),
    "log_dir": (str, "", "folder for TensorBoard: what is measured, as it comes"),
    "batch_devices": (int, 1, "devices that share each seed's batch; seeds spread by themselves"),
    "distributed": (bool, False, "this is one of many processes, on the hosts of a cluster"),
    "wait": (bool, False, "wait where another process writes to the folder"),
    "repair": (bool, False, "delete what is damaged in the folder, and make that again"),
    "dry_run": (bool, False, "print what devices, memory and network it takes; train nothing"),
}


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
    if name in (*_HELP, "help"):
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
        if command.text is not None and {*arguments[1:]} & {*_HELP}:
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
    print(f"gapjax: {' '.join(text.split())}", file=sys.stderr)
    if "--distributed" in arguments:
        training.leave(code)  # other processes may not have failed
    return code


@contextlib.contextmanager
def _working(*, distributed: bool = False) -> Iterator[None]:
    """While inside, signals are raised, so that what was begun is cleared away or kept."""
    from gapjax import training

    with training.resending_signals(), _signals.raising(sigterm=not distributed):
        yield


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    print(f"gapjax: {' '.join(str(message).split())}", file=sys.stderr)


def _study(arguments: list[str]) -> None:
    name = _preset_of(arguments)
    from gapjax import study, training

    own = {**_RUN, "out": (str, f"runs/{name}", _RUN["out"][2])}
    fields = _options.fields_of(study.preset(name), own, about=_study_help())
    values = vars(_options.parse(fields, arguments, prog="gapjax study [PRESET]"))
    run = {name: values.pop(name) for name in _RUN}
    out, log_dir, distributed, dry = (
        run.pop(name) for name in ("out", "log_dir", "distributed", "dry_run")
    )
    if not out:
        raise ValueError(f"--out must name a folder, such as runs/{name}, and is empty.")
    chosen = study.Study(**values)
    if distributed:
        training.connect()
    command = shlex.join(["gapjax", "study", name, *arguments])
    training.enable_compile_cache()
    if dry:
        _dry_run(chosen, run["batch_devices"])
        return
    with (
        _working(distributed=distributed),
        _terminal.progress(len(chosen.regimes)) as show,
        _tensorboard.logging(log_dir) as log,
    ):

        def progress(at: Any) -> None:
            show(at)
            log(at)

        result = study.run_study(chosen, out, progress=progress, command=command, **run)
    if training.is_first():
        _print_table(result)
        print(f"\n{study.finding(result)}\n\nReport: {out}/report.html")


def _study_help() -> str:
    from gapjax import study

    batches = "\n".join(f"* {name}: {meaning}." for name, (_, meaning) in study.BATCHES.items())
    return (
        "Train every regime over many seeds, print the table and write the report.\n\n"
        "PRESET sets the defaults below (see `gapjax presets`). A regime is a batch and remedies, "
        "joined by +:\n"
        f"{batches}\n"
        "* a number: so many examples.\n"
        f"* then any of {', '.join(study.REMEDIES)} (see `gapjax remedies`)."
    )


def _sweep(arguments: list[str]) -> None:
    name = _preset_of(arguments)
    from gapjax import study, training

    default = study.preset(name)
    own = {**study.SWEEP_OPTIONS, "out": (str, f"runs/sweep-{name}", _RUN["out"][2])}
    fields = _options.fields_of(default, own, about=study.SWEEP_HELP, without=study.SWEEP_WITHOUT)
    values = vars(_options.parse(fields, arguments, prog="gapjax sweep [PRESET]"))
    out = values.pop("out")
    if not out:
        raise ValueError(f"--out must name a folder, such as runs/sweep-{name}, and is empty.")
    chosen = {key: values.pop(key) for key in study.SWEEP_OPTIONS}
    # A sweep has no large batch, which a study would hold its small batch against.
    values["large_batch"] = max(default.large_batch, values["small_batch"] + 1)
    asked = study.Sweep(dataclasses.replace(default, **values), **chosen)
    training.enable_compile_cache()
    sizes = len(asked.batch_sizes) * len(asked.remedies)
    with _working(), _terminal.progress(sizes) as progress:
        command = shlex.join(["gapjax", "sweep", name, *arguments])
        result = study.run_sweep(asked, out, progress=progress, command=command)
    _print_sweep(result, out)


def _print_sweep(result: Any, folder: Any) -> None:
    from gapjax import study

    _terminal.show("To the target", study.sweep_columns(result), study.sweep_rows(result))
    _terminal.show("The critical batch size", study.fit_columns(), study.fit_rows(result))
    for note in study.sweep_notes(result):
        print(note)
    print(f"\n{study.sweep_finding(result)}\n\nReport: {folder}/report.html")


def _preset_of(arguments: list[str]) -> str:
    """The preset at the head of the arguments, taken off them."""
    named = bool(arguments) and not arguments[0].startswith("-")
    return arguments.pop(0) if named else "digits"


def _dry_run(chosen: Any, batch_devices: int) -> None:
    import rich.console

    from gapjax import study, training

    needs = []
    with rich.console.Console(stderr=True).status("compiling") as status:
        for need in study.dry_run(chosen, batch_devices=batch_devices):
            needs.append(need)
            status.update(f"compiling, {len(needs)} done")
    if not training.is_first():
        return
    _terminal.show("What the study needs", study.NEEDS_COLUMNS, map(study.needs_row, needs))
    for note in study.needs_notes(needs[0]):
        print(note)


def _print_table(result: Any) -> None:
    from gapjax import study

    tuned = result.is_tuned
    title = "At the learning rate " + ("tuned on the validation split" if tuned else "of the rule")
    _terminal.show(title, study.columns(result), study.rows(result))
    if result.rule_gap is not None:
        title = "Beside it, at the learning rate of the rule"
        _terminal.show(title, study.columns(result), study.rows(result, "rule"))
    for note in study.notes(result):
        print(note)


def _report(arguments: list[str]) -> None:
    from gapjax import study

    if len(arguments) == 1 and study.is_sweep(arguments[0]):
        found = study.load_sweep(arguments[0])
        study.write_sweep_report(found, _paths.local_path("DIR", arguments[0]) / "report.html")
        _print_sweep(found, arguments[0])
        return
    result = _result_of("report", arguments)
    path = _paths.local_path("DIR", arguments[0]) / "report.html"
    with _working():
        study.write_report(result, path)
    print(f"Report: {path}")


def _result_of(name: str, arguments: list[str]) -> Any:
    """The result in the folder that a command is given as its only argument."""
    if len(arguments) != 1 or arguments[0].startswith("-"):
        raise ValueError(f"gapjax {name} takes the folder of a study: gapjax {name} runs/digits")
    from gapjax import study

    return study.load_result(arguments[0])


def _figures(arguments: list[str]) -> None:
    result = _result_of("figures", arguments)
    from gapjax import study

    folder = _paths.local_path("DIR", arguments[0]) / "figures"
    written = study.write_figures(result, folder)
    print(f"Figures: {folder} ({len(written)} files: SVG, PDF, and CSV of what they show)")


def _table(arguments: list[str]) -> None:
    folder = arguments[:1]
    if arguments[1:2] == ["--format"] and len(arguments) == 3:
        format = arguments[2]
    elif arguments[1:]:
        raise ValueError(
            "gapjax table takes the folder of a study, and --format latex, markdown or csv: gapjax "
            "table runs/digits --format latex"
        )
    else:
        format = "markdown"
    from gapjax import study

    print(study.format_table(_result_of("table", folder), format), end="")


def _cite(arguments: list[str]) -> None:
    from gapjax import study

    print(study.bibliography(_result_of("cite", arguments)), end="")


def _no_arguments(name: str, arguments: list[str]) -> None:
    if arguments:
        raise ValueError(f"gapjax {name} takes no arguments, not {' '.join(arguments)!r}.")


def _presets(arguments: list[str]) -> None:
    _no_arguments("presets", arguments)
    from gapjax import study

    for name, preset in study.PRESETS.items():
        print(preset.told(name))


def _remedies(arguments: list[str]) -> None:
    _no_arguments("remedies", arguments)
    from gapjax import study

    print("A regime is a batch and remedies, joined by +, such as LB+LR+GBN. Batches:\n")
    for name, (_, meaning) in study.BATCHES.items():
        print(f"  {name:8} {meaning}")
    print("  64       so many examples, any number\n\nRemedies:\n")
    for name, remedy in study.REMEDIES.items():
        print(f"  {name:8} {remedy.meaning}\n           {remedy.source}")


def _data(arguments: list[str]) -> None:
    usage = "gapjax data import mnist --from ~/Downloads/mnist"
    name, *rest = arguments[1:] or ["-"]
    if name in _HELP:
        rest = [name]
    elif arguments[:1] != ["import"] or name.startswith("-"):
        raise ValueError(f"gapjax data has one command, import: {usage}")
    is_text = name == "text"
    if is_text:
        name, *rest = rest or ["-"]
        if name in _HELP:
            rest = [name]
        elif name.startswith("-"):
            raise ValueError(
                "gapjax data import text takes a name of your own for the data set: gapjax data "
                "import text novels --from ~/novels"
            )
    import tyro

    @dataclasses.dataclass(frozen=True)
    class Import:
        """Write a standard TFDS folder from files on this machine."""

        source: Annotated[str, tyro.conf.arg(name="from", help="folder or archive of the files")]
        data_dir: Annotated[
            str | None, tyro.conf.arg(help="folder of prepared data sets; TFDS's own by default")
        ] = None

    @dataclasses.dataclass(frozen=True)
    class ImportText(Import):
        """Write a standard TFDS folder of text, as windows of bytes."""

        sequence_length: Annotated[int, tyro.conf.arg(help="tokens that a window predicts")] = 128

    what = "text NAME" if is_text else "NAME"
    options = _options.parse(
        ImportText if is_text else Import, rest, prog=f"gapjax data import {what}"
    )
    from gapjax import data

    write = data.import_text if is_text else data.import_local
    given = dict(vars(options))
    with _working():
        folder = write(name, given.pop("source"), **given)
    print(folder)


class _Command(NamedTuple):
    """A command: what it takes, what it does, and its own help where it is not tyro's."""

    run: Callable[[list[str]], None]
    takes: str
    does: str
    text: str | None = None


_COMMANDS: dict[str, _Command] = {
    "study": _Command(
        _study,
        "[PRESET]",
        "train every regime over many seeds, print the table, write the report (--help shows every "
        "field with its default; --landscape measures the solutions too, --dry-run tells what the "
        "study needs and trains nothing)",
    ),
    "sweep": _Command(
        _sweep,
        "[PRESET]",
        "how large may the batch be: updates and examples to a target at many batch sizes, the "
        "critical batch size, what remedies do to it (--help shows every field)",
    ),
    "report": _Command(
        _report,
        "DIR",
        "draw the report of the folder of a study or a sweep again",
        "Read the results in DIR, the folder of a study (finished, or under way), and write\n"
        "DIR/report.html again. Nothing is trained.",
    ),
    "figures": _Command(
        _figures,
        "DIR",
        "write a study's figures for a paper",
        "Write into DIR/figures, of every figure of the study in DIR: SVG and PDF with fonts\n"
        "embedded, for one column and for two, and a CSV of all that is drawn.",
    ),
    "table": _Command(
        _table,
        "DIR [--format FORMAT]",
        "print a study's table: latex, markdown or csv",
        "Print the table of the study in DIR as markdown (the default), latex (a tabular with\n"
        "booktabs) or csv (plain numbers).",
    ),
    "cite": _Command(
        _cite,
        "DIR",
        "print BibTeX of every method that a study used",
        "Print BibTeX of what the study in DIR builds on: the sources of its remedies, its\n"
        "optimizer, schedule, network, data, statistics and software.",
    ),
    "presets": _Command(
        _presets, "", "the presets there are", "List the presets of gapjax study, a line each."
    ),
    "remedies": _Command(
        _remedies,
        "",
        "the batches and remedies that regimes are made of",
        "List the batches and the remedies that regimes are made of, with their sources.",
    ),
    "data": _Command(
        _data,
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
