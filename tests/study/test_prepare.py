"""Everything that can be known is said before a folder is made, in one line."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from gapjax import data, models, study
from gapjax.study import Regime, Remedy
from gapjax.study._prepare import prepare_study
from tests.study.conftest import make_blobs, tiny_study


class Linen(nn.Module):
    wide: int = 3

    @nn.compact
    def __call__(self, x, train=False):
        x = nn.BatchNorm(use_running_average=not train, momentum=0.9)(nn.Dense(8)(x))
        return nn.Dense(self.wide)(nn.relu(x))


class Nnx(nnx.Module):
    def __init__(self, rngs):
        self.first = nnx.Linear(6, 8, rngs=rngs)

    def __call__(self, x):
        return self.first(x)


def _no_norm(use_running_average):
    return lambda x: x


def _growing_state():
    def update(updates, state, params=None):
        return updates, jnp.concatenate([state, state])

    return optax.GradientTransformation(lambda params: jnp.zeros(2), update)


def _raising_task(outputs, batch):
    return batch.nothing


PLAIN = study.classification()

CASES = {
    "width": (
        {"model": Linen(wide=4)},
        r"gives outputs of shape \[4\] for 3 classes: make its last",
    ),
    "inputs": ({"model": lambda rngs: Nnx(rngs)}, r"does not run on inputs of shape \[4\]"),
    "no network": ({"model": lambda rngs: 3}, "gave int when called with rngs"),
    "data": ({"dataset": "digitz"}, "Did you mean 'digits'"),
    "batch": ({"large_batch": 70}, "larger than the 64"),
    "validation": ({"large_batch": 60, "ghost_size": 4, "tune": 2}, "larger than the 51"),
    "all held out": ({"tune": 2, "validation": 0.999}, "leaves none of 64 examples"),
    "ghosts": ({"ghost_size": 7}, r"regime LB\+LR\+GBN: .* not a multiple of ghost_size=7"),
    "ghosts of one": ({"ghost_size": 1}, "Use a ghost_size of at least 2"),
    "no batch norm": (
        {"model": models.MLP((8,), 3, norm=_no_norm)},
        r"regime LB\+LR\+GBN wants ghost batch norm, but model .* has no batch norm",
    ),
    "later regime": (
        {"regimes": ("SB", "LB+LR+GBN", "GROW+GBN"), "ghost_size": 16},
        r"regime GROW\+GBN: a batch of 8 is not a multiple of ghost_size=16",
    ),
    "schedule": (
        {"schedule": lambda updates, peak: 0.1},
        "is no function of steps",
    ),
    "endless schedule": (
        {"schedule": lambda updates, peak: lambda step: jnp.where(step > 5, jnp.nan, 0.1)},
        "finite and not negative",
    ),
    "optimizer": ({"optimizer": lambda lr: None}, "must give an optax chain"),
    "optimizer that raises": (
        {"optimizer": lambda lr: optax.sgd(lr.nothing)},
        "'function' object has no attribute 'nothing'",
    ),
    "state": (
        {"optimizer": lambda lr: optax.chain(optax.sgd(lr), _growing_state())},
        r"an update turns state.* from float32\[2\] into float32\[4\]",
    ),
    "loss": (
        {"task": dataclasses.replace(PLAIN, loss=lambda o, b: o, smoothed=None)},
        r"loss of task 'classification' gives shape \[2, 3\]",
    ),
    "metric": (
        {"task": dataclasses.replace(PLAIN, metrics={"accuracy": _raising_task})},
        "does not fit outputs of shape .*no attribute 'nothing'",
    ),
    "headline of all examples at once": (
        {
            "task": study.Task(
                PLAIN.loss, {"f1": lambda o, b: (o.argmax(-1) == b.labels).mean()}, "f1"
            )
        },
        r"metric 'f1' of task 'custom' gives shape \[\] .*no example has alone \(an F1, an AUC\)",
    ),
    "headline of Python's own": (
        {"task": study.Task(PLAIN.loss, {"f1": lambda o, b: 0.5}, "f1")},
        "metric 'f1' of task 'custom' gives float .*leave the mean over examples out",
    ),
    "headline of NumPy": (
        {"task": study.Task(PLAIN.loss, {"f1": lambda o, b: np.asarray(o).mean()}, "f1")},
        "task 'custom' does not fit outputs",
    ),
    "a plateau of a remedy": (
        {"regimes": ("SB", "LB+PLATEAU"), "maximum": 1.0, "plateau_epochs": 4.0},
        r"keep of regime LB\+PLATEAU='plateau' stops after plateau_epochs=4",
    ),
    "a schedule of a remedy": (
        {"regimes": ("SB", "LB+PLATEAU"), "schedule": "cosine"},
        r"keep of regime LB\+PLATEAU='plateau' trains until the loss says stop",
    ),
    "inputs of a task": (
        {"task": dataclasses.replace(PLAIN, inputs=lambda batch: batch.pixels)},
        "no attribute 'pixels'",
    ),
    "weights": (
        {"task": dataclasses.replace(PLAIN, weight=lambda batch: jnp.ones((2, 1)))},
        r"weight of task .* gives shape \[2, 1\]",
    ),
    "smoothing": (
        {"task": dataclasses.replace(PLAIN, smoothed=None), "regimes": ("SB", "LB+SMOOTH")},
        "has no loss with smoothed labels",
    ),
    "groups": (
        {"regimes": ("SB", "20+SAM")},
        r"^regime 20\+SAM: .* small batch's 8 examples, and a batch of 20 .* make it 16 or 24\.$",
    ),
    "groups of a batch that grows": (
        {"regimes": ("SB", "SEESAW+PENALTY"), "schedule": "cosine", "large_batch": 30},
        r"^regime SEESAW\+PENALTY: .* a batch of 30 is no multiple of that: make it 24 or 32\.$",
    ),
    "ghosts in a batch of one": (
        {"regimes": ("SB", "1+GBN")},
        r"a batch of 1 is not a multiple of ghost_size=\d+: use a larger batch, or leave GBN out",
    ),
    "augment": (
        {"augment": ("flip",)},
        r"regime SB, batch 8: augment 'flip' takes images",
    ),
    "augment that changes shapes": (
        {"augment": (lambda key, batch: data.Split(batch.images[:, :2], batch.labels),)},
        "regime SB, batch 8",
    ),
    "augment that raises": (
        {"augment": (lambda key, batch: batch.nothing,)},
        "regime SB, batch 8: .*no attribute 'nothing'",
    ),
    "rate": (
        {"regimes": ("SB", Regime("x", remedies=(Remedy("X", "x", plan=lambda p: None),)))},
        "plan of remedy X must give a plan",
    ),
    "normalize": (
        {"dataset": dataclasses.replace(make_blobs(), normalize="channel")},
        "normalize='channel' wants images",
    ),
    "follows": ({"regimes": ("LB", "LB+MATCH")}, "follows SB, which must be among"),
    "devices": ({"seeds": 3}, "does not split evenly over batch_devices=5"),
}


@pytest.mark.parametrize("case", CASES)
def test_what_does_not_fit_is_said_before_anything_is_written(case, tmp_path):
    change, message = CASES[case]
    devices = 5 if case == "devices" else 1
    with pytest.raises(ValueError, match=message) as found:
        study.run_study(tiny_study(**change), tmp_path / "a", batch_devices=devices)
    assert "\n" not in str(found.value)
    assert not (tmp_path / "a").exists()


@pytest.mark.slow
def test_a_noise_meter_takes_whole_ghosts(tmp_path):
    """A regime whose ghosts are larger than the small batch, beside one that grows."""
    own = tiny_study(
        regimes=("SB", "LB+LR+GBN", "GROW"),
        ghost_size=16,
        seeds=1,
        epochs=1,
        evaluations=1,
        noise_scale=True,
    )
    result = study.run_study(own, tmp_path / "a")
    for record in result.regimes.values():
        assert np.isfinite(record.curves.array("gradient_noise")[-1]).all()


@pytest.mark.parametrize(
    ("more", "width", "fits"),
    [(273, 401, True), (273, 512, True), (273, 400, False), (0, 128, True), (0, 127, False)],
)
def test_a_vocabulary_may_be_larger_than_the_text_and_is_of_both_splits(more, width, fits):
    train, test = (np.arange(128).reshape(16, 8) + first for first in (0, more))
    own = study.Study(
        dataset=data.Dataset({"tokens": train}, {"tokens": test}),
        model=models.transformer_tiny(width),
        task=study.next_token(),
        regimes=("SB", "LB"),
        small_batch=4,
        large_batch=8,
        ghost_size=4,
        controls=False,
    )
    if fits:
        prepare_study(own)
    else:
        least = 128 + more
        wanted = f"for {least} targets: make its last layer at least {least}"
        with pytest.raises(ValueError, match=wanted):
            prepare_study(own)


def test_a_named_network_of_tokens_depends_on_no_text():
    tokens = np.arange(128).reshape(16, 8)
    texts = [data.Dataset({"tokens": t}, {"tokens": t}) for t in (tokens, tokens // 8)]
    own = study.Study(dataset=texts[0], model="transformer-tiny", task=study.next_token())
    shapes = [
        jax.eval_shape(own.make_network(text).init, jax.random.key(0), tokens) for text in texts
    ]
    assert jax.tree.map(np.shape, shapes[0]) == jax.tree.map(np.shape, shapes[1])


class Alone(nn.Module):
    """One number per example, without an axis of its own."""

    @nn.compact
    def __call__(self, x, train=False):
        return nn.Dense(1)(nn.BatchNorm(use_running_average=not train)(x))[..., 0]


def test_outputs_of_a_regression_may_have_the_shape_of_its_targets():
    x = np.arange(192.0).reshape(64, 3)
    waves = data.Dataset({"x": x, "y": x[:, 0]}, {"x": x, "y": x[:, 0]}, name="waves")
    own = study.Study(
        dataset=waves,
        model=Alone(),
        task=study.regression(),
        small_batch=4,
        large_batch=32,
        ghost_size=4,
    )
    prepare_study(own)
    labels = (x[:, 0] > 90).astype(int)
    two = data.Dataset(data.Split(x, labels), data.Split(x, labels), ("no", "yes"))
    with pytest.raises(ValueError, match=r"outputs of shape \[\] for 2 classes: make its last"):
        prepare_study(dataclasses.replace(own, dataset=two, task=study.classification()))
