"""Running statistics from the moments of ghosts."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import PartitionSpec
from jax.typing import ArrayLike

from gapjax._checks import number, one_of
from gapjax.ghost._moments import Moments, per_feature

UPDATES = ("sequential", "mean")
VARIANCES = ("within", "unbiased", "total")


class Running(NamedTuple):
    """Running mean and variance, each ``[*features]``."""

    mean: jax.Array
    var: jax.Array


def check_momentum(momentum: Any) -> None:
    """Refuse what is no fraction, as far as the host knows: nothing is fetched from a device."""
    if isinstance(momentum, jax.Array):
        return
    for value in momentum.flat if isinstance(momentum, np.ndarray) else (momentum,):
        number("momentum, the fraction kept,", value, least=0, most=1)


def update_running(
    running: tuple[ArrayLike, ArrayLike],
    moments: Moments,
    *,
    momentum: ArrayLike,
    update: str = "sequential",
    variance: str = "within",
    axis_name: Any = None,
    copies: int = 1,
) -> Running:
    r"""Move running statistics by the moments of the ghosts of one batch.

    With momentum :math:`m` (the fraction kept) and :math:`s_i` the mean or variance of ghost
    :math:`i`,

    .. math::
        \text{sequential:}\quad r &\leftarrow m^G r + (1 - m) \sum_{i=1}^{G} m^{G-i} s_i \\
        \text{mean:}\quad r &\leftarrow m\, r + (1 - m) \sum_i \frac{n_i}{\sum_j n_j} s_i

    ``"sequential"`` is one exponential average over ghosts, one after the other (Hoffer, Hubara,
    Soudry 2017, Algorithm 1, in the form of the authors' code); it does not depend on how the
    ghosts are spread over calls. ``"mean"`` is one update with the average ghost (Keras'
    ``virtual_batch_size``). A ghost with a count of 0 changes nothing.

    Args:
        running: ``(mean, var)``, each ``[*features]``.
        moments: From ``ghost_moments``.
        momentum: The fraction kept, per ghost (``"sequential"``) or per call (``"mean"``).
        update: ``"sequential"`` or ``"mean"``.
        variance: ``"within"`` averages the biased variances of ghosts; ``"unbiased"`` multiplies
            each by n / (n - 1) (PyTorch); ``"total"`` adds the variance of the ghost means of this
            call, with the weights of the update, which makes up for what small ghosts leave out.
            ``"total"`` sees one call at a time: the same ghosts in two calls have two centers.
        axis_name: Inside ``jax.shard_map`` or ``jax.pmap``: the devices along this axis (or these
            axes) hold consecutive runs of ghosts; every device gets the statistics of all.
        copies: So many neighbouring devices hold the same ghosts.

    Returns:
        ``Running(mean, var)`` in the dtypes of ``running``.

    Raises:
        ValueError: a momentum outside 0 to 1 (one that lies on a device is taken as it is), or an
            unknown word.

    Example:
        >>> import jax.numpy as jnp
        >>> from gapjax.ghost import ghost_moments, update_running
        >>> moments = ghost_moments(jnp.array([[1.0], [3.0], [10.0], [30.0]]), 2)
        >>> start = (jnp.zeros(1), jnp.ones(1))
        >>> update_running(start, moments, momentum=0.5).mean.tolist()  # (1 + 20) / 2
        [10.5]
        >>> update_running(start, moments, momentum=0.5, update="mean").mean.tolist()
        [5.5]
    """
    check_momentum(momentum)
    one_of("update", update, UPDATES)
    one_of("variance", variance, VARIANCES)
    old_mean, old_var = (jnp.asarray(r) for r in running)
    mean, var, count = moments
    kept, weight = _weights(per_feature(count, mean), momentum, update, axis_name, copies)
    # Known counts and momentum give weights in float64, here rounded for the first time.
    kept, weight = (jnp.asarray(a).astype(mean.dtype) for a in (kept, weight))
    if variance == "unbiased":
        n = jnp.asarray(per_feature(count, mean)).astype(mean.dtype)
        var = var * (n / jnp.maximum(n - 1, 1))

    def total(*terms):
        sums = jnp.stack([jnp.broadcast_to(weight * term, mean.shape).sum(0) for term in terms])
        return sums if axis_name is None else lax.psum(sums, axis_name) / copies

    if variance == "total":
        share, new_mean = total(jnp.ones_like(mean), mean)
        center = new_mean / jnp.where(share > 0, share, 1)
        (new_var,) = total(var + jnp.square(mean - center))
    else:
        new_mean, new_var = total(mean, var)

    def moved(old, new):
        # What is not kept may be infinite or no number.
        rest = jnp.where(kept == 0, 0, kept * old.astype(new.dtype))
        return (rest + new).astype(old.dtype)

    return Running(moved(old_mean, new_mean), moved(old_var, new_var))


def _weights(
    count: Any, momentum: Any, update: str, axis_name: Any, copies: int
) -> tuple[Any, Any]:
    """What the old statistics keep, and what each ghost adds; in the shape of the count."""
    known = isinstance(count, np.ndarray)
    xp: Any = np if known and isinstance(momentum, float | int) else jnp
    if update == "mean":
        total, _ = _over_devices(count.sum(0, keepdims=True), axis_name, copies)
        kept = xp.where(total > 0, momentum, 1)[0]
        return kept, (1 - kept) * count / xp.maximum(total, 1)
    valid = (count > 0).astype(float if xp is np else count.dtype)
    after = np.flip(np.cumsum(np.flip(valid, 0), 0), 0) if known else _sum_from(valid)
    total, later = _over_devices(valid.sum(0, keepdims=True), axis_name, copies)
    weight = (1 - momentum) * momentum ** (after - valid) * valid
    return momentum ** total[0], weight if axis_name is None else weight * momentum**later


def _sum_from(valid: jax.Array) -> jax.Array:
    """The sums from each on; those of arrays that types split are made whole, and split again."""
    place = jax.typeof(valid).sharding
    if not any(place.spec):
        return lax.cumsum(valid, 0, True)
    whole = jax.sharding.reshard(valid, place.update(spec=PartitionSpec()))
    return jax.sharding.reshard(lax.cumsum(whole, 0, True), place)


def _over_devices(own: Any, axis_name: Any, copies: int) -> tuple[Any, Any]:
    """A count [1, ...] summed over all devices, and over those that come later."""
    if axis_name is None:
        return own, 0
    devices = lax.axis_size(axis_name) // copies
    place = lax.axis_index(axis_name) // copies
    if isinstance(own, np.ndarray):  # the same everywhere
        return devices * own, (devices - 1 - place).astype(jnp.float32) * own.astype(np.float32)
    places = jnp.arange(devices).reshape(-1, *(1,) * (own.ndim - 1))
    owns = lax.psum(jnp.where(places == place, own, 0), axis_name) / copies
    return owns.sum(0, keepdims=True), jnp.where(places > place, owns, 0).sum(0, keepdims=True)
