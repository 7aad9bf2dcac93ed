import flax.linen as nn
import jax
import numpy as np
import pytest

from gapjax import data, diffusion, growth, models
from gapjax.study import REGIMES, Study, make_plan
from gapjax.study._members import make_setup, preparer
from gapjax.study._train import Stream, train


@pytest.mark.parametrize("sizes", [[1], [7], [10], [13], [3, 4, 25, 1]])
def test_stream_is_one_order_of_examples_whatever_the_batch(sizes):
    stream, whole = Stream(3, 10), Stream(3, 10)
    taken = np.concatenate([stream.take(size) for size in 12 * sizes])
    for epoch in range(len(taken) // 10):
        assert sorted(taken[10 * epoch : 10 * epoch + 10]) == list(range(10))
    np.testing.assert_array_equal(taken, whole.take(len(taken)))
    assert not np.array_equal(Stream(3, 100).take(100), Stream(4, 100).take(100))


def test_stream_is_that_of_growing_batches():
    examples = {"x": np.arange(12)}
    batches = growth.GrowingBatches(examples, growth.constant_batch(5), seed=3)
    stream = Stream(3, 12)
    for _ in range(6):
        np.testing.assert_array_equal(next(batches)["x"], stream.take(5))


def test_images_are_standardized_by_the_training_pixels():
    images = np.random.default_rng(0).integers(0, 256, (50, 4, 4, 1)).astype(np.uint8)
    prepared = np.asarray(preparer(images)(images))
    assert prepared.dtype == np.float32
    np.testing.assert_allclose([prepared.mean(), prepared.std()], [0, 1], atol=1e-5)


class Conv(nn.Module):
    @nn.compact
    def __call__(self, x, train=False):
        x = nn.Conv(4, (3, 3), strides=2)(x)
        x = nn.relu(nn.BatchNorm(use_running_average=not train)(x))
        return nn.Dense(10)(x.reshape(x.shape[0], -1))


def _outcome(study, members, regime="SB", reference=None, devices_per_member=1):
    dataset = data.load("digits")
    few = jax.tree.map(lambda x: x[:96], dataset.train)
    plan = make_plan(study, REGIMES[regime], len(few))
    network = study.make_network(10)
    setup = make_setup(study, network, few, dataset.test)
    setup = setup._replace(devices_per_member=devices_per_member)
    return train(setup, plan, few, dataset.test, members, reference=reference)


STUDY = Study(seeds=2, epochs=1, small_batch=16, large_batch=96, evaluations=2)


@pytest.mark.parametrize("model", ["digits-mlp", Conv()], ids=["scan", "host"])
def test_members_do_not_know_of_each_other(model):
    study = Study(**{**vars(STUDY), "model": model})
    alone = _outcome(study, [(1, 0.05)])
    together = _outcome(study, [(0, 0.05), (1, 0.05), (1, 0.2)])
    for name in ("train_loss", "test_accuracy", "distance"):
        np.testing.assert_allclose(
            alone.history[name][:, 0], together.history[name][:, 1], rtol=2e-4, atol=1e-3
        )
    assert together.history["distance"][-1, 2] > together.history["distance"][-1, 1]


def test_seeds_and_their_batches_lie_over_devices():
    """Two seeds on four devices each, a ghost over two of them, against one device."""
    study = Study(**{**vars(STUDY), "ghost_size": 48})
    members = [(0, 0.1), (1, 0.1)]
    one = _outcome(study, members, "LB+LR+GBN")
    split = _outcome(study, members, "LB+LR+GBN", devices_per_member=4)
    assert len(jax.tree.leaves(split.states.params)[0].sharding.device_set) == 8
    for name in ("train_loss", "test_loss", "distance"):
        np.testing.assert_allclose(split.history[name], one.history[name], rtol=1e-4)


def test_a_rate_that_explodes_is_found_and_the_others_go_on():
    study = Study(**{**vars(STUDY), "clip_norm": 1e9, "model": models.MLP((8,), norm=_no_norm)})
    outcome = _outcome(study, [(0, 0.05), (0, 1e18)])
    assert outcome.diverged[0] == 0 and outcome.diverged[1] > 0
    assert np.isfinite(outcome.history["test_loss"][-1, 0])


def _no_norm(use_running_average):
    return lambda x: x


def test_noise_moves_the_weights_of_the_large_batch_otherwise():
    quiet, noisy = (_outcome(STUDY, [(0, 0.05)], regime) for regime in ("LB", "LB+NOISE"))
    assert quiet.history["update"][-1] == noisy.history["update"][-1]
    assert quiet.history["distance"][-1] != noisy.history["distance"][-1]


def test_growing_batch_starts_as_the_small_one():
    study = Study(**{**vars(STUDY), "epochs": 4, "decay_at": (0.5,)})
    small, grown = (_outcome(study, [(0, 0.05)], regime) for regime in ("SB", "GROW"))
    before = small.history["update"] <= 12  # half of 4 epochs of 96 examples by 16
    same = grown.history["update"] <= 12
    np.testing.assert_array_equal(small.history["update"][before], grown.history["update"][same])
    np.testing.assert_allclose(
        small.history["distance"][before], grown.history["distance"][same], rtol=1e-5
    )
    assert grown.history["update"][-1] == 14  # the other half by 96


def test_matched_run_follows_the_distance_it_is_given():
    study = Study(**{**vars(STUDY), "epochs": 10, "large_batch": 48})
    plain = _outcome(study, [(0, 0.05)], "LB")
    step = np.arange(1, 61)
    target = 2 * plain.history["distance"][-1, 0] * np.log1p(step) / np.log1p(60)
    reference = diffusion.DiffusionRecord(step, target, np.ones(60))
    matched = _outcome(study, [(0, 0.05)], "LB+MATCH", reference)
    np.testing.assert_allclose(matched.history["distance"][-1, 0], target[-1], rtol=0.1)
