"""Known critical batches, found again: `python -m benchmarks.quadratic`.

100 runs of the noisy quadratic (Zhang et al. 2019): SGD on coordinates of curvature 1 / i, with
gradient noise of a variance in proportion to the curvature and to 1 / B, the best of the rates at
every batch size, updates to a target loss. The expected loss is known in closed form, and so is the
curve of updates against batch size, and the critical batch that fits it. Two questions, each in 100
runs of other seeds:

* sweep: are the intervals of `study`'s sweep (the same functions that `run_sweep` calls) about the
  true critical batch?
* branching: does `growth.branched_critical_batch`, from a stationary state, say of the true
  boundary (where the stationary loss rises by the tolerance) that it lies in its interval?
"""

import argparse
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.speed.timing import keep
from gapjax import growth
from gapjax.study._results._records import Curves, TaskFacts
from gapjax.study._sweep._findings import find
from gapjax.study._sweep._goal import make_goal, reached
from gapjax.study._sweep._records import SizeRecord, SweepConfig

SIZES = (1, 2, 4, 8, 16, 32, 64, 128)
SEEDS = 6
RATES = np.geomspace(0.03, 1.9, 9)
CURVATURES = 1 / np.arange(1, 33)  # Zhang et al. 2019, with noise of the same covariance
EACH = 256  # coordinates of each curvature, so that losses hardly differ from their expectation
NOISE, TARGET, UPDATES = 4.0, 0.6, 400


def expected_losses(size: float, rate: float) -> np.ndarray:
    """The expected loss after each update, [T + 1]."""
    shrink = (1 - rate * CURVATURES[:, None]) ** 2
    kept = shrink ** np.arange(UPDATES + 1)
    noise = rate**2 * NOISE * CURVATURES[:, None] / size
    return CURVATURES @ (kept + noise * (1 - kept) / (1 - shrink)) / 2


def true_curve() -> np.ndarray:
    """The updates of the best of the rates at each size, in expectation."""
    update = np.arange(UPDATES + 1)
    steps = [
        reached(update, np.stack([expected_losses(size, rate) for rate in RATES], 1), TARGET)
        for size in SIZES
    ]
    return np.min(steps, axis=1)


@functools.partial(jax.jit, static_argnums=1)
def simulate(key: jax.Array, size: int) -> jax.Array:
    """The loss of every rate and seed after each update, [T + 1, R * S]."""
    curvatures = jnp.asarray(CURVATURES, jnp.float32)
    rates = jnp.repeat(jnp.asarray(RATES, jnp.float32), SEEDS)[:, None]

    def loss(squares: jax.Array) -> jax.Array:
        return squares @ curvatures / 2

    def update(squares: jax.Array, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        # The mean square of coordinates that share a curvature: noise along them, and across.
        along, across = jax.random.normal(key, (2, *squares.shape))
        length = (1 - rates * curvatures) * jnp.sqrt(EACH * squares)
        std = rates * jnp.sqrt(NOISE * curvatures / size)
        rest = EACH - 1 + jnp.sqrt(2.0 * (EACH - 1)) * across  # chi squared, of many degrees
        squares = ((length + std * along) ** 2 + std**2 * rest) / EACH
        return squares, loss(squares)

    start = jnp.ones((len(RATES) * SEEDS, len(CURVATURES)))
    _, losses = jax.lax.scan(update, start, jax.random.split(key, UPDATES))
    return jnp.concatenate([loss(start)[None], losses])


def sweep(runs: int) -> dict[str, Any]:
    """How often the interval of a sweep holds the critical batch of the expected curve."""
    truth = growth.fit_critical_batch(SIZES, true_curve(), num_resamples=1)
    facts = TaskFacts("quadratic", "loss", False, ["loss"], [], False)
    shared = {"seeds": SEEDS, "first_seed": 0, "rates": len(RATES), "rate_factor": 1.47}
    config = SweepConfig({**shared, "watch": "validation"}, facts, {}, 1, 100, 800, UPDATES)
    goal = make_goal(facts, TARGET, "validation")
    found = []
    for number in range(runs):
        records = []
        for size in SIZES:
            losses = np.asarray(simulate(jax.random.fold_in(jax.random.key(number), size), size))
            update = np.arange(UPDATES + 1)
            values = {"validation_loss": losses.tolist(), "test_loss": losses.tolist()}
            curves = Curves(
                update.tolist(), (size * update).tolist(), update.astype(float).tolist(), values
            )
            members = len(RATES) * SEEDS
            records.append(
                SizeRecord(
                    "none",
                    [],
                    size,
                    None,
                    RATES.tolist(),
                    list(range(SEEDS)),
                    None,
                    [0] * members,
                    0.0,
                    None,
                    curves,
                )
            )
        fit = find(config, records, goal).lines["none"].fit
        assert fit is not None
        found.append((fit.critical_batch, *fit.critical_batch_interval))
    values = np.array(found)
    inside = (values[:, 1] <= truth.critical_batch) & (truth.critical_batch <= values[:, 2])
    return {
        "true critical batch": truth.critical_batch,
        "median found": float(np.median(values[:, 0])),
        "inside the interval": int(inside.sum()),
        "runs": runs,
    }


CURVATURE, RATE, BASE, TOLERANCE = 1.0, 0.05, 4, 0.35
MULTIPLES = (1, 2, 4, 8, 16, 32)
BRANCH_SEEDS, BRANCH_DIMENSIONS = 8, 1024


def stationary_loss(multiple: float) -> float:
    """Of SGD by the linear rule, per base loss scale: rate and batch both times the multiple."""
    rate = multiple * RATE
    if rate * CURVATURE >= 2:
        return np.inf
    return BRANCH_DIMENSIONS * RATE / (2 * BASE * (2 - rate * CURVATURE))


def branching(runs: int) -> dict[str, Any]:
    """How often the boundary of the stationary losses lies in the interval of branching."""
    base = stationary_loss(0.0)
    tolerance = TOLERANCE * base
    passing: list[float] = []
    for multiple in MULTIPLES:
        mean = np.mean([stationary_loss(k) for k in passing]) if passing else np.inf
        if stationary_loss(multiple) - mean > tolerance:
            break
        passing.append(multiple)
    # Where the rise over those that pass is the tolerance.
    limit = np.mean([stationary_loss(k) for k in passing]) + tolerance
    boundary = BASE * (2 - 2 * base / limit) / (RATE * CURVATURE)

    @jax.jit
    def step(w: jax.Array, batch: jax.Array) -> tuple[jax.Array, None]:
        gradient = CURVATURE * w + jnp.mean(batch, axis=0)
        return w - RATE * len(batch) / BASE * gradient, None

    inside = 0
    for number in range(runs):
        rng = np.random.default_rng(number)
        noise = rng.normal(size=(8_192, BRANCH_DIMENSIONS)).astype(np.float32)
        noise -= noise.mean(axis=0)
        batches = growth.GrowingBatches(noise, growth.constant_batch(BASE), seed=number)
        w = np.sqrt(RATE / (BASE * (2 - RATE))) * rng.normal(size=BRANCH_DIMENSIONS)
        found = growth.branched_critical_batch(
            jnp.asarray(w, jnp.float32),
            step,
            batches,
            evaluate=lambda w: CURVATURE * jnp.sum(w**2) / 2,
            multiples=MULTIPLES,
            examples=BASE * 96 * 4,
            seeds=BRANCH_SEEDS,
            tolerance=tolerance,
        )
        inside += found.low <= boundary <= found.high
    return {
        "true boundary": float(boundary),
        "largest passing": max(passing) * BASE,
        "inside the interval": int(inside),
        "runs": runs,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--runs", type=int, default=100)
    given = parser.parse_args()
    figures = {"sweep": sweep(given.runs), "branching": branching(given.runs)}
    for name, found in figures.items():
        print(f"{name}: {found}")
    print(f"kept in {keep('quadratic', figures)}")


if __name__ == "__main__":
    main()
