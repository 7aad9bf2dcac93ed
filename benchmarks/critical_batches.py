"""The critical batch size of one model by three methods: `python -m benchmarks.critical_batches`.

A small transformer on the bytes of Python's own reference (the model and settings of the preset
`pydoc-lm`):

* sweep: updates to a held-out loss at several batch sizes, rates tuned at each, and the batch at
  which updates and examples both cost twice their least;
* branching: from one checkpoint of a run with the small batch, which batches still do as well after
  the same tokens;
* noise scale: tr(Sigma) / |G|^2, as it was measured on the way to the target.

They ask different questions, so they need not agree; kept in
`benchmarks/results/critical_batches-cpu.json`, whatever it says.
"""

import argparse
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.speed.timing import keep
from gapjax import data, diffusion, growth, models, study, training

SIZES = (4, 8, 16, 32, 64)
TARGET = 3.0  # nats per byte, on windows held out
START, WINDOW, SEEDS, TOLERANCE = 96, 256, 4, 0.01  # of the branches
PRESET = study.preset("pydoc-lm")


def by_sweep(out: str) -> dict[str, Any]:
    """Critical batch and 20% batch of a sweep, and the noise scale measured in it."""
    asked = study.Sweep(
        dataclasses.replace(PRESET, seeds=2, train_examples=320, noise_scale=True),
        SIZES,
        TARGET,
        rates=3,
        rate_factor=2.0,
        epochs=2.0,
        stop_at_target=True,
    )
    found = study.run_sweep(asked, out, progress=_tell)
    line = found.lines["none"]
    fit = line.fit
    return {
        "finding": study.sweep_finding(found),
        "updates": {point.batch_size: point.steps.mean for point in line.points},
        "noise scale at the target": {
            point.batch_size: point.noise_scale
            for point in line.points
            if point.noise_scale is not None
        },
        "critical batch": None
        if fit is None
        else [fit.critical_batch, *fit.critical_batch_interval],
        "20% batch": None if fit is None else fit.twenty_percent_batch,
        "note": None if fit is None else fit.note,
    }


def by_branching() -> dict[str, Any]:
    """The interval of the critical batch after some updates of the small batch."""
    dataset = data.load(PRESET.dataset)
    windows = jax.tree.map(lambda x: x[:1280], dataset.train)
    held_out = jax.tree.map(lambda x: x[1280:1408], dataset.train)
    network = models.as_network(models.find_network(PRESET.model, PRESET.task.width(dataset)))
    task = PRESET.task

    def loss_fn(params: Any, model_state: Any, batch: Any, key: jax.Array) -> Any:
        outputs, model_state = network.apply(
            params, model_state, task.select(batch), train=True, key=key
        )
        return task.losses(outputs, batch).mean(), (model_state, {})

    tx = optax.chain(
        optax.clip_by_global_norm(PRESET.clip_norm),
        optax.adamw(PRESET.learning_rate, b2=PRESET.b2, weight_decay=PRESET.weight_decay),
        diffusion.scale_by_batch_size(PRESET.small_batch, rule="sqrt"),
    )
    step = training.compile_step(training.make_train_step(loss_fn, tx))
    params, model_state = network.init(
        jax.random.key(0), task.select(jax.tree.map(lambda x: x[:2], windows))
    )
    state = training.init_state(params, tx, key=jax.random.key(1), model_state=model_state)
    batches = growth.GrowingBatches(windows, growth.constant_batch(PRESET.small_batch), seed=0)
    for _ in range(START):
        state, _ = step(state, next(batches))

    @jax.jit
    def evaluate(params: Any) -> jax.Array:
        outputs, _ = network.apply(params, model_state, task.select(held_out), train=False)
        return task.losses(outputs, held_out).mean()

    found = growth.branched_critical_batch(
        state,
        step,
        batches,
        evaluate=lambda state: evaluate(state.params),
        multiples=(0.5, 1, 2, 4, 8),
        examples=WINDOW,
        seeds=SEEDS,
        tolerance=TOLERANCE,
    )
    return {
        "after": START * PRESET.small_batch,
        "examples of each branch": WINDOW,
        "seeds": SEEDS,
        "tolerance": TOLERANCE,
        "at the checkpoint": float(evaluate(state.params)),
        "losses": dict(zip(map(int, found.sizes), np.round(found.losses, 4).tolist(), strict=True)),
        "p": dict(zip(map(int, found.sizes), jnp.asarray(found.p_values).tolist(), strict=True)),
        "interval": [found.low, found.high],
    }


def _tell(at: Any) -> None:
    if at.update == at.updates:
        print(f"batch {at.regime}: {at.examples_per_second:,.0f} examples/s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", default="runs/critical-batches")
    given = parser.parse_args()
    training.use_cores()
    training.enable_compile_cache()
    found = {"branching": by_branching(), "sweep": by_sweep(given.out)}
    print(found["sweep"]["finding"])
    low, high = found["branching"]["interval"]
    print(f"branching: {low} to {high:g}, after {found['branching']['after']} examples")
    print(f"noise scale: {found['sweep']['noise scale at the target']}")
    print(f"kept in {keep('critical_batches', found)}")


if __name__ == "__main__":
    main()
