"""What the study's machinery costs: `python -m benchmarks.speed.train_step`.

1. An update of one member inside the study's compiled segment, against the same update in a bare
   hand-written JAX loop (network, loss and optimizer in one jitted scan, batches cut on device).
2. Eight seeds vmapped against one.
3. The whole `fit` loop against a bare one and PyTorch's, see `benchmarks.speed.loop`.
"""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.speed import loop
from benchmarks.speed.timing import interleave, keep, table
from gapjax import data, models, study, training
from gapjax.study._population._member import MEMBERS, ROWS, Member, as_arrays, make_population
from gapjax.study._population._setup import make_setup

UPDATES = 100


def _bare(plan: study.Plan, images: Any, labels: Any, indices: Any) -> Any:
    """The same training written by hand: no gapjax inside the step."""
    settings = study.Study()
    model = models.digits_mlp(norm=functools.partial(nn.BatchNorm, momentum=0.9))
    tx = optax.chain(
        optax.clip_by_global_norm(settings.clip_norm),
        optax.add_decayed_weights(1e-4),
        optax.sgd(plan.schedule(), momentum=0.9),
    )
    mean, std = data.channel_statistics(np.asarray(images))
    std = np.where(std > 0, std, 1.0)

    def loss_fn(params: Any, stats: Any, x: Any, y: Any) -> Any:
        logits, updated = model.apply(
            {"params": params, "batch_stats": stats},
            (x - mean) / std,
            train=True,
            mutable=["batch_stats"],
        )
        losses = optax.losses.softmax_cross_entropy_with_integer_labels(logits, y)
        return losses.mean(), updated["batch_stats"]

    @functools.partial(jax.jit, donate_argnums=0)
    def run(carry: Any, images: Any, labels: Any, indices: Any) -> Any:
        def body(carry: Any, rows: Any) -> Any:
            params, stats, opt_state = carry
            value_and_grad = jax.value_and_grad(loss_fn, has_aux=True)
            (loss, stats), grads = value_and_grad(params, stats, images[rows], labels[rows])
            updates, opt_state = tx.update(grads, opt_state, params)
            return (optax.apply_updates(params, updates), stats, opt_state), loss

        return jax.lax.scan(body, carry, indices)

    variables = model.init(jax.random.key(0), (images[:2] - mean) / std)
    carry = (variables["params"], variables["batch_stats"], tx.init(variables["params"]))

    def once() -> None:
        nonlocal carry
        carry, losses = run(carry, images, labels, indices)
        losses.block_until_ready()

    return once


def population(
    settings: study.Study, plan: study.Plan, dataset: data.Dataset, indices: Any, seeds: int
) -> Any:
    """A call that makes a segment of updates in the study's own way, for so many seeds."""
    setup = make_setup(settings, dataset)
    parts = make_population(setup, plan, seeds)
    hyper = as_arrays([Member(seed, plan.rate) for seed in range(seeds)])
    hyper = training.lay_out(parts.mesh, hyper, *MEMBERS)
    states = parts.init(hyper, setup.sample())
    on_device = training.lay_out(parts.mesh, dataset.train)
    rows = {"example": training.lay_out(parts.mesh, indices, *ROWS)}

    def once() -> None:
        nonlocal states
        states, segment = parts.advance(states, hyper, on_device, rows, len(indices))
        jax.block_until_ready(segment)

    return once


def main() -> None:
    dataset = data.load("digits")
    figures = {}
    for name in ("SB", "LB+LR"):
        plan = study.make_plan(study.Study(), study.Regime.parse(name), len(dataset.train))
        rng = np.random.default_rng(0)
        shape = (UPDATES, plan.batch_size)
        indices = jnp.asarray(rng.integers(len(dataset.train), size=shape), jnp.int32)
        alone, several = (np.repeat(indices[:, None], p, axis=1) for p in (1, 8))
        images, labels = map(jnp.asarray, (dataset.train.images, dataset.train.labels))
        timings = interleave(
            {
                "bare loop, one seed": _bare(plan, images, labels, indices),
                "study, one seed": population(study.Study(), plan, dataset, alone, 1),
                "study, 8 seeds": population(study.Study(), plan, dataset, several, 8),
            },
            reference="bare loop, one seed",
            rounds=15,
            warmup=3,
        )
        one, eight = timings["study, one seed"], timings["study, 8 seeds"]
        print(f"\nbatch {plan.batch_size}, {UPDATES} updates\n{table(timings)}")
        print(f"a step in the study costs {one.ratio:.3f} of the bare loop's")
        print(f"8 seeds cost {eight.seconds / one.seconds:.2f} times one seed")
        figures[f"batch {plan.batch_size}"] = {
            "updates": UPDATES,
            "timings": {label: timing._asdict() for label, timing in timings.items()},
            "study over bare": one.ratio,
            "8 seeds over one": eight.seconds / one.seconds,
        }
    figures["fit"] = loop.measure()
    print(f"\nkept in {keep('train_step', figures)}")


if __name__ == "__main__":
    main()
