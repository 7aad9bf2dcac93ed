"""Numbers on the pages, read from the kept results, so that none can be out of date."""

import json
import pathlib
from collections.abc import Mapping
from typing import Any

RESULTS = pathlib.Path(__file__).parent.parent / "benchmarks" / "results"
NOT_MEASURED = "not measured"


def _kept(name: str) -> Any:
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text()) if path.exists() else {}


def _at(kept: Any, *keys: str) -> Any:
    for key in keys:
        kept = kept.get(key, {}) if isinstance(kept, Mapping) else {}
    return kept


def _ratio(name: str, at: tuple[str, ...], ours: str, peer: str) -> str:
    """How long ours takes, the peer's time being 1, by medians of interleaved runs."""
    timings = _at(_kept(name), *at)
    if ours not in timings or peer not in timings:
        return NOT_MEASURED
    return f"{timings[ours]['ratio'] / timings[peer]['ratio']:.2f}"


def evidence() -> dict[str, str]:
    """What the pages call by name: ``{{ name }}``."""
    conv = ("figures", "conv", "timings")
    found = {}
    for device in ("cpu", "gpu"):
        for size in (32, 64, 128):
            ours = f"ghost_size={size}"
            found[f"ghost_{size}_{device}"] = _ratio(
                f"ghost_norm-{device}", conv, ours, "flax BatchNorm"
            )
        found[f"seeds_{device}"] = _ratio(
            f"population-{device}", ("digits-mlp", "timings"), "64 seeds", "1 seed"
        )
    return found
