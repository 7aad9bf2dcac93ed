"""Single bits that flip in files that are read again: all noticed, or nothing changed.

`python -m benchmarks.faults.flips [COUNT]` writes one small folder of every kind (`folders.py`),
flips one bit of one file at a time, COUNT times over all kinds (200 by default, every file at least
once), and reads it. An error of one line counts as noticed; the same value as before (a space of
JSON, a part that is made again) as harmless; another value as wrong, which must not be. Kept in
`benchmarks/results/flips-cpu.json`.
"""

import collections
import pathlib
import sys
import tempfile
from collections.abc import Iterator
from typing import Any

import numpy as np

from benchmarks.faults.folders import Kind, make, quiet


def flip_bits(kind: Kind, count: int, rng: np.random.Generator) -> Iterator[tuple[str, str]]:
    """Flip bits in files of a folder, one at a time; what came of each, and the file."""
    with quiet():
        wanted = kind.read()
        files = sorted(p for p in kind.folder.rglob("*") if p.is_file() and p.stat().st_size)
        for number in range(max(count, len(files))):
            path = files[number % len(files)]
            good = path.read_bytes()
            bad = bytearray(good)
            bad[rng.integers(len(bad))] ^= 1 << int(rng.integers(8))
            path.write_bytes(bad)
            name = path.relative_to(kind.folder).as_posix()
            try:
                yield ("harmless" if kind.read() == wanted else "wrong"), name
            except ValueError as error:
                yield ("noticed" if "\n" not in str(error) else "noticed in several lines"), name
            except Exception as error:  # a traceback
                yield f"{type(error).__name__}: {error}"[:200], name
            finally:
                _put_back(kind, path, good)


def _put_back(kind: Kind, path: pathlib.Path, good: bytes) -> None:
    """What was put aside as damaged comes back, too."""
    for aside in kind.folder.glob("*.damaged"):
        aside.rename(aside.with_suffix(""))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(good)


def main(count: int) -> dict[str, Any]:
    """Flip so many bits, and tell what came of it."""
    rng = np.random.default_rng(0)
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        kinds = make(pathlib.Path(folder) / "all")
        for name, kind in kinds.items():
            found = list(flip_bits(kind, -(-count // len(kinds)), rng))
            figures[name] = {
                "files": len({path for _, path in found}),
                **collections.Counter(what for what, _ in found),
            }
            others = [one for one in found if one[0] not in ("noticed", "harmless")]
            print(f"{name}: {figures[name]}", *others[:5], sep="\n  ")
    totals = collections.Counter[str]()
    for counts in figures.values():
        totals.update({k: v for k, v in counts.items() if k != "files"})
    return {"total": dict(totals), "kinds": figures}


if __name__ == "__main__":
    from benchmarks.speed.timing import keep

    figures = main(int(sys.argv[1]) if len(sys.argv) > 1 else 200)
    print(figures["total"])
    print(f"kept in {keep('flips', figures)}")
