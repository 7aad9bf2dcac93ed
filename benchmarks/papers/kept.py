"""Kept results of studies: one JSON each under `benchmarks/results/papers`, and nothing else.

A page shows a number only if its run is kept beside it, with the command, the device and the
versions that made it.
"""

import json
import pathlib
import shlex
from collections.abc import Iterable, Mapping
from typing import Any

from benchmarks.speed.timing import RESULTS
from gapjax import study

FOLDER = RESULTS / "papers"
_OWN = ("regimes", "data_dir")  # of the settings: kept elsewhere, or of one machine
_FOLDERS = ("--out", "--data-dir", "--log-dir")
_MADE_BY = {"what": str, "command": str, "environment": dict, "settings": dict, "regimes": dict}
_VERSIONS = ("python", "jax", "flax", "optax")
_MACHINE = {**dict.fromkeys(("device", "processor", *_VERSIONS), str), "cores": int}
_SHOWN = {"task": dict, "baseline": list, "gap": dict, "finding": str, "comparisons": list}


def keep_study(folder: pathlib.Path, name: str, preset: str | None = None, note: str = "") -> None:
    """Keep what a study found, from its folder, as `results/papers/NAME.json`."""
    found = json.loads((folder / "results.json").read_text())
    config = json.loads((folder / "config.json").read_text())
    known = None if preset is None else study.PRESETS[preset]
    path = folder / "landscape.json"
    landscape = json.loads(path.read_text()) if path.exists() else None
    trained = config["environment"]
    if not trained["command"]:
        raise ValueError(
            f"{folder} does not say by which command it was trained, which a kept result must: "
            "train it with `gapjax study`, or give run_study(command=...)."
        )
    if landscape and landscape.get("environment"):
        landscape["environment"] = _environment(landscape["environment"])
    kept = {
        "what": known.meaning if known else name,
        "preset": preset,
        "note": note,
        "command": _portable(trained["command"]),
        "environment": {k: v for k, v in _environment(trained).items() if k != "command"},
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


def _environment(found: Mapping[str, Any]) -> dict[str, Any]:
    """How something ran, without what is of one machine alone."""
    command = found["command"]
    told = {k: v for k, v in found.items() if k != "platform"}
    return {**told, "command": command and _portable(command)}


def _portable(command: str) -> str:
    """A command without the folders of the machine that it ran on."""
    words, kept = iter(shlex.split(command)), list[str]()
    for word in words:
        option, given, _ = word.partition("=")
        if option.replace("_", "-") not in _FOLDERS:
            kept.append(word)
        elif not given:
            next(words, None)
    return shlex.join(kept)


def read_kept(path: pathlib.Path) -> dict[str, Any]:
    """A kept result.

    Raises:
        ValueError: it does not say how it was made.
    """
    try:
        kept = json.loads(path.read_text(), parse_constant=_no_number)
    except ValueError as error:
        raise ValueError(f"{path.name} is no JSON: {error}") from error
    if not isinstance(kept, dict):
        raise ValueError(f"{path.name} is a {type(kept).__name__}, and no kept result.")
    check_kinds(path, kept, _MADE_BY)
    device = kept["environment"].get("device")
    if not isinstance(device, str) or not _says_something(device):
        raise ValueError(f"{path.name} does not say on which device it was made.")
    return kept


def _read_study(path: pathlib.Path) -> dict[str, Any]:
    """A kept result of a study, with all that pages ask of one."""
    kept = read_kept(path)
    check_kinds(path, kept, _SHOWN)
    check_kinds(path, kept["environment"], {**_MACHINE, "gapjax": str})
    check_kinds(path, kept["settings"], {"seeds": int})
    ends = [kept["gap"].get(end) for end in ("low", "mean", "high")]
    numbers = [end for end in ends if end is not None]
    if not all(isinstance(end, int | float) for end in numbers) or numbers != sorted(numbers):
        raise ValueError(f"{path.name} has a gap that is no interval: {kept['gap']!r}.")
    return kept


def read_figures(path: pathlib.Path, kinds: Mapping[str, type]) -> dict[str, Any]:
    """What `timing.keep` wrote, with the machine and whatever else a page shows of it.

    Raises:
        ValueError: it lacks one of these.
    """
    kept = json.loads(path.read_text())
    check_kinds(path, kept, {"machine": dict, **kinds})
    check_kinds(path, kept["machine"], _MACHINE)
    return dict(kept)


def check_kinds(path: pathlib.Path, kept: Mapping[str, Any], kinds: Mapping[str, type]) -> None:
    """Refuse a result that lacks one of these, or has nothing there."""
    for name, kind in kinds.items():
        if not isinstance(kept.get(name), kind) or not _says_something(kept[name]):
            raise ValueError(
                f"{path.name} has no {name!r} that is a {kind.__name__}: a result is shown only "
                "with what made it. Run it again, or take it away."
            )


def _no_number(text: str) -> Any:
    raise ValueError(f"it holds {text}; what is not known is null")


def _says_something(value: Any) -> bool:
    return bool(value.strip() if isinstance(value, str) else value)


def all_kept(prefix: str | tuple[str, ...] = "") -> dict[str, dict[str, Any]]:
    """Every kept result whose name begins so (or in one of these ways), by name."""
    paths = sorted(filter(pathlib.Path.is_file, FOLDER.glob("*.json")), key=lambda path: path.stem)
    return {path.stem: _read_study(path) for path in paths if path.stem.startswith(prefix)}


def comparison(kept: Mapping[str, Any], regime: str, beside: int | str) -> Any:
    """Of a regime with another, or with an end of a study (0 the small batch); None without one."""
    other = kept["baseline"][beside] if kept and isinstance(beside, int) else beside
    for one in kept.get("comparisons", ()):
        if (one["regime"], one["baseline"]) == (regime, other):
            return one
    return None


def resolved(found: Mapping[str, Any]) -> bool:
    """Whether a comparison tells a difference from chance, all of its study counted."""
    return found["p_adjusted"] is not None and found["p_adjusted"] < 0.05


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
    versions = ", ".join(f"{k} {environment[k]}" for k in _VERSIONS)
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
