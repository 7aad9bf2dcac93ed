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
_OWN = "of-the-preset"

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

    def argument(kind: Any, default: Any, help: str) -> Any:
        said = tyro.conf.arg(help=help)
        if not callable(default):
            return Annotated[kind, said]
        # A preset's own code has no name: it is the default, which a name takes the place of.
        code = tyro.constructors.PrimitiveConstructorSpec(
            nargs=1,
            metavar="STR",
            instance_from_str=lambda words: default if words == [_OWN] else words[0],
            is_instance=lambda _: True,
            str_from_instance=lambda _: [_OWN],
        )
        return Annotated[Any, said, code]

    fields: list[Any] = [
        (name, argument(*told), dataclasses.field(default=told[1]))
        for name, told in {**every, **own}.items()
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
            return tyro.cli(fields, args=arguments, prog=prog)
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
    blocks: list[list[str]] = [[]]
    for line in (line.strip(" │|") for line in box.splitlines()):
        if _is_rule(line):
            blocks.append([])
        elif line:
            blocks[-1].append(line)
    meant, text = "", []
    for block in blocks[1:]:  # before the first rule is the title, where the frame has none
        if block and block[0].startswith("Perhaps you meant"):
            meant = f" Did you mean {block[1].split()[0]}?"
        if not block or block[0].startswith(_REPETITIONS):
            break
        text += block
    said = " ".join(text).rstrip(".")
    for python, plain in _PLAIN.items():
        said = re.sub(f"Error parsing (\\S+): {python}", f"\\1 takes {plain}", said)
    return f"{said}.{meant}"


def _is_rule(line: str) -> bool:
    """Whether a line is of the frame: Unicode, or ASCII where it must be."""
    return line.startswith(("╭", "╰")) or re.fullmatch("─+|-{10,}", line) is not None


# Where what a boxed error says ends.
_REPETITIONS = ("Perhaps you meant", "Argument helptext", "For full helptext")

# How Python says that a value has the wrong type, and what is meant.
_PLAIN = {
    r"no type matching \{None\}\|\S+ could be instantiated from \[(.*?)\]\..*": r"a number or "
    r"None, not \2",
    r"invalid literal for int\(\) with base 10: (.*)": r"a whole number, not \2",
    r"could not convert string to float: (.*)": r"a number, not \2",
    r"Could not find valid parse for arguments: \[(.*)\]": r"numbers, not \2",
}
