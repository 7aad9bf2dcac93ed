"""Every speed benchmark, or those named, and one table of what they found.

`python -m benchmarks [NAME ...] [--kept] [--json]`: figure, ours, its peer, their ratio, the target
and whether it is met. `--kept` reads what earlier runs kept instead of running anything. Peers need
the extra `bench`. The exit code is 1 where a benchmark failed.
"""

import argparse
import dataclasses
import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax

from benchmarks.speed.timing import RESULTS

Kept = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Figure:
    """A figure that has a target: a ratio of two timings that were taken in turn.

    Attributes:
        benchmark: the module of `benchmarks.speed`, and the file that it keeps.
        at: the keys that lead to the timings.
        ours: the timing of ours.
        peer: that of what it is held against: another library, the bare loop, or the hardware.
        most: the target, for ours over the peer; None where the figure has none.
    """

    benchmark: str
    at: tuple[str, ...]
    ours: str
    peer: str
    most: float | None = None

    def row(self, kept: Kept) -> dict[str, Any] | None:
        """The figure from a kept result, or None where it does not hold it."""
        timings: Any = kept
        for key in self.at:
            timings = timings.get(key, {})
        if self.ours not in timings or self.peer not in timings:
            return None
        ours, peer = timings[self.ours], timings[self.peer]
        ratio = ours["ratio"] / peer["ratio"]
        return {
            "figure": f"{self.benchmark}: {', '.join(k for k in self.at if k != 'timings')}",
            "ours": f"{self.ours}, {1e3 * ours['seconds']:.4g} ms",
            "peer": f"{self.peer}, {1e3 * peer['seconds']:.4g} ms",
            "ratio": round(ratio, 3),
            "target": None if self.most is None else round(self.most, 3),
            "met": None if self.most is None else ratio <= self.most,
        }


def _ghosts(what: str) -> Iterator[Figure]:
    at = ("figures", what, "timings")
    for size in (32, 64, 128):
        yield Figure("ghost_norm", at, f"ghost_size={size}", "flax BatchNorm", 1.0)
        yield Figure("ghost_norm", at, f"ghost_size={size}", f"torch chunks of {size}", 1.0)
    yield Figure("ghost_norm", at, "ghost_size=32", "memory floor")


FIGURES: tuple[Figure, ...] = (
    *(
        Figure(
            "train_step",
            (f"batch {size}", "timings"),
            "study, one seed",
            "bare loop, one seed",
            1.05,
        )
        for size in (16, 640)
    ),
    *(
        figure
        for network in ("F1", "ResNet-8, thin")
        for figure in (
            Figure("train_step", ("fit", network, "timings"), "fit", "bare loop", 1.1),
            Figure("train_step", ("fit", network, "timings"), "fit", "PyTorch", 1.0),
        )
    ),
    *(
        Figure("regimes", (regime, "timings"), "study", peer, most)
        for regime in ("SB", "LB", "ghosts")
        # The products alone should take 0.85 of the time.
        for peer, most in (("PyTorch", 1.0), ("PyTorch, ghost by ghost", 1.0), ("floor", 1 / 0.85))
    ),
    *(figure for what in ("conv", "dense") for figure in _ghosts(what)),
    Figure("population", ("digits-mlp", "timings"), "64 seeds", "1 seed"),
    Figure("population", ("f1", "timings"), "64 seeds", "floor, 64 seeds"),
    *(
        figure
        for network in ("conv", "f1")
        for figure in (
            Figure("landscape", (network, "unit"), "product", "gradient", 2.5),
            Figure("landscape", (network, "top-5"), "gapjax", "curvlinops", 1.0),
            Figure("landscape", (network, "top-5"), "gapjax", "PyHessian, tol 0.001", 1.0),
        )
    ),
    *(
        Figure("noise_scale", (network,), "with noise", peer, most)
        for network in ("linen", "nnx")
        for peer, most in (("plain", 1.05), ("single examples", None))
    ),
    *(
        Figure("records", (f"like {images}, decoded, in order",), "tfrecord", "array_record", 1.2)
        for images in ("MNIST", "CIFAR-10", "ImageNet")
    ),
)


def rows(names: list[str]) -> list[dict[str, Any]]:
    """A row for every figure of these benchmarks that was kept on this kind of device."""
    found = []
    for name in names:
        path = RESULTS / f"{name}-{jax.default_backend()}.json"
        kept = json.loads(path.read_text()) if path.exists() else {}
        made: list[Callable[[Kept], Any]] = [f.row for f in FIGURES if f.benchmark == name]
        found += [row for row in (make(kept) for make in made) if row]
    return found


def _table(found: list[dict[str, Any]]) -> str:
    heads = ["figure", "ours", "peer", "ratio", "target", "met"]
    text = [heads] + [["" if row[h] is None else str(row[h]) for h in heads] for row in found]
    widths = [max(len(line[i]) for line in text) for i in range(len(heads))]
    return "\n".join(
        "  ".join(part.ljust(width) for part, width in zip(line, widths, strict=True)).rstrip()
        for line in text
    )


def main() -> None:
    """The command line."""
    figured = sorted({figure.benchmark for figure in FIGURES})
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(figured)}")
    parser.add_argument("--kept", action="store_true", help="run nothing")
    parser.add_argument("--json", action="store_true", help="print JSON")
    asked = parser.parse_args()
    unknown = [name for name in asked.names if name not in figured]
    if unknown:
        parser.error(f"no benchmark {unknown[0]!r}: there are {', '.join(figured)}")
    names, failed = asked.names or figured, False
    if not asked.kept:
        for name in names:
            command = [sys.executable, "-m", f"benchmarks.speed.{name}"]
            if subprocess.run(command, stdout=sys.stderr).returncode:
                print(f"{name} failed; its figures are those kept earlier", file=sys.stderr)
                failed = True
    found = rows(names)
    print(json.dumps(found, indent=1) if asked.json else _table(found))
    sys.exit(failed)


if __name__ == "__main__":
    main()
