"""What every remedy changes: in the plan, and in one update against a loop."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gapjax import study, training
from gapjax.study import REMEDIES, Regime, Remedy, make_plan
from gapjax.study._plan import make_plans
from gapjax.study._population._member import Member, as_arrays, member_functions
from gapjax.study._prepare import prepare_study, with_reference
from gapjax.study._remedies import HOOKS
from tests.study.conftest import tiny_study

SETTINGS = {"clip_norm": None, "weight_decay": 0.0, "momentum": 0.0}


def _plan(text, **changes):
    own = tiny_study(**changes)
    return make_plan(own, Regime.parse(text) if isinstance(text, str) else text, 64)


def _one_update(regime, **changes):
    """Weights before and after the first update of a regime, its batch, and its setup."""
    changes = {**SETTINGS, **changes}
    prepared = prepare_study(tiny_study(regimes=("SB", regime), **changes))
    plan = with_reference(list(prepared.plans.values())[-1], prepared.plans)
    step, init = member_functions(prepared.setup, plan)
    member = jax.tree.map(lambda x: x[0], as_arrays([Member(0, plan.rate)]))
    setup = prepared.setup
    before = init(member, setup.start_of(member["seed"], setup.sample()))
    rows = {"example": np.arange(plan.batch_sizes(0), dtype=np.int32)}
    batch = jax.tree.map(lambda x: jnp.asarray(x[rows["example"]]), prepared.setup.train)
    after, _ = jax.jit(step)(before, member, (batch, rows))
    return before, after, batch, prepared.setup, plan


def _loss(setup, state, batch, params, ghost_size=None):
    outputs, _ = setup.network.apply(
        params,
        state.model_state,
        setup.inputs(batch),
        train=True,
        key=jax.random.key(0),
        ghost_size=ghost_size,
    )
    return setup.task.losses(outputs, batch).mean()


def _moved(before, after):
    return jax.tree.map(lambda a, b: a - b, after.params, before.params)


def _assert_follows(moved, gradient, rate, rtol=1e-4):
    for step, grad in zip(jax.tree.leaves(moved), jax.tree.leaves(gradient), strict=True):
        np.testing.assert_allclose(step, -rate * grad, rtol=rtol, atol=1e-6)


def test_rates_and_budgets():
    plain = _plan("LB")
    assert _plan("LB+LR").rate == pytest.approx(2 * plain.rate)
    assert _plan("LB+LINEAR").rate == pytest.approx(4 * plain.rate)
    assert _plan("LB+RA").updates == _plan("SB").updates == 4 * plain.updates
    assert _plan("LB+GBN").ghost_size == 8 and plain.ghost_size is None
    warm = _plan("LB+WARMUP", epochs=90)
    first = int(warm.updates * 5 / 90)
    rates = np.array([float(warm.schedule()(u)) for u in range(first + 1)])
    np.testing.assert_allclose(rates, warm.rate * np.minimum(1, np.arange(1, first + 2) / first))
    assert _plan("LB+MATCH").follows == "SB"
    assert _plan("LB+MATCH", regimes=("8", "LB"), baseline=("8", "LB")).follows == "8"


def test_long_sees_as_many_examples_as_the_regime_that_sees_most():
    own = tiny_study(regimes=("SB", "LB", "LB+RA", "SB+LONG", "32+LONG"))
    plans = make_plans(own, own.regimes, 64)
    assert plans["SB+LONG"].examples == plans["32+LONG"].examples == plans["LB+RA"].examples
    assert plans["SB+LONG"].updates == 4 * plans["SB"].updates
    assert plans["SB+LONG"].boundaries == tuple(4 * b for b in plans["SB"].boundaries)


def test_an_update_without_remedies_is_that_of_the_plain_gradient():
    before, after, batch, setup, plan = _one_update("LB")
    gradient = jax.grad(lambda p: _loss(setup, before, batch, p))(before.params)
    _assert_follows(_moved(before, after), gradient, plan.rate)


def test_ghosts_are_contiguous_runs_of_the_batch():
    before, after, batch, setup, plan = _one_update("LB+GBN")

    def ghosts(params):
        parts = [jax.tree.map(lambda x, i=i: x[i : i + 8], batch) for i in range(0, 32, 8)]
        return jnp.mean(jnp.stack([_loss(setup, before, part, params) for part in parts]))

    _assert_follows(_moved(before, after), jax.grad(ghosts)(before.params), plan.rate)


def test_sam_is_taken_in_groups_of_the_small_batch():
    before, after, batch, setup, plan = _one_update("LB+SAM")

    def gradient(part):
        own = jax.grad(lambda p: _loss(setup, before, part, p))
        g = own(before.params)
        length = optax.tree.norm(g)
        return own(jax.tree.map(lambda w, d: w + 0.05 * d / length, before.params, g))

    parts = [jax.tree.map(lambda x, i=i: x[i : i + 8], batch) for i in range(0, 32, 8)]
    mean = jax.tree.map(lambda *g: sum(g) / len(g), *map(gradient, parts))
    _assert_follows(_moved(before, after), mean, plan.rate, rtol=1e-3)


def test_the_penalty_is_a_quarter_of_the_small_rate_times_the_norms_of_groups():
    before, after, batch, setup, plan = _one_update("LB+PENALTY", learning_rate=0.4)

    def penalized(params):
        parts = [jax.tree.map(lambda x, i=i: x[i : i + 8], batch) for i in range(0, 32, 8)]
        total = 0.0
        for part in parts:
            loss, grad = jax.value_and_grad(lambda p, b=part: _loss(setup, before, b, p))(params)
            total += (loss + 0.1 * optax.tree.norm(grad, squared=True)) / len(parts)
        return total

    gradient = jax.grad(penalized)(before.params)
    moved = _moved(before, after)
    error = optax.tree.norm(jax.tree.map(lambda m, g: m + plan.rate * g, moved, gradient))
    assert error < 0.02 * optax.tree.norm(moved)  # by finite differences


def test_layerwise_steps_are_in_proportion_to_the_weights():
    for name, share in (("LARS", 10.0 * 0.001), ("LAMB", 1e-2)):
        before, after, _, _, plan = _one_update(f"LB+{name}", momentum=None, weight_decay=None)
        assert plan.optimizer == name.lower()
        for step, weights in zip(
            jax.tree.leaves(_moved(before, after)), jax.tree.leaves(before.params), strict=True
        ):
            if weights.ndim > 1:
                ratio = jnp.linalg.norm(step) / jnp.linalg.norm(weights)
                np.testing.assert_allclose(ratio, share, rtol=1e-3)


def test_smoothed_labels_are_those_of_training_alone():
    before, after, batch, setup, plan = _one_update("LB+SMOOTH")

    def smoothed(params):
        outputs, _ = setup.network.apply(
            params, before.model_state, setup.inputs(batch), train=True, key=jax.random.key(0)
        )
        goal = optax.smooth_labels(jax.nn.one_hot(batch.labels, 3), 0.1)
        return optax.losses.softmax_cross_entropy(outputs, goal).mean()

    _assert_follows(_moved(before, after), jax.grad(smoothed)(before.params), plan.rate)
    assert setup.task is not plan.task


def test_noise_has_the_covariance_of_the_small_batch():
    hook = REMEDIES["NOISE"].loss
    plan, losses = _plan("LB+NOISE"), jnp.ones(32)
    keys = jax.random.split(jax.random.key(0), 4000)
    weighted = jax.vmap(lambda key: hook(losses, None, key, plan))(keys)
    np.testing.assert_allclose(weighted.mean(), 1, atol=0.02)
    # Var(mean over 32 of z) = (1 / 8 - 1 / 32): as the small batch has it.
    np.testing.assert_allclose(weighted.mean(1).var(), 1 / 8 - 1 / 32, rtol=0.1)
    assert (hook(losses, None, keys[0], _plan("SB+NOISE")) == losses).all()


def test_averaged_weights_are_evaluated_with_statistics_of_their_own(small, tmp_path):
    own = tiny_study(regimes=("LB", "LB+EMA"), seeds=1)
    result = study.run_study(own, tmp_path / "a")
    plain, averaged = (result.regimes[name].run.values for name in ("LB", "LB+EMA"))
    # The same path, looked at elsewhere.
    assert plain["distance"].values == pytest.approx(averaged["distance"].values, rel=1e-6)
    assert plain["train_loss"].values != pytest.approx(averaged["train_loss"].values, rel=1e-3)
    kept = training.load_tree(tmp_path / "a" / "checkpoints" / "LB+EMA")
    own_stats = kept["model_state"]["batch_stats"]["BatchNorm_0"]
    inputs = (own.dataset.train.images - own.dataset.train.images.mean(0)) / (
        own.dataset.train.images.std(0)
    )
    dense = kept["params"]["Dense_0"]
    hidden = inputs @ np.asarray(dense["kernel"][0]) + np.asarray(dense["bias"][0])
    np.testing.assert_allclose(own_stats["mean"][0], hidden.mean(0), atol=1e-4)
    np.testing.assert_allclose(own_stats["var"][0], hidden.var(0), rtol=1e-3)


def test_the_average_is_of_the_updates_that_are_made_whatever_the_order():
    # MATCH scales the updates: an average that had counted them before would be of other weights.
    one, other = (_one_update(name, seeds=1) for name in ("LB+MATCH+EMA", "LB+EMA+MATCH"))
    for found, wanted in zip(*map(jax.tree.leaves, (one[1].params, other[1].params)), strict=True):
        np.testing.assert_array_equal(found, wanted)
    for _, after, *_ in (one, other):
        # Of one update the average is where it led to.
        averaged = training.evaluation_params(after.opt_state, after.params)
        for found, wanted in zip(*map(jax.tree.leaves, (averaged, after.params)), strict=True):
            np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-7)


def test_half_lives_count_examples():
    tx = training.average_weights(64.0, batch_size=32)
    params = {"w": jnp.zeros(1)}
    state = tx.init(params)
    for value in (1.0, 2.0):
        _, state = tx.update({"w": jnp.full(1, value)}, state, params)
        params = {"w": params["w"] + value}
    decay = 0.5 ** (32 / 64)  # of an update: w_1 = 1, w_2 = 3
    mean = (decay * 1 + 3) / (decay + 1)
    np.testing.assert_allclose(training.evaluation_params(state, params)["w"], mean, rtol=1e-6)


def test_a_remedy_of_ones_own_uses_every_hook(tmp_path):
    called = set()

    def seen(name, value):
        called.add(name)
        return value

    mine = Remedy(
        "MINE",
        "touches everything",
        plan=lambda plan: seen("plan", dataclasses.replace(plan, peak=plan.peak / 2)),
        network=lambda apply, plan: seen("network", apply),
        loss=lambda losses, batch, key, plan: seen("loss", 2 * losses),
        gradient=lambda plan: seen("gradient", lambda value_and_grad, *rest: value_and_grad(*rest)),
        optimizer=lambda tx, plan: seen("optimizer", optax.chain(optax.clip(1.0), tx)),
        weights=lambda state, plan: seen("weights", state.params),
    )
    own = tiny_study(regimes=("SB", Regime("LB+mine", remedies=(mine,))), seeds=1, epochs=1)
    result = study.run_study(own, tmp_path / "a")
    assert called == set(HOOKS)
    assert result.regimes["LB+mine"].run.learning_rate == pytest.approx(0.025)
    assert result.regimes["LB+mine"].remedies == ["MINE"]


def test_a_remedy_takes_ten_lines():
    lines = """
def centred(tx, plan):
    return optax.chain(optax.centralize(), tx)

mine = study.Remedy("CENTRED", "gradients without their mean", "Yong 2020", optimizer=centred)
regimes = ["SB", "LB", study.Regime("LB+CENTRED", remedies=("LR", mine))]
"""
    found = {"study": study, "optax": optax}
    exec(lines, found)
    assert len(lines.splitlines()) < 10
    assert [r.name for r in tiny_study(regimes=found["regimes"]).regimes][-1] == "LB+CENTRED"


@pytest.mark.parametrize(
    ("remedy", "message"),
    [
        (Remedy("X", "x", plan=lambda plan: 3), "plan of remedy X must give a plan, not 3"),
        (
            Remedy("X", "x", loss=lambda losses, batch, key, plan: losses.mean()),
            r"loss of remedy X gives \(\) for losses of shape \[8\]",
        ),
        (
            Remedy("X", "x", optimizer=lambda tx, plan: plan.nothing),
            "optimizer of remedy X raised AttributeError: .*nothing",
        ),
        (
            Remedy("X", "x", loss=lambda losses, batch, key, plan: batch["nothing"]),
            "loss of remedy X raised TypeError",
        ),
    ],
)
def test_remedies_that_do_not_work_are_named_before_anything_is_trained(remedy, message, tmp_path):
    own = tiny_study(regimes=("SB", Regime("SB+X", "small", (remedy,))))
    with pytest.raises(ValueError, match=message):
        study.run_study(own, tmp_path / "a")
    assert not (tmp_path / "a").exists()


def test_every_remedy_has_a_meaning_and_a_source():
    for name, remedy in REMEDIES.items():
        assert remedy.name == name and remedy.meaning and "\n" not in remedy.meaning
        assert any(char.isdigit() for char in remedy.source)
        assert any(getattr(remedy, hook) is not None for hook in HOOKS)


def test_two_remedies_of_the_loss_draw_numbers_of_their_own(tmp_path):
    seen = {}

    def watching(name):
        def loss(losses, batch, key, plan):
            jax.debug.callback(
                lambda drawn: seen.setdefault(name, float(drawn)), jax.random.normal(key)
            )
            return losses

        return study.Remedy(name, name, loss=loss)

    regimes = ("SB", study.Regime("SB+A+B", "small", (watching("A"), watching("B"))))
    tiny = tiny_study(regimes=regimes, baseline=("SB", "SB+A+B"), seeds=1, epochs=1, controls=False)
    study.run_study(tiny, tmp_path / "run")
    assert seen["A"] != seen["B"]
