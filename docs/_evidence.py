"""Numbers on the pages, read from the kept results, so that none can be out of date."""

import json
import pathlib
from collections.abc import Mapping
from typing import Any

from benchmarks.papers import held
from benchmarks.papers.kept import all_kept, comparison, gap_is_clear, resolved
from benchmarks.papers.pages import remedies_table

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


def _told(found: Any, shape: str, scale: float = 1.0) -> str:
    mean, low, high = (format(scale * found[end], shape) for end in ("mean", "low", "high"))
    return f"{mean} [{low}, {high}]"


def _remedy(name: str, kept: str) -> str:
    """What a remedy adds to the large batch in points; in bold where all comparisons resolve it."""
    found = comparison(_kept(f"papers/{kept}"), f"LB+{name}", 1)
    if found is None:
        return NOT_MEASURED
    told = _told(found["difference"], "+.2f", 100)
    return f"**{told}**" if resolved(found) else told


def _gap(name: str) -> str:
    gap = _kept(f"papers/{name}").get("gap")
    return f"{_told(gap, '.2f', 100)} points" if gap else NOT_MEASURED


def _gap_and_verdict(name: str) -> str:
    kept = _kept(f"papers/{name}")
    if not kept:
        return NOT_MEASURED
    return f"{_gap(name)}, {'' if gap_is_clear(kept) else 'not '}significant"


def _adapted(kept: str, beside: int | str) -> str:
    """Regime adaptation less another regime, or an end, and whether all comparisons resolve it."""
    found = comparison(_kept(f"papers/{kept}"), "LB+LR+GBN+RA", beside)
    if found is None:
        return NOT_MEASURED
    told = "" if resolved(found) else ", not resolved"
    return f"{_told(found['difference'], '+.2f', 100)} points{told}"


def _told_worse(name: str) -> str:
    """In how many comparisons of remedies one is resolved to be worse than the large batch."""
    found = [comparison(kept, f"LB+{name}", 1) for kept in all_kept("remedies").values()]
    there = [one for one in found if one]
    worse = [one for one in there if resolved(one) and one["difference"]["mean"] < 0]
    return f"{len(worse)} of {len(there)} columns"


def _rates(kept: str, *regimes: str) -> str:
    """The best rates of these regimes, the large batch's last."""
    found = _kept(f"papers/{kept}")
    if not found:
        return NOT_MEASURED
    rates = {
        name: f"{found['regimes'][name]['learning_rate']:.3g}"
        for name in (*(f"LB+{one}" for one in regimes), found["baseline"][1])
    }
    *own, large = rates.items()
    said = ", ".join(f"{rate} with `{name.removeprefix('LB+')}`" for name, rate in own)
    return f"{said}, where that of the large batch alone is {large[1]}"


def _held() -> dict[str, str]:
    """In how many runs there was a gap, and the small batch went farther: untuned, and tuned."""
    found = held.counts(held.decided(all_kept()))
    told = {}
    for short, claim in (
        ("gap", "A large batch generalizes worse."),
        ("farther", "The small batch travels farther."),
    ):
        for name, budget in (("rules", "same epochs"), ("tuned", "same epochs, tuned")):
            verdicts = found[claim, budget]
            told[f"{short}_{name}"] = f"{verdicts['held']} of {verdicts.total()}"
    return told


def _tuning() -> str:
    """The gap at the rate of the small batch, and with rates tuned at both."""
    rule = _kept("papers/digits").get("gap")
    tuned = _gap("remedies-digits")
    return f"{100 * rule['mean']:.2f} points untuned, {tuned} tuned" if rule else NOT_MEASURED


def _seesaw() -> str:
    """The test loss of Seesaw beside that of the small batch's cosine, and the updates of both."""
    kept = _kept("papers/pydoc-lm")
    found = comparison(kept, "SEESAW", 0)
    if found is None:
        return NOT_MEASURED
    own, small = (kept["regimes"][name]["updates"] for name in ("SEESAW", "SB"))
    return (
        f"{_told(found['difference'], '+.3f')} nats of test loss beside the small batch's cosine, "
        f"in {own} updates for {small}"
    )


def _critical_batch() -> dict[str, str]:
    """The critical batch of one model in three ways, and how often the known one is hit."""
    found = _kept("critical_batch-cpu")
    names = ("sweep", "target", "seeds", "losses", "branching", "noise")
    told = dict.fromkeys([f"critical_{name}" for name in names], NOT_MEASURED)
    if found:
        fit = found["sweep"]["critical batch"]
        on_the_way = found["checkpoints"]
        told = {
            "critical_seeds": str(found["sweep"]["seeds"]),
            "critical_target": f"{found['sweep']['target']:g}",
            "critical_sweep": _told({"mean": fit["value"], **fit}, ".3g"),
            "critical_losses": " and ".join(f"{one['held-out loss']:.2f}" for one in on_the_way),
            "critical_branching": " and ".join(_branches(one["branching"]) for one in on_the_way),
            "critical_noise": " and ".join(
                f"{one['noise scale']['value']:.3g} ± {one['noise scale']['stderr']:.2g}"
                for one in on_the_way
            ),
        }
    hits = _kept("quadratic-cpu")
    for name in ("sweep", "branching"):
        kept = _at(hits, name)
        told[f"hits_{name}"] = (
            f"{kept['inside the interval']} of {kept['runs']}" if kept else NOT_MEASURED
        )
    return told


def _branches(found: Any) -> str:
    if found["high"] is None:
        return f"above {found['low']}"
    return f"between {found['low']} and {found['high']:g}"


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
        for regime in ("SB", "LB", "ghosts"):
            found[f"torch_{regime.lower()}_{device}"] = _ratio(
                f"regimes-{device}", (regime, "timings"), "study", "PyTorch"
            )
    found |= {"tuning_digits": _tuning(), "seesaw": _seesaw()}
    adamw = _at(_kept("papers/pydoc-lm"), "regimes", "LB+LR", "gap_closed")
    found["adamw_closed"] = f"{_told(adamw, '.1f', 100)}%" if adamw else NOT_MEASURED
    found["root_mnist"] = _remedy("LR", "hoffer-f1-mnist")
    found["root_cifar10"] = _remedy("LR", "hoffer-c1-cifar10-small")
    found["gap_equal_loss"] = _gap_and_verdict("budgets-loss")
    found["gap_cifar10"] = _gap_and_verdict("remedies-cifar10")
    found["ra_cifar10"] = _adapted("remedies-cifar10", 1)
    found["noise_worse"] = _told_worse("NOISE")
    found["beside_as_many"] = _adapted("digits", "SB+LONG")
    found["rates_cifar10"] = _rates("remedies-cifar10", "NOISE", "EMA")
    found |= _critical_batch() | _held()
    found["remedies"] = remedies_table()
    return found
