"""Options of the command line, parsed by tyro, with its errors cut down to one line."""

import contextlib
import dataclasses
import io
import os
import re
import shutil
from collections.abc import Collection, Iterator, Mapping
from typing import Annotated, Any

_NARROWEST = 40

# What takes an object from Python takes a name here.
_NAMES: dict[str, Any] = {
    "dataset": str,
    "model": str,
    "task": str,
    "optimizer": str,
    "schedule": str,
    "controller": str | None,
    "regimes": tuple[str, ...],
    "augment": tuple[str, ...],
}


def fields_of(
    study: Any,
    own: Mapping[str, tuple[Any, Any, str]],
    *,
    about: str,
    without: Collection[str] = (),
) -> type:
    """The fields of a study as a dataclass for the command line, a preset's values the defaults.

    Args:
        study: the preset.
        own: those of the command, by name: type, default, help.
        about: what the command does, for its help.
        without: fields of a study that it does not use.
    """
    import tyro

    defaults = {
        **vars(study),
        "task": study.task.name,
        "regimes": tuple(regime.name for regime in study.regimes),
    }
    every = {
        field.name: (
            _NAMES.get(field.name, field.type),
            defaults[field.name],
            field.metadata["help"],
        )
        for field in dataclasses.fields(study)
        if field.name not in without
    }
    fields: list[Any] = [
        (name, Annotated[kind, tyro.conf.arg(help=help)], dataclasses.field(default=default))
        for name, (kind, default, help) in {**every, **own}.items()
    ]
    made = dataclasses.make_dataclass("StudyFields", fields, frozen=True)
    made.__doc__ = about
    return made


def parse(fields: type, arguments: list[str], *, prog: str) -> Any:
    """Parse options with tyro, its errors cut down to one line."""
    import tyro

    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said), _wide_enough():
            return tyro.cli(
                fields, args=arguments, prog=prog, config=(tyro.conf.FlagCreatePairsOff,)
            )
    except SystemExit as stop:
        if not stop.code:
            raise
        own = " ".join(word for word in prog.split() if not re.fullmatch(r"\[?[A-Z]+\]?", word))
        raise ValueError(f"{_essence(said.getvalue())} See {own} --help.") from None


@contextlib.contextmanager
def _wide_enough() -> Iterator[None]:
    """Let help have a few columns, however narrow the terminal: with none at all it never ends."""
    before = os.environ.get("COLUMNS")
    if shutil.get_terminal_size().columns < _NARROWEST:
        os.environ["COLUMNS"] = str(_NARROWEST)
    try:
        yield
    finally:
        os.environ.pop("COLUMNS", None)
        if before is not None:
            os.environ["COLUMNS"] = before


def _essence(box: str) -> str:
    """What a boxed error says, without its frame and its repetition of the help."""
    lines = [line.strip(" │|") for line in box.splitlines()]
    text, meant = [], []
    for i, line in enumerate(lines):
        if not line or re.search("─{3}|-{3}", line):  # the frame: Unicode, or ASCII where it must
            continue
        if line.startswith("Perhaps you meant"):
            meant = [lines[i + 1].split()[0]]
            break
        if line.startswith(("Argument helptext", "For full helptext")):
            break
        text.append(line)
    hint = f" Did you mean {meant[0]}?" if meant else ""
    said = " ".join(text).rstrip(".")
    for python, plain in _PLAIN.items():
        said = re.sub(f"Error parsing (\\S+): {python}", f"\\1 takes {plain}", said)
    return f"{said}.{hint}"


# How Python says that a value has the wrong type, and what is meant.
_PLAIN = {
    r"no type matching \{None\}\|\S+ could be instantiated from \[(.*?)\]\..*": r"a number or "
    r"None, not \2",
    r"invalid literal for int\(\) with base 10: (.*)": r"a whole number, not \2",
    r"could not convert string to float: (.*)": r"a number, not \2",
    r"Could not find valid parse for arguments: \[(.*)\]": r"numbers, not \2",
}
