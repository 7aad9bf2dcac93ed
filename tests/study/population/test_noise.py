"""The noise of the gradient at an evaluation, against sums in float64."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from gapjax import growth
from gapjax.study._population._member import Member, as_arrays, loss_function, member_functions
from gapjax.study._population._noise import noise_function
from gapjax.study._prepare import prepare_study
from tests.study.conftest import make_blobs, tiny_study


def test_weights_of_bfloat16_have_the_noise_of_their_gradients():
    """Of norms that are rounded to 8 bits, what sets them apart is 7% off."""
    half = {"dtype": jnp.bfloat16, "param_dtype": jnp.bfloat16}
    model = nn.Sequential([nn.Dense(32, **half), nn.relu, nn.Dense(3, **half)])
    prepared = prepare_study(
        tiny_study(
            dataset=make_blobs(train=256),
            model=model,
            small_batch=128,
            large_batch=256,
            regimes=("SB", "LB"),
        )
    )
    plan, setup = prepared.plans["SB"], prepared.setup
    member = jax.tree.map(lambda x: x[0], as_arrays([Member(0, plan.rate)]))
    _, init = member_functions(setup, plan)
    state = init(member, setup.start_of(member["seed"], setup.sample()))
    loss_fn = loss_function(setup, plan)

    @jax.jit
    def gradient(batch):
        return jax.grad(lambda p: loss_fn(p, state.model_state, batch, state.key)[0])(state.params)

    size, parts = 128, 2
    grads = []
    for part in range(parts):
        batch = jax.tree.map(lambda x, at=part * size: x[at : at + size], setup.train)
        leaves = jax.tree.leaves(gradient(batch))
        assert {leaf.dtype for leaf in leaves} == {jnp.dtype(jnp.bfloat16)}
        grads.append(np.concatenate([np.asarray(leaf, np.float64).ravel() for leaf in leaves]))
    wanted = growth.gradient_noise_scale(
        np.mean([g @ g for g in grads]),
        np.sum(np.mean(grads, axis=0) ** 2),
        part_size=size,
        batch_size=size * parts,
        num_examples=size * parts,
    )
    found = jax.jit(noise_function(setup, plan))(state, setup.train)
    np.testing.assert_allclose(found["gradient_noise"], wanted.trace, rtol=2e-3)
    np.testing.assert_allclose(found["gradient_norm"], wanted.squared_norm, rtol=2e-3)
