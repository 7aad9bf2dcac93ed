"""Quantiles of Student's t."""

import math

import pytest

from gapjax._student import t_quantile


@pytest.mark.parametrize(
    ("freedom", "tail", "expected"),
    [
        (1, 0.025, 1 / math.tan(0.025 * math.pi)),  # Cauchy's law
        (2, 0.025, 0.95 * math.sqrt(2 / (1 - 0.95**2))),  # closed form of two degrees
        (1, 1e-100, 1e100 / math.pi),  # no tail is lost by its complement
        (math.inf, 0.025, 1.9599639845400545),
    ],
)
def test_closed_forms(freedom, tail, expected):
    assert t_quantile(freedom, tail) == pytest.approx(expected, rel=1e-9)


def test_no_degree_of_freedom_has_none():
    assert math.isnan(t_quantile(0))
