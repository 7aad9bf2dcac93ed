import copy
import functools
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gapjax import training
from gapjax.training import NumericalFault, fault_path
from gapjax.training._faults import find_fault

BATCH = {"x": np.ones((8, 3), np.float32)}


def _loss(params, model_state, batch, key):
    """Finite for ordinary numbers; a NaN, 1000 or 2000 among them breaks it in various ways."""
    x = batch["x"]
    # The square root has no gradient at 0: only "b" is hit, and the loss stays finite.
    broken = jnp.sqrt(jnp.where(x.max() == 1000, params["b"] * 0.0, 1.0)).sum()
    loss = jnp.mean((x @ params["w"] + params["a"]) ** 2) + params["b"].sum() + broken
    infinite = jnp.where(x.max() == 2000, jnp.inf, 0.0)
    return loss + jax.lax.stop_gradient(infinite), ({"mean": x.mean()}, {"x": x.max()})


def _state(tx):
    params = {"a": jnp.ones(()), "b": jnp.ones(2), "w": jnp.ones(3)}
    return training.init_state(
        params, tx, key=jax.random.key(0), model_state={"mean": jnp.zeros(())}
    )


def _bad(value):
    return {"x": np.where(np.arange(24).reshape(8, 3) == 7, np.float32(value), BATCH["x"])}


TX = optax.sgd(optax.constant_schedule(0.1), momentum=0.9)


@pytest.mark.parametrize(
    ("value", "path"),
    [(np.nan, "['a']"), (np.inf, "['a']"), (1000, "['b']"), (2000, "loss"), (1, None)],
)
@pytest.mark.parametrize("layout", ["plain", "jit", "pmap", "microbatched"])
def test_the_first_leaf_that_is_not_finite_is_named(value, path, layout):
    make = functools.partial(training.make_train_step, _loss, TX, on_fault="skip")
    batch = _bad(value)
    if layout == "plain":
        step = jax.jit(make())
    elif layout == "microbatched":
        step = jax.jit(make(microbatched=True))
        batch = jax.tree.map(lambda x: x.reshape(2, 4, 3), batch)
    else:
        step = training.compile_step(make(), strategy=layout)
    state = _state(TX)
    expected = jax.tree.map(np.array, (state.params, state.model_state, state.opt_state))
    new, metrics = step(state, batch)
    assert fault_path(new.params, metrics["skipped"]) == path
    assert int(new.step) == 1
    kept = [
        np.array_equal(a, b, equal_nan=True)
        for a, b in zip(
            jax.tree.leaves((new.params, new.model_state, new.opt_state)),
            jax.tree.leaves(expected),
            strict=True,
        )
    ]
    assert all(kept) if path else not any(kept)


def test_without_faults_the_numbers_are_those_of_a_step_that_does_not_look():
    steps = [
        jax.jit(training.make_train_step(_loss, TX, on_fault=policy))
        for policy in ("ignore", "stop", "skip")
    ]
    states = [_state(TX) for _ in steps]
    for _ in range(3):
        results = [step(state, BATCH) for step, state in zip(steps, states, strict=True)]
        states = [state for state, _ in results]
    for state in states[1:]:
        jax.tree.map(np.testing.assert_array_equal, state.params, states[0].params)
    assert "fault" not in results[0][1] and int(results[1][1]["fault"]) == -1


def _fit(policy, values, **options):
    batches = [_bad(value) for value in values]
    step = jax.jit(training.make_train_step(_loss, TX, on_fault=policy))
    return training.fit(step, _state(TX), batches, num_updates=len(batches), **options)


def test_stop_names_update_and_parameter(tmp_path):
    with training.Checkpoints(tmp_path, every=1) as checkpoints:
        with pytest.raises(NumericalFault, match=r"update 4: the gradient of \['a'\]") as error:
            _fit("stop", [1, 2, 3, np.nan, 5, 6], checkpoints=checkpoints)
        assert (error.value.update, error.value.parameter) == (4, "['a']")
        assert isinstance(error.value, FloatingPointError)
        assert checkpoints.updates[-1] == 3  # nothing is saved after a fault
    with pytest.raises(NumericalFault, match="update 6: the loss is not finite"):
        _fit("stop", [1, 2, 3, 4, 5, 2000])


def test_skip_goes_on_and_counts():
    with pytest.warns(RuntimeWarning, match=r"2 updates were skipped; the first, update 2, .*'b'"):
        state, history = _fit("skip", [1, 1000, 3, np.inf, 1, 2, 3], record_every=3)
    np.testing.assert_array_equal(history.step, [2, 3, 4, 6, 7])
    np.testing.assert_array_equal(history.metrics["skipped"], [1, -1, 0, -1, -1])
    assert optax.tree.get(state.opt_state, "count") == 5 and int(state.step) == 7
    assert np.isfinite(state.params["w"]).all()


def test_unknown_policy_is_named():
    with pytest.raises(ValueError, match="on_fault must be one of 'ignore', 'stop', 'skip'"):
        training.make_train_step(_loss, TX, on_fault="skipp")


@pytest.mark.parametrize(
    ("leaf", "bad"),
    [
        (np.float32(1e18), False),
        (np.float32(1e20), True),  # its square is not finite
        (np.float16(300), False),  # nor is this one's in float16
        (np.complex64(complex(1, np.nan)), True),
        (np.zeros((0, 3), np.float32), False),
    ],
)
def test_what_counts_as_not_finite(leaf, bad):
    grads = {"a": jnp.ones(2), "b": jnp.asarray(leaf)}
    assert int(find_fault(jnp.ones(()), grads)) == (1 if bad else -1)


def test_looking_for_faults_reads_nothing_more_where_the_gradient_is_clipped():
    params = {"w": jnp.ones((256, 256))}
    tx = optax.chain(optax.clip_by_global_norm(5.0), TX)

    def loss_fn(params, batch):
        return jnp.mean((batch @ params["w"]) ** 2)

    def moved(on_fault):
        step = jax.jit(training.make_train_step(loss_fn, tx, on_fault=on_fault))
        state = training.init_state(params, tx, key=jax.random.key(0))
        return step.lower(state, jnp.ones((4, 256))).compile().cost_analysis()["bytes accessed"]

    assert moved("stop") - moved("ignore") < params["w"].nbytes / 100


def test_a_fault_comes_back_from_another_process_as_it_was():
    fault = NumericalFault(7, "['dense']['kernel']")
    for again in (pickle.loads(pickle.dumps(fault)), copy.copy(fault)):
        assert type(again) is NumericalFault and str(again) == str(fault)
        assert (again.update, again.parameter) == (7, "['dense']['kernel']")
