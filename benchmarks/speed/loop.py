"""The whole `fit` loop against a bare one written by hand, and PyTorch's, on the same machine.

Part of `python -m benchmarks.speed.train_step`; alone: `python -m benchmarks.speed.loop`. `fit`
reads from `GrowingBatches`, records every update and tracks the diffusion (distances and the norms
of the updates; or distances alone, which leaves the updates fused into the parameters); what a save
costs is the difference to `fit` without one. PyTorch joins where it is installed.
"""

import importlib.util
import itertools
import pathlib
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.speed import torch_networks
from benchmarks.speed.timing import interleave, keep, table
from gapjax import diffusion, growth, models, training
from gapjax._cores import cores

BATCH = 128
EXAMPLES = 12_800
BLOCKS, WIDTHS = (1, 1, 1), (8, 16, 32)
# Updates of a round, the shape of an image, and the network.
NETWORKS: dict[str, tuple[int, tuple[int, ...], Any]] = {
    "F1": (200, (28, 28, 1), models.f1()),
    "ResNet-8, thin": (50, (16, 16, 3), models.ResNet(blocks=BLOCKS, widths=WIDTHS)),
}


def _loss(logits: jax.Array, labels: jax.Array) -> jax.Array:
    return optax.losses.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def _epochs(images: np.ndarray, labels: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Shuffled batches for ever, as one writes them by hand."""
    rng = np.random.default_rng(0)
    while True:
        order = rng.permutation(len(images))
        for first in range(0, len(images) - BATCH + 1, BATCH):
            rows = order[first : first + BATCH]
            yield images[rows], labels[rows]


def _bare(model: Any, updates: int, images: np.ndarray, labels: np.ndarray) -> Callable[[], None]:
    """A jitted update in a `for` loop: no gapjax."""
    tx = optax.sgd(0.05, momentum=0.9)

    def update(params: Any, stats: Any, opt_state: Any, x: Any, y: Any) -> Any:
        def loss_fn(params: Any) -> Any:
            logits, updated = model.apply(
                {"params": params, "batch_stats": stats}, x, train=True, mutable=["batch_stats"]
            )
            return _loss(logits, y), updated["batch_stats"]

        (loss, new_stats), grads = jax.value_and_grad(loss_fn, has_aux=True)(params)
        changes, opt_state = tx.update(grads, opt_state, params)
        return optax.apply_updates(params, changes), new_stats, opt_state, loss

    step = jax.jit(update, donate_argnums=(0, 1, 2))
    variables = model.init(jax.random.key(0), images[:2])
    carry = (variables["params"], variables["batch_stats"], tx.init(variables["params"]))
    batches = _epochs(images, labels)

    def run() -> None:
        nonlocal carry
        losses = []
        for x, y in itertools.islice(batches, updates):
            *state, loss = step(*carry, x, y)
            carry = tuple(state)
            losses.append(loss)
        jax.block_until_ready((carry, losses))

    return run


def _fit(
    model: Any,
    updates: int,
    images: np.ndarray,
    labels: np.ndarray,
    *,
    saves: int = 0,
    norms: bool = True,
) -> Callable[[], None]:
    """The same through `fit`, with everything on, and so many saves in a round."""
    tracker = diffusion.track_diffusion(measure_updates=norms)
    tx = optax.chain(optax.sgd(0.05, momentum=0.9), tracker)

    def loss_fn(params: Any, model_state: Any, batch: Any, key: jax.Array) -> Any:
        logits, updated = model.apply(
            {"params": params, **model_state}, batch["x"], train=True, mutable=["batch_stats"]
        )
        return _loss(logits, batch["y"]), (updated, {})

    variables = model.init(jax.random.key(0), images[:2])
    stats = {"batch_stats": variables["batch_stats"]}
    state = training.init_state(variables["params"], tx, key=jax.random.key(1), model_state=stats)
    # Copied, since every step gives away the memory of its state.
    state = jax.tree.map(jnp.copy, state)
    step = jax.jit(training.make_train_step(loss_fn, tx), donate_argnums=0)
    source = {"x": images, "y": labels}
    batches = growth.GrowingBatches(source, growth.constant_batch(BATCH), seed=0)
    # Of the first updates every one is tracked, of later ones a few in a hundred.
    state, _ = training.fit(step, state, batches, num_updates=1000)

    def run() -> None:
        nonlocal state
        if not saves:
            state, _ = training.fit(step, state, batches, num_updates=updates)
        else:
            with (
                tempfile.TemporaryDirectory() as folder,
                training.Checkpoints(folder, every=updates // saves) as checkpoints,
            ):
                state, _ = training.fit(
                    step, state, batches, num_updates=updates, checkpoints=checkpoints
                )
        jax.block_until_ready(state.params)

    return run


def _torch(
    name: str, updates: int, images: np.ndarray, labels: np.ndarray
) -> Callable[[], None] | None:
    """PyTorch's usual loop."""
    if importlib.util.find_spec("torch") is None:
        return None
    import torch

    network = torch_networks.f1() if name == "F1" else torch_networks.resnet(BLOCKS, WIDTHS)
    if images.ndim == 4:
        # The layout of the same memory in PyTorch, and its faster one on CPU.
        images = images.transpose(0, 3, 1, 2)
        network = network.to(memory_format=torch.channels_last)
    torch.set_num_threads(cores())
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9)
    loss_fn = torch.nn.CrossEntropyLoss()
    batches = _epochs(images, labels.astype(np.int64))

    def run() -> None:
        losses = []
        for x, y in itertools.islice(batches, updates):
            optimizer.zero_grad(set_to_none=True)
            loss = loss_fn(network(torch.from_numpy(x)), torch.from_numpy(y))
            loss.backward()
            optimizer.step()
            losses.append(loss.detach())

    return run


def measure(rounds: int = 9) -> dict[str, Any]:
    """Time every network; print and return the figures."""
    rng = np.random.default_rng(0)
    labels = rng.integers(10, size=EXAMPLES).astype(np.int32)
    figures: dict[str, Any] = {}
    for name, (updates, shape, model) in NETWORKS.items():
        images = rng.normal(size=(EXAMPLES, *shape)).astype(np.float32)
        contestants = {
            "bare loop": _bare(model, updates, images, labels),
            "fit": _fit(model, updates, images, labels),
            "fit, distance only": _fit(model, updates, images, labels, norms=False),
            "fit, one save": _fit(model, updates, images, labels, saves=1),
            "fit, five saves": _fit(model, updates, images, labels, saves=5),
        }
        timings = interleave(contestants, reference="bare loop", rounds=rounds, warmup=2)
        torch_loop = _torch(name, updates, images, labels)
        if torch_loop is not None:
            # Apart: two libraries in turn disturb each other's threads.
            pair = {"bare loop": contestants["bare loop"], "PyTorch": torch_loop}
            beside = interleave(pair, reference="bare loop", rounds=rounds, warmup=1)
            timings["PyTorch"] = beside["PyTorch"]
        per_update = timings["fit"].seconds / updates
        # The first also opens the folder, and the end waits for the last: that is once a run.
        save = (timings["fit, five saves"].ratio - timings["fit, one save"].ratio) / 4
        save = max(save, 0.0) * timings["bare loop"].seconds
        once = timings["fit, one save"].ratio - timings["fit"].ratio
        once = once * timings["bare loop"].seconds - save
        share = save / (1000 * per_update)
        whole, distance = (
            1 / (timings[label].ratio * (1 + share)) for label in ("fit", "fit, distance only")
        )
        print(f"\n{name}, batch {BATCH}, {updates} updates a round\n{table(timings)}")
        print(f"a save costs {1e3 * save:.0f} ms: {100 * share:.2f}% at one per 1000 updates")
        print(f"opening and closing the checkpoints costs {1e3 * once:.0f} ms, once a run")
        print(f"fit, all on, has {whole:.3f} of the bare loop's throughput", end=", ")
        print(f"{distance:.3f} where only the distance is tracked")
        figures[name] = {
            "updates": updates,
            "timings": {label: timing._asdict() for label, timing in timings.items()},
            "seconds per save": save,
            "seconds per run with checkpoints": once,
            "share of a save per 1000 updates": share,
            "throughput of fit over bare": whole,
            "throughput of fit over bare, distance only": distance,
        }
    return figures


def main() -> None:
    print(f"\nkept in {pathlib.Path(keep('loop', measure())).name}")


if __name__ == "__main__":
    main()
