"""Reading the tables of CIFAR's python archives without running what a pickle may ask for.

A pickle is a program. Here its few instructions that build plain values are carried out by hand;
what it would call (``numpy.core.multiarray._reconstruct`` and its kin) is kept as a name beside its
arguments and never looked up. Arrays are then read out of their bytes, where type, shape and length
agree. Neither NumPy's ``__setstate__`` nor a ``dtype`` object of the file's making is involved.
"""

import dataclasses
import math
import pickletools
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

_INSTRUCTIONS = 1_000_000  # CIFAR-100 takes 400,000
_INTEGERS = {f"{kind}{size}" for kind in "iu" for size in (1, 2, 4, 8)}


class _Name(NamedTuple):
    """What a pickle would import."""

    module: str
    name: str


@dataclasses.dataclass(eq=False)
class _Call:
    """What a pickle would call, and the state it would then set."""

    function: Any
    arguments: Any
    state: Any = None


_MARK = object()


def read_table(content: bytes) -> dict[bytes, Any]:
    """The table that a pickle of Python 2 or 3 holds.

    Returns:
        Its values by name: lists and texts (as bytes) as they are, arrays of whole numbers as
        arrays.

    Raises:
        ValueError: it is no pickle, no table, or holds anything but plain values and such arrays.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of odd escapes in texts
            made = _run(content)
    except (IndexError, KeyError, TypeError, AttributeError, OverflowError, MemoryError) as error:
        raise ValueError(f"not a pickle of plain values: {error}") from error
    if not isinstance(made, dict):
        raise ValueError("it holds no table")
    return {_as_bytes(key): _value(value) for key, value in made.items()}


def _run(content: bytes) -> Any:
    """Carry out the instructions that make plain values."""
    stack: list[Any] = []
    memo: dict[int, Any] = {}

    def since_mark() -> list[Any]:
        place = len(stack) - 1
        while stack[place] is not _MARK:
            place -= 1
            if place < 0:
                raise ValueError("a mark is missing")
        items = stack[place + 1 :]
        del stack[place:]
        return items

    argument: Any
    for count, (instruction, argument, _) in enumerate(pickletools.genops(content)):
        name = instruction.name
        if count > _INSTRUCTIONS:
            raise ValueError(f"it holds more than {_INSTRUCTIONS} values")
        if name in ("PROTO", "FRAME"):
            continue
        if name in _PLAIN:
            make = _PLAIN[name]
            stack.append(argument if make is None else make())
        elif name == "MARK":
            stack.append(_MARK)
        elif name in ("PUT", "BINPUT", "LONG_BINPUT"):
            memo[argument] = stack[-1]
        elif name == "MEMOIZE":
            memo[len(memo)] = stack[-1]
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(memo[argument])
        elif name in _TUPLES:
            items = since_mark() if name == "TUPLE" else _take(stack, _TUPLES[name])
            stack.append(tuple(items))
        elif name == "LIST":
            stack.append(since_mark())
        elif name == "DICT":
            stack.append(_pairs(since_mark()))
        elif name in ("APPEND", "APPENDS"):
            items = since_mark() if name == "APPENDS" else _take(stack, 1)
            _kind(stack[-1], list).extend(items)
        elif name in ("SETITEM", "SETITEMS"):
            items = since_mark() if name == "SETITEMS" else _take(stack, 2)
            _kind(stack[-1], dict).update(_pairs(items))
        elif name == "GLOBAL":
            stack.append(_named(*argument.split(" ", 1)))
        elif name == "STACK_GLOBAL":
            stack.append(_named(*_take(stack, 2)))
        elif name == "REDUCE":
            function, arguments = _take(stack, 2)
            stack.append(_call(function, _kind(arguments, tuple)))
        elif name == "BUILD":
            (state,) = _take(stack, 1)
            _kind(stack[-1], _Call).state = state
        elif name == "STOP":
            return stack.pop()
        else:
            raise ValueError(f"it holds the instruction {name}, which no table of CIFAR needs")
    raise ValueError("it ends early")


_PLAIN: dict[str, Callable[[], Any] | None] = {
    **dict.fromkeys(("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1")),
    **dict.fromkeys(("STRING", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES")),
    **dict.fromkeys(("BINBYTES8", "BYTEARRAY8", "UNICODE", "SHORT_BINUNICODE", "BINUNICODE")),
    **dict.fromkeys(("BINUNICODE8", "BINFLOAT", "FLOAT")),
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_DICT": dict,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
}
_TUPLES = {"TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


def _take(stack: list[Any], count: int) -> list[Any]:
    items = stack[-count:]
    if len(items) < count or any(item is _MARK for item in items):
        raise ValueError("a value is missing")
    del stack[-count:]
    return items


def _kind(value: Any, kind: type) -> Any:
    if not isinstance(value, kind):
        raise ValueError(f"it treats {type(value).__name__} as {kind.__name__}")
    return value


def _pairs(items: list[Any]) -> dict[Any, Any]:
    keys = items[::2]
    if len(items) % 2 or not all(isinstance(key, str | bytes) for key in keys):
        raise ValueError("a table's names must be texts")
    return dict(zip(keys, items[1::2], strict=True))


_MEANT = {
    ("_reconstruct", "multiarray"),
    ("scalar", "multiarray"),
    ("_frombuffer", "numeric"),
    ("ndarray", "numpy"),
    ("dtype", "numpy"),
    ("encode", "_codecs"),  # how Python 3 writes bytes at protocol 2
    ("bytes", "__builtin__"),  # and empty ones
}


def _named(module: Any, name: Any) -> _Name:
    """What is named, if it is one of the few that stand for an array or for bytes."""
    parts = str(module).split(".")
    if parts[0] not in ("numpy", "_codecs", "__builtin__") or (name, parts[-1]) not in _MEANT:
        raise ValueError(f"it asks for {str(module)[:80]}.{str(name)[:80]}")
    return _Name(parts[-1], name)


def _call(function: Any, arguments: tuple[Any, ...]) -> Any:
    if _kind(function, _Name).name == "bytes" and not arguments:
        return b""
    if function.name == "encode":
        text, coding = arguments
        if coding != "latin1":
            raise ValueError(f"it holds bytes as {str(coding)[:80]}")
        return _kind(text, str).encode("latin-1")
    return _Call(function, arguments)


def _as_bytes(text: Any) -> bytes:
    return text.encode("latin-1", "replace") if isinstance(text, str) else bytes(text)


def _value(value: Any) -> Any:
    """A value of the table: arrays as arrays, numbers of NumPy as numbers."""
    if isinstance(value, _Call):
        return _array(value)
    if isinstance(value, list):
        return [_number(item) if isinstance(item, _Call) else item for item in value]
    return value


def _array(call: _Call) -> np.ndarray:
    """The array that ``_reconstruct`` and its state, or ``_frombuffer``, stand for."""
    if call.function.name == "_frombuffer":
        content, kind, shape, order = call.arguments
    elif call.function.name == "_reconstruct":
        _, shape, kind, fortran, content = _kind(call.state, tuple)
        order = "F" if fortran else "C"
    else:
        raise ValueError(f"it holds {call.function.name} where an array should be")
    dtype = _dtype(kind)
    content = content.encode("latin-1") if isinstance(content, str) else content  # of Python 2
    if not isinstance(content, bytes | bytearray) or not isinstance(shape, tuple):
        raise ValueError("an array's bytes are missing")
    if not all(type(n) is int and n >= 0 for n in shape) or order not in ("C", "F"):
        raise ValueError("an array's shape is none")
    if math.prod(shape) * dtype.itemsize != len(content):
        raise ValueError(f"an array of {dtype}{list(shape)} holds {len(content)} bytes")
    return np.frombuffer(content, dtype).reshape(shape, order=order)


def _number(call: _Call) -> int:
    """The whole number that NumPy's ``scalar`` stands for."""
    if call.function.name != "scalar":
        raise ValueError(f"it holds {call.function.name} where a number should be")
    kind, content = call.arguments
    dtype = _dtype(kind)
    content = content.encode("latin-1") if isinstance(content, str) else content
    if not isinstance(content, bytes) or len(content) != dtype.itemsize:
        raise ValueError("a number's bytes are missing")
    return int(np.frombuffer(content, dtype)[0])


def _dtype(kind: Any) -> np.dtype:
    """A type of whole numbers, by its name alone."""
    _kind(kind, _Call)
    name = kind.arguments[0] if kind.function.name == "dtype" and kind.arguments else None
    name = name.decode("latin-1") if isinstance(name, bytes) else name
    state = kind.state or (None, "<")
    order = state[1].decode("latin-1") if isinstance(state[1], bytes) else state[1]
    if not isinstance(name, str) or name.lstrip("<>|=") not in _INTEGERS:
        raise ValueError(f"it holds an array of {str(name)[:40]}; whole numbers are meant")
    if order not in ("<", ">", "|", "=") or any(part is not None for part in state[2:5]):
        raise ValueError("it holds an array whose type has parts")
    return np.dtype(order.replace("|", "<") + name.lstrip("<>|="))
