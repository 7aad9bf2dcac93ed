"""The result of a study, and how it is read back from its folder."""

import os
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from gapjax.study import _diffusion, _folder, _measure


class StudyResult(NamedTuple):
    """What a study found.

    Attributes:
        config: ``{"study": its fields, "run": command, versions, device}``.
        regimes: per regime what ``results.json`` holds.
        history: per regime ``update`` [T] and per seed losses, accuracies and distance, [T][S].
        landscape: what ``landscape.json`` holds, None where the minima were not measured.
    """

    config: dict[str, Any]
    regimes: dict[str, dict[str, Any]]
    history: dict[str, dict[str, Any]]
    landscape: dict[str, Any] | None = None


def load_result(folder: str | os.PathLike[str]) -> StudyResult:
    """The result of a study, read from its folder; of one under way, the regimes that are done.

    Raises:
        ValueError: no study is there, or none of its regimes is done.
    """
    folder = pathlib.Path(folder).expanduser()
    config = _folder.read_json(folder / "config.json", "study", "run")
    names = [regime["name"] for regime in config["study"]["regimes"]]
    kept = {name: folder / "regimes" / f"{name}.json" for name in names}
    records = {
        name: _folder.read_json(path, "result", "history")
        for name, path in kept.items()
        if path.exists()
    }
    if not records:
        raise ValueError(f"no regime of the study in {folder} is done yet: run it first.")
    regimes = {name: record["result"] for name, record in records.items()}
    _compare(regimes, lambda result: result)
    if all(result["tuned"] for result in regimes.values()):
        _compare(regimes, lambda result: result["tuned"])
    history = {name: record["history"] for name, record in records.items()}
    _diffusion.add_diffusion(regimes, history)
    minima = folder / "landscape.json"
    landscape = (
        _folder.read_json(minima, "mode", "settings", "regimes") if minima.exists() else None
    )
    return StudyResult(config, regimes, history, landscape)


def _compare(regimes: dict[str, dict[str, Any]], part: Callable[[dict[str, Any]], Any]) -> None:
    """Add to each regime the share of the gap it closes."""
    accuracy = {
        name: np.array(part(result)["test_accuracy"]["values"], np.float64)
        for name, result in regimes.items()
    }
    nothing = np.full(1, np.nan)
    small, large = accuracy.get("SB", nothing), accuracy.get("LB", nothing)
    for name, result in regimes.items():
        comparable = len(small) == len(large) == len(accuracy[name])
        part(result)["gap_closed"] = (
            _measure.gap_closed(accuracy[name], small, large)
            if comparable
            else {"mean": None, "low": None, "high": None}
        )
