"""Directions in parameter space: random and normalized, or from points that matter."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gapjax._checks import one_of, positive_int, random_key, several
from gapjax.landscape._space import check_match, combination, path_names, space_of, widened


def random_direction(key: jax.Array, params: Any, *, normalize: str | None = "filter") -> Any:
    r"""A random Gaussian direction, scaled to the weights so that pictures can be compared.

    .. math:: d_i \leftarrow d_i \, \|w_i\| / \|d_i\|

    for every filter i (Li et al. 2018, section 4). A filter is a slice of a kernel along its
    *last* axis, the output features in Flax; biases and normalization (fewer than two axes, or
    ``bias`` or ``scale`` by name) get no direction. Without this a network with larger weights
    looks flatter. Integers, booleans and keys get none either; complex kernels get complex normal
    entries.

    Layers that are stacked along a leading axis, as ``nn.scan`` stores them, have each their own
    filters. They are told by the scales of their normalization, which then have two axes and lead
    with as many entries as all parameters beside them.

    Args:
        key: of the direction.
        params: the parameters.
        normalize: ``"filter"``, ``"layer"`` (one norm a kernel), or None for plain Gaussian noise
            in every parameter, by whatever name.

    Returns:
        A tree like `params`, at least in float32.

    Raises:
        ValueError: an unknown `normalize`.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from gapjax import landscape
        >>> params = {"kernel": jnp.ones((9, 4)), "bias": jnp.ones(4)}
        >>> d = landscape.random_direction(jax.random.key(0), params)
        >>> jnp.linalg.norm(d["kernel"], axis=0).round(4).tolist(), d["bias"].tolist()
        ([3.0, 3.0, 3.0, 3.0], [0.0, 0.0, 0.0, 0.0])
    """
    if normalize is not None:
        one_of("normalize", normalize, ["filter", "layer"])
    leaves, treedef = jax.tree.flatten(params)
    random_key("key", key)
    keys = jax.random.split(key, len(leaves))
    names = list(map(_unboxed, path_names(params)))
    stacked = _stacked(dict(zip(names, map(jnp.shape, leaves), strict=True)))

    def direction(key: jax.Array, leaf: Any, name: str) -> jax.Array:
        leaf = jnp.asarray(widened(leaf))
        if not jnp.issubdtype(leaf.dtype, jnp.inexact):
            return jnp.zeros_like(leaf)
        drawn = jax.random.normal(key, leaf.shape, leaf.dtype)
        if normalize is None:
            return drawn
        first = int(name in stacked)
        if leaf.ndim < 2 + first or _last(name) in ("bias", "scale"):
            return jnp.zeros_like(leaf)
        axes = tuple(range(first, leaf.ndim - (normalize == "filter")))

        def norm(x: jax.Array) -> jax.Array:
            # By the largest entry, or squares of small weights would be 0 and of large ones inf.
            top = jnp.max(jnp.abs(x), axis=axes, keepdims=True, initial=0)
            shares = jnp.abs(x) / jnp.where(top > 0, top, 1)
            return top * jnp.sqrt(jnp.sum(shares**2, axis=axes, keepdims=True))

        return drawn * (norm(leaf) / norm(drawn)).astype(leaf.dtype)

    return jax.tree.unflatten(
        treedef, [direction(*each) for each in zip(keys, leaves, names, strict=True)]
    )


def _unboxed(name: str) -> str:
    """A path without the entry by which NNX variables and boxed parameters hold their array."""
    return name.removesuffix("/value")


def _last(name: str) -> str:
    return name.rpartition("/")[2]


def _stacked(shapes: dict[str, tuple[int, ...]]) -> set[str]:
    """The parameters of layers that are stacked along a leading axis."""
    found: set[str] = set()
    for scale, shape in shapes.items():
        if _last(scale) != "scale" or len(shape) < 2:
            continue
        # Of the modules around it the outermost whose parameters all lead with as many.
        outer = scale.split("/")[:-1]
        for depth in range(len(outer) + 1):
            prefix = "".join(f"{part}/" for part in outer[:depth])
            beside = {name: other for name, other in shapes.items() if name.startswith(prefix)}
            if all(other[:1] == shape[:1] for other in beside.values()):
                found |= beside.keys()
                break
    return found


class PlaneBasis(NamedTuple):
    """A plane in parameter space.

    Attributes:
        origin: the tree at (0, 0).
        first: the direction of x, of length 1.
        second: the direction of y, of length 1, orthogonal to `first`.
        points: ``[3, 2]``, where the three solutions lie.
    """

    origin: Any
    first: Any
    second: Any
    points: np.ndarray


def _dot(one: Any, two: Any) -> float:
    """The inner product of two trees' floating leaves, in float64."""
    space = space_of(one)
    pairs = zip(space.select(one), space.select(two), strict=True)
    return sum(
        float(np.vdot(np.asarray(a, np.float64), np.asarray(b, np.float64))) for a, b in pairs
    )


def _check_finite(tree: Any, what: str) -> None:
    """Refuses a tree with a weight that is not finite, naming the path."""
    space = space_of(tree)
    for name, leaf in zip(space.names, space.select(tree), strict=True):
        if not np.isfinite(np.asarray(leaf, np.float64)).all():
            raise ValueError(
                f"{what} holds numbers that are not finite, at {name!r}: a run that diverged has "
                "no plane. Leave it out."
            )


def plane_through(one: Any, two: Any, three: Any) -> PlaneBasis:
    """The plane through three solutions, as in Garipov et al. (2018, figure 1).

    Args:
        one: the solution at the origin.
        two: the solution on the x axis.
        three: any other.

    Returns:
        A `PlaneBasis`; its first three fields go into `plane`.

    Raises:
        ValueError: trees that do not match (the path is named), solutions that are not finite, or
            on one line.

    Example:
        >>> import jax.numpy as jnp
        >>> from gapjax import landscape
        >>> basis = landscape.plane_through(jnp.zeros(3), jnp.array([2.0, 0, 0]), jnp.ones(3))
        >>> basis.points.round(3).tolist()
        [[0.0, 0.0], [2.0, 0.0], [1.0, 1.414]]
    """
    check_match(one, two, "the second solution")
    check_match(one, three, "the third solution")
    for tree, which in ((one, "first"), (two, "second"), (three, "third")):
        _check_finite(tree, f"the {which} solution")
    across, up = combination([two, one], [1, -1]), combination([three, one], [1, -1])
    width = np.sqrt(_dot(across, across))
    whole = np.sqrt(_dot(up, up))
    if not width or not whole:
        raise ValueError("the plane needs three different solutions; the first is given twice.")
    first = combination([across], [1 / width])
    x = _dot(first, up)
    rest = combination([up, first], [1, -x])
    height = np.sqrt(_dot(rest, rest))
    if height < 1e-5 * whole:
        raise ValueError("the three solutions lie on one line; take `interpolate` instead.")
    second = combination([rest], [1 / height])
    return PlaneBasis(one, first, second, np.array([[0, 0], [width, 0], [x, height]]))


class TrajectoryPCA(NamedTuple):
    """The plane that a training run moves in most.

    Attributes:
        origin: the tree at the center.
        directions: ``k`` trees of length 1, orthogonal; by falling share of the motion.
        coords: ``[T, k]``, the checkpoints in these directions.
        explained: ``[k]``, the share of the squared motion each direction holds.
    """

    origin: Any
    directions: tuple[Any, ...]
    coords: np.ndarray
    explained: np.ndarray


def trajectory_pca(
    checkpoints: Sequence[Any], *, center: str = "last", num_components: int = 2
) -> TrajectoryPCA:
    """Principal directions of a training run (Li et al. 2018, section 7).

    Works on the T x T inner products of the checkpoints, leaf by leaf in float64, so the memory
    beyond the checkpoints is that of their largest leaf. Note that the run of a plain random walk
    also looks like a smooth curve in its first two components.

    Args:
        checkpoints: trees of parameters in order, at least two.
        center: ``"last"``, the solution, or ``"mean"``.
        num_components: k, below the number of checkpoints.

    Returns:
        A `TrajectoryPCA`; ``plane(evaluate, pca.origin, *pca.directions)`` draws the loss there.

    Raises:
        ValueError: too few checkpoints, trees that do not match, a checkpoint that is not finite,
            or checkpoints that span fewer directions.

    Example:
        >>> import jax.numpy as jnp
        >>> from gapjax import landscape
        >>> run = [jnp.array([4.0, 1.0]), jnp.array([2.0, 0.0]), jnp.array([0.0, 0.0])]
        >>> pca = landscape.trajectory_pca(run, num_components=1)
        >>> pca.explained.round(3).tolist()
        [0.991]
    """
    one_of("center", center, ["last", "mean"])
    positive_int("num_components", num_components)
    checkpoints = several("checkpoints", checkpoints)
    count = len(checkpoints)
    if count <= num_components:
        raise ValueError(
            f"{num_components} components need at least {num_components + 1} checkpoints, "
            f"not {count}."
        )
    for index, tree in enumerate(checkpoints):
        check_match(checkpoints[0], tree, f"checkpoint {index}")
        _check_finite(tree, f"checkpoint {index}")
    weights = np.full(count, 1 / count) if center == "mean" else np.eye(count)[-1]
    gram = np.zeros((count, count))
    for leaves in zip(*map(space_of(checkpoints[0]).select, checkpoints), strict=True):
        rows = np.stack([np.asarray(leaf, np.float64).ravel() for leaf in leaves])
        rows -= weights @ rows
        gram += rows @ rows.T
    values, vectors = np.linalg.eigh(gram)
    values, vectors = values[::-1][:num_components], vectors[:, ::-1][:, :num_components]
    if values[-1] <= 1e-12 * max(values[0], np.finfo(float).tiny):
        raise ValueError(
            f"the checkpoints span fewer than {num_components} directions: ask for fewer "
            "components, or pass checkpoints that differ."
        )
    # Direction = sum_t vectors[t] (checkpoint_t - center) / sqrt(value), an affine combination.
    spread = vectors / np.sqrt(values)
    directions = tuple(
        combination(checkpoints, spread[:, i] - spread[:, i].sum() * weights)
        for i in range(num_components)
    )
    return TrajectoryPCA(
        combination(checkpoints, weights),
        directions,
        vectors * np.sqrt(values),
        values / np.trace(gram),
    )
