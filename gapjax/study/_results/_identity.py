"""What tells one experiment from another: values, data, and code with all that it reads.

A folder belongs to one experiment. Two functions of the same text are not the same function where a
closure, a default, a partial argument or a global that they read differs, so all of that is taken
into a hash: of code of the user's the compiled form, of a library's the name (versions are kept
beside). What has no state that could be read is named, so that the user can say ``version=``.
"""

import dataclasses
import dis
import enum
import functools
import hashlib
import importlib
import importlib.util
import inspect
import sys
import sysconfig
import types
from collections.abc import Mapping, Sequence, Set
from typing import Any

import jax
import numpy as np

_DEEPEST = 100
_SPECIAL = ("__call__", "__init__", "__post_init__")
# What a class has besides what it is: where a module of flax hangs in a tree of others, and what
# Python keeps for abstract classes.
_BESIDES = ("parent", "scope", "_state", "_abc_impl")
_LIBRARIES = tuple(sysconfig.get_path(kind) for kind in ("stdlib", "purelib", "platlib"))


class Identity:
    """A hash that values and code are put into.

    Example:
        >>> def factory(rate):
        ...     return lambda x: rate * x
        >>> identity(factory(1.0))[0] == identity(factory(1.0))[0]
        True
        >>> identity(factory(1.0))[0] == identity(factory(2.0))[0]
        False
    """

    def __init__(self) -> None:
        self._digest = hashlib.sha256()
        self._seen: dict[int, int] = {}
        self._alive: list[Any] = []  # an id is that of another object once the first is gone
        self.vague: list[str] = []

    def hexdigest(self) -> str:
        """What was put in, as 16 hexadecimal digits."""
        return self._digest.hexdigest()[:16]

    def _write(self, *parts: Any) -> None:
        for part in parts:
            data = part if isinstance(part, bytes) else str(part).encode("utf-8", "surrogatepass")
            self._digest.update(len(data).to_bytes(8, "little") + data)

    def add(self, value: Any, place: str = "", depth: int = 0) -> None:
        """Put in a value, with all that it holds."""
        if value is None or value is Ellipsis or isinstance(value, bool | int | float | complex):
            self._write(type(value).__name__, repr(value))
            return
        if isinstance(value, str | bytes) or type(value) is object:
            self._write(type(value).__name__, b"" if type(value) is object else value)
            return
        if id(value) in self._seen:  # met before, or within itself
            self._write("seen", self._seen[id(value)])
            return
        if depth > _DEEPEST:
            self.vague.append(place)
            return
        self._seen[id(value)] = len(self._seen)
        self._alive.append(value)
        self._add(value, place, depth + 1)

    def _add(self, value: Any, place: str, depth: int) -> None:
        if isinstance(value, jax.Array | np.ndarray | np.generic):
            self._array(value)
        elif isinstance(value, np.dtype):
            self._write("dtype", value)
        elif isinstance(value, enum.Enum):
            self._write("enum", type(value).__qualname__, value.name)
        elif isinstance(value, types.ModuleType):
            self._write("module", value.__name__)
        elif isinstance(value, type):
            self._class(value, place, depth)
        elif isinstance(value, functools.partial):
            self._items("partial", (value.func, value.args, value.keywords), place, depth)
        elif isinstance(value, types.MethodType):
            self._items("method", (value.__func__, value.__self__), place, depth)
        elif isinstance(value, types.FunctionType):
            self._function(value, place, depth)
        elif isinstance(value, types.BuiltinFunctionType | np.ufunc):
            self._write("builtin", getattr(value, "__qualname__", value))
        elif isinstance(value, staticmethod | classmethod | property):
            inner = value.fget if isinstance(value, property) else value.__func__
            self._items(type(value).__name__, (inner,), place, depth)
        elif isinstance(value, Mapping):
            self._write("mapping", type(value).__qualname__, len(value))
            for key in sorted(value, key=lambda k: (type(k).__name__, repr(k))):
                self.add(key, place, depth)
                self.add(value[key], f"{place}[{key!r}]", depth)
        elif isinstance(value, list | tuple):
            self._items(type(value).__qualname__, value, place, depth)
        elif isinstance(value, set | frozenset):
            self._write("set", *sorted(identity(item)[0] for item in value))
        elif inspect.unwrap(value) is not value if callable(value) else False:
            self._items("wrapped", (inspect.unwrap(value),), place, depth)
            # Of functions with rules for their derivatives, say, more than what they wrap.
            self._state(_beside_the_wrapped(value), place, depth)
        else:
            self._object(value, place, depth)

    def _array(self, value: Any) -> None:
        if jax.dtypes.issubdtype(getattr(value, "dtype", None), jax.dtypes.prng_key):
            value = jax.random.key_data(value)
        array = np.asarray(value)
        self._write("array", array.shape, array.dtype)
        if array.dtype == object:
            self._items("objects", array.ravel().tolist(), "", 0)
        else:
            self._write(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data.tobytes())

    def _items(self, kind: str, values: Any, place: str, depth: int) -> None:
        self._write(kind, len(values))
        for i, item in enumerate(values):
            self.add(item, f"{place}[{i}]" if kind in ("list", "tuple") else place, depth)

    def _function(self, function: types.FunctionType, place: str, depth: int) -> None:
        self._write("function", function.__qualname__)
        self._items("defaults", function.__defaults__ or (), place, depth)
        self.add(function.__kwdefaults__, place, depth)
        for name, cell in zip(
            function.__code__.co_freevars, function.__closure__ or (), strict=True
        ):
            try:
                self.add(cell.cell_contents, f"{place}.{name}", depth)
            except ValueError:  # not filled yet
                self._write("empty cell")
        if _is_library(function.__module__):
            self._write(function.__module__)
            return
        reads = _Reads()
        self._code(function.__code__, reads, place, depth)
        for name in sorted(reads.globals & set(function.__globals__)):
            value = function.__globals__[name]
            self._write("global", name)
            self.add(value, f"{place}.{name}", depth)
            if isinstance(value, types.ModuleType):
                self._module(value, reads.attributes, f"{place}.{name}", depth)
        for name in sorted(reads.modules):
            self._import(name, function, reads.attributes, place, depth)

    def _import(
        self,
        name: str,
        function: types.FunctionType,
        attributes: Set[str],
        place: str,
        depth: int,
    ) -> None:
        """Put in what a function reads of a module that it imports itself."""
        self._write("import", name)
        package = function.__globals__.get("__package__") or ""
        if not name.startswith(".") and _is_library(name):
            return
        try:
            module = importlib.import_module(name, package)
        except Exception:  # whatever a module of the user's raises, it will when it is called
            self.vague.append(f"{place} (import {name})")
            return
        self._module(module, attributes, f"{place}.{name}", depth)

    def _module(
        self,
        module: types.ModuleType,
        attributes: Set[str],
        place: str,
        depth: int,
        above: Sequence[types.ModuleType] = (),
    ) -> None:
        """Put in what may be read of a module of the user's, and of those in it."""
        if _is_library(module.__name__) or module in above:
            return
        for name in sorted(attributes & set(vars(module))):
            value = vars(module)[name]
            self._write("attribute", name)
            self.add(value, f"{place}.{name}", depth)
            if isinstance(value, types.ModuleType):
                self._module(value, attributes, f"{place}.{name}", depth, (*above, module))

    def _code(self, code: types.CodeType, reads: "_Reads", place: str, depth: int) -> None:
        """Put in what a function does; gathers what it may read."""
        reads.of(code)
        self._write("code", code.co_code, code.co_names, code.co_varnames, code.co_flags)
        for constant in code.co_consts:
            if isinstance(constant, types.CodeType):
                self._code(constant, reads, place, depth)
            elif isinstance(constant, frozenset):
                self._write("constant", sorted(map(repr, constant)))
            else:
                self._write("constant", type(constant).__name__, repr(constant))

    def _class(self, kind: type, place: str, depth: int) -> None:
        self._write("class", kind.__module__, kind.__qualname__)
        if _is_library(kind.__module__):
            return
        self._items("bases", kind.__bases__, place, depth)
        for name, value in sorted(vars(kind).items()):
            value = _without_wraps_of_libraries(value)
            made = getattr(getattr(value, "__code__", None), "co_filename", "") == "<string>"
            hidden = name.startswith("__") and name not in _SPECIAL
            if made or hidden or name in _BESIDES:  # by dataclasses, by Python, by flax
                continue
            self._write(name)
            self.add(value, f"{place}.{name}", depth)

    def _object(self, value: Any, place: str, depth: int) -> None:
        self.add(type(value), place, depth)
        if dataclasses.is_dataclass(value):
            fields = [f.name for f in dataclasses.fields(value) if f.name not in _BESIDES]
            state = {name: getattr(value, name, None) for name in fields}
        else:
            state = _state_of(value)
        if not state and not isinstance(value, BaseException) and " at 0x" in repr(value):
            self.vague.append(place)
        self._state(state, place, depth)
        if not state:
            self._write(repr(value) if " at 0x" not in repr(value) else type(value).__qualname__)

    def _state(self, state: Mapping[str, Any], place: str, depth: int) -> None:
        self._write("state", len(state))
        for name in sorted(state):
            self._write(name)
            self.add(state[name], f"{place}.{name}", depth)


class _Reads:
    """What functions may read from outside: globals, attributes of anything, modules."""

    def __init__(self) -> None:
        self.globals, self.attributes, self.modules = set[str](), set[str](), set[str]()

    def of(self, code: types.CodeType) -> None:
        """Gather what this code reads."""
        before: list[Any] = [0, 0]
        for one in dis.get_instructions(code):
            if one.opname in ("LOAD_GLOBAL", "LOAD_NAME"):
                self.globals.add(one.argval)
            elif one.opname in ("LOAD_ATTR", "LOAD_METHOD", "IMPORT_FROM"):
                self.attributes.add(one.argval)
            elif one.opname == "IMPORT_NAME":  # after how far up it is, and what is taken of it
                self.modules.add("." * before[-2] + one.argval)
            before.append(one.argval)


def _beside_the_wrapped(value: Any) -> dict[str, Any]:
    """The own state of what wraps a function, without what wrapping copies from it."""
    hidden = "_" if _is_library(type(value).__module__) else "__"
    return {k: v for k, v in _state_of(value).items() if not k.startswith(hidden)}


def _state_of(value: Any) -> dict[str, Any]:
    """The attributes of an object, in slots or not."""
    state: dict[str, Any] = {}
    for kind in type(value).__mro__:
        slots = vars(kind).get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if hasattr(value, name) and not name.startswith("__"):
                state[name] = getattr(value, name)
    return state | getattr(value, "__dict__", {})


def _without_wraps_of_libraries(value: Any) -> Any:
    """A method as the user wrote it, where a library, such as flax, has wrapped it."""
    while (
        isinstance(value, types.FunctionType)
        and hasattr(value, "__wrapped__")
        and value.__code__.co_filename.startswith(tuple(filter(None, _LIBRARIES)))
    ):
        value = value.__wrapped__
    return value


def identity(value: Any, place: str = "") -> tuple[str, list[str]]:
    """The hash of a value and all that it holds, and the places of what could not be read."""
    digest = Identity()
    digest.add(value, place)
    return digest.hexdigest(), digest.vague


def fingerprint(tree: Any) -> str:
    """A hash of every array, with its place, type and shape."""
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        digest.update(f"{jax.tree_util.keystr(path)}{leaf.shape}{leaf.dtype}".encode())
        digest.update(np.ascontiguousarray(leaf).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()[:16]


@functools.cache
def _is_library(module: str | None) -> bool:
    """Whether a module is installed, and so told by the version of its package."""
    root = (module or "").partition(".")[0]
    if root in ("gapjax", "builtins") or root in sys.builtin_module_names:
        return True
    if root in sys.modules:
        file = getattr(sys.modules[root], "__file__", None)
        path = getattr(sys.modules[root], "__path__", None)
    else:  # where it would come from, so that it is the same before and after
        found = importlib.util.find_spec(root) if root else None
        file, path = (found.origin, found.submodule_search_locations) if found else (None, None)
    places = [file] if file else list(path or ())
    return bool(places) and all(
        str(place).startswith(tuple(filter(None, _LIBRARIES))) for place in places
    )
