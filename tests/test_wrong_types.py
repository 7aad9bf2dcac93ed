"""Arguments of a wrong type are ValueErrors, in the words of wrong values."""

import functools
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gapjax import diffusion, ghost, growth, landscape, training
from gapjax.ghost import linen

SCHEDULE = optax.constant_schedule(0.1)
STEP = np.array([50, 60, 80, 100, 200, 400, 900])
DISTANCE = np.log(STEP)
SOURCE = {"x": np.zeros((64, 2), np.float32)}
KEY = jax.random.key(0)
X = jnp.linspace(0.5, 1.5, 24).reshape(8, 3)
OPERATOR = landscape.from_matvec(lambda v: 2 * v, jnp.zeros(3))


def _square(w, batch):
    return jnp.mean((batch @ w) ** 2)


CASES = {
    "constant_batch": (growth.constant_batch, {"size": 4}),
    "geometric_batch": (
        growth.geometric_batch,
        {"initial": 4, "factor": 2, "every": 2, "maximum": 16},
    ),
    "piecewise_batch": (growth.piecewise_batch, {"initial": 4, "boundaries_and_sizes": {3: 8}}),
    "StepwiseBatch": (growth.StepwiseBatch, {"boundaries": (3,), "values": (4, 8)}),
    "grow": (
        growth.grow_instead_of_decay,
        {
            "lr": 0.1,
            "boundaries_and_scales": {3: 0.5},
            "batch_size": 4,
            "maximum": 8,
            "keep": "updates",
        },
    ),
    "seesaw": (
        growth.seesaw,
        {
            "schedule": optax.linear_schedule(0.1, 0.0, 1000),
            "total_examples": 1000,
            "batch_size": 10,
            "maximum": 40,
            "factor": 2,
            "multiple": 1,
            "start": 0.0,
            "rule": "sqrt",
        },
    ),
    "by_examples": (
        growth.by_examples,
        {
            "schedule": SCHEDULE,
            "batch_schedule": growth.constant_batch(4),
            "rule": "sqrt",
            "base_batch_size": 4,
        },
    ),
    "decay": (growth.decay_of_half_life, {"half_life": 10, "batch_size": 4}),
    "parse": (growth.parse_batch_schedule, {"text": "0:4", "sequence_length": 4}),
    "format": (
        growth.format_batch_schedule,
        {"batch_schedule": growth.constant_batch(4), "sequence_length": 4},
    ),
    "lev": (growth.ramp_from_levanter, {"steps": [{"start": 0, "value": 4}]}),
    "tolev": (growth.ramp_to_levanter, {"batch_schedule": growth.constant_batch(4)}),
    "meg": (
        growth.ramp_from_megatron,
        {"start": 4, "increment": 4, "samples": 10, "batch_size": 8},
    ),
    "max": (
        growth.ramp_from_maxtext,
        {
            "per_device_batch_size": 8,
            "per_device_batch_size_start": 4,
            "per_device_batch_size_increment": 2,
            "global_rampup_samples": 50,
            "num_devices": 2,
        },
    ),
    "tomax": (
        growth.ramp_to_maxtext,
        {"batch_schedule": growth.constant_batch(4), "num_devices": 2},
    ),
    "olmo": (
        growth.ramp_from_olmo_core,
        {"batch_sizes": [4, 8], "schedule": [0, 10], "unit": "tokens", "sequence_length": 2},
    ),
    "toolmo": (
        growth.ramp_to_olmo_core,
        {"batch_schedule": growth.constant_batch(4), "sequence_length": 2},
    ),
    "gns": (
        growth.gradient_noise_scale,
        {
            "part_squared_norm": 2.0,
            "squared_norm": 1.0,
            "part_size": 2,
            "batch_size": 8,
            "num_examples": 100,
        },
    ),
    "avg": (growth.average_noise_scale, {"trace": [1.0, 2.0], "squared_norm": [1.0, 2.0]}),
    "tracker": (growth.noise_scale_tracker, {"decay": 0.9, "num_examples": 10}),
    "nsc": (
        growth.noise_scale_controller,
        {"initial": 4, "maximum": 16, "factor": 2, "hysteresis": 1.3, "min_dwell": 2},
    ),
    "ntc": (
        growth.norm_test_controller,
        {"initial": 4, "maximum": 16, "theta": 0.5, "factor": 2, "hysteresis": 1.3, "min_dwell": 2},
    ),
    "cabs": (
        growth.cabs_controller,
        {"initial": 4, "maximum": 16, "factor": 2, "hysteresis": 1.3, "min_dwell": 2},
    ),
    "brc": (
        growth.branching_controller,
        {"initial": 4, "maximum": 16, "factor": 2, "hysteresis": 1.3},
    ),
    "fit_cb": (
        growth.fit_critical_batch,
        {
            "batch_sizes": [4, 8, 16, 32],
            "steps": [9.0, 5, 3, 2.5],
            "reference_batch": 4,
            "num_resamples": 5,
            "seed": 0,
        },
    ),
    "rows": (growth.stream_rows, {"seed": 0, "start": 0, "stop": 4, "num_examples": 10}),
    "order": (growth.epoch_order, {"seed": 0, "epoch": 0, "num_examples": 10}),
    "batches": (
        growth.GrowingBatches,
        {
            "source": SOURCE,
            "schedule": growth.constant_batch(4),
            "seed": 0,
            "mesh": None,
            "axis": "data",
            "end_of_epoch": "carry",
            "with_index": False,
            "ghost_size": 2,
            "microbatch": 4,
            "independent_examples": False,
            "prefetch": 0,
            "workers": 1,
        },
    ),
    "branched": (
        growth.branched_critical_batch,
        {
            "state": jnp.zeros(2),
            "step": lambda w, b: (w, None),
            "batches": growth.GrowingBatches(SOURCE, growth.constant_batch(4), seed=0),
            "evaluate": lambda w: 1.0,
            "multiples": (1, 2),
            "examples": 8,
            "seeds": 2,
            "looks": 1,
            "tolerance": 0.0,
            "level": 0.05,
        },
    ),
    "slr": (
        diffusion.scale_learning_rate,
        {"lr": 0.1, "batch_size": 4, "base_batch_size": 2, "rule": "sqrt"},
    ),
    "adapt": (
        diffusion.adapt_regime,
        {
            "schedule": SCHEDULE,
            "batch_size": 4,
            "base_batch_size": 2,
            "rule": "sqrt",
            "keep": "epochs",
        },
    ),
    "boost": (diffusion.boost_early, {"schedule": SCHEDULE, "factor": 2.0, "hold": 3, "decay": 4}),
    "adam": (
        diffusion.scale_adam,
        {
            "learning_rate": 0.1,
            "b1": 0.9,
            "b2": 0.99,
            "eps": 1e-8,
            "batch_size": 4,
            "base_batch_size": 2,
        },
    ),
    "adamw": (
        diffusion.scale_adamw,
        {
            "lr": 0.1,
            "b1": 0.9,
            "b2": 0.99,
            "eps": 1e-8,
            "weight_decay": 0.1,
            "batch_size": 4,
            "base_batch_size": 2,
            "rule": "half_life",
            "b2_range": (0.9, 0.9999),
        },
    ),
    "nstd": (diffusion.noise_std, {"batch_size": 4, "base_batch_size": 2}),
    "sbb": (diffusion.scale_by_batch_size, {"base_batch_size": 4, "rule": "sqrt"}),
    "track": (diffusion.track_diffusion, {"capacity": 16}),
    "fit": (
        diffusion.fit_diffusion,
        {"step": STEP, "distance": DISTANCE, "first": 50, "last": 900, "momentum": 0.9},
    ),
    "log_spaced": (diffusion.log_spaced, {"last": 10, "per_decade": 4}),
    "match": (
        diffusion.match_diffusion,
        {
            "reference": diffusion.DiffusionRecord(STEP, DISTANCE, DISTANCE),
            "min_scale": 0.05,
            "max_scale": 20.0,
            "gain": 40.0,
            "steps_per_update": 1.0,
        },
    ),
    "walk": (
        functools.partial(diffusion.random_potential_walk, KEY),
        {"alpha": 1.0, "num_steps": 100, "num_walkers": 2, "strength": 1.0, "num_records": 5},
    ),
    "travel": (
        functools.partial(diffusion.updates_to_travel, diffusion.fit_diffusion(STEP, DISTANCE)),
        {"distance": 3.0},
    ),
    "moments": (functools.partial(ghost.ghost_moments, X), {"ghost_size": 4, "axis": -1}),
    "normalize": (
        functools.partial(ghost.normalize, X),
        {"mean": X[:1], "var": X[:1], "ghost_size": 8, "axis": -1},
    ),
    "running": (
        functools.partial(ghost.update_running, (X[0], X[0]), ghost.ghost_moments(X, 4)),
        {"momentum": 0.9, "update": "mean", "variance": "within"},
    ),
    "layer": (
        lambda **arguments: linen.GhostBatchNorm(False, **arguments).init(KEY, X),
        {
            "ghost_size": 4,
            "update": "mean",
            "variance": "within",
            "remainder": "error",
            "rescale_momentum": False,
            "momentum": 0.9,
        },
    ),
    "hessian": (
        landscape.hessian,
        {
            "loss_fn": lambda w, batch: jnp.mean((batch @ w) ** 2),
            "params": X[0],
            "data": [X],
            "where": lambda path, leaf: True,
            "product": "forward_over_reverse",
            "weight_fn": len,
        },
    ),
    "top": (
        functools.partial(landscape.eigh_topk, OPERATOR, KEY),
        {"k": 1, "which": "LA", "tol": 1e-3, "max_matvecs": 10, "basis_size": 3},
    ),
    "of op": (lambda op: landscape.eigh_topk(op, KEY, 1), {"op": OPERATOR}),
    "trace op": (lambda op: landscape.trace(op, KEY, 4), {"op": OPERATOR}),
    "density": (
        functools.partial(landscape.spectral_density, OPERATOR, KEY),
        {"num_probes": 2, "num_steps": 2, "sigma": 0.1},
    ),
    "count": (
        functools.partial(landscape.count_above, OPERATOR, key=KEY),
        {"threshold": 0.5, "num_probes": 2, "num_steps": 2},
    ),
}

KEYED = {
    "top": lambda key: landscape.eigh_topk(OPERATOR, key, 1),
    "trace": lambda key: landscape.trace(OPERATOR, key, 4),
    "density": lambda key: landscape.spectral_density(OPERATOR, key, num_probes=2, num_steps=2),
    "count": lambda key: landscape.count_above(OPERATOR, 0.5, key=key, num_steps=2),
    "keskar": lambda key: landscape.keskar_sharpness(
        _square, X[0], [X], epsilon=1e-3, maxiter=1, subspace_dim=1, key=key
    ),
    "adaptive": lambda key: landscape.adaptive_sharpness(
        _square, X[0], [X], mode="average", num_draws=2, key=key
    ),
    "curve": lambda key: landscape.fit_curve(_square, X[0], X[1], [X], key, num_updates=1),
    "direction": lambda key: landscape.random_direction(key, X),
    "state": lambda key: training.init_state({"w": X}, optax.sgd(0.1), key=key),
    "weights": lambda key: diffusion.example_weights(key, 4, 1.0),
    "walk": lambda key: diffusion.random_potential_walk(key, alpha=1.0, num_steps=4, num_walkers=2),
}


@pytest.mark.parametrize("name", KEYED)
def test_what_is_no_key_is_named(name):
    KEYED[name](KEY)
    for wrong in ("a", None, 3, 1.5, [], jnp.zeros(2), jax.random.split(KEY)):
        with pytest.raises(ValueError, match=r"pass key=jax|key must be a key of jax.random, such"):
            KEYED[name](wrong)


WRONG = ["a", None, [], {}, -1, 0, 1.5, float("nan"), float("inf"), True, object()]


# May be traced: what they are is not looked at.
ARRAYS = {"part_squared_norm", "squared_norm", "mean", "var", "params"}


SLOW = {"walk"}  # every value that it takes is another program


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow) if n in SLOW else n for n in CASES]
)
def test_wrong_types_are_value_errors(name):
    function, arguments = CASES[name]
    function(**arguments)
    told = []
    for argument in set(arguments) - ARRAYS:
        for wrong in WRONG:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                try:
                    function(**{**arguments, argument: wrong})
                except ValueError as error:
                    told.append(str(error))
    assert told
    assert not any("\n" in line for line in told)
