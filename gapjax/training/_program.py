"""What a compiled program needs and sends: its memory and its collectives."""

import math
import re
from collections.abc import Iterable
from typing import Any, NamedTuple

from gapjax._text import readable_bytes

_KINDS = (
    "all-reduce",
    "all-gather",
    "reduce-scatter",
    "all-to-all",
    "ragged-all-to-all",
    "collective-permute",
    "collective-broadcast",
)
# An asynchronous collective is a start and a done; what it leaves behind is the type of the done.
_COLLECTIVE = re.compile(rf'^\s+(?:ROOT )?\S+ = ([^"%]*?) ({"|".join(_KINDS)})(?:-done)?\(')
_ARRAY = re.compile(r"(\w+)\[([\d,]*)\]")
_COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) .*\{$")
_CALLED = re.compile(r"(\w+)=(?:%([\w.\-]+)|\{(%[^}]*)\})")


class Memory(NamedTuple):
    """Bytes on each device.

    Attributes:
        arguments: what the program is given.
        outputs: what it gives back.
        aliased: outputs that take the place of donated arguments.
        temporaries: what it needs in between: activations, gradients, gathered parameters.
    """

    arguments: int
    outputs: int
    aliased: int
    temporaries: int

    @property
    def peak(self) -> int:
        """Arguments, outputs of their own, and temporaries."""
        return self.arguments + self.outputs - self.aliased + self.temporaries


class Collective(NamedTuple):
    """One instruction by which devices exchange data.

    Attributes:
        kind: ``"all-reduce"``, ``"all-gather"``, ``"reduce-scatter"`` and so on.
        arrays: type and shape of each array it leaves on a device, such as ``("f32", (8, 128))``.
        bytes: of these arrays together.
        in_loop: whether it runs once per iteration of a compiled loop.
    """

    kind: str
    arrays: tuple[tuple[str, tuple[int, ...]], ...]
    bytes: int
    in_loop: bool


class Program(NamedTuple):
    """What ``inspect_program`` finds; ``str()`` gives a few lines for people.

    Attributes:
        memory: on each device; None where the backend does not tell.
        collectives: every one in the program's text, loops counted once.
    """

    memory: Memory | None
    collectives: tuple[Collective, ...]

    def by_kind(self) -> dict[str, tuple[int, int]]:
        """Kind -> how many collectives of it, and their bytes together."""
        kinds: dict[str, tuple[int, int]] = {}
        for one in self.collectives:
            count, size = kinds.get(one.kind, (0, 0))
            kinds[one.kind] = count + 1, size + one.bytes
        return kinds

    def __str__(self) -> str:
        lines = []
        if self.memory is not None:
            parts = zip(("peak", *Memory._fields), (self.memory.peak, *self.memory), strict=True)
            told = ", ".join(f"{name} {readable_bytes(size)}" for name, size in parts)
            lines.append(f"memory per device: {told}")
        lines += [
            f"{kind}: {count} of {readable_bytes(size)} together"
            for kind, (count, size) in self.by_kind().items()
        ]
        return "\n".join(lines if self.collectives else [*lines, "no collectives"])


def inspect_program(compiled: Any) -> Program:
    """Memory and collectives of a compiled program; nothing is run.

    Compile for ``jax.ShapeDtypeStruct`` and nothing is allocated either: what a step will need on
    many devices can be known before it is paid for. Bytes are those of one device and of one pass
    through the program's text: a collective in a loop counts once.

    Args:
        compiled: from ``jax.jit(f).lower(...).compile()`` or ``compile_step(...).lower(...)
            .compile()``.

    Returns:
        A ``Program``.

    Raises:
        ValueError: something that is not compiled.

    Example:
        >>> import jax
        >>> from jax.sharding import AxisType, NamedSharding, PartitionSpec
        >>> devices = jax.devices()[:1]
        >>> mesh = jax.make_mesh((1,), ("data",), axis_types=(AxisType.Auto,), devices=devices)
        >>> split = NamedSharding(mesh, PartitionSpec("data"))
        >>> x = jax.ShapeDtypeStruct((8, 128), "float32", sharding=split)
        >>> program = inspect_program(jax.jit(lambda x: x.sum(0)).lower(x).compile())
        >>> program.memory.arguments, program.memory.outputs, program.by_kind()
        (4096, 512, {})
    """
    if not hasattr(compiled, "memory_analysis"):
        raise ValueError(
            "inspect_program reads a compiled program, as jax.jit(f).lower(...).compile() gives; "
            f"this is a {type(compiled).__name__}"
            + (": call its .compile() first." if hasattr(compiled, "compile") else ".")
        )
    sizes = compiled.memory_analysis()
    memory = sizes and Memory(
        sizes.argument_size_in_bytes,
        sizes.output_size_in_bytes,
        sizes.alias_size_in_bytes,
        sizes.temp_size_in_bytes,
    )
    return Program(memory or None, tuple(_collectives(compiled.as_text())))


def _collectives(text: str) -> Iterable[Collective]:
    found: list[tuple[str, str, str]] = []  # where, kind, type
    calls: dict[str, set[str]] = {}
    bodies, where = set[str](), ""
    for line in text.splitlines():
        if opened := _COMPUTATION.match(line):
            where = opened[1]
            continue
        if made := _COLLECTIVE.match(line):
            found.append((where, made[2], made[1]))
        for role, one, several in _CALLED.findall(line):
            called = {name.strip(" %") for name in (one or several).split(",")}
            calls.setdefault(where, set()).update(called)
            if role == "body":
                bodies |= called
    looped = _reachable(bodies, calls)
    for where, kind, type_text in found:
        arrays = tuple(
            (dtype, tuple(int(n) for n in dims.split(",") if n))
            for dtype, dims in _ARRAY.findall(type_text)
        )
        size = sum(_item_bits(dtype) * math.prod(shape) for dtype, shape in arrays) // 8
        yield Collective(kind, arrays, size, where in looped)


def _reachable(start: set[str], calls: dict[str, set[str]]) -> set[str]:
    reached, left = set[str](), set(start)
    while left:
        reached |= left
        left = {name for one in left for name in calls.get(one, ())} - reached
    return reached


def _item_bits(dtype: str) -> int:
    """Bits of an element: the number in the name of its type, ``f32``, ``bf16``, ``f8e4m3fn``."""
    digits = re.search(r"\d+", dtype)
    return int(digits[0]) if digits else 8  # pred
