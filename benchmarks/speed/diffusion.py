"""What diffusion tracking costs, and the law of the walk: `python -m benchmarks.speed.diffusion`.

1. A training step of F1 at batch 128, with nothing, with `track_diffusion`, with the same norms
   computed at every update, and with `match_diffusion`; one seed, and two under vmap.
2. The exponent of log t of `random_potential_walk` over 22 decades of t, with its interval, at four
   strengths of the potential: p in distance = a (log t - b)^p. The offset b is what the strength
   sets, log of the time in which a walker crosses a barrier of one site; without it the fitted
   exponent depends on the strength, since log t is never large.
"""

import argparse
import itertools
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.speed.timing import interleave, keep, table
from gapjax import diffusion, models, training

UPDATES, BATCH, SEEDS = 40, 128, 2
BAR = 1.03


def _every_update() -> optax.GradientTransformationExtraArgs:
    """Both norms at every update: tracking that does not wait until a record is due."""

    def update(updates: Any, state: Any, params: Any = None, **extra: Any) -> Any:
        moved = jax.tree.map(jnp.subtract, params, state[0])
        return updates, (state[0], optax.tree.norm(moved), optax.tree.norm(updates))

    return optax.GradientTransformationExtraArgs(
        lambda params: (jax.tree.map(jnp.copy, params), jnp.zeros(()), jnp.zeros(())), update
    )


def _trainer(*extra: optax.GradientTransformation, seeds: int) -> Any:
    """A call that trains F1 a little further, on random images."""
    network = models.as_network(models.f1())
    tx = optax.chain(optax.clip_by_global_norm(5.0), optax.sgd(0.01, momentum=0.9), *extra)

    def loss_fn(params: Any, stats: Any, batch: Any, key: Any) -> Any:
        logits, stats = network.apply(params, stats, batch["images"], train=True)
        losses = optax.losses.softmax_cross_entropy_with_integer_labels(logits, batch["labels"])
        return losses.mean(), (stats, {})

    step = training.make_train_step(loss_fn, tx)

    def init(key: jax.Array) -> training.TrainState:
        params, stats = network.init(key, jnp.zeros((2, 784)))
        return training.TrainState(jnp.zeros((), jnp.int32), params, stats, tx.init(params), key)

    keys = jax.random.split(jax.random.key(0), seeds)
    state = jax.vmap(init)(keys) if seeds > 1 else init(keys[0])
    step = jax.vmap(step, in_axes=(0, None)) if seeds > 1 else step

    def run(state: Any, batches: Any) -> Any:
        return jax.lax.scan(lambda state, batch: (step(state, batch)[0], None), state, batches)[0]

    run = jax.jit(run, donate_argnums=0)
    rng = np.random.default_rng(0)
    batches = {
        "images": jnp.asarray(rng.normal(size=(UPDATES, BATCH, 784)), jnp.float32),
        "labels": jnp.asarray(rng.integers(10, size=(UPDATES, BATCH)), jnp.int32),
    }

    def once() -> None:
        nonlocal state
        state = jax.block_until_ready(run(state, batches))

    return once


def _cost(rounds: int) -> dict[str, Any]:
    steps = np.unique(np.round(np.geomspace(1, 4000, 40)))
    reference = diffusion.DiffusionRecord(steps, np.log1p(steps), np.ones(len(steps)))
    figures = {}
    for seeds in (1, SEEDS):
        timings = interleave(
            {
                "nothing": _trainer(seeds=seeds),
                "track_diffusion": _trainer(diffusion.track_diffusion(), seeds=seeds),
                "track_diffusion, distance only": _trainer(
                    diffusion.track_diffusion(measure_updates=False), seeds=seeds
                ),
                "norms at every update": _trainer(_every_update(), seeds=seeds),
                "match_diffusion": _trainer(diffusion.match_diffusion(reference), seeds=seeds),
            },
            reference="nothing",
            rounds=rounds,
            warmup=2,  # past the first updates, all of which are recorded
        )
        print(f"\nF1, batch {BATCH}, {UPDATES} updates, {seeds} seed(s)\n{table(timings)}")
        for name in ("track_diffusion", "track_diffusion, distance only"):
            cost = timings[name].ratio
            verdict = "held" if cost <= BAR else "MISSED"
            print(f"{name}: {cost:.3f} of the step; bar {BAR}, {verdict}")
        figures[f"{seeds} seed(s)"] = {name: t._asdict() for name, t in timings.items()}
    return figures


def _exponent(walk: diffusion.Walk, alpha: float) -> list[float]:
    """The exponent p of distance = a (log t - b)^p from t = 1000 on, and the offset b."""
    from scipy.optimize import curve_fit

    used = walk.step >= 1e3
    log_t = np.log(walk.step[used].astype(np.float64))

    def law(log_t: np.ndarray, log_a: float, p: float, b: float) -> np.ndarray:
        return log_a + p * np.log(log_t - b)

    bounds = ([-9, 0.2, -60], [9, 9, log_t[0] - 0.1])
    y = np.log(walk.distance[used].astype(np.float64))
    return list(curve_fit(law, log_t, y, p0=(0, 2 / alpha, 0), bounds=bounds)[0][1:])


def _exponents(walkers: int, repeats: int) -> dict[str, Any]:
    from scipy.special import stdtrit

    figures = {}
    for alpha, strength in itertools.product((1.0, 1.5), (1.0, 2.0, 3.0, 5.0)):
        walk = jax.jit(
            lambda key, alpha=alpha, strength=strength: diffusion.random_potential_walk(
                key, alpha=alpha, num_steps=1e25, num_walkers=walkers, strength=strength
            )
        )
        start = time.perf_counter()
        keys = map(jax.random.key, range(repeats))
        fits = np.array([_exponent(jax.device_get(walk(key)), alpha) for key in keys])
        halves = stdtrit(repeats - 1, 0.975) * np.std(fits, axis=0, ddof=1) / repeats**0.5
        mean, offset = fits.mean(axis=0)
        seconds = time.perf_counter() - start
        print(
            f"alpha {alpha}, strength {strength}: exponent {mean:.3f} +- {halves[0]:.3f}, theory "
            f"{2 / alpha:.3f}, offset {offset:.1f} +- {halves[1]:.1f}; {repeats} x {walkers} "
            f"walkers to 1e25 in {seconds:.0f} s"
        )
        figures[f"alpha {alpha}, strength {strength}"] = {
            "exponent": mean,
            "half of the 95% interval": halves[0],
            "theory": 2 / alpha,
            "offset of log t": offset,
            "seconds": seconds,
        }
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--walkers", type=int, default=500)
    parser.add_argument("--parts", nargs="+", choices=("cost", "walk"), default=("cost", "walk"))
    options = parser.parse_args()
    figures = {}
    if "cost" in options.parts:
        figures["training step"] = _cost(options.rounds)
    if "walk" in options.parts:
        figures["walk"] = _exponents(options.walkers, repeats=8)
    print(f"\nkept in {keep('diffusion', figures)}")


if __name__ == "__main__":
    main()
