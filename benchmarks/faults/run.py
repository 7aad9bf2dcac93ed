"""The run that is killed: a growing batch, ghost norm, tracked diffusion, many checkpoints.

`python -m benchmarks.faults.run '{"folder": ..., "out": ...}'` trains until it is done or killed,
says each update on stdout, and leaves all that it computed in one file. With `"process"` and
`"port"` it is one of two processes with four devices each.
"""

import functools
import json
import sys
from typing import Any, NamedTuple


class Run(NamedTuple):
    """What to run.

    Attributes:
        folder: of the checkpoints.
        out: where the final numbers go, as `.npz`.
        updates: how many.
        every: updates between checkpoints.
        cache: folder of compiled programs; none by default.
        process: which of two processes, or None for one alone.
        port: where the two meet.
        heartbeat: seconds of silence after which a process is taken for lost.
    """

    folder: str
    out: str
    updates: int = 60
    every: int = 5
    cache: str | None = None
    process: int | None = None
    port: int = 0
    heartbeat: int = 10


def main(run: Run) -> None:
    import jax

    jax.config.update("jax_platforms", "cpu")
    if run.cache:
        from gapjax.training import enable_compile_cache

        enable_compile_cache(run.cache)
    if run.process is not None:
        jax.config.update("jax_num_cpu_devices", 4)
        jax.distributed.initialize(
            f"127.0.0.1:{run.port}",
            2,
            run.process,
            initialization_timeout=60,
            heartbeat_timeout_seconds=run.heartbeat,
        )
    import numpy as np
    import optax

    from gapjax import diffusion, ghost, growth, models, training

    mesh = jax.make_mesh((jax.device_count(),), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    model = models.MLP(
        (24,), norm=functools.partial(ghost.linen.GhostBatchNorm, ghost_size=8, momentum=0.9)
    )
    tx = optax.chain(
        optax.sgd(optax.cosine_decay_schedule(0.1, 200), momentum=0.9),
        diffusion.track_diffusion(64),
    )

    def loss_fn(params: Any, model_state: Any, batch: Any, key: jax.Array) -> Any:
        x = batch["x"] + 0.01 * jax.random.normal(key, batch["x"].shape)
        logits, updated = model.apply(
            {"params": params, **model_state}, x, train=True, mutable=["batch_stats"]
        )
        losses = optax.losses.softmax_cross_entropy_with_integer_labels(logits, batch["y"])
        return losses.mean(), (updated, {"right": (logits.argmax(-1) == batch["y"]).mean()})

    rng = np.random.default_rng(0)
    x = rng.normal(size=(1000, 20)).astype(np.float32)
    examples = {"x": x, "y": (x @ rng.normal(size=(20, 10))).argmax(-1).astype(np.int32)}
    sizes = growth.piecewise_batch(64, {12: 128})
    batches = growth.GrowingBatches(examples, sizes, seed=3, mesh=mesh, ghost_size=8)
    variables = model.init(jax.random.key(0), x[:8])
    state = training.init_state(
        variables["params"],
        tx,
        key=jax.random.key(1),
        model_state={"batch_stats": variables["batch_stats"]},
    )
    # Laid out as every later state, so that the step is not compiled twice for the first batch.
    state = jax.jit(lambda x: x, out_shardings=jax.NamedSharding(mesh, jax.P()))(state)
    step = training.compile_step(training.make_train_step(loss_fn, tx, on_fault="stop"), mesh=mesh)

    def say(update: int, state: Any, metrics: Any) -> None:
        print(f"update {update}", flush=True)

    with training.Checkpoints(run.folder, every=run.every, config={"run": "faults"}) as checkpoints:
        state, history = training.fit(
            step,
            state,
            batches,
            num_updates=run.updates,
            callbacks=[say],
            checkpoints=checkpoints,
        )
    record = diffusion.diffusion_record(state.opt_state)
    numbers = (state._replace(key=jax.random.key_data(state.key)), history, tuple(record))
    named = jax.tree_util.tree_leaves_with_path(numbers)
    if run.process in (None, 0):
        np.savez(run.out, **{jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in named})
    print("done", flush=True)


if __name__ == "__main__":
    main(Run(**json.loads(sys.argv[1])))
