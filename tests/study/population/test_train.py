"""Training a population: members, devices, growth, faults, augmentation."""

import dataclasses

import flax.linen as nn
import jax
import numpy as np
import pytest

from gapjax import data, diffusion, models
from gapjax.study import Regime, make_plan
from gapjax.study._population._member import Member, as_arrays, make_population
from gapjax.study._population._setup import make_setup
from gapjax.study._population._train import Watch, train
from tests.study.conftest import tiny_study


def _setup(study, devices_per_member=1):
    return make_setup(study, study.load_dataset(), devices_per_member)


def _outcome(study, members, regime="SB", devices_per_member=1, **plan_changes):
    setup = _setup(study, devices_per_member)
    plan = make_plan(study, Regime.parse(regime), setup.num_examples)
    plan = dataclasses.replace(plan, **plan_changes)
    return train(setup, plan, setup.train, setup.test, [Member(*m) for m in members])


class Conv(nn.Module):
    @nn.compact
    def __call__(self, x, train=False):
        x = nn.Conv(4, (3, 3), strides=2)(x)
        x = nn.relu(nn.BatchNorm(use_running_average=not train)(x))
        return nn.Dense(3)(x.reshape(x.shape[0], -1))


class Wide(nn.Module):
    """Of so many parameters that members take turns."""

    @nn.compact
    def __call__(self, x, train=False):
        x = nn.Dense(512)(x.reshape(x.shape[0], -1))
        x = nn.relu(nn.BatchNorm(use_running_average=not train)(x))
        return nn.Dense(10)(nn.relu(nn.Dense(512)(x)))


def _images():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (96, 4, 4, 1)).astype(np.uint8)
    labels = rng.integers(3, size=96)
    parts = [data.Split(images[s], labels[s]) for s in (slice(0, 64), slice(64, None))]
    return data.Dataset(*parts, class_names=("a", "b", "c"), name="noise")


@pytest.mark.parametrize(
    "changes",
    [{}, {"model": Wide()}, {"model": Conv(), "dataset": _images()}],
    ids=["scan", "turns", "host"],
)
def test_members_do_not_know_of_each_other(changes):
    study = tiny_study(**changes)
    alone = _outcome(study, [(1, 0.05)])
    together = _outcome(study, [(0, 0.05), (1, 0.05), (1, 0.2)])
    for name in ("train_loss", "test_accuracy", "distance"):
        np.testing.assert_allclose(
            alone.curves.values[name][:, 0],
            together.curves.values[name][:, 1],
            rtol=2e-4,
            atol=1e-3,
        )
    last = together.curves.values["distance"][-1]
    assert last[2] > last[1]


def test_seeds_and_their_batches_lie_over_devices():
    """Two seeds on four devices each, a ghost over two of them, against one device."""
    study = tiny_study(ghost_size=16)
    members = [(0, 0.1), (1, 0.1)]
    one = _outcome(study, members, "LB+LR+GBN")
    split = _outcome(study, members, "LB+LR+GBN", devices_per_member=4)
    assert len(jax.tree.leaves(split.states.params)[0].sharding.device_set) == 8
    for name in ("train_loss", "test_loss", "distance"):
        np.testing.assert_allclose(split.curves.values[name], one.curves.values[name], rtol=1e-4)


@pytest.mark.parametrize("regime", ["SB", "LB+EMA"])  # the latter has statistics to take anew
def test_a_split_watched_at_the_end_alone_is_measured_as_one_watched_all_along(regime):
    study = tiny_study()
    setup = _setup(study)
    plan = make_plan(study, Regime.parse(regime), setup.num_examples)
    asked, found = [], []
    means = setup.evaluator.means
    setup.evaluator.means = lambda *given: (asked.append(given), means(*given))[1]
    members = [Member(0, plan.rate), Member(0, 1e18)]  # and what diverged is told from its end
    for updates in (None, frozenset()):
        watched = [
            Watch("train", setup.train, updates, at_end=True),
            Watch("test", setup.test, updates, at_end=True),
        ]
        asked.clear()
        found.append(train(setup, plan, setup.train, setup.test, members, watched=watched))
        assert len(asked) == (2 if updates is not None else 2 * len(plan.evaluations))
    often, once = found
    np.testing.assert_array_equal(often.diverged, once.diverged)
    for name in ("train_loss", "test_accuracy"):
        np.testing.assert_array_equal(often.final(name), once.final(name))
        assert np.isnan(once.curves.values[name][:-1]).all()


def _no_norm(use_running_average):
    return lambda x: x


def test_a_rate_that_explodes_is_found_and_the_others_go_on():
    study = tiny_study(clip_norm=None, model=models.MLP((8,), 3, norm=_no_norm))
    outcome = _outcome(study, [(0, 0.05), (0, 1e18)])
    assert outcome.diverged[0] == 0 and outcome.diverged[1] > 0
    assert np.isfinite(outcome.curves.values["test_loss"][-1, 0])
    assert np.isnan(outcome.final("test_accuracy")).tolist() == [False, True]


def test_growing_batch_starts_as_the_small_one():
    study = tiny_study(decay_at=(0.5,))
    small, grown = (_outcome(study, [(0, 0.05)], regime) for regime in ("SB", "GROW"))
    before = small.curves.update <= 16  # half of 4 epochs of 64 examples by 8
    same = grown.curves.update <= 16
    shared = np.intersect1d(small.curves.update[before], grown.curves.update[same])
    assert len(shared) > 8
    for at in shared:
        np.testing.assert_allclose(
            small.curves.values["distance"][small.curves.update == at],
            grown.curves.values["distance"][grown.curves.update == at],
            rtol=1e-5,
        )
    assert grown.curves.update[-1] == 20  # the other half by 32


def test_matched_run_follows_the_distance_it_is_given():
    study = tiny_study(epochs=20)
    plain = _outcome(study, [(0, 0.05)], "LB")
    step = np.arange(1, 161)
    target = 2 * plain.curves.values["distance"][-1, 0] * np.log1p(step) / np.log1p(160)
    reference = diffusion.DiffusionRecord(step, target, np.ones(160))
    matched = _outcome(study, [(0, 0.05)], "LB+MATCH", reference=reference)
    np.testing.assert_allclose(matched.curves.values["distance"][-1, 0], target[-1], rtol=0.1)


def test_augmented_examples_are_the_same_whatever_the_batch_and_others_in_every_epoch():
    seen = []

    def note(key, batch):
        jax.debug.callback(lambda *x: seen.append(x), jax.random.key_data(key), batch.images[0, 0])
        return batch

    study = tiny_study(augment=(note,), epochs=2, evaluations=1, dataset=_unlike())
    keys = {}
    for regime in ("SB", "LB"):
        seen.clear()
        _outcome(study, [(0, 0.05)], regime)
        jax.effects_barrier()
        keys[regime] = {(float(x), tuple(key.tolist())) for key, x in seen}
    assert keys["SB"] == keys["LB"]
    assert len(keys["SB"]) == 2 * 64  # another key in another epoch


def _unlike():
    """Examples that are told apart by their first feature."""
    x = np.random.default_rng(0).normal(size=(96, 4))
    x[:, 0] = np.arange(96)
    labels = np.arange(96) % 3
    parts = [data.Split(x[s], labels[s]) for s in (slice(0, 64), slice(64, None))]
    return data.Dataset(*parts, class_names=("a", "b", "c"), normalize=None)


@pytest.mark.parametrize(("regime", "anew"), [("LB", False), ("LB+EMA", True)])
def test_weights_that_training_itself_saw_keep_their_running_statistics(regime, anew):
    setup = _setup(tiny_study())
    plan = make_plan(setup.study, Regime.parse(regime), setup.num_examples)
    population = make_population(setup, plan, 2)
    states = population.init(as_arrays([Member(0, 0.1), Member(1, 0.1)]), setup.sample())
    evaluated = population.weights(states, setup.train)
    own, shown = (jax.tree.leaves(x.model_state) for x in (states, evaluated))
    assert any(not np.allclose(*pair) for pair in zip(own, shown, strict=True)) is anew
