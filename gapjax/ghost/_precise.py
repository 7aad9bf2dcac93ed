"""Running statistics recomputed over a data set."""

from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp

from gapjax._arrays import owned
from gapjax._checks import one_of
from gapjax._examples import count_examples, example_weights
from gapjax.ghost._batch_norms import named_statistics


def precise_statistics(
    apply: Callable[[Any, Any], Any],
    params: Any,
    batches: Iterable[Any],
    *,
    variance: str = "total",
) -> Any:
    r"""The statistics of batch norms over a whole data set, for given parameters.

    Running statistics are those of the path of training. Weights that were averaged or
    interpolated were never on it, and at the end of a short training the average still remembers
    its start. Over batches :math:`k` of :math:`n_k` examples each, :math:`N = \sum n_k`,

    .. math:: \mu = \tfrac1N \sum_k n_k \mu_k, \qquad
              v = \tfrac1N \sum_k n_k \left( v_k + (\mu_k - \mu)^2 \right),

    as in "precise batch norm" (Wu and Johnson 2021, section 3), with the variance of the pool of
    all batches.

    Args:
        apply: ``(params, batch) -> statistics``: a pass in training mode that returns the
            statistics of this batch alone, a tree in which every batch norm has a ``mean`` and a
            ``var``: the running statistics inside ``gapjax.ghost.linen.batch_statistics``, or of a
            model from ``gapjax.ghost.nnx.batch_statistics``, or what
            ``models.Network.batch_statistics`` gives. Give it jitted. The current running
            statistics, given to the model inside, serve as the shift that saves the variance from
            rounding.
        params: Handed to ``apply``.
        batches: The batches; their leaves share a leading axis of examples. Those that the mask of
            a batch leaves out (``growth.Batch`` has one) do not count, and ``apply`` has to give
            the mask to its batch norms.
        variance: ``"total"``, or ``"within"`` for the average variance of the batches, without
            that of their means.

    Returns:
        A tree like the one ``apply`` returns. ``gapjax.ghost.with_statistics`` puts it into the
        state of the model.

    Raises:
        ValueError: There are no examples, the leaves of a batch differ in their number, or a
            statistic is neither ``mean`` nor ``var``.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from gapjax.ghost import precise_statistics
        >>> from gapjax.ghost.linen import GhostBatchNorm, batch_statistics
        >>> model = GhostBatchNorm(use_running_average=False)
        >>> x = jnp.array([[1.0], [3.0], [10.0], [30.0]])
        >>> variables = model.init(jax.random.key(0), x)
        >>> @jax.jit
        ... def apply(params, x):
        ...     own = {**variables, "params": params}
        ...     with batch_statistics():
        ...         y, updates = model.apply(own, x, mutable=["batch_stats"])
        ...     return updates["batch_stats"]
        >>> precise_statistics(apply, variables["params"], [x[:3], x[3:]])["mean"].tolist()
        [11.0]
    """
    one_of("variance", variance, ("total", "within"))
    total, examples = None, 0.0
    for batch in batches:
        size: float = count_examples(batch)
        weights = example_weights(batch)
        size = size if weights is None else float(weights.sum())
        if not size:
            continue
        own = apply(params, owned(batch))
        examples += size
        total = own if total is None else _pool(total, own, size / examples, variance == "total")
    if total is None:
        raise ValueError(
            "batches hold no examples (an iterator that was used up?): there is nothing to average."
        )
    return total


def _pool(total: Any, own: Any, share: float, with_means: bool) -> Any:
    """Statistics of all batches up to one that makes up ``share`` of their examples."""
    old, new = named_statistics(total), named_statistics(own)
    away = {
        name.removesuffix("mean"): new[name] - old[name] for name in old if name.endswith("mean")
    }
    leaves = []
    for name in old:
        leaf = old[name] + share * (new[name] - old[name])
        if name.endswith("var") and with_means:
            leaf = leaf + share * (1 - share) * jnp.square(away[name.removesuffix("var")])
        leaves.append(leaf)
    return jax.tree.unflatten(jax.tree.structure(total), leaves)
