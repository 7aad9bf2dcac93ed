"""Kept results of studies: one JSON each under `benchmarks/results/papers`, and nothing else.

A page shows a number only if its run is kept beside it, with the command, the device and the
versions that made it.
"""

import json
import pathlib
import shlex
from collections.abc import Iterable, Mapping
from typing import Any

from benchmarks.speed.timing import RESULTS, machine
from gapjax import study

FOLDER = RESULTS / "papers"
_OWN = ("regimes", "data_dir")  # of the settings: kept elsewhere, or of one machine
_NEEDED = {"what": str, "command": str, "environment": dict, "settings": dict, "regimes": dict}


def keep_study(folder: pathlib.Path, name: str, preset: str | None = None, note: str = "") -> None:
    """Keep what a study found, from its folder, as `results/papers/NAME.json`."""
    found = json.loads((folder / "results.json").read_text())
    config = json.loads((folder / "config.json").read_text())
    known = None if preset is None else study.PRESETS[preset]
    path = folder / "landscape.json"
    landscape = json.loads(path.read_text()) if path.exists() else None
    if landscape and landscape.get("command"):
        landscape["command"] = _portable(landscape["command"])
    kept = {
        "what": known.meaning if known else name,
        "preset": preset,
        "note": note,
        "command": _portable(config["environment"]["command"]),
        "environment": {
            **{k: v for k, v in config["environment"].items() if k not in ("command", "platform")},
            "processor": machine()["processor"],
        },
        "paper": dict(known.paper) if known else {},
        "verified": bool(known and known.verified),
        "source": known.source if known else "",
        "differs": known.differs if known else "",
        "settings": {k: v for k, v in config["study"].items() if k not in _OWN},
        "task": found["task"],
        "baseline": found["baseline"],
        "finding": found["finding"],
        "gap": found["gap"],
        "comparisons": found["comparisons"],
        "regimes": found["regimes"],
        "landscape": landscape,
    }
    FOLDER.mkdir(parents=True, exist_ok=True)
    (FOLDER / f"{name}.json").write_text(json.dumps(_brief(kept), indent=1) + "\n")


def _portable(command: str) -> str:
    """A command without the folders of the machine that it ran on."""
    words, kept = shlex.split(command), list[str]()
    for before, word in zip(["", *words], words, strict=False):
        if not {before, word} & {"--out", "--data-dir"}:
            kept.append(word)
    return shlex.join(kept)


def read_kept(path: pathlib.Path) -> dict[str, Any]:
    """A kept result.

    Raises:
        ValueError: it does not say how it was made.
    """
    try:
        kept = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path.name} is no JSON: {error}") from error
    for name, kind in _NEEDED.items():
        if not isinstance(kept, dict) or not isinstance(kept.get(name), kind) or not kept[name]:
            raise ValueError(
                f"{path.name} has no {name!r}: a result is shown only with what made it. Run it "
                "again, or take it away."
            )
    if not kept["environment"].get("device"):
        raise ValueError(f"{path.name} does not say on which device it was made.")
    return kept


def all_kept(prefix: str | tuple[str, ...] = "") -> dict[str, dict[str, Any]]:
    """Every kept result whose name begins so (or in one of these ways), by name."""
    paths = sorted(FOLDER.glob("*.json"), key=lambda path: path.stem)
    return {path.stem: read_kept(path) for path in paths if path.stem.startswith(prefix)}


def comparison(kept: Mapping[str, Any], regime: str, end: int) -> Any:
    """Of a regime with one of the two ends of a study (0 the small batch); None without one."""
    for one in kept.get("comparisons", ()):
        if (one["regime"], one["baseline"]) == (regime, kept["baseline"][end]):
            return one
    return None


def gap_is_clear(kept: Mapping[str, Any]) -> bool:
    """Whether the large batch is told to be worse; of what is not, nothing closes a share."""
    low, high = kept["gap"]["low"], kept["gap"]["high"]
    if low is None or high is None:
        return False
    return bool(low > 0 if kept["task"]["maximize"] else high < 0)


def stops(*regimes: Mapping[str, Any]) -> list[int | None]:
    """Where the loss stopped the seeds of some regimes; None for one that never got there."""
    return [stop for regime in regimes for stop in regime.get("stopped") or ()]


def told(found: Mapping[str, Any], scale: float = 1.0) -> str:
    """A number with its 95% interval; an end that has no bound is a dash."""
    low, high = (
        "–" if found[end] is None else f"{scale * found[end]:z.3g}" for end in ("low", "high")
    )
    return f"{scale * found['mean']:z.3g} [{low}, {high}]"


def table(rows: Iterable[Iterable[str]]) -> list[str]:
    """The lines of a table, its heads and their line of dashes the first two rows."""
    return ["| " + " | ".join(row) + " |" for row in rows]


def machine_of(environment: Mapping[str, Any]) -> str:
    """What a result was made on."""
    versions = ", ".join(f"{k} {environment[k]}" for k in ("python", "jax", "flax", "optax"))
    return (
        f"{environment['device']} ({environment['processor']}, {environment['cores']} cores), "
        f"{versions}"
    )


def _brief(value: Any) -> Any:
    """Floats with six digits, which is more than their errors leave."""
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, dict):
        return {key: _brief(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_brief(inner) for inner in value]
    return value
