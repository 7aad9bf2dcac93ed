"""Modules that are loaded when they are first touched."""

import importlib
from collections.abc import Callable, Collection
from typing import Any


def loading(package: str, names: Collection[str]) -> Callable[[str], Any]:
    """What a package takes for its ``__getattr__``, so that these modules in it load by themselves.

    Type checkers are to see imports in its place: they would take any name of the package as known.

    Example:
        >>> loading("gapjax", ["data"])("data").__name__
        'gapjax.data'
    """

    def load(name: str) -> Any:
        if name in names:
            return importlib.import_module(f"{package}.{name}")
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    return load
