"""Traces, with the error of the estimate."""

from collections.abc import Callable

import jax
import numpy as np

from gapjax._checks import one_of, positive_int, random_key
from gapjax.landscape._estimate import Estimate, stderr_of_mean
from gapjax.landscape._lanczos import Krylov
from gapjax.landscape._memory import require_vectors
from gapjax.landscape._operators import Operator, check_operator
from gapjax.landscape._progress import Progress, Tracker
from gapjax.landscape._space import inner

_inner = jax.jit(inner)


def trace(
    op: Operator,
    key: jax.Array,
    num_matvecs: int = 30,
    *,
    method: str = "hutchinson",
    progress: bool | Callable[[Progress], None] = True,
) -> Estimate:
    r"""The trace, with its standard error.

    ``"hutchinson"`` averages :math:`z^T A z` over random signs z (Hutchinson 1989). ``"krylov"``
    spends half of the products on a Lanczos run, whose basis Q takes in the outlying eigenvalues
    and whose projected matrix gives the trace within Q exactly and for free; Hutchinson's average
    runs over what is left,
    :math:`\mathrm{tr}(Q A Q^T) + \mathrm{tr}((I - Q^TQ) A (I - Q^TQ))` (the idea of Hutch++, Meyer
    et al. 2021, with the Krylov sketch of Chen and Hallman 2023). That is far less noise where a
    few eigenvalues hold most of the spectrum, and none gained where it is flat. The standard
    error is honest for both, since both average independent samples.

    Args:
        op: the operator.
        key: of the probes.
        num_matvecs: products, at least 2 (4 for krylov). Below 16 the standard error is itself
            very uncertain, and the interval wide.
        method: ``"hutchinson"`` or ``"krylov"``.
        progress: True shows a bar for work over 5 seconds; a callback gets `Progress`.

    Returns:
        An `Estimate`, unbiased.

    Raises:
        ValueError: an unknown method or too few products.
        MemoryError: a basis larger than memory; the bytes are stated.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from gapjax import landscape
        >>> op = landscape.from_matvec(lambda v: jnp.arange(4.0) * v, jnp.zeros(4))
        >>> landscape.trace(op, jax.random.key(0), 8)
        Estimate(mean=6.0, stderr=0.0, num_matvecs=8, bias=0.0, num_samples=8, unresolved=0.0)
    """
    check_operator(op)
    random_key("key", key)
    one_of("method", method, ["hutchinson", "krylov"])
    positive_int("num_matvecs", num_matvecs)
    sketch = num_matvecs // 2 if method == "krylov" else 0
    probes = num_matvecs - sketch
    if probes < 2 or (method == "krylov" and sketch < 2):
        raise ValueError(
            f"{method} needs at least {4 if sketch else 2} matvecs for a standard error, "
            f"not {num_matvecs}."
        )
    sketch = min(sketch, op.size)
    require_vectors(sketch + 1, op.space, "take fewer num_matvecs or 'hutchinson'")
    with Tracker(progress, "trace", num_matvecs) as tracker:
        krylov = Krylov(op, jax.random.fold_in(key, 1))
        if sketch:
            krylov.append_random()
        for _ in range(sketch):
            krylov.extend()
            tracker.step()
        known = float(np.trace(krylov.projection))
        if krylov.complete:
            return Estimate(known, 0.0, tracker.done)
        if sketch:
            krylov.drop_next()
        samples = np.empty(probes)
        for index in range(probes):
            probe = op.space.signs(jax.random.fold_in(jax.random.fold_in(key, 0), index))
            probe, _ = krylov.orthogonalize(probe)
            samples[index] = float(_inner(probe, op.apply(probe)))
            tracker.step()
    mean, stderr = known + float(np.mean(samples)), float(stderr_of_mean(samples))
    return Estimate(mean, stderr, tracker.done, num_samples=probes)
