import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gapjax.growth import (
    average_noise_scale,
    gradient_noise_scale,
    noise_scale_record,
    noise_scale_tracker,
)

SIZES = np.array([3.0, 1.0, 0.5, 0.25, 2.0])  # standard deviations of the gradient of an example
GRADIENT = np.array([1.0, -2.0, 0.5, 0.0, 1.5])  # H (w - w*), the true gradient of a quadratic
TRACE, NORM = float((SIZES**2).sum()), float((GRADIENT**2).sum())


def _gradients(key, parts, part_size):
    """Gradients of microbatches on 0.5 (w - x)' H (w - x), x normal: mean and covariance known."""
    noise = jax.random.normal(key, (parts, part_size, 5)) * jnp.asarray(SIZES, jnp.float32)
    return jnp.asarray(GRADIENT, jnp.float32) + noise.mean(axis=1)


def test_the_worked_check():
    # squared norms 4.0 at 32 examples and 1.3 at 512
    noise = gradient_noise_scale(4.0, 1.3, part_size=32, batch_size=512)
    np.testing.assert_allclose(noise.trace, 92.16, rtol=1e-5)
    np.testing.assert_allclose(noise.squared_norm, 1.12, rtol=1e-5)
    np.testing.assert_allclose(noise.noise_scale, 92.16 / 1.12, rtol=1e-5)


@pytest.mark.parametrize(("parts", "part_size"), [(2, 4), (8, 2), (4, 16)])
def test_both_estimators_are_unbiased(parts, part_size):
    def one(key):
        g = _gradients(key, parts, part_size)
        return gradient_noise_scale(
            jnp.mean(jnp.sum(g**2, 1)),
            jnp.sum(g.mean(0) ** 2),
            part_size=part_size,
            batch_size=parts * part_size,
        )[:2]

    estimates = np.asarray(jax.vmap(one)(jax.random.split(jax.random.key(1), 20_000)))
    for values, truth in zip(estimates, (TRACE, NORM), strict=True):
        error = (values.mean() - truth) / (values.std() / np.sqrt(values.size))
        assert abs(error) < 4
    noise = average_noise_scale(*estimates)
    np.testing.assert_allclose(noise.noise_scale, TRACE / NORM, rtol=0.02)


def _over_all_draws(gradients, part_size, batch_size, num_examples):
    """The expectation of the estimates over every draw without replacement, in float64."""
    estimates = []
    for draw in itertools.permutations(range(len(gradients)), batch_size):
        parts = gradients[list(draw)].reshape(-1, part_size, gradients.shape[1]).mean(axis=1)
        noise = gradient_noise_scale(
            np.mean(np.sum(parts**2, axis=1)),
            np.sum(parts.mean(axis=0) ** 2),
            part_size=part_size,
            batch_size=batch_size,
            num_examples=num_examples,
        )
        estimates.append([float(noise.trace), float(noise.squared_norm)])
    return np.mean(estimates, axis=0)


@pytest.mark.parametrize("copies", [1, 2])
def test_without_replacement_the_estimates_are_those_of_the_training_set(copies):
    gradients = np.random.default_rng(0).normal(0.3, 1.0, (4, 3))
    trace = float(np.sum(gradients.var(axis=0)))
    norm = float(np.sum(gradients.mean(axis=0) ** 2))
    many = np.tile(gradients, (copies, 1))
    found = _over_all_draws(many, 1, 2, len(many))
    # a set of copies has the noise scale of the originals
    np.testing.assert_allclose(found, [trace, norm], rtol=1e-4)
    # without the correction they are those of a population that the set was drawn from
    plain = _over_all_draws(many, 1, 2, None)
    scatter = trace * len(many) / (len(many) - 1)
    np.testing.assert_allclose(plain, [scatter, norm - scatter / len(many)], rtol=1e-4)


def test_at_a_minimum_of_the_training_set_the_sign_is_kept():
    gradients = np.random.default_rng(1).normal(size=(4, 3))
    gradients -= gradients.mean(axis=0)
    assert _over_all_draws(gradients, 1, 2, None)[1] < -0.1
    assert abs(_over_all_draws(gradients, 1, 2, 4)[1]) < 1e-6
    assert average_noise_scale([2.0, 2.0], [-1.0, 0.5]).noise_scale == -8.0


@pytest.mark.parametrize("num_examples", [None, 64])
def test_the_estimates_add_up_to_the_norm_of_a_part(num_examples):
    noise = gradient_noise_scale(3.7, 1.9, part_size=4, batch_size=16, num_examples=num_examples)
    left = 0.0 if num_examples is None else 1 / 64
    scatter = float(noise.trace) / (1 - left)
    assert float(noise.squared_norm) + scatter * (1 / 4 - left) == pytest.approx(3.7, rel=1e-6)


@pytest.mark.parametrize("num_examples", [3 * 10**9, np.int64(3 * 10**9), 10**13])
def test_a_training_set_may_be_larger_than_32_bits_hold(num_examples):
    parts = 4.0e6, 1.3e-3  # so that a share of 1 / N of the trace is seen in the other
    sizes = {"part_size": 32, "batch_size": 512, "num_examples": num_examples}
    trace = (parts[0] - parts[1]) / (1 / 32 - 1 / 512)
    norm = (512 * parts[1] - 32 * parts[0]) / 480
    expected = trace * (1 - 1 / num_examples), norm + trace / num_examples
    np.testing.assert_allclose(gradient_noise_scale(*parts, **sizes)[:2], expected, rtol=1e-6)
    tx = noise_scale_tracker(num_examples=num_examples)
    told = {"part_squared_norm": parts[0], "part_size": 32, "batch_size": 512}
    gradient = jnp.full(1, parts[1] ** 0.5)
    _, state = tx.update(gradient, tx.init(gradient), **told)
    np.testing.assert_allclose(noise_scale_record(state)[:2], expected, rtol=1e-5)


def test_averages_divide_once():
    rng = np.random.default_rng(2)
    trace, norm = rng.normal(100, 20, (400, 3)), rng.normal(2, 0.5, (400, 3))
    noise = average_noise_scale(trace, norm)
    np.testing.assert_allclose(noise.noise_scale, trace.mean(0) / norm.mean(0))
    again = average_noise_scale(rng.normal(100, 20, (400, 300)), rng.normal(2, 0.5, (400, 300)))
    spread = np.std(again.noise_scale)
    np.testing.assert_allclose(noise.stderr, spread, rtol=0.2)
    assert np.isnan(average_noise_scale([1.0], [1.0]).stderr)
    one_says_nothing = average_noise_scale([1.0, np.nan, 2.0], [1.0, np.nan, 2.0])
    assert np.isnan(one_says_nothing).all()


def test_in_float64_the_estimates_are_as_precise():
    with jax.enable_x64(True):
        small, big = np.float64(3e-50), np.float64(1e-50)
        noise = gradient_noise_scale(small, big, part_size=1, batch_size=3)
        np.testing.assert_allclose(noise[:3], [3e-50, 0, np.inf], rtol=1e-12, atol=1e-63)
        close = gradient_noise_scale(np.float64(1 + 1e-9), np.float64(1), part_size=1, batch_size=2)
        np.testing.assert_allclose(close.trace, 2e-9, rtol=1e-6)
        tx = noise_scale_tracker(0.5)
        grads = {"w": jnp.array([1e-25, 0.0])}
        _, state = tx.update(
            grads, tx.init(grads), batch_size=2, part_size=1, part_squared_norm=jnp.asarray(2e-50)
        )
        np.testing.assert_allclose(
            noise_scale_record(state)[:2], [2e-50, 0], rtol=1e-12, atol=1e-63
        )


def _track(tx, state, key, parts, part_size, updates):
    def step(state, key):
        g = _gradients(key, parts, part_size)
        _, state = tx.update(
            {"w": g.mean(0)},
            state,
            None,
            batch_size=parts * part_size,
            part_size=part_size,
            part_squared_norm=jnp.mean(jnp.sum(g**2, 1)),
        )
        return state, None

    return jax.lax.scan(step, state, jax.random.split(key, updates))[0]


def test_the_noise_scale_of_a_quadratic_is_found_within_5_percent_across_a_growth():
    tx = optax.chain(noise_scale_tracker(decay=0.999), optax.sgd(0.1, momentum=0.9))
    state = tx.init({"w": jnp.zeros(5)})
    state = _track(tx, state, jax.random.key(2), 4, 8, 3000)
    state = _track(tx, state, jax.random.key(3), 8, 8, 3000)  # a growth: the averages go on
    noise = noise_scale_record(state)
    assert abs(noise.noise_scale / (TRACE / NORM) - 1) < 0.05
    np.testing.assert_allclose(noise.trace, TRACE, rtol=0.05)
    np.testing.assert_allclose(noise.squared_norm, NORM, rtol=0.05)
    assert abs(noise.noise_scale - TRACE / NORM) < 4 * noise.stderr


def test_the_standard_error_is_that_of_repeated_runs():
    tx = noise_scale_tracker(decay=0.98)

    def run(key):
        return _track(tx, tx.init(None), key, 4, 8, 300)

    noise = noise_scale_record(jax.vmap(run)(jax.random.split(jax.random.key(4), 200)))
    assert noise.noise_scale.shape == (200,)
    np.testing.assert_allclose(np.mean(noise.stderr), np.std(noise.noise_scale), rtol=0.2)


def test_the_standard_error_knows_no_unit():
    tx = noise_scale_tracker(0.9)

    def run(scale):
        def step(state, key):
            g = scale * _gradients(key, 4, 8)
            norms, mean = jnp.mean(jnp.sum(g**2, 1)), {"w": g.mean(0)}
            settings = {"batch_size": 32, "part_size": 8, "part_squared_norm": norms}
            return tx.update(mean, state, **settings)[1], None

        keys = jax.random.split(jax.random.key(6), 40)
        return jax.lax.scan(step, tx.init(None), keys)[0]

    scales = jnp.array([1.0, 1e-15, 1e-9, 1e9, 1e15])
    found = noise_scale_record(jax.jit(jax.vmap(run))(scales))
    assert 0.05 < found.stderr[0] / found.noise_scale[0] < 0.5
    np.testing.assert_allclose(found.noise_scale, found.noise_scale[0], rtol=1e-4)
    np.testing.assert_allclose(found.stderr, found.stderr[0], rtol=1e-3)


def test_the_averages_are_those_of_float64():
    tx, decay, rng = noise_scale_tracker(0.8), 0.8, np.random.default_rng(7)
    state, sums, products, left = tx.init(None), np.zeros(2), np.zeros((2, 2)), 1.0
    for norm, part in rng.uniform(1, 9, (12, 2)):
        grads = {"w": jnp.sqrt(jnp.asarray([norm], jnp.float32))}
        _, state = tx.update(grads, state, batch_size=8, part_size=2, part_squared_norm=part)
        pair = np.array([(part - norm) / (1 / 2 - 1 / 8), (8 * norm - 2 * part) / 6])
        sums = decay * sums + (1 - decay) * pair
        products = decay * products + (1 - decay) * np.outer(pair, pair)
        left *= decay
    (trace, size), second = sums / (1 - left), products / (1 - left)
    gradient = np.array([1 / size, -trace / size**2])
    spread = second - np.outer([trace, size], [trace, size])
    weight = (1 + decay) / (1 - decay) * (1 - left) / (1 + left)
    found = noise_scale_record(state)
    np.testing.assert_allclose(found[:3], [trace, size, trace / size], rtol=1e-5)
    error = np.sqrt(gradient @ spread @ gradient / (weight - 1))
    np.testing.assert_allclose(found.stderr, error, rtol=1e-4)


@pytest.mark.parametrize("broken", [np.nan, np.inf, 1e30])
def test_a_gradient_that_is_not_finite_leaves_the_averages_as_they_are(broken):
    tx = noise_scale_tracker(0.9)
    update = functools.partial(tx.update, batch_size=8, part_size=2)
    one, other = ({"w": jnp.array([value, 1.0])} for value in (1.0, broken))
    _, before = update(one, tx.init(one), part_squared_norm=4.0)
    _, after = update(other, before, part_squared_norm=4.0)
    for was, now in zip(before, after, strict=True):
        np.testing.assert_array_equal(was, now)
    _, after = update(one, after, part_squared_norm=3.0)
    assert np.isfinite(noise_scale_record(after)).all()
    # of a population, only the member that overflowed
    both = {"w": jnp.stack([one["w"], other["w"]])}
    run = jax.vmap(lambda grads: update(grads, before, part_squared_norm=4.0)[1])
    assert run(both).num_updates.tolist() == [2, 1]


def test_before_the_first_update_nothing_is_claimed():
    noise = noise_scale_record(noise_scale_tracker().init({"w": jnp.zeros(2)}))
    assert all(np.isnan(value) for value in noise)


def test_updates_pass_unchanged_and_the_first_record_is_the_first_estimate():
    tx = noise_scale_tracker(decay=0.9)
    grads = {"a": jnp.array([1.0, 0.5], jnp.bfloat16), "b": jnp.array(0.25)}
    updates, state = tx.update(
        grads, tx.init(grads), batch_size=16, part_size=4, part_squared_norm=2.0
    )
    assert updates is grads
    expected = gradient_noise_scale(2.0, 1.3125, part_size=4, batch_size=16)
    noise = noise_scale_record(state)
    np.testing.assert_allclose(noise[:3], [float(value) for value in expected[:3]], rtol=1e-5)
    assert np.isnan(noise.stderr)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: noise_scale_tracker(decay=1.0), "between 0 and 1"),
        (lambda: gradient_noise_scale(1.0, 1.0, part_size=8, batch_size=8), "not smaller"),
        (lambda: noise_scale_tracker().update({}, None), "at least two microbatches"),
        (lambda: noise_scale_tracker("0.9"), "decay must be"),
        (lambda: noise_scale_tracker(num_examples=0), "num_examples must be"),
        (
            lambda: gradient_noise_scale(1.0, 1.0, part_size=2, batch_size=8, num_examples=4),
            "larger than the training set of 4",
        ),
        (lambda: average_noise_scale([1.0], [1.0, 2.0]), r"not \(1,\) and \(2,\)"),
        (lambda: average_noise_scale([], []), "at least one update"),
        (lambda: noise_scale_record(optax.sgd(0.1).init({})), "holds 0 noise_scale_tracker"),
        (
            lambda: noise_scale_record([noise_scale_tracker().init({})] * 2),
            "holds 2 noise_scale_tracker",
        ),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize(
    "around",
    [
        lambda tx: optax.masked(tx, {"a": True, "b": False}),
        lambda tx: optax.partition({"x": tx, "y": optax.identity()}, {"a": "x", "b": "y"}),
    ],
)
def test_a_part_of_the_gradient_is_refused(around):
    tx, params = around(noise_scale_tracker()), {"a": jnp.ones(3), "b": jnp.ones(50)}
    with pytest.raises(ValueError, match=r"outside of optax.masked and optax.partition"):
        tx.update(params, tx.init(params), params, batch_size=8, part_size=2, part_squared_norm=1.0)
