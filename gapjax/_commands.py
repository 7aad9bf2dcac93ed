"""What each command of ``gapjax`` does with its arguments: thin, over ``study`` and ``data``."""

import contextlib
import dataclasses
import shlex
from collections.abc import Iterator
from typing import Annotated, Any

from gapjax import _checks, _options, _paths, _signals, _tensorboard, _terminal

HELP = ("-h", "--help")

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


@contextlib.contextmanager
def _working(*, distributed: bool = False) -> Iterator[None]:
    """While inside, signals are raised, so that what was begun is cleared away or kept."""
    from gapjax import training

    with training.resending_signals(), _signals.raising(sigterm=not distributed):
        yield


def study_command(arguments: list[str]) -> None:
    """Train a study."""
    name = _preset_of(arguments)
    from gapjax import study, training

    default = study.preset(name)
    own = {**_RUN, "out": (str, f"runs/{name}", _RUN["out"][2])}
    fields = _options.fields_of(default, own, about=_study_help())
    values = vars(_options.parse(fields, arguments, prog="gapjax study [PRESET]"))
    run = {name: values.pop(name) for name in _RUN}
    out, log_dir, distributed, dry = (
        run.pop(name) for name in ("out", "log_dir", "distributed", "dry_run")
    )
    if not out:
        raise ValueError(f"--out must name a folder, such as runs/{name}, and is empty.")
    idles = ["landscape_measures", "landscape_examples"]
    if not values["loss_levels"]:  # else so many seeds keep their weights for it
        idles.append("landscape_seeds")
    for idle in idles:
        if values[idle] != getattr(default, idle) and not run["landscape"]:
            told = idle.replace("_", "-")
            raise ValueError(f"--{told} is of what --landscape measures: add --landscape.")
    chosen = study.Study(**values)
    if distributed:
        training.connect()
    else:
        training.use_cores(chosen.seeds * run["batch_devices"])
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


def sweep_command(arguments: list[str]) -> None:
    """Train a sweep."""
    name = _preset_of(arguments)
    from gapjax import study, training

    default = study.preset(name)
    options = study.sweep_options(name)
    own = {**options, "out": (str, f"runs/sweep-{name}", _RUN["out"][2])}
    fields = _options.fields_of(default, own, about=study.SWEEP_HELP, without=study.SWEEP_WITHOUT)
    values = vars(_options.parse(fields, arguments, prog="gapjax sweep [PRESET]"))
    out = values.pop("out")
    if not out:
        raise ValueError(f"--out must name a folder, such as runs/sweep-{name}, and is empty.")
    chosen = {key: values.pop(key) for key in options}
    # A sweep has no large batch, which a study would hold its small batch against.
    values["large_batch"] = max(default.large_batch, values["small_batch"] + 1)
    asked = study.Sweep(dataclasses.replace(default, **values), **chosen)
    training.use_cores(asked.study.seeds * asked.rates)
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


def report_command(arguments: list[str]) -> None:
    """Draw a report again."""
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

    if study.is_sweep(arguments[0]):
        raise ValueError(
            f"{arguments[0]} holds a sweep, and gapjax {name} takes a study; gapjax report draws "
            "the report of either."
        )
    return study.load_result(arguments[0])


def figures_command(arguments: list[str]) -> None:
    """Write a study's figures for a paper."""
    result = _result_of("figures", arguments)
    from gapjax import study

    folder = _paths.local_path("DIR", arguments[0]) / "figures"
    written = study.write_figures(result, folder)
    print(f"Figures: {folder} ({len(written)} files: SVG, PDF, and CSV of what they show)")


def table_command(arguments: list[str]) -> None:
    """Print a study's table."""
    import tyro

    @dataclasses.dataclass(frozen=True)
    class Table:
        """Print a study's table."""

        format: Annotated[str, tyro.conf.arg(help="latex, markdown or csv")] = "markdown"
        columns: Annotated[
            tuple[str, ...], tyro.conf.arg(help="headings, or how they begin; all if left out")
        ] = ()

    result = _result_of("table", arguments[:1])
    options = _options.parse(Table, arguments[1:], prog="gapjax table DIR")
    from gapjax import study

    print(study.format_table(result, options.format, options.columns), end="")


def cite_command(arguments: list[str]) -> None:
    """Print BibTeX of what a study used."""
    from gapjax import study

    print(study.bibliography(_result_of("cite", arguments)), end="")


def presets_command(arguments: list[str]) -> None:
    """List the presets, or those that are named."""
    from gapjax import study

    for name in arguments:
        if name.startswith("-"):
            raise ValueError(f"gapjax presets takes names of presets and no option, not {name!r}.")
        _checks.one_of("preset", name, study.PRESETS)
    for name in arguments or study.PRESETS:
        print(study.PRESETS[name].told(name))


def remedies_command(arguments: list[str]) -> None:
    """List batches and remedies."""
    if arguments:
        raise ValueError(f"gapjax remedies takes no arguments, not {' '.join(arguments)!r}.")
    from gapjax import study

    print("A regime is a batch and remedies, joined by +, such as LB+LR+GBN. Batches:\n")
    for name, (_, meaning) in study.BATCHES.items():
        print(f"  {name:8} {meaning}")
    print("  64       so many examples, any number\n\nRemedies:\n")
    for name, remedy in study.REMEDIES.items():
        print(f"  {name:8} {remedy.meaning}\n           {remedy.source}")


def data_command(arguments: list[str]) -> None:
    """Import a data set."""
    usage = "gapjax data import mnist --from ~/Downloads/mnist"
    if arguments and arguments[0] in HELP:
        arguments = ["import", arguments[0]]
    name, *rest = arguments[1:] or ["-"]
    if name in HELP:
        rest = [name]
    elif arguments[:1] != ["import"] or name.startswith("-"):
        raise ValueError(f"gapjax data has one command, import: {usage}")
    is_text = name == "text"
    if is_text:
        name, *rest = rest or ["-"]
        if name in HELP:
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
