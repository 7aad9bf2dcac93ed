"""What `warm_starts` kept, as tables and as numbers with their intervals over seeds."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks.papers.kept import check_kinds, machine_of, read_figures, table, told
from benchmarks.speed.timing import RESULTS
from gapjax import study

Kept = Mapping[str, Any]


def kept_figures() -> dict[str, Kept]:
    """Every kept run, by name."""
    found = {}
    for path in sorted(RESULTS.glob("warm_starts-*.json")):
        kept = read_figures(path, {"command": str, "settings": dict})
        check_kinds(path, kept["settings"], {"seeds": int})
        found[path.stem.rpartition("-")[0]] = kept
    return found


Values = Sequence[float | None]  # of every seed, None where it diverged


def mean(values: Values, less: Values | None = None) -> dict[str, Any]:
    """The mean over seeds, of a difference where `less` is given, paired by seed."""
    own = np.array(values, np.float64)[:, None]
    other = np.zeros_like(own) if less is None else np.array(less, np.float64)[:, None]
    found = dataclasses.asdict(study.paired_difference(own, other))
    # An accuracy is of single precision: what lies below that is no difference.
    return {end: found[end] and round(found[end], 7) for end in ("mean", "low", "high")}


def ratio(values: Values, under: Values | None = None) -> dict[str, Any]:
    """The geometric mean over seeds, of a ratio where `under` is given."""

    def logs(values: Values) -> list[float]:
        return np.log(np.array(values, np.float64)).tolist()

    found = mean(logs(values), None if under is None else logs(under))
    return {end: None if log is None else math.exp(log) for end, log in found.items()}


def section() -> str:
    """Both figures of every kept run, as tables."""
    return "\n".join(_tables(name, kept) for name, kept in kept_figures().items())


def _tables(name: str, kept: Kept) -> str:
    settings = kept["settings"]
    used = settings["train_examples"]

    def over(*found: Any) -> str:  # its interval, so that many fit beside each other
        return told(*found).replace(" [", "<br>[")

    batches = [
        (
            str(one["batch"]),
            told(mean(one["test_accuracy"]), 100.0),
            f"{np.mean(one['train_loss']):.2g}",
            told(ratio(one["sharpness"])),
        )
        for one in kept["batches"]
    ]
    starts = [
        (
            str(one["epochs"]),
            over(mean(one["small"]["test_accuracy"]), 100.0),
            over(mean(one["large"]["test_accuracy"]), 100.0),
            f"{np.mean(one['large']['train_loss']):.2g}",
            over(ratio(one["large"]["sharpness"])),
            *(
                ("", "")
                if one is kept["starts"][0]
                else (over(gained(kept, one), 100.0), over(sharper(kept, one)))
            ),
        )
        for one in kept["starts"]
    ]
    return "\n".join(
        [
            f"## {name}",
            "",
            f"{settings['model']} on {settings['dataset']}, {used:,} examples, Adam, "
            f"{settings['epochs']:g} epochs, {settings['seeds']} seeds; sharpness of all weights "
            f"with ε = 1e-3, on {settings['measured_examples']:,} of the examples. "
            "Intervals are over seeds; of sharpness the means are geometric.",
            "",
            "Figure 4, against the batch size:",
            "",
            *_rows(("batch", "test accuracy %", "training loss", "sharpness"), batches),
            "",
            f"Figure 5, batch {settings['large_batch']} from where batch {settings['small_batch']} "
            "was after some epochs (0: from scratch), for as many epochs as above. It saw more "
            "examples then; the training loss stands beside, since sharpness goes by it, too:",
            "",
            *_rows(
                (
                    "epochs of the small batch",
                    "its test accuracy %",
                    "the large batch from there",
                    "training loss",
                    "sharpness",
                    "points above from scratch",
                    "times as sharp",
                ),
                starts,
            ),
            "",
            f"`{kept['command']}` on {machine_of(kept['machine'])}.",
            "",
        ]
    )


def _rows(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return table([heads, ["---:"] * len(heads), *rows])


def gained(kept: Kept, one: Kept | None = None) -> dict[str, Any]:
    """Test accuracy of the large batch from a start (the last), above that from scratch."""
    one = one or kept["starts"][-1]
    return mean(one["large"]["test_accuracy"], kept["starts"][0]["large"]["test_accuracy"])


def sharper(kept: Kept, one: Kept | None = None) -> dict[str, Any]:
    """Sharpness of the large batch from a start (the last), over that from scratch."""
    one = one or kept["starts"][-1]
    return ratio(one["large"]["sharpness"], kept["starts"][0]["large"]["sharpness"])


def lost(kept: Kept) -> dict[str, Any]:
    """Test accuracy of the largest batch, above that of the smallest."""
    return mean(kept["batches"][-1]["test_accuracy"], kept["batches"][0]["test_accuracy"])


def sharpened(kept: Kept) -> dict[str, Any]:
    """Sharpness of the largest batch, over that of the smallest."""
    return ratio(kept["batches"][-1]["sharpness"], kept["batches"][0]["sharpness"])
