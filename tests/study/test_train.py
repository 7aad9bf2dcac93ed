import itertools

import flax.linen as nn
import jax
import numpy as np
import pytest

from gapjax import data, models
from gapjax.study import REGIMES, Study, make_plan
from gapjax.study._train import make_setup, preparer, stream, train


@pytest.mark.parametrize("batch", [1, 7, 10, 13])
def test_stream_is_one_order_of_examples_whatever_the_batch(batch):
    taken = np.concatenate(list(itertools.islice(stream(3, 10, batch), 40)))
    for epoch in range(len(taken) // 10):
        assert sorted(taken[10 * epoch : 10 * epoch + 10]) == list(range(10))
    whole = np.concatenate(list(itertools.islice(stream(3, 10, 10), len(taken) // 10 + 1)))
    np.testing.assert_array_equal(taken, whole[: len(taken)])
    assert not np.array_equal(next(stream(3, 100, 100)), next(stream(4, 100, 100)))


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


def _outcome(study, members, regime="SB"):
    dataset = data.load("digits")
    few = jax.tree.map(lambda x: x[:96], dataset.train)
    plan = make_plan(study, REGIMES[regime], len(few))
    network = study.make_network(10)
    setup = make_setup(study, network, few, dataset.test)
    return train(setup, plan, few, dataset.test, members)


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


def test_a_rate_that_explodes_is_found_and_the_others_go_on():
    study = Study(**{**vars(STUDY), "clip_norm": 1e9, "model": models.MLP((8,), norm=_no_norm)})
    outcome = _outcome(study, [(0, 0.05), (0, 1e18)])
    assert outcome.diverged[0] == 0 and outcome.diverged[1] > 0
    assert np.isfinite(outcome.history["test_loss"][-1, 0])


def _no_norm(use_running_average):
    return lambda x: x
