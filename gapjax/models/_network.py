"""What a network is to everything else: pure functions of its inputs."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax


def _no_statistics(params: Any, model_state: Any, inputs: Any) -> dict[str, dict[str, jax.Array]]:
    """Of a network without batch norm."""
    return {}


class Network(NamedTuple):
    """A network as pure functions of its inputs, an array or any pytree of arrays ``[B, ...]``.

    ``as_network`` makes one of any Flax module. Two functions, ``init`` and ``apply``, are enough
    for a network that was written in any other way.

    Attributes:
        init: ``init(key, inputs) -> (params, model_state)``; ``model_state`` holds what is not
            trained (running statistics), an empty dict where there is nothing.
        apply: ``apply(params, model_state, inputs, *, train, key=None, ghost_size=None) ->
            (outputs, model_state)``. All that it draws, it draws from ``key``; evaluation leaves
            ``model_state`` as it is. With ``ghost_size``, every batch norm in it normalizes ghosts
            of that many examples in training.
        batch_statistics: ``batch_statistics(params, model_state, inputs) -> statistics``: the mean
            and variance that every batch norm sees of these inputs alone, by the path to it, for
            ``gapjax.ghost.precise_statistics``; an empty dict for a network without batch norm.
            What it draws (dropout before a norm) follows from the inputs: a pass repeats, and
            batches differ.
        fresh_start: whether ``init`` draws new weights from its key. False for an nnx module that
            was built already: its own weights are the start of every seed.
        describe: a line for people: the class, and its settings.
        identity: what tells it from other networks: the module, or the function that makes it.
        partition_specs: ``partition_specs(inputs) -> specs``, a tree like ``params`` with a
            ``jax.sharding.PartitionSpec`` for each, in the names that the module gives its axes
            (``nn.with_partitioning``, ``nn.with_logical_partitioning``, ``out_sharding`` of nnx).
            ``nn.logical_to_mesh(specs, rules)`` turns those names into axes of a mesh. None where
            nothing is known.

    Example:
        A pair of functions, as ``haiku.transform_with_state`` gives it:

        >>> import jax
        >>> def haiku_init(key, x):
        ...     return {"w": jax.random.normal(key, (x.shape[-1], 3))}, {}
        >>> def haiku_apply(params, state, key, x, is_training):
        ...     return x @ params["w"], state
        >>> def apply(params, model_state, inputs, *, train, key=None, ghost_size=None):
        ...     return haiku_apply(params, model_state, key, inputs, is_training=train)
        >>> network = Network(haiku_init, apply)
        >>> inputs = jax.numpy.zeros((4, 8))
        >>> params, model_state = network.init(jax.random.key(0), inputs)
        >>> network.apply(params, model_state, inputs, train=False)[0].shape
        (4, 3)
    """

    init: Callable[..., tuple[Any, Any]]
    apply: Callable[..., tuple[Any, Any]]
    batch_statistics: Callable[..., dict[str, dict[str, jax.Array]]] = _no_statistics
    fresh_start: bool = True
    describe: str = "a network"
    identity: Any = None
    partition_specs: Callable[..., Any] | None = None
