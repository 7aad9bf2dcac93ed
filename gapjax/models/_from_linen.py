"""A linen module as a ``Network``."""

from typing import Any

import flax.linen as nn
import jax
from flax import errors

# Imported here, not where they are used: inside a traced function that would change what jax keys
# its programs by, and compile each of them once more.
from gapjax import ghost
from gapjax.ghost import linen as ghost_linen
from gapjax.models._calls import Arguments, arguments, key_of, no_key, train_flags
from gapjax.models._network import Network

# What a pass leaves behind for whoever looks at it; it goes by the size of its batch.
_LEFT_BEHIND = nn.DenyList(("intermediates", "perturbations"))


def from_linen(model: nn.Module) -> Network:
    """The functional view of a linen module."""

    def boxed(key: jax.Array, inputs: Any) -> dict[str, Any]:
        params_key, dropout_key = jax.random.split(key)
        module, (args, kwargs) = _prepared(model, inputs, False)
        rngs = {"params": params_key, "dropout": dropout_key}
        return dict(module.init(rngs, *args, mutable=_LEFT_BEHIND, **kwargs))

    def call(variables: Any, inputs: Any, train: bool, key: Any, mutable: Any = False) -> Any:
        module, (args, kwargs) = _prepared(model, inputs, train)
        # A module that asks for any other name is given a key of "params".
        rngs = {} if key is None else {"dropout": key, "params": jax.random.fold_in(key, 0)}
        try:
            return module.apply(variables, *args, rngs=rngs, mutable=mutable, **kwargs)
        except errors.InvalidRngError as error:
            raise ValueError(no_key(type(model).__name__, train)) from error

    def init(key: jax.Array, inputs: Any) -> tuple[Any, Any]:
        variables = nn.meta.unbox(boxed(key, inputs))
        params = variables.pop("params", {})
        return params, _state(call, params, variables, inputs)

    def apply(
        params: Any,
        model_state: Any,
        inputs: Any,
        *,
        train: bool,
        key: jax.Array | None = None,
        ghost_size: int | None = None,
    ) -> tuple[Any, Any]:
        variables, kept = {"params": params, **model_state}, list(model_state)
        if not train:
            return call(variables, inputs, False, key), model_state
        if ghost_size is None:
            return call(variables, inputs, True, key, kept)
        # Written for batches of another size, the norms keep their horizon per update.
        with ghost_linen.ghostify(ghost_size, rescale_momentum=True):
            return call(variables, inputs, True, key, kept)

    def batch_statistics(params: Any, model_state: Any, inputs: Any) -> Any:
        if not ghost.batch_norms(model_state):
            return {}
        variables, kept = {"params": params, **model_state}, list(model_state)
        with ghost_linen.batch_statistics():
            _, after = call(variables, inputs, True, key_of(inputs), kept)
        return ghost.batch_norms(after)

    def partition_specs(inputs: Any) -> Any:
        variables = jax.eval_shape(boxed, jax.random.key(0), inputs)
        return nn.get_partition_spec(variables).get("params", {})

    return Network(
        init,
        apply,
        batch_statistics,
        describe=" ".join(repr(model).split()),
        identity=model,
        partition_specs=partition_specs,
    )


def _prepared(model: nn.Module, inputs: Any, train: bool) -> tuple[nn.Module, Arguments]:
    """The module, told by its attributes whether it trains, and what it is called with."""
    given = arguments(model.__call__, inputs, train=train)
    told: dict[str, Any] = {
        # Modules merge attribute and argument, and refuse to be told by both.
        name: None if name in given.kwargs else flag
        for name, flag in train_flags(type(model).__dataclass_fields__, train).items()
        if isinstance(getattr(model, name), bool | None)
    }
    return (model.clone(**told) if told else model), given


def _state(call: Any, params: Any, variables: dict[str, Any], inputs: Any) -> dict[str, Any]:
    """The collections that are state; not those that ``sow`` makes longer with every pass."""
    grows = any(
        isinstance(leaf, tuple)
        for leaf in jax.tree.leaves(variables, is_leaf=lambda x: isinstance(x, tuple))
    )
    if not grows:
        return variables
    _, after = jax.eval_shape(
        lambda key: call({"params": params, **variables}, inputs, True, key, list(variables)),
        jax.random.key(0),
    )
    structure: Any = jax.tree.structure
    return {n: c for n, c in variables.items() if structure(c) == structure(after[n])}
