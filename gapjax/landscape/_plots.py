"""Pictures: each function draws one result on one axis, and nothing else."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from gapjax.landscape._density import Density
from gapjax.landscape._directions import TrajectoryPCA
from gapjax.landscape._paths import Path, Plane


def _axis(ax: Any, projection: str | None = None) -> Any:
    """The axis given, or one of a new figure."""
    if ax is not None:
        return ax
    import matplotlib.pyplot as plt

    return plt.figure(layout="constrained").add_subplot(projection=projection)


def _chosen(values: dict[str, np.ndarray], name: str | None) -> tuple[str, np.ndarray]:
    """One figure by name, a loss or else the first by default."""
    name = min(values, key=_rank) if name is None else name
    if name not in values:
        raise ValueError(f"there is no figure {name!r}; there are {', '.join(values)}.")
    return name, values[name]


def _rank(name: str) -> bool:
    """Losses come before the other figures."""
    return name.rpartition("/")[2] != "loss"


def _state(ax: Any, statistics: str) -> None:
    """Says which batch statistics the picture was made with, above it."""
    ax.set_title(statistics, fontsize="small", style="italic")


def plot_density(
    density: Density | Any,
    ax: Any = None,
    *,
    floor: float = 1e-6,
    color: Any = None,
    label: str | None = None,
    linestyle: Any = "-",
) -> Any:
    """Draws a spectral density on a logarithmic scale, with its 95% interval as a band.

    Args:
        density: from `spectral_density`; or anything with its `grid`, `density` and `interval`.
        ax: a matplotlib axis, on which several densities may be drawn; a new one by default.
        floor: values below are not shown.
        color: of the line and the band; the next of the axis by default.
        label: for a legend, which is left to the caller.
        linestyle: of the line.

    Returns:
        The axis.

    Example:
        >>> import matplotlib; matplotlib.use("Agg")
        >>> import jax, jax.numpy as jnp
        >>> from gapjax import landscape
        >>> op = landscape.from_matvec(lambda v: jnp.arange(9.0) * v, jnp.zeros(9))
        >>> density = landscape.spectral_density(op, jax.random.key(0), num_steps=5)
        >>> landscape.plot_density(density).get_xlabel()
        'eigenvalue'
    """
    ax = _axis(ax)
    middle, low, high = (np.maximum(y, floor) for y in (density.density, *density.interval))
    (line,) = ax.plot(density.grid, middle, color=color, label=label, linestyle=linestyle)
    band = {"color": line.get_color(), "alpha": 0.2, "linewidth": 0}
    ax.fill_between(density.grid, low, high, label=label and f"_{label}", **band)
    ax.set_yscale("log")
    ax.set_ylim(bottom=floor, auto=True)  # or the top would stay where the first density ends
    ax.set_xlabel("eigenvalue")
    ax.set_ylabel("density")
    return ax


def plot_path(
    path: Path,
    ax: Any = None,
    *,
    names: Sequence[str] | None = None,
    right: Any = None,
    color: Any = None,
    label: str | None = None,
    linestyle: Any = None,
) -> Any:
    """Draws figures along a path as Keskar et al. (2017, figure 3) do.

    The loss (or else the first metric) is on the left axis, every other metric on a right one; the
    first data set is solid, the second dashed. The batch statistics that were used stand above.

    Args:
        path: from `interpolate`, `line` or `along`.
        ax: a matplotlib axis, on which several paths may be drawn; a new one by default.
        names: which figures, such as ``["train/loss", "test/loss"]``; all by default.
        right: the axis of all metrics but the first; a twin of `ax` by default.
        color: of all lines; a color for each metric by default.
        label: what the path is called, before the names of its figures in the legend.
        linestyle: of all lines; one for each data set by default.

    Returns:
        The axis.

    Raises:
        ValueError: an unknown name.

    Example:
        >>> import matplotlib; matplotlib.use("Agg")
        >>> from gapjax import landscape
        >>> path = landscape.along(lambda w: w**2, lambda t: t, [0, 1, 2])
        >>> landscape.plot_path(path).get_ylabel()
        'value'
    """
    ax = _axis(ax)
    chosen = {name: _chosen(path.values, name)[1] for name in names or path.values}
    split = {name: name.rpartition("/")[::2] for name in chosen}
    sets = list(dict.fromkeys(data for data, _ in split.values()))
    metrics = sorted(dict.fromkeys(metric for _, metric in split.values()), key=_rank)
    if len(metrics) == 1:
        right = ax
    elif right is None:
        right = ax.twinx()
    order = np.argsort(path.coords, kind="stable")
    for name in sorted(chosen, key=_rank):
        data, metric = split[name]
        index = metrics.index(metric)
        (right if index else ax).plot(
            np.asarray(path.coords)[order],
            np.asarray(chosen[name])[order],
            color=color or f"C{index}",
            linestyle=linestyle or ["-", "--", "-.", ":"][sets.index(data) % 4],
            label=" ".join(filter(None, (label, name))),
        )
    ax.set_xlabel("position on the path")
    ax.set_ylabel(metrics[0])
    if right is not ax:
        right.set_ylabel(", ".join(metrics[1:]))
    # Of earlier calls too, on either axis.
    lines = [*ax.lines, *(right.lines if right is not ax else ())]
    named = [line for line in lines if not line.get_label().startswith("_")]
    ax.legend(handles=named, fontsize="small")
    _state(ax, path.statistics)
    return ax


def plot_contour(
    plane: Plane, ax: Any = None, *, name: str | None = None, levels: int = 20, points: Any = None
) -> Any:
    """Draws a plane as contours, with a logarithmic scale where the figure spans over a decade.

    Args:
        plane: from `plane`.
        ax: a matplotlib axis; a new one by default.
        name: which figure; a loss, or else the first, by default.
        levels: number of contours.
        points: ``[n, 2]`` marks, such as ``PlaneBasis.points`` or ``TrajectoryPCA.coords``.

    Returns:
        The axis.

    Raises:
        ValueError: an unknown name, or a plane of a single row or column of points.

    Example:
        >>> import matplotlib; matplotlib.use("Agg")
        >>> import jax.numpy as jnp
        >>> from gapjax import landscape
        >>> found = landscape.plane(
        ...     lambda w: w @ w, jnp.zeros(2), *jnp.eye(2), jnp.arange(3.0), jnp.arange(3.0)
        ... )
        >>> landscape.plot_contour(found).get_xlabel()
        'first direction'
    """
    name, values = _chosen(plane.values, name)
    x, y, values = _in_order(plane, values)
    ax = _axis(ax)
    finite = values[np.isfinite(values)]
    scale: Any = np.linspace(finite.min(), finite.max(), levels) if len(finite) else levels
    if len(finite) and finite.min() > 0 and finite.max() > 10 * finite.min():
        scale = np.geomspace(finite.min(), finite.max(), levels)
    if np.ndim(scale) and np.ptp(scale) == 0:
        scale = None
    drawn = ax.contour(x, y, values, levels=scale)
    if drawn.levels.size:
        ax.clabel(drawn, drawn.levels[::3], fontsize="x-small")
    if points is not None:
        ax.plot(*np.asarray(points).T, "k.-", linewidth=0.8)
    ax.set_xlabel("first direction")
    ax.set_ylabel("second direction")
    _state(ax, f"{name}; {plane.statistics}")
    return ax


def plot_surface(plane: Plane, ax: Any = None, *, name: str | None = None) -> Any:
    """Draws a plane as a surface in three dimensions.

    Args:
        plane: from `plane`.
        ax: a matplotlib axis with ``projection="3d"``; a new one by default.
        name: which figure; a loss, or else the first, by default.

    Returns:
        The axis.

    Raises:
        ValueError: an unknown name, a plane of a single row or column of points, or an axis
            without a third dimension.

    Example:
        >>> import matplotlib; matplotlib.use("Agg")
        >>> import jax.numpy as jnp
        >>> from gapjax import landscape
        >>> found = landscape.plane(
        ...     lambda w: w @ w, jnp.zeros(2), *jnp.eye(2), jnp.arange(3.0), jnp.arange(3.0)
        ... )
        >>> landscape.plot_surface(found).get_zlabel()
        'value'
    """
    name, values = _chosen(plane.values, name)
    x, y, values = _in_order(plane, values)
    ax = _axis(ax, "3d")
    if not hasattr(ax, "plot_surface"):
        raise ValueError(
            "a surface needs an axis of three dimensions: add_subplot(projection='3d')."
        )
    ax.plot_surface(*np.meshgrid(x, y), values, cmap="viridis", linewidth=0)
    ax.set_xlabel("first direction")
    ax.set_ylabel("second direction")
    ax.set_zlabel(name)
    _state(ax, plane.statistics)
    return ax


def _in_order(plane: Plane, values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Coordinates that rise, with the values there; at least two of each."""
    if min(len(plane.x), len(plane.y)) < 2:
        raise ValueError(
            f"the plane has {len(plane.x)} x {len(plane.y)} points, and a picture of it needs at "
            "least 2 on each axis: measure more, or measure a `line` and draw it with plot_path."
        )
    rows, columns = np.argsort(plane.y), np.argsort(plane.x)
    return plane.x[columns], plane.y[rows], values[np.ix_(rows, columns)]


def plot_trajectory(pca: TrajectoryPCA, ax: Any = None) -> Any:
    """Draws a training run in its two leading directions.

    Args:
        pca: from `trajectory_pca`, with two components or more.
        ax: a matplotlib axis; a new one by default.

    Returns:
        The axis.

    Raises:
        ValueError: a single component.

    Example:
        >>> import matplotlib; matplotlib.use("Agg")
        >>> import jax.numpy as jnp
        >>> from gapjax import landscape
        >>> run = [jnp.array([4.0, 1.0]), jnp.array([2.0, 0.0]), jnp.array([0.0, 0.0])]
        >>> landscape.plot_trajectory(landscape.trajectory_pca(run)).get_xlabel()
        'direction 1 (99.1% of the motion)'
    """
    if pca.coords.shape[1] < 2:
        raise ValueError("a trajectory is drawn in two directions: num_components=2.")
    ax = _axis(ax)
    ax.plot(pca.coords[:, 0], pca.coords[:, 1], ".-", linewidth=0.8)
    ax.plot(*pca.coords[0, :2], "go", label="start")
    ax.plot(*pca.coords[-1, :2], "r*", label="end")
    for axis, share in zip(("x", "y"), pca.explained, strict=False):
        number = 1 + "xy".index(axis)
        getattr(ax, f"set_{axis}label")(f"direction {number} ({100 * share:.1f}% of the motion)")
    ax.legend(fontsize="small")
    return ax
