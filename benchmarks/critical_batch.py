"""The critical batch of a language model, in three ways: `python -m benchmarks.critical_batch`.

Model, text and optimizer of the preset `pydoc-lm`, at a rate that is constant after its warm-up.
One table, on the page of the language model:

* sweep: 6 batch sizes, 5 rates and 2 seeds each, to a validation loss; the critical batch by the
  curve of updates to it.
* branching: at two checkpoints on the way of the small batch to that loss, branches of a quarter to
  8 times its batch, on the same examples each, compared on held-out text.
* noise scale: tr(Sigma) / |G|^2 at the same two checkpoints, from gradients of single examples
  against those of batches.

What is done of the sweep is kept in the folder, and not trained again.
"""

import argparse
import dataclasses
import pathlib
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.papers.pages import critical_batch_section, write_pages
from benchmarks.speed.timing import keep
from gapjax import diffusion, growth, study, training

SIZES = (2, 4, 8, 16, 32, 64)
SWEEP_SEEDS = 2
TARGET = 2.6  # nats per byte, on the validation windows; single bytes have an entropy of 3.26
CHECKPOINTS = (0.5, 1.0)  # of the way of the small batch to the target
MULTIPLES = (0.25, 0.5, 1, 2, 4, 8)
EXAMPLES, SEEDS, TOLERANCE = 1024, 4, 0.02  # of a branch
BATCHES, BATCH = 8, 64  # that the noise is estimated from


def sweep(base: study.Study, folder: pathlib.Path, target: float) -> Any:
    """The sweep to the target."""
    asked = study.Sweep(
        dataclasses.replace(base, seeds=SWEEP_SEEDS, regimes=("SB", "LB"), controls=False),
        SIZES,
        target,
        rates=5,
        rate_factor=2.0,
        epochs=2.0,
        limit=4.0,
        stop_at_target=True,
    )

    def progress(at: Any) -> None:
        if at.metrics:
            print(f"  {at.regime}: {at.update} updates", flush=True)

    return study.run_sweep(asked, folder, progress=progress)


class Model:
    """The model of a study, as steps and losses of one's own."""

    def __init__(self, base: study.Study, rate: float, warmup: int):
        dataset = base.load_dataset()
        self.train, held_out = dataset.train, dataset.test
        network, task = base.make_network(dataset), base.task
        rises = optax.linear_schedule(0.0, rate, warmup)
        tx = optax.chain(
            optax.clip_by_global_norm(base.clip_norm),
            optax.adamw(rises, b2=base.b2, weight_decay=base.weight_decay),
            diffusion.scale_by_batch_size(base.small_batch, rule="sqrt"),
        )

        def losses(params: Any, batch: Any, train: bool, key: Any = None) -> jax.Array:
            options = {"train": True, "key": key} if train else {"train": False}
            outputs, _ = network.apply(params, {}, task.select(batch), **options)
            return task.losses(outputs, batch)

        def loss(params: Any, batch: Any, key: Any = None) -> jax.Array:
            return losses(params, batch, True, key).mean()

        start, state = network.init(jax.random.key(0), task.select(_rows(self.train, 0, 2)))
        assert not jax.tree.leaves(state)  # a transformer without running statistics
        self.state = training.init_state(start, tx, key=jax.random.key(1))
        self.step = training.compile_step(training.make_train_step(loss, tx))
        some = _rows(held_out, 0, 64)
        self.evaluate = jax.jit(lambda state: losses(state.params, some, False))
        self.gradient = jax.jit(jax.grad(loss))

    def noise(self, state: Any, seed: int) -> growth.NoiseScale:
        """From gradients of single examples against those of batches, over some batches."""
        rng = np.random.default_rng(seed)
        order = rng.permutation(len(jax.tree.leaves(self.train)[0]))
        found = []
        for rows in order[: BATCHES * BATCH].reshape(BATCHES, BATCH):
            gradients, norms = None, []
            for row in rows:
                one = self.gradient(state.params, _rows(self.train, row, row + 1))
                norms.append(optax.tree.norm(one, squared=True))
                gradients = one if gradients is None else jax.tree.map(jnp.add, gradients, one)
            mean = optax.tree.norm(gradients, squared=True) / BATCH**2
            found.append(
                growth.gradient_noise_scale(
                    jnp.mean(jnp.stack(norms)), mean, part_size=1, batch_size=BATCH
                )
            )
        return growth.average_noise_scale(
            [float(one.trace) for one in found], [float(one.squared_norm) for one in found]
        )


def _rows(split: Any, first: int, last: int) -> Any:
    return jax.tree.map(lambda x: x[first:last], split)


def at_checkpoints(
    base: study.Study, rate: float, warmup: int, updates: list[int]
) -> list[dict[str, Any]]:
    """Branching and the noise scale after each of some updates of the small batch."""
    model = Model(base, rate, warmup)
    batches = growth.GrowingBatches(model.train, growth.constant_batch(base.small_batch), seed=0)
    state, done, found = model.state, 0, []
    for update in updates:
        for _ in range(update - done):
            state, _ = model.step(state, next(batches))
        done, started = update, time.perf_counter()
        branched = growth.branched_critical_batch(
            state,
            model.step,
            batches,
            evaluate=model.evaluate,
            multiples=MULTIPLES,
            examples=EXAMPLES,
            seeds=SEEDS,
            tolerance=TOLERANCE,
        )
        middle = time.perf_counter()
        noise = model.noise(state, update)
        found.append(
            {
                "update": update,
                "held-out loss": float(np.mean(model.evaluate(state))),
                "branching": {
                    "low": branched.low,
                    "high": branched.high if np.isfinite(branched.high) else None,
                    "sizes": branched.sizes.tolist(),
                    "losses": branched.losses.tolist(),
                    "stderr": branched.stderr.tolist(),
                    "seconds": middle - started,
                },
                "noise scale": {
                    "value": float(noise.noise_scale),
                    "stderr": float(noise.stderr),
                    "seconds": time.perf_counter() - middle,
                },
            }
        )
        print(f"  {found[-1]}", flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("runs/critical-batch"))
    parser.add_argument("--target", type=float, default=TARGET, help="nats per byte")
    given = parser.parse_args()
    training.use_cores()
    training.enable_compile_cache()
    base = study.preset("pydoc-lm")
    result = sweep(base, given.out, given.target)
    print(study.sweep_finding(result))
    line = result.lines["none"]
    small = next(point for point in line.points if point.batch_size == base.small_batch)
    updates = [round(share * small.steps.mean) for share in CHECKPOINTS]
    warmup = round(base.warmup * result.config.most_updates)  # as in the sweep
    low, high = line.fit.critical_batch_interval
    figures = {
        "model": "pydoc-lm",
        "sweep": {
            "finding": study.sweep_finding(result),
            "target": given.target,
            "seeds": SWEEP_SEEDS,
            "sizes": [
                {
                    "batch": point.batch_size,
                    "rate": point.learning_rate,
                    "at edge": point.at_edge,
                    "updates": [point.steps.mean, point.steps.low, point.steps.high],
                }
                for point in line.points
            ],
            "critical batch": {"value": line.fit.critical_batch, "low": low, "high": high},
            "20% batch": line.fit.twenty_percent_batch,
            "note": line.fit.note,
        },
        "checkpoints": at_checkpoints(base, small.learning_rate, warmup, updates),
    }
    print(f"kept in {keep('critical_batch', figures)}")
    print(critical_batch_section())
    print("\n".join(map(str, write_pages())))


if __name__ == "__main__":
    main()
