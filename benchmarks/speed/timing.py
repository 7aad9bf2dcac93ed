"""Interleaved timing: on a shared machine only ratios taken side by side can be trusted.

Contestants run in turn, A B C A B C ..., each round in a new order; a contestant's figure is the
median over rounds, and its ratio to the reference is the median of the ratios round by round.
"""

import functools
import json
import pathlib
import platform
import random
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gapjax._cores import cores, processor

RESULTS = pathlib.Path(__file__).parent.parent / "results"


class Timing(NamedTuple):
    """Seconds per call, and the ratio to the reference, with quartiles of the ratio."""

    seconds: float
    ratio: float
    ratio_low: float
    ratio_high: float


def interleave(
    contestants: Mapping[str, Callable[[], Any]],
    *,
    reference: str,
    rounds: int = 11,
    warmup: int = 1,
) -> dict[str, Timing]:
    """Time every contestant (a call that blocks until its work is done) against the reference."""
    for _ in range(warmup):
        for run in contestants.values():
            run()
    times: dict[str, list[float]] = {name: [] for name in contestants}
    order = list(contestants)
    shuffle = random.Random(0).shuffle
    for _ in range(rounds):
        shuffle(order)
        for name in order:
            start = time.perf_counter()
            contestants[name]()
            times[name].append(time.perf_counter() - start)
    timings = {}
    for name, own in times.items():
        ratios = [mine / base for mine, base in zip(own, times[reference], strict=True)]
        low, middle, high = (
            statistics.quantiles(ratios, n=4, method="inclusive") if rounds > 1 else ratios * 3
        )
        timings[name] = Timing(statistics.median(own), middle, low, high)
    return timings


def stream(x: jax.Array, times: int) -> jax.Array:
    """Read and write as many bytes as ``x`` has, so many times, in place on its device."""
    x = jnp.copy(x)
    for _ in range(times):
        x = _increment(x)
    return x


@functools.partial(jax.jit, donate_argnums=0)
def _increment(x: jax.Array) -> jax.Array:
    return x + 1


def machine() -> dict[str, Any]:
    """Where the figures come from: processor, cores, device and versions."""
    import flax
    import optax

    return {
        "processor": processor(),
        "cores": cores(),
        "device": jax.devices()[0].device_kind,
        "platform": jax.default_backend(),
        "python": platform.python_version(),
        "jax": jax.__version__,
        "flax": flax.__version__,
        "optax": optax.__version__,
    }


def table(timings: Mapping[str, Timing]) -> str:
    """The timings as text, a row each."""
    width = max(map(len, timings))
    rows = [f"{'':{width}}  {'ms':>10}  {'ratio':>7}  quartiles"]
    rows += [
        f"{name:{width}}  {1e3 * t.seconds:10.3f}  {t.ratio:7.3f}  "
        f"{t.ratio_low:.3f} to {t.ratio_high:.3f}"
        for name, t in timings.items()
    ]
    return "\n".join(rows)


def keep(name: str, figures: Mapping[str, Any]) -> pathlib.Path:
    """Write `results/NAME-PLATFORM.json`, with the machine the figures come from."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}-{jax.default_backend()}.json"
    path.write_text(json.dumps({"machine": machine(), **figures}, indent=1) + "\n")
    return path
