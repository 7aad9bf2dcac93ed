"""Every optimizer and transform of the installed optax goes through a step, as it comes."""

import inspect
import warnings

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import pytest

from gapjax import diffusion, growth, training
from gapjax.training import _optimizers
from tests.meshes import data_mesh


@pytest.fixture(autouse=True)
def _standard_promotion():
    """Optax raises numbers to the power of whole ones, which strict promotion refuses."""
    with jax.numpy_dtype_promotion("standard"):
        yield


INNER = optax.sgd(0.1, momentum=0.9)
ASCENT = optax.chain(optax.contrib.normalize(), optax.sgd(0.05))
MASK = {"w": True, "b": False}
# How to make what cannot be made of nothing, or of a learning rate.
MAKE = {
    "adaptive_grad_clip": lambda f: f(0.1),
    "add_noise": lambda f: f(0.01, 0.55, 0),
    "apply_if_finite": lambda f: f(INNER, 3),
    "chain": lambda f: f(optax.clip(1.0), INNER, optax.contrib.reduce_on_plateau()),
    "clip": lambda f: f(1.0),
    "clip_by_block_rms": lambda f: f(1.0),
    "clip_by_global_norm": lambda f: f(1.0),
    "conditionally_mask": lambda f: f(INNER, lambda step: step < 5),
    "conditionally_transform": lambda f: f(INNER, lambda step: step < 5),
    "ema": lambda f: f(0.9),
    "flatten": lambda f: f(INNER),
    "freeze": lambda f: optax.chain(INNER, f(MASK)),
    "inject_hyperparams": lambda f: f(optax.sgd)(0.1),
    "inject_stateful_hyperparams": lambda f: f(optax.sgd)(0.1),
    "lookahead": lambda f: f(INNER, 2, 0.5),
    "masked": lambda f: f(INNER, MASK),
    "measure_with_ema": lambda f: f(lambda updates: updates, 0.9),
    "multi_transform": lambda f: f({"a": INNER, "b": optax.polyak_sgd()}, {"w": "a", "b": "b"}),
    "named_chain": lambda f: f(("clip", optax.clip(1.0)), ("sgd", INNER)),
    "noisy_sgd": lambda f: f(0.01, 0.01, 0.55, 0),
    "partition": lambda f: f({"a": INNER, "b": optax.contrib.prodigy()}, {"w": "a", "b": "b"}),
    "scale": lambda f: f(-0.1),
    "scale_by_backtracking_linesearch": lambda f: optax.chain(optax.sgd(1.0), f(5)),
    "scale_by_schedule": lambda f: f(lambda count: -0.01),
    "scale_by_zoom_linesearch": lambda f: optax.chain(optax.sgd(1.0), f(5)),
    "selective_transform": lambda f: f(INNER, freeze_mask=MASK),
    "set_to_zero": lambda f: optax.chain(INNER, optax.masked(f(), MASK)),
    "snapshot": lambda f: f("gradient", lambda updates, **extra: updates),
    "stateless": lambda f: f(lambda updates, params: updates),
    "stateless_with_tree_map": lambda f: f(lambda update, param: update),
    "trace": lambda f: f(0.9),
    "with_extra_args_support": lambda f: f(INNER),
    "contrib.mechanize": lambda f: f(INNER),
    "contrib.sam": lambda f: f(INNER, ASCENT),
    "contrib.scale_by_muon": lambda f: optax.masked(
        f(
            weight_dimension_numbers={
                "w": optax.contrib.MuonDimensionNumbers(),
                "b": optax.MaskedNode(),
            }
        ),
        MASK,
    ),
    "contrib.schedule_free": lambda f: f(INNER, 0.1),
    "contrib.split_real_and_imaginary": lambda f: f(INNER),
}
# Not of optax's makers, but no less used.
MORE = {
    "MultiSteps": lambda: optax.MultiSteps(INNER, 2),
    "MultiSteps, as a transform": lambda: optax.MultiSteps(INNER, 2).gradient_transformation(),
    "contrib.sam, opaque": lambda: optax.contrib.sam(INNER, ASCENT, opaque_mode=True),
    "a chain of contrib.sam, opaque": lambda: optax.chain(
        optax.clip(1.0), optax.contrib.sam(INNER, ASCENT, opaque_mode=True)
    ),
    "growth and diffusion": lambda: optax.chain(
        INNER,
        diffusion.scale_by_batch_size(8),
        diffusion.track_diffusion(8),
        training.average_weights(100),
    ),
}
# What optax itself cannot do in a step on the gradient of a batch.
IMPOSSIBLE = {
    "contrib.differentially_private_aggregate": "wants the gradient of every example by itself",
    "contrib.dpsgd": "wants the gradient of every example by itself",
    "monitor": "its state is another tree after the first update",
}


def _makers():
    """Everything that gives a gradient transformation, by name."""
    found = {}
    for prefix, module in (("", optax), ("contrib.", optax.contrib)):
        for name, f in vars(module).items():
            public = inspect.isfunction(f) and not name.startswith("_")
            if public and "GradientTransformation" in str(inspect.signature(f).return_annotation):
                found[prefix + name] = f
    return found


MAKERS = _makers()
NAMES = sorted({*MAKERS, *MORE} - {*IMPOSSIBLE})
# What optimizers are made of is traced only: the optimizers are compiled and run.
BLOCKS = [name for name in NAMES if "scale_by_" in name]
WHOLE = [name for name in NAMES if name not in BLOCKS]


def make(name):
    """A transformation by its name, with arguments that fit."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".* is deprecated, ", DeprecationWarning)
        return _made(name)


def _made(name):
    if name in MORE:
        return MORE[name]()
    f = MAKERS[name]
    if name in MAKE:
        return MAKE[name](f)
    parameters = inspect.signature(f).parameters.values()
    needed = [
        p.name
        for p in parameters
        if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
    ]
    assert needed in ([], ["learning_rate"]), f"say in MAKE how to make optax.{name}"
    return f(*[0.01] * len(needed))


def _loss(params, batch):
    hidden = jnp.tanh(batch["x"] @ params["w"])
    return jnp.mean((hidden.sum(axis=1) + params["b"].sum() - batch["y"]) ** 2)


def _batch():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(16, 4)), rng.normal(size=16)
    return {"x": x.astype(np.float32), "y": y.astype(np.float32)}


def _params(name):
    params = {"w": jax.random.normal(jax.random.key(1), (4, 3)), "b": jnp.array([0.1, 0.2, 0.3])}
    return optax.LookaheadParams.init_synced(params) if name == "lookahead" else params


def _types(state):
    return jax.tree.map(lambda x: (jnp.shape(x), x.dtype, getattr(x, "weak_type", False)), state)


def _wants_to_be_told(name):
    """Whether any part of an optimizer takes an extra argument.

    What the others do is no different under ``pmap``, where gradients are averaged before.
    """
    update = make(name).update
    return any(True for _ in _optimizers._lost(update, frozenset(), update, False))


CASES = [
    (name, strategy)
    for name in WHOLE
    for strategy in ("jit", "pmap")
    if strategy == "jit" or _wants_to_be_told(name) or name in ("adam", "contrib.muon", "sgd")
]


@pytest.mark.parametrize(("name", "strategy"), CASES)
def test_three_updates_of_every_optimizer(name, strategy):
    tx, batch, traced = make(name), _batch(), []

    def loss_fn(params, batch):
        traced.append(1)
        return _loss(params, batch)

    state = training.init_state(_params(name), tx, key=jax.random.key(0))
    before, types = jax.device_get(state.params), _types(state)
    step = training.make_train_step(loss_fn, tx)
    compiled = training.compile_step(step, mesh=data_mesh(2), strategy=strategy)
    state, _ = compiled(state, batch)
    traced.clear()
    for _ in range(2):
        assert _types(state) == types
        state, metrics = compiled(state, batch)
    assert not traced  # nothing is compiled again
    chex.assert_tree_all_finite((state.params, metrics))
    moved = jax.tree.map(lambda a, b: bool(np.any(a != b)), before, jax.device_get(state.params))
    assert any(jax.tree.leaves(moved))
    weights = training.evaluation_params(state.opt_state, state.params)
    chex.assert_tree_all_finite(weights)


@pytest.mark.parametrize("name", BLOCKS)
def test_every_block_keeps_its_types(name):
    tx = make(name)
    state = training.init_state(_params(name), tx, key=jax.random.key(0))
    after, _ = jax.eval_shape(training.make_train_step(_loss, tx), state, _batch())
    assert _types(after) == _types(state)


def test_the_exceptions_are_there_and_none_is_forgotten():
    assert set(IMPOSSIBLE) - {"monitor"} <= set(MAKERS) and hasattr(optax, "monitor")
    assert set(MAKE) <= set(MAKERS)


@pytest.mark.parametrize(
    "multi",
    [
        lambda tx: optax.MultiSteps(tx, 2),
        lambda tx: optax.MultiSteps(tx, 2).gradient_transformation(),
        lambda tx: optax.masked(optax.chain(tx), True),
        lambda tx: optax.conditionally_transform(tx, lambda step: step >= 0),
        lambda tx: optax.apply_if_finite(tx, 2),
        lambda tx: optax.partition({"a": tx}, "a"),
    ],
)
def test_the_batch_size_reaches_a_transform_inside(multi):
    """The root of the ratio to the base batch, whoever stands around it."""
    tx = multi(optax.chain(optax.sgd(0.1), diffusion.scale_by_batch_size(4)))
    step = training.make_train_step(lambda p, b: jnp.mean(b["x"]) * p, tx)
    state = training.init_state(jnp.float32(1), tx, key=jax.random.key(0))
    for _ in range(2):
        state, _ = jax.jit(step)(state, {"x": np.ones(16, np.float32)})
    several = isinstance(tx, optax.MultiSteps) or "MultiSteps" in str(tx.update)
    moved = 0.1 * np.sqrt(32 / 4) if several else 2 * 0.1 * np.sqrt(16 / 4)
    np.testing.assert_allclose(state.params, 1 - moved, rtol=1e-6)


def test_mini_steps_whose_number_changes_are_one_batch():
    """2 mini-steps of 8 examples, then 3: linear rates of 16 and 24, averaged by those sizes."""
    tx = optax.MultiSteps(
        optax.chain(
            optax.sgd(1.0), diffusion.scale_by_batch_size(8, "linear"), training.average_weights(16)
        ),
        lambda step: jnp.where(step < 1, 2, 3),
    )
    step = jax.jit(training.make_train_step(lambda p, b: p * jnp.mean(b), tx))
    state = training.init_state(jnp.float32(0), tx, key=jax.random.key(0))
    for _ in range(5):
        state, _ = step(state, np.ones(8, np.float32))
    np.testing.assert_allclose(state.params, -2 - 3, rtol=1e-6)
    left = 2 ** (-24 / 16)
    found = training.evaluation_params(state.opt_state, state.params)
    np.testing.assert_allclose(found, (-2 * left - 5) / (left + 1), rtol=1e-6)


def test_the_noise_of_mini_steps_is_told_outside_of_them():
    tracker, sgd = growth.noise_scale_tracker(0.5), optax.sgd(0.0)
    inside = optax.MultiSteps(optax.chain(tracker, sgd), 2)
    with pytest.raises(ValueError, match=r"tracker takes part_size .* one mini-step. Put noise_"):
        training.make_train_step(_loss, inside, microbatched=True)
    scaled = optax.chain(sgd, diffusion.scale_by_batch_size(4))
    told = optax.GradientTransformationExtraArgs(
        *optax.MultiSteps(scaled, 2).gradient_transformation()
    )
    with pytest.raises(ValueError, match=r"batch_size .* Let MultiSteps hold the whole chain"):
        training.make_train_step(_loss, optax.chain(tracker, told))
    batch = jax.tree.map(lambda x: x.reshape(4, 4, *x.shape[1:]), _batch())
    found = []
    for tx in (optax.chain(tracker, optax.MultiSteps(sgd, 2)), optax.chain(tracker, sgd)):
        step = training.make_train_step(_loss, tx, microbatched=True)
        state, _ = step(training.init_state(_params(""), tx, key=jax.random.key(0)), batch)
        found.append(growth.noise_scale_record(state.opt_state)[:2])
    np.testing.assert_allclose(*found)


def _opaque():
    return optax.contrib.sam(optax.sgd(0.1), ASCENT, opaque_mode=True)


def test_opaque_sam_is_that_of_a_gradient_strategy():
    """Optax's and our own: two ways to the same update, the one inside the optimizer."""
    states = {}
    for name, tx, gradient in (
        ("optax", _opaque(), None),
        ("a chain", optax.chain(optax.identity(), _opaque()), None),
        ("strategy", optax.sgd(0.1), training.sam(0.05)),
    ):
        step = training.make_train_step(_loss, tx, gradient=gradient)
        state = training.init_state(_params(name), tx, key=jax.random.key(0))
        for strategy in ("jit", "pmap"):
            compiled = training.compile_step(step, mesh=data_mesh(2), strategy=strategy)
            states[name, strategy] = compiled(jax.tree.map(jnp.copy, state), _batch())[0].params
    for found in states.values():
        chex.assert_trees_all_close(found, states["strategy", "jit"], rtol=1e-4, atol=1e-6)


def test_a_line_search_under_pmap_is_that_of_one_device():
    found = {}
    for devices, strategy in ((1, "jit"), (4, "pmap")):
        tx = optax.chain(optax.sgd(1.0), optax.scale_by_backtracking_linesearch(10))
        step = training.make_train_step(_loss, tx)
        compiled = training.compile_step(step, mesh=data_mesh(devices), strategy=strategy)
        state = training.init_state(_params(""), tx, key=jax.random.key(0))
        for _ in range(2):
            state, _ = compiled(state, _batch())
        found[devices] = state.params
    chex.assert_trees_all_close(found[4], found[1], rtol=1e-3, atol=1e-4)


def test_lookahead_trains_the_fast_weights_and_is_evaluated_with_the_slow():
    tx, rate = optax.lookahead(optax.sgd(0.1), 2, 0.5), 0.1
    params = optax.LookaheadParams.init_synced(jnp.float32(1))
    state = training.init_state(params, tx, key=jax.random.key(0))
    step = jax.jit(
        training.make_train_step(lambda p, b: p**2 / 2 + 0 * b.mean(), tx, on_fault="stop"),
        donate_argnums=0,
    )
    fast = slow = 1.0
    for update in range(1, 5):
        state, metrics = step(state, np.ones(4, np.float32))
        fast -= rate * fast
        if update % 2 == 0:
            fast = slow = slow + 0.5 * (fast - slow)
        np.testing.assert_allclose(state.params.fast, fast, rtol=1e-6)
        weights = training.evaluation_params(state.opt_state, state.params)
        np.testing.assert_allclose(weights, slow, rtol=1e-6)
    both = optax.LookaheadParams.init_synced({"a": 1.0, "b": 2.0})
    assert training.fault_path(both, 1) == "['b']" and int(metrics["fault"]) == -1


@pytest.mark.parametrize(
    ("tx", "told"),
    [
        (3, "tx must be an optax transform, with init and update, not 3"),
        (optax.adam, "tx must be an optax transform"),
        (
            optax.chain(optax.polyak_sgd(), _opaque()),
            "polyak takes value at an update, and sam in the same chain only grad_fn",
        ),
        (
            optax.chain(optax.MultiSteps(optax.polyak_sgd(), 2).gradient_transformation()),
            r"value does not reach .*polyak, since MultiSteps is not told it: put .*polyak outside",
        ),
        (
            optax.lookahead(optax.polyak_sgd(), 2, 0.5),
            "value does not reach .*polyak, since lookahead is not told it",
        ),
    ],
)
def test_what_does_not_reach_a_transform_that_needs_it_is_named(tx, told):
    with pytest.raises(ValueError, match=told):
        training.make_train_step(_loss, tx)


def test_what_a_transform_could_do_without_is_named_when_it_cannot():
    inner = optax.chain(optax.sgd(0.1), diffusion.scale_by_batch_size(4))
    for tx, told in (
        (optax.chain(optax.MultiSteps(inner, 1).gradient_transformation()), "MultiSteps is not"),
        (optax.chain(optax.MultiSteps(inner, 1)), "MultiSteps is not"),
        (optax.chain(_opaque(), diffusion.scale_by_batch_size(4)), "sam in the same chain only"),
    ):
        step = training.make_train_step(_loss, tx)
        state = training.init_state(_params(""), tx, key=jax.random.key(0))
        with pytest.raises(ValueError, match=f"has to be told the batch size.*{told}"):
            step(state, _batch())


@pytest.mark.parametrize("donate", ["jit", "compile_step"])
def test_states_made_by_hand_may_hold_an_array_twice(donate):
    """Those of optimizers that start with the parameters themselves."""
    tx, params = optax.contrib.prodigy(), _params("")
    by_hand = training.TrainState(
        jnp.zeros((), jnp.int32), params, {"same": params["w"]}, tx.init(params), jax.random.key(0)
    )
    step = training.make_train_step(lambda p, s, b, k: (_loss(p, b), (s, {})), tx)
    if donate == "jit":
        state = training.init_state(
            params, tx, key=jax.random.key(0), model_state={"same": params["w"]}
        )
        jax.block_until_ready(jax.jit(step, donate_argnums=0)(state, _batch()))
        return
    for devices in (1, 2):
        mesh = data_mesh(devices)
        compiled = training.compile_step(step, mesh=mesh)
        for _ in range(2):  # and where it lies already
            state = jax.tree.map(jnp.copy, by_hand)
            state = state._replace(model_state={"same": state.params["w"]})
            state = jax.device_put(state, training.state_shardings(state, mesh))
            for _ in range(2):
                state, metrics = compiled(state, _batch())
            assert np.isfinite(metrics["loss"])


@pytest.mark.parametrize(
    "made",
    [
        lambda rate, key: optax.inject_hyperparams(optax.sgd)(learning_rate=rate),
        lambda rate, key: optax.chain(optax.add_noise(0.1, 0.5, key=key), optax.sgd(0.1)),
        lambda rate, key: optax.masked(optax.noisy_sgd(0.1, key=key), {"w": True, "b": False}),
    ],
)
def test_donation_takes_nothing_that_is_not_the_states_own(made):
    """A second run of the same optimizer and key is the first one again."""
    key, rate = jax.random.key(3), jnp.float32(0.125)
    tx = made(rate, key)
    step = training.compile_step(training.make_train_step(_loss, tx))
    ends = []
    for _ in range(2):
        params = {"w": jnp.ones((4, 3)), "b": jnp.zeros(3)}
        state = training.init_state(params, tx, key=key)
        for _ in range(2):
            state, _ = step(state, _batch())
        ends.append(state.params)
        assert params["w"].is_deleted()  # what was given away is
    chex.assert_trees_all_equal(*ends)
    assert float(rate) == 0.125 and not key.is_deleted()


def test_a_key_whose_memory_is_gone_is_refused():
    key = jax.random.key(0)
    key.delete()
    with pytest.raises(ValueError, match="key was handed to a step before"):
        training.init_state({"w": jnp.ones(2)}, optax.sgd(0.1), key=key)


def test_an_optimizer_whose_state_depends_on_values_starts_too():
    def init(params):
        return {"large": jnp.array(bool(optax.tree.norm(params) > 1))}

    tx = optax.GradientTransformation(init, lambda updates, state, params=None: (updates, state))
    state = training.init_state({"w": jnp.ones(4)}, tx, key=jax.random.key(0))
    assert bool(state.opt_state["large"])


def _by_a_rule(rule):
    def update(updates, state, params=None, *, batch_size=None, **extra):
        del params, extra
        factor = 1.0 if batch_size is None else rule(batch_size, state)
        return jax.tree.map(lambda u: u * factor, updates), state + 1

    return optax.GradientTransformationExtraArgs(lambda params: jnp.zeros(()), update)


def test_a_helper_of_a_transform_of_ones_own_is_taken_for_no_update():
    tx = optax.chain(optax.sgd(1.0), _by_a_rule(lambda batch, state: batch / 4))
    step = training.make_train_step(
        lambda w, state, x, key: (jnp.sum(w) + jnp.sum(x), (state, {})), tx
    )
    state = training.init_state(jnp.zeros(2), tx, key=jax.random.key(0))
    state, _ = jax.jit(step)(state, jnp.zeros(8))
    np.testing.assert_array_equal(state.params, -2.0)  # 8 examples are twice 4


def test_a_transform_that_holds_functions_of_a_state_goes_with_any_chain():
    def measured(norm):
        def update(updates, state, params=None):
            del params
            return updates, norm(updates, state)

        return optax.GradientTransformation(lambda params: jnp.zeros(()), update)

    tx = optax.chain(
        measured(lambda updates, state: state + optax.tree.norm(updates)),
        diffusion.scale_by_batch_size(4),
        optax.sgd(0.1),
    )
    training.make_train_step(lambda w, state, x, key: (jnp.sum(w), (state, {})), tx)


def _scaling(u, s, p=None, *, value):  # whatever it calls its arguments
    return jax.tree.map(lambda x: x * value, u), s


def test_a_transform_of_ones_own_in_a_chain_is_told_what_it_names():
    mine = optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), _scaling)
    tx = _optimizers.with_all_extras(optax.chain(mine, optax.sgd(0.5)))
    params = {"w": jnp.ones(2)}
    updates, _ = tx.update(params, tx.init(params), params, value=4.0, grad=params, batch_size=8)
    assert updates["w"].tolist() == [-2.0, -2.0]


def test_what_no_step_tells_is_named_before_the_first_update():
    def update(updates, state, params=None, *, curvature, **extra):
        return updates, state

    mine = optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)
    for tx in (mine, optax.chain(optax.clip(1.0), mine), optax.masked(mine, {"w": True})):
        with pytest.raises(ValueError, match="needs curvature at an update, and a step tells none"):
            training.make_train_step(lambda params, batch: 0.0, tx)
