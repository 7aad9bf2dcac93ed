"""Keskar et al. (2017), figures 4 and 5: `python -m benchmarks.papers.warm_starts [digits|mnist]`.

Sharpness and test accuracy against the batch size, every batch for the same epochs from the same
starts; and those of a large batch that starts where the small one was after some epochs, Adam
afresh, for as many epochs again. Network, batches and rate are those of the preset; sharpness is
the paper's, in the full space with ε = 1e-3, on some of the training examples.
"""

import argparse
import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.speed.timing import keep
from gapjax import growth, landscape, models, study, training


@dataclasses.dataclass(frozen=True)
class Setting:
    """What is run: a preset, the batches tried, and the epochs of the small one to start from."""

    preset: str
    batches: tuple[int, ...]
    starts: tuple[int, ...]
    measured: int


SETTINGS = {
    "digits": Setting(
        "keskar-digits", (16, 32, 64, 128, 256, 512), (0, 1, 2, 5, 10, 20, 50, 100), 1280
    ),
    "mnist": Setting("keskar-f2-mnist-small", (32, 128, 409, 1024), (0, 1, 3, 10, 30), 1020),
}


class Bench(NamedTuple):
    """The data and the compiled parts that all runs share."""

    train: dict[str, jax.Array]
    test: dict[str, jax.Array]
    measured: dict[str, jax.Array]
    init: Any
    advance: Any
    loss: Any
    accuracy: Any


def make_bench(own: study.Study, measured: int) -> Bench:
    """Compile a study's network and optimizer as a population over its seeds."""
    dataset = own.load_dataset()
    images = np.asarray(dataset.train.images, np.float32)
    axes = tuple(range(images.ndim - 1))
    centre, scale = images.mean(axes), images.std(axes)

    def split_of(split: Any, count: int | None = None) -> dict[str, jax.Array]:
        x = (np.asarray(split.images[:count], np.float32) - centre) / scale
        return {"x": jnp.asarray(x), "y": jnp.asarray(split.labels[:count], jnp.int32)}

    train, test = split_of(dataset.train), split_of(dataset.test)
    network = models.as_network(models.find_network(own.model, 10))
    tx = optax.adam(own.learning_rate)

    def losses(params: Any, model_state: Any, batch: Any, **mode: Any) -> Any:
        outputs, model_state = network.apply(params, model_state, batch["x"], **mode)
        each = optax.softmax_cross_entropy_with_integer_labels(outputs, batch["y"])
        return each.mean(), model_state

    def train_loss(params: Any, model_state: Any, batch: Any, key: jax.Array) -> Any:
        loss, model_state = losses(params, model_state, batch, train=True, key=key)
        return loss, (model_state, {})

    step = training.make_train_step(train_loss, tx)

    def init(seed: int) -> Any:
        key = jax.random.key(seed)
        params, model_state = network.init(key, train["x"][:2])
        return training.init_state(params, tx, key=key, model_state=model_state)

    def loss(model_state: Any, params: Any, batch: Any) -> jax.Array:
        return losses(params, model_state, batch, train=False)[0]

    @jax.jit
    def accuracy(state: Any, batch: Any) -> jax.Array:
        outputs, _ = network.apply(state.params, state.model_state, batch["x"], train=False)
        return (jnp.argmax(outputs, -1) == batch["y"]).mean()

    advance = training.make_advance(
        lambda state, _, batch: step(state, batch),
        loop=training.loop_for(init(0).params, jax.default_backend()),
    )
    some = split_of(dataset.train, measured)
    return Bench(train, test, some, init, advance, loss, accuracy)


def train(
    bench: Bench, states: Any, seeds: Sequence[int], size: int, epochs: int, first: int = 0
) -> Any:
    """Train every seed for some epochs, on its own order of examples from epoch ``first`` on."""
    count = len(bench.train["y"])
    updates = round(epochs * count / size)
    rows = np.stack(
        [
            growth.stream_rows(
                seed, first * count, first * count + updates * size, num_examples=count
            ).example.reshape(updates, size)
            for seed in seeds
        ],
        axis=1,
    )
    if not updates:
        return states
    return bench.advance(states, np.zeros(len(seeds)), bench.train, rows, updates)[0]


def restarted(bench: Bench, states: Any, seeds: Sequence[int]) -> Any:
    """The same weights and running statistics, the optimizer as at the start."""
    fresh = training.stack_members([bench.init(seed) for seed in seeds])
    copied = jax.tree.map(jnp.copy, (states.params, states.model_state))
    return fresh._replace(params=copied[0], model_state=copied[1])


def measure(bench: Bench, states: Any, seeds: Sequence[int], sharp: bool = True) -> dict[str, Any]:
    """Of every seed: test accuracy, training loss, and sharpness where it is asked for."""
    found: dict[str, list[float]] = {"test_accuracy": [], "train_loss": []}
    for member in range(len(seeds)):
        state = training.member_of(states, member)
        loss = jax.tree_util.Partial(bench.loss, state.model_state)
        found["test_accuracy"].append(float(bench.accuracy(state, bench.test)))
        found["train_loss"].append(float(loss(state.params, bench.train)))
        if sharp:
            at = landscape.keskar_sharpness(
                loss, state.params, [bench.measured], key=jax.random.key(0), num_starts=2,
                check=False, progress=False,
            )  # fmt: skip
            found.setdefault("sharpness", []).append(float(at.value))
    return found


def against_batch(bench: Bench, setting: Setting, own: study.Study) -> Iterator[dict[str, Any]]:
    """Every batch size, from the same starts, for the same epochs."""
    for size in setting.batches:
        states = training.stack_members([bench.init(seed) for seed in own.all_seeds])
        states = train(bench, states, own.all_seeds, size, int(own.epochs))
        yield {"batch": size, **measure(bench, states, own.all_seeds)}


def warm_starts(bench: Bench, setting: Setting, own: study.Study) -> Iterator[dict[str, Any]]:
    """The large batch from where the small one was after some epochs, and that small one."""
    states, at = training.stack_members([bench.init(seed) for seed in own.all_seeds]), 0
    for epochs in setting.starts:
        states = train(bench, states, own.all_seeds, own.small_batch, epochs - at, first=at)
        at = epochs
        large = restarted(bench, states, own.all_seeds)
        large = train(bench, large, own.all_seeds, own.large_batch, int(own.epochs), first=at)
        yield {
            "epochs": epochs,
            "small": measure(bench, states, own.all_seeds, sharp=False),
            "large": measure(bench, large, own.all_seeds),
        }


def main() -> None:
    """Trains, measures, keeps, and writes the pages."""
    from benchmarks.papers.pages import write_pages

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", nargs="?", default="digits", choices=SETTINGS)
    parser.add_argument("--seeds", type=int, help="as many as the preset has, if left out")
    parser.add_argument("--data-dir", help="folder of prepared data sets")
    asked = parser.parse_args()
    setting = SETTINGS[asked.data]
    own = study.PRESETS[setting.preset].study
    seeds = own.seeds if asked.seeds is None else asked.seeds
    own = dataclasses.replace(own, seeds=seeds, data_dir=asked.data_dir)
    bench = make_bench(own, setting.measured)
    kept: dict[str, Any] = {
        "command": f"python -m benchmarks.papers.warm_starts {asked.data} --seeds {own.seeds}",
        "preset": setting.preset,
        "settings": {
            "dataset": str(own.dataset), "model": own.model, "epochs": own.epochs,
            "small_batch": own.small_batch, "large_batch": own.large_batch, "seeds": own.seeds,
            "train_examples": len(bench.train["y"]), "measured_examples": setting.measured,
        },
    }  # fmt: skip
    for name, runs in (("batches", against_batch), ("starts", warm_starts)):
        kept[name] = []
        for one in runs(bench, setting, own):
            print(one, flush=True)
            kept[name].append(one)
    keep(f"warm_starts-{asked.data}", kept)
    print("\n".join(map(str, write_pages())))


if __name__ == "__main__":
    main()
