"""Images per second of ResNet-44 in training: `python -m benchmarks.speed.resnet44`.

`compile_step` over `make_train_step` on one device, batches on the device already, SGD with
momentum: plain batch norm and ghosts of 128, in float32 (the platform's own precision for its
products) and with `compute_dtype=bfloat16`, at a small and a large batch. Beside it PyTorch's usual
loop on the same network and device where it is installed, in float32 and under bfloat16 autocast,
channels last. Ratios are to plain batch norm of the same batch and type.
"""

import argparse
import functools
import importlib.util
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.speed import torch_networks
from benchmarks.speed.timing import interleave, keep, table
from gapjax import ghost, models, training

SHAPE, GHOST = (32, 32, 3), 128
DTYPES = {"float32": None, "bfloat16": jnp.bfloat16}


def _gapjax(batch: int, ghost_size: int | None, dtype: Any, updates: int) -> Callable[[], None]:
    """A call that makes so many updates, each dispatched on its own."""
    norm = functools.partial(ghost.linen.GhostBatchNorm, ghost_size=ghost_size)
    network = models.as_network(models.resnet44(norm=norm))
    tx = optax.sgd(0.01, momentum=0.9)

    def loss_fn(params: Any, model_state: Any, batch: Any, key: Any) -> Any:
        logits, model_state = network.apply(params, model_state, batch["x"], train=True)
        losses = optax.losses.softmax_cross_entropy_with_integer_labels(
            logits.astype(jnp.float32), batch["y"]
        )
        return losses.mean(), (model_state, {})

    step = training.make_train_step(loss_fn, tx, compute_dtype=dtype)
    mesh = jax.make_mesh(
        (1,), ("data",), axis_types=(jax.sharding.AxisType.Auto,), devices=jax.devices()[:1]
    )
    step = training.compile_step(step, mesh=mesh)
    rng = np.random.default_rng(0)
    batch_of = {
        "x": jnp.asarray(rng.normal(size=(batch, *SHAPE)), jnp.float32),
        "y": jnp.asarray(rng.integers(10, size=batch), jnp.int32),
    }
    params, model_state = network.init(jax.random.key(0), batch_of["x"][:2])
    state = training.init_state(params, tx, key=jax.random.key(1), model_state=model_state)

    def once() -> None:
        nonlocal state
        for _ in range(updates):
            state, metrics = step(state, batch_of)
        jax.block_until_ready((state, metrics))

    return once


def _torch(batch: int, dtype: str, updates: int) -> Callable[[], None]:
    import torch

    device = "cuda" if jax.default_backend() == "gpu" else "cpu"
    torch.set_float32_matmul_precision("high")  # TensorFloat-32, as XLA on a GPU
    torch.backends.cudnn.allow_tf32 = True
    torch.backends.cudnn.benchmark = True
    network = torch_networks.resnet((7, 7, 7), (16, 32, 64)).to(
        device, memory_format=torch.channels_last
    )
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9)
    loss_fn = torch.nn.CrossEntropyLoss()
    rng = np.random.default_rng(0)
    x = torch.from_numpy(rng.normal(size=(batch, *SHAPE)).astype(np.float32)).movedim(-1, 1)
    x = x.to(device)  # channels last, as it lies in memory
    y = torch.from_numpy(rng.integers(10, size=batch)).to(device)

    def once() -> None:
        for _ in range(updates):
            optimizer.zero_grad(set_to_none=True)
            with torch.autocast(device, torch.bfloat16, enabled=dtype == "bfloat16"):
                loss = loss_fn(network(x), y)
            loss.backward()
            optimizer.step()
        loss.item()

    return once


def measure(batch: int, dtype: str, updates: int, rounds: int) -> dict[str, Any]:
    """Images per second of every contestant at one batch and type."""
    contestants = {"batch norm": _gapjax(batch, None, DTYPES[dtype], updates)}
    if batch > GHOST:
        contestants[f"ghosts of {GHOST}"] = _gapjax(batch, GHOST, DTYPES[dtype], updates)
    if importlib.util.find_spec("torch") is not None:
        contestants["PyTorch"] = _torch(batch, dtype, updates)
    timings = interleave(contestants, reference="batch norm", rounds=rounds, warmup=2)
    speeds = {name: updates * batch / timing.seconds for name, timing in timings.items()}
    print(f"\nResNet-44, batch {batch}, {dtype}, {updates} updates a round\n{table(timings)}")
    for name, speed in speeds.items():
        print(f"{name}: {speed:,.0f} images/s", flush=True)
    return {
        "updates": updates,
        "images per second": speeds,
        "timings": {name: timing._asdict() for name, timing in timings.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--updates", type=int, default=20)
    parser.add_argument("--batches", nargs="+", type=int, default=[128, 2048])
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=list(DTYPES))
    given = parser.parse_args()
    figures = {
        f"batch {batch}, {dtype}": measure(batch, dtype, given.updates, given.rounds)
        for batch in given.batches
        for dtype in given.dtypes
    }
    print(f"\nkept in {keep('resnet44', figures)}")


if __name__ == "__main__":
    main()
