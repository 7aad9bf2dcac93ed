"""The loss along lines and curves, and over planes."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from gapjax._checks import one_of
from gapjax.landscape._progress import Progress
from gapjax.landscape._space import check_match, combination
from gapjax.landscape._sweep import GIVEN, REBUILT, Evaluate, axis, sweep


@dataclasses.dataclass(frozen=True)
class Path:
    """Figures along a path.

    Attributes:
        coords: ``[N]``, in the order that was asked for.
        values: ``[N]`` each, by name (``"train/loss"``).
        statistics: which batch statistics were used, in words; plots show it.
    """

    coords: np.ndarray
    values: dict[str, np.ndarray]
    statistics: str

    @property
    def barrier(self) -> dict[str, float]:
        """The highest rise above the chord from coordinate 0 to 1, by name; 0 without a rise.

        For an accuracy look at the fall: ``-min``, or the barrier of the error.
        """
        starts, ends = (np.flatnonzero(self.coords == end) for end in (0, 1))
        if not (len(starts) and len(ends)):
            return {}
        inside = (self.coords >= 0) & (self.coords <= 1)
        t = self.coords[inside]
        return {
            name: float(np.max(v[inside] - ((1 - t) * v[starts[0]] + t * v[ends[0]])))
            for name, v in self.values.items()
        }


@dataclasses.dataclass(frozen=True)
class Plane:
    """Figures over a plane.

    Attributes:
        x: ``[W]``.
        y: ``[H]``.
        values: ``[H, W]`` each, by name.
        statistics: which batch statistics were used, in words; plots show it.
    """

    x: np.ndarray
    y: np.ndarray
    values: dict[str, np.ndarray]
    statistics: str


def along(
    evaluate: Evaluate,
    point: Callable[[float], Any],
    coords: ArrayLike,
    *,
    rebuild: Callable[[Any], Any] | None = None,
    resume: Path | None = None,
    progress: bool | Callable[[Progress], None] = True,
) -> Path:
    """Figures along any path.

    Args:
        evaluate: ``evaluate(params) -> float or dict of floats`` (see `evaluator`), or a dict of
            such functions by name: ``{"train": ..., "test": ...}``.
        point: ``point(coordinate) -> params``.
        coords: ``[N]``, in any order.
        rebuild: ``rebuild(params) -> state`` makes batch statistics anew at every point, from
            training data; the evaluation functions are then called as ``evaluate(params, state)``.
            Between two solutions the statistics of neither fit, and the loss looks far too high
            without it; evaluation on batch statistics needs none.
        resume: an earlier result or the partial one of a progress callback; only its missing
            points (not a number) are evaluated.
        progress: True shows a bar for work over 5 seconds; a callback gets `Progress`.

    Returns:
        A `Path`.

    Raises:
        ValueError: coordinates that are not finite, or a result to resume with other points, or
            with batch statistics that were not rebuilt where they now are, or the other way.

    Example:
        >>> from gapjax import landscape
        >>> path = landscape.along(lambda w: w**2, lambda t: 2.0 * t, [0, 1])
        >>> path.values["value"].tolist()
        [0.0, 4.0]
    """
    coords = axis("coords", coords)
    mode = GIVEN if rebuild is None else REBUILT

    def at(t: float) -> Callable[[], Any]:
        return lambda: point(t)

    return sweep(
        evaluate,
        [at(float(t)) for t in coords],
        "path",
        rebuild,
        progress,
        resume,
        lambda values: Path(coords, values, mode),
    )


def line(
    evaluate: Evaluate,
    params: Any,
    direction: Any,
    coords: ArrayLike | None = None,
    **options: Any,
) -> Path:
    """Figures along ``params + t * direction``.

    Args:
        evaluate: as in `along`.
        params: the point at 0.
        direction: a tree like `params`, such as a `random_direction` or an eigenvector.
        coords: 41 points of [-1, 1] by default.
        **options: `rebuild`, `resume` and `progress`, as in `along`.

    Returns:
        A `Path`.

    Raises:
        ValueError: trees that do not match; the path is named.

    Example:
        >>> import jax.numpy as jnp
        >>> from gapjax import landscape
        >>> path = landscape.line(lambda w: jnp.sum(w**2), jnp.ones(2), jnp.ones(2), [-1, 0, 1])
        >>> path.values["value"].tolist()
        [0.0, 2.0, 8.0]
    """
    check_match(params, direction, "the direction")
    coords = np.linspace(-1, 1, 41) if coords is None else coords
    return along(evaluate, lambda t: combination([params, direction], [1, t]), coords, **options)


def interpolate(
    evaluate: Evaluate,
    start: Any,
    end: Any,
    coords: ArrayLike | None = None,
    *,
    path: str = "linear",
    **options: Any,
) -> Path:
    r"""Figures on the way between two solutions, and beyond.

    ``"linear"`` takes :math:`(1 - t) w_0 + t w_1` and ``"arc"``
    :math:`\cos(t \pi / 2) w_0 + \sin(t \pi / 2) w_1` (Keskar et al. 2017, figures 3 and 7), where
    t = 0 is the start (the small batch, there) and t = 1 the end.

    Args:
        evaluate: as in `along`.
        start: the solution at 0.
        end: the solution at 1.
        coords: 25 points of [-1, 2] by default. 0 and 1 are always among them, for the barrier.
        path: ``"linear"`` or ``"arc"``.
        **options: `rebuild`, `resume` and `progress`, as in `along`.

    Returns:
        A `Path`, with the `barrier` between the two.

    Raises:
        ValueError: trees that do not match; the path is named.

    Example:
        >>> import jax.numpy as jnp
        >>> from gapjax import landscape
        >>> def double_well(w):
        ...     return (w**2 - 1) ** 2
        >>> path = landscape.interpolate(double_well, jnp.array(-1.0), jnp.array(1.0))
        >>> path.barrier["value"]
        1.0
    """
    one_of("path", path, ["linear", "arc"])
    check_match(start, end, "the end")
    coords = np.linspace(-1, 2, 25) if coords is None else axis("coords", coords)

    def point(t: float) -> Any:
        weights = [1 - t, t]
        if path == "arc":
            weights = [np.cos(t * np.pi / 2), np.sin(t * np.pi / 2)]
        # Rounded, so that each end is met exactly.
        return combination([start, end], np.round(weights, 15))

    return along(evaluate, point, np.union1d(coords, [0.0, 1.0]), **options)


def plane(
    evaluate: Evaluate,
    params: Any,
    first: Any,
    second: Any,
    x: ArrayLike | None = None,
    y: ArrayLike | None = None,
    *,
    rebuild: Callable[[Any], Any] | None = None,
    resume: Plane | None = None,
    progress: bool | Callable[[Progress], None] = True,
) -> Plane:
    """Figures over ``params + x * first + y * second``.

    Args:
        evaluate: as in `along`.
        params: the point at (0, 0).
        first: a tree like `params`.
        second: another.
        x: ``[W]``, 21 points of [-1, 1] by default.
        y: ``[H]``, as `x`.
        rebuild: as in `along`.
        resume: as in `along`.
        progress: as in `along`.

    Returns:
        A `Plane`.

    Raises:
        ValueError: trees that do not match; the path is named.

    Example:
        >>> import jax.numpy as jnp
        >>> from gapjax import landscape
        >>> east, north = jnp.array([1.0, 0.0]), jnp.array([0.0, 1.0])
        >>> far = lambda w: w[0] + 10 * w[1]
        >>> found = landscape.plane(far, 0 * east, east, north, [0, 1], [0, 1])
        >>> found.values["value"].tolist()
        [[0.0, 1.0], [10.0, 11.0]]
    """
    check_match(params, first, "the first direction")
    check_match(params, second, "the second direction")
    x = np.linspace(-1, 1, 21) if x is None else axis("x", x)
    y = np.linspace(-1, 1, 21) if y is None else axis("y", y)
    mode, shape = GIVEN if rebuild is None else REBUILT, (len(y), len(x))

    def at(a: float, b: float) -> Callable[[], Any]:
        return lambda: combination([params, first, second], [1, a, b])

    return sweep(
        evaluate,
        [at(float(a), float(b)) for b in y for a in x],
        "plane",
        rebuild,
        progress,
        resume,
        lambda values: Plane(x, y, {n: v.reshape(shape) for n, v in values.items()}, mode),
    )
