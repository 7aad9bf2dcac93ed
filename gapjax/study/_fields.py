"""Fields of a study: default, what the command line says of it, and what its value may be."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from gapjax import _checks
from gapjax._paths import local_path

Check = Callable[[str, Any], Any]


def setting(default: Any, help: str, check: Check | None = None) -> Any:
    return dataclasses.field(default=default, metadata={"help": help, "check": check})


def whole(least: int = 1, most: int | None = None) -> Check:
    return lambda name, value: _checks.whole(name, value, least=least, most=most)


def number(**bounds: float) -> Check:
    return lambda name, value: _checks.number(name, value, **bounds)


def optional(check: Check) -> Check:
    return lambda name, value: None if value is None else check(name, value)


def several(such_as: str, check: Check = lambda name, value: value) -> Check:
    def each(name: str, values: Any) -> tuple[Any, ...]:
        if isinstance(values, str | bytes) or not isinstance(values, Sequence):
            raise ValueError(f"{name} must be several, such as {such_as}, not {values!r}.")
        return tuple(check(f"{name}[{i}]", value) for i, value in enumerate(values))

    return each


def text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{name} must be a text, not {value!r}.")
    return value


def folder(name: str, value: Any) -> Any:
    local_path(name, value)
    return value


def one_of(*choices: str) -> Check:
    return lambda name, value: _checks.one_of(name, value, choices)
