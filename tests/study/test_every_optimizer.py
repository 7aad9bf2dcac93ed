"""Every optimizer of the installed optax trains a population of a study."""

import flax.linen as nn
import jax
import numpy as np
import pytest

from gapjax.study import Regime, make_plan
from gapjax.study._population._member import Member
from gapjax.study._population._setup import make_setup
from gapjax.study._population._train import train
from tests.study.conftest import make_blobs, tiny_study
from tests.training.test_optimizers import IMPOSSIBLE, WHOLE, make


class Linear(nn.Module):
    """The parameters that the table of optimizers is written for."""

    @nn.compact
    def __call__(self, x, train=False):
        w = self.param("w", nn.initializers.normal(0.1), (x.shape[-1], 3))
        return x @ w + self.param("b", nn.initializers.zeros, (3,))


# Lookahead asks for parameters in a pair of its own, which a study does not make.
NOT_HERE = {*IMPOSSIBLE, "lookahead"}


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in WHOLE if name not in NOT_HERE])
def test_three_updates_of_a_population(name):
    own = tiny_study(
        dataset=make_blobs(train=48),
        model=Linear(),
        optimizer=lambda schedule: make(name),
        small_batch=16,
        large_batch=48,
        epochs=1,
        evaluations=1,
        seeds=2,
    )
    with jax.numpy_dtype_promotion("standard"):
        setup = make_setup(own, own.load_dataset(), 1)
        plan = make_plan(own, Regime.parse("SB"), setup.num_examples)
        assert plan.updates == 3
        members = [Member(0, 0.05), Member(1, 0.05)]
        found = train(setup, plan, setup.train, setup.test, members)
    for measure in ("train_loss", "test_accuracy", "distance"):
        assert np.isfinite(found.curves.values[measure][-1]).all()
