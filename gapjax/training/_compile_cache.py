"""Compiled programs kept on disk: whole or absent, for several processes and after kills.

JAX writes an entry in place and never again, and locks the folder only where it may grow to a
maximum size. So a reader meets entries that are half written, and one that a kill cut off warns
for ever. Its paths, though, are made by ``etils.epath``, where a prefix may stand for a class of
paths of one's own: these write a file whole, and take a broken one for none.
"""

import contextlib
import importlib
import os
import pathlib
import sys
import tempfile
import time
import zlib
from typing import Any

import jax

_PREFIX = "gapjax-compiled://"
_PART = ".part-"
_LEFT = 3600  # seconds after which nobody is writing a part any more


def enable_compile_cache(folder: str | os.PathLike[str] | None = None) -> pathlib.Path | None:
    """Keep compiled programs on disk, so that a second run compiles almost nothing.

    Sets JAX's persistent compilation cache for this process, for programs of any size. Processes
    may share a folder, and may be killed: an entry is there whole or not at all, and a broken one
    is compiled anew and replaced. Where nothing can be written nothing is kept, and nothing said.
    Whoever can write to the folder can make this program run what they like: use one that only you
    can write.

    Args:
        folder: where to; ``gapjax/compiled`` in ``$XDG_CACHE_HOME`` or ``~/.cache`` by default.

    Returns:
        The folder; None if there is none and none can be made, as without a home.

    Example:
        >>> enable_compile_cache("/scratch/me/compiled")  # doctest: +SKIP
        PosixPath('/scratch/me/compiled')
    """
    try:
        home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
        path = pathlib.Path(folder or f"{home}/gapjax/compiled").expanduser().absolute()
        path.mkdir(parents=True, exist_ok=True)
        _clear(path)
    except (OSError, RuntimeError):  # no home
        return None
    _register()
    jax.config.update("jax_compilation_cache_dir", f"{_PREFIX}{path}")
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    return path


class _WholeFile(type(pathlib.Path())):  # type: ignore[misc]
    """A path whose file is there whole, or not at all."""

    def __new__(cls, *parts: Any) -> "_WholeFile":
        return super().__new__(cls, *_without_prefix(parts))

    if sys.version_info >= (3, 12):

        def __init__(self, *parts: Any) -> None:
            super().__init__(*_without_prefix(parts))

    def exists(self, **options: Any) -> bool:
        """Whether there is a folder, or a file that is whole; what it holds is read next."""
        if self.is_dir():
            return True
        try:
            data = super().read_bytes()
        except OSError:
            return False
        self._held = data if _is_whole(data) else None
        return self._held is not None

    def read_bytes(self) -> bytes:
        """What is in the file, as it was when it was found to exist."""
        held = getattr(self, "_held", None)
        return super().read_bytes() if held is None else held

    def write_bytes(self, data: bytes) -> int:
        """Write the file beside its place and move it there; where that fails, there is none."""
        beside = None
        try:
            with tempfile.NamedTemporaryFile(
                dir=self.parent, prefix=".part-", delete=False
            ) as file:
                beside = file.name
                file.write(data)
            os.replace(beside, self)
        except OSError:
            if beside is not None:
                with contextlib.suppress(OSError):
                    os.unlink(beside)
        return len(data)


def _without_prefix(parts: tuple[Any, ...]) -> tuple[Any, ...]:
    first, *others = parts or ("",)
    return (first.removeprefix(_PREFIX) if isinstance(first, str) else first, *others)


def _clear(folder: pathlib.Path) -> None:
    """Remove what processes that were killed left half written."""
    for part in folder.glob(f"{_PART}*"):
        with contextlib.suppress(OSError):
            if time.time() - part.stat().st_mtime > _LEFT:
                part.unlink()


def _register() -> None:
    from etils import epath

    epath.register_path_cls(_PREFIX)(_WholeFile)


def _is_whole(data: bytes) -> bool:
    """Whether an entry is not cut: a stream of zlib or, where it is installed, of Zstandard."""
    for name in ("compression.zstd", "zstandard"):  # as JAX chooses
        try:
            library = importlib.import_module(name)
        except ImportError:
            continue
        decompress = getattr(library, "decompress", None)
        with contextlib.suppress(Exception):  # each has its own
            return decompress is not None and bool(decompress(data))
        return False
    stream = zlib.decompressobj()
    with contextlib.suppress(zlib.error):
        stream.decompress(data)
    return stream.eof
