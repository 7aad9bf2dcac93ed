"""Calls of the documentation as a typed user writes them: mypy reads them, nothing runs them."""

import dataclasses
from typing import assert_type

import jax
import jax.numpy as jnp

import gapjax
from gapjax import landscape, study


def misspelled() -> None:
    _ = gapjax.studdy  # type: ignore[attr-defined]
    _ = gapjax.ghost.momentz  # type: ignore[attr-defined]
    _ = gapjax.growth.seasaw  # type: ignore[attr-defined]


def regimes(mine: study.Remedy) -> tuple[study.Remedy, ...]:
    by_name = study.Regime("LB+LR", remedies=("LR",))
    both = study.Regime("LB+LR+MINE", remedies=["LR", mine])
    assert_type(dataclasses.replace(by_name, batch=64), study.Regime)
    return by_name.remedies + both.remedies


def intervals(metric: jax.Array, small: list[list[float]]) -> study.Interval:
    study.paired_difference(metric, small, weight=[1.0, 2.0])
    return study.share_of_gap(metric, small, metric)


def paths(params: jax.Array) -> landscape.Plane:
    def loss(w: jax.Array) -> jax.Array:
        return jnp.sum(w**2)

    landscape.along(loss, lambda t: t * params, [0, 1])
    landscape.line(loss, params, params, [-1, 0, 1])
    landscape.interpolate(loss, params, -params, jnp.linspace(-1, 2, 4))
    landscape.spectral_density(landscape.from_matvec(loss, params), jax.random.key(0), grid=[0, 1])
    return landscape.plane(loss, params, params, params, [0, 1], jnp.arange(3.0))
