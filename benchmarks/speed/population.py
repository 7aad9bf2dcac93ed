"""What a population of seeds costs: `python -m benchmarks.speed.population`.

The study's own segment of updates (network, loss, optimizer, batches cut on the device) for S seeds
over the same for one, S = 1, 4, 16, 64, on the digits network at batch 16 and on F1 at batch 128.
On a GPU the aim is 64 seeds for less than 4 times the cost of one.

The floor, of networks whose weights fill more than a cache, is the time in which the weights of so
many seeds move as often as an update has to move them, `PASSES` times: read forward and backward;
the gradient written, read for its norm and read by the optimizer, which reads and writes weights
and momentum.
"""

import argparse
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.speed.timing import interleave, keep, stream, table
from benchmarks.speed.train_step import population
from gapjax import data, study

SEEDS = (1, 4, 16, 64)
IMAGES = {"digits-mlp": (64,), "f1": (28, 28, 1)}
BATCH = {"digits-mlp": 16, "f1": 128}
EXAMPLES = 2048
PASSES = 9


def random_data(shape: tuple[int, ...]) -> data.Dataset:
    """Random images of ten classes: what is timed does not depend on them."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (EXAMPLES, *shape)).astype(np.uint8)
    if len(shape) == 1:
        images = images.astype(np.float32)
    labels = rng.integers(10, size=EXAMPLES).astype(np.int32)
    names = tuple(map(str, range(10)))
    train, test = data.Split(images, labels), data.Split(images[:64], labels[:64])
    return data.Dataset(train, test, class_names=names, name="random")


def segment(model: str, seeds: int, updates: int) -> Any:
    """A call that trains so many seeds by so many updates."""
    dataset, batch = random_data(IMAGES[model]), BATCH[model]
    settings = study.Study(
        dataset=dataset, model=model, small_batch=batch, large_batch=8 * batch, ghost_size=batch
    )
    plan = study.make_plan(settings, study.Regime.parse("SB"), EXAMPLES)
    rows = np.random.default_rng(1).integers(EXAMPLES, size=(updates, seeds, batch))
    return population(settings, plan, dataset, rows.astype(np.int32), seeds)


def floor(model: str, seeds: int, updates: int) -> Any:
    """A call that only moves the weights of so many seeds."""
    network = study.Study(model=model).make_network(random_data(IMAGES[model]))
    params, _ = jax.eval_shape(network.init, jax.random.key(0), np.zeros((2, *IMAGES[model])))
    weights = jnp.zeros(seeds * optax.tree.size(params))
    return lambda: stream(weights, updates * PASSES // 2).block_until_ready()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--models", nargs="+", choices=IMAGES, default=list(IMAGES))
    given = parser.parse_args()
    on_cpu = jax.default_backend() == "cpu"
    figures: dict[str, Any] = {}
    for model in given.models:
        # On CPU 64 seeds of F1 take half a second an update; an accelerator needs more to time.
        updates = {"digits-mlp": 50, "f1": 4}[model] * (1 if on_cpu else 25)
        contestants = {f"{s} seed{'s' * (s > 1)}": segment(model, s, updates) for s in SEEDS}
        if model != "digits-mlp":
            contestants[f"floor, {SEEDS[-1]} seeds"] = floor(model, SEEDS[-1], updates)
        timings = interleave(contestants, reference="1 seed", rounds=given.rounds, warmup=2)
        print(f"\n{model}, batch {BATCH[model]}, {updates} updates\n{table(timings)}")
        speed = updates * BATCH[model] / timings["1 seed"].seconds
        print(f"one seed: {speed:,.0f} images/s", flush=True)
        figures[model] = {
            "updates": updates,
            "batch": BATCH[model],
            "images per second, one seed": speed,
            "timings": {name: timing._asdict() for name, timing in timings.items()},
        }
    print(f"\nkept in {keep('population', figures)}")


if __name__ == "__main__":
    main()
