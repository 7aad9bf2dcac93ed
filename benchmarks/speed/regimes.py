"""A table's regimes against a plain PyTorch program: `python -m benchmarks.speed.regimes`.

F1 with the batches, the optimizer and the clipping of `hoffer-f1-mnist`, on random digits: the
study's own segment of updates (small batch, large batch, ghosts; several seeds as one program)
against the loop that one writes in PyTorch, seed after seed, and against the floor: as many
floating-point operations as the network's matrix products have, in one product whose other sides
are `SQUARE`, the rate that the machine can reach. PyTorch has to be installed (the extra `bench`).
Both ways to write ghosts there are timed: a call per ghost, and one call on a view in which every
ghost has channels of its own.
"""

import argparse
import dataclasses
import functools
import importlib.util
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.speed import torch_networks
from benchmarks.speed.population import EXAMPLES, random_data
from benchmarks.speed.timing import interleave, keep, table
from benchmarks.speed.train_step import population
from gapjax import study
from gapjax._cores import cores

PAPER = study.preset("hoffer-f1-mnist")
REGIMES = {"SB": "SB", "LB": "LB", "ghosts": "LB+LR+GBN"}
LAYERS = ((784, 512), (512, 512), (512, 512), (512, 512), (512, 512), (512, 10))
SQUARE = 2048
# Examples of one seed in a round: 8 large batches. The study makes 19 between two measurements, in
# one call; with few of them what a call costs (memory that is new to it) weighs more than it does.
ROUND = 32_768


def operations(examples: int) -> float:
    """Of the products of F1, forward and backward; the images have no gradient.

    Examples:
        >>> operations(1) == 6 * (784 * 512 + 4 * 512**2 + 512 * 10) - 2 * 784 * 512
        True
    """
    products = sum(before * after for before, after in LAYERS)
    return 2.0 * examples * (3 * products - LAYERS[0][0] * LAYERS[0][1])


def floor(seeds: int, examples: int) -> Callable[[], Any]:
    """A call that makes one product of as many operations."""
    rows = round(seeds * operations(examples) / (2 * SQUARE**2))
    left, right = (jnp.ones((n, SQUARE)) for n in (rows, SQUARE))
    product = jax.jit(jnp.dot)
    return lambda: product(left, right).block_until_ready()


def ours(regime: str, seeds: int) -> tuple[Callable[[], Any], study.Plan, np.ndarray]:
    """A call that trains so many seeds by the study, what it does, and its batches."""
    dataset = random_data((28, 28, 1))
    settings = dataclasses.replace(PAPER, dataset=dataset)
    plan = study.make_plan(settings, study.Regime.parse(regime), 60_000)
    shape = (ROUND // plan.batch_size, seeds, plan.batch_size)
    rows = np.random.default_rng(0).integers(EXAMPLES, size=shape).astype(np.int32)
    return population(settings, plan, dataset, rows, seeds), plan, rows


def theirs(plan: study.Plan, rows: np.ndarray, *, view: bool = True) -> Callable[[], Any]:
    """A call that trains the same seeds by PyTorch, one after the other, data on the device."""
    import torch

    torch.set_num_threads(cores())
    device = "cuda" if jax.default_backend() == "gpu" else "cpu"
    split = random_data((28, 28, 1)).train
    images = torch.from_numpy(split.images).to(device).float()
    images = ((images - images.mean()) / images.std()).flatten(1)
    labels = torch.from_numpy(split.labels.astype(np.int64)).to(device)
    ghosts = plan.batch_size // (plan.ghost_size or plan.batch_size)
    batches = torch.from_numpy(rows.astype(np.int64)).to(device)
    loss_fn = torch.nn.CrossEntropyLoss()

    def member() -> Callable[[Any], None]:
        network = torch_networks.f1(ghosts, view=view).to(device)
        weights = list(network.parameters())
        optimizer = torch.optim.SGD(
            weights, lr=plan.rate, momentum=0.9, weight_decay=PAPER.weight_decay
        )

        def update(chosen: Any) -> None:
            optimizer.zero_grad(set_to_none=True)
            loss_fn(network(images[chosen]), labels[chosen]).backward()
            torch.nn.utils.clip_grad_norm_(weights, PAPER.clip_norm)
            optimizer.step()

        return update

    members = [member() for _ in range(rows.shape[1])]

    def run() -> None:
        for seed, update in enumerate(members):
            for chosen in batches[:, seed]:
                update(chosen)
        if device == "cuda":
            torch.cuda.synchronize()

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seeds", type=int, default=3 if jax.default_backend() == "cpu" else 16)
    given = parser.parse_args()
    figures: dict[str, Any] = {"seeds": given.seeds, "examples of a seed": ROUND}
    measure = functools.partial(interleave, rounds=given.rounds, warmup=1)
    for name, regime in REGIMES.items():
        study_run, plan, rows = ours(regime, given.seeds)
        timings = measure(
            {"study": study_run, "floor": floor(given.seeds, ROUND)}, reference="study"
        )
        if importlib.util.find_spec("torch"):
            # Apart from the floor, and each apart: libraries in turn disturb each other's threads.
            ways = {"PyTorch": True} | (
                {"PyTorch, ghost by ghost": False} if plan.ghost_size else {}
            )
            for label, view in ways.items():
                pair = {"study": study_run, label: theirs(plan, rows, view=view)}
                timings[label] = measure(pair, reference="study")[label]
        print(
            f"\n{name}: batch {plan.batch_size}, {given.seeds} seeds\n{table(timings)}", flush=True
        )
        figures[name] = {
            "batch": plan.batch_size,
            "timings": {label: timing._asdict() for label, timing in timings.items()},
        }
    print(f"\nkept in {keep('regimes', figures)}")


if __name__ == "__main__":
    main()
