"""One functional view of any Flax module, linen or nnx: what a pure train step needs."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
from flax import nnx

# Imported here, not where they are used: inside a traced function that would change what jax keys
# its programs by, and compile each of them once more.
from gapjax import ghost
from gapjax.ghost import linen as ghost_linen
from gapjax.ghost import nnx as ghost_nnx

# How Flax modules of the wild are told that they train; the first name a module takes is used.
_TRAIN_FLAGS: Mapping[str, Callable[[bool], bool]] = {
    "train": lambda train: train,
    "training": lambda train: train,
    "is_training": lambda train: train,
    "deterministic": lambda train: not train,
    "use_running_average": lambda train: not train,
}


class Network(NamedTuple):
    """A network as pure functions of its inputs, an array or any pytree of arrays ``[B, ...]``.

    Attributes:
        init: ``init(key, inputs) -> (params, model_state)``; ``model_state`` holds what is not
            trained (running statistics), an empty dict where there is nothing.
        apply: ``apply(params, model_state, inputs, *, train, key=None, ghost_size=None) ->
            (outputs, model_state)``. With ``ghost_size``, every batch norm in it normalizes
            ghosts of that many examples in training.
        batch_statistics: ``batch_statistics(params, model_state, inputs) -> statistics``: the mean
            and variance that every batch norm sees of these inputs alone, by the path to it, for
            ``gapjax.ghost.precise_statistics``; an empty dict for a network without batch norm.
        fresh_start: whether ``init`` draws new weights from its key. False for an nnx module that
            was built already: its own weights are the start of every seed.
        describe: a line for people: the class, and its settings.
        identity: what tells it from other networks: the module, or the function that makes it.
    """

    init: Callable[..., tuple[Any, Any]]
    apply: Callable[..., tuple[Any, Any]]
    batch_statistics: Callable[..., dict[str, dict[str, jax.Array]]]
    fresh_start: bool = True
    describe: str = "a network"
    identity: Any = None


def as_network(model: Any) -> Network:
    """The functional view of ``model``.

    Args:
        model: a linen module; a function ``rngs -> nnx.Module`` (an nnx class that needs nothing
            else is one); an nnx module that was built already; or a ``Network``, returned as it is.

    Returns:
        A ``Network``.

    Raises:
        ValueError: ``model`` is none of these.

    Example:
        >>> import jax
        >>> from gapjax import models
        >>> network = models.as_network(models.digits_mlp())
        >>> inputs = jax.numpy.zeros((4, 8, 8, 1))
        >>> params, model_state = network.init(jax.random.key(0), inputs)
        >>> outputs, model_state = network.apply(params, model_state, inputs, train=True)
        >>> outputs.shape
        (4, 10)
    """
    if isinstance(model, Network):
        return model
    if isinstance(model, nn.Module):
        return _from_linen(model)
    if isinstance(model, nnx.Module):
        name = _line(type(model).__name__)
        network = _from_nnx(lambda rngs: nnx.clone(model), name, fresh=False)
        return network._replace(identity=(type(model), network.init(jax.random.key(0), None)))
    if callable(model) and not (inspect.isclass(model) and issubclass(model, nn.Module)):
        name = _line(getattr(model, "__name__", repr(model)))
        return _from_nnx(model, name, fresh=True)._replace(identity=model)
    raise ValueError(
        f"model must be a linen module, an nnx module, or a function from rngs to an nnx module, "
        f"not {model!r}. A linen class must be called first: model=MyNet(...)."
    )


def _line(text: str) -> str:
    return " ".join(text.split())


def _train_flag(call: Callable[..., Any], train: bool) -> dict[str, Any]:
    names = inspect.signature(call).parameters
    return next(({n: tell(train)} for n, tell in _TRAIN_FLAGS.items() if n in names), {})


def _from_linen(model: nn.Module) -> Network:
    def init(key: jax.Array, inputs: Any) -> tuple[Any, Any]:
        params_key, dropout_key = jax.random.split(key)
        rngs = {"params": params_key, "dropout": dropout_key}
        variables = dict(model.init(rngs, inputs, **_train_flag(model.__call__, False)))
        return variables.pop("params"), variables

    def apply(
        params: Any,
        model_state: Any,
        inputs: Any,
        *,
        train: bool,
        key: jax.Array | None = None,
        ghost_size: int | None = None,
    ) -> tuple[Any, Any]:
        def call(**kwargs: Any) -> Any:
            flag = _train_flag(model.__call__, train)
            return model.apply({"params": params, **model_state}, inputs, **flag, **kwargs)

        if not train:
            return call(), model_state
        rngs = None if key is None else {"dropout": key}
        if ghost_size is None:
            return call(rngs=rngs, mutable=list(model_state))
        # Written for batches of another size, the norms keep their horizon per update.
        with ghost_linen.ghostify(ghost_size, rescale_momentum=True):
            return call(rngs=rngs, mutable=list(model_state))

    def batch_statistics(params: Any, model_state: Any, inputs: Any) -> Any:
        if not ghost.batch_norms(model_state):
            return {}
        flag = _train_flag(model.__call__, True)
        with ghost_linen.batch_statistics():
            _, after = model.apply(
                {"params": params, **model_state},
                inputs,
                **flag,
                rngs={"dropout": jax.random.key(0)},
                mutable=list(model_state),
            )
        return ghost.batch_norms(after)

    return Network(init, apply, batch_statistics, True, _line(repr(model)), model)


def _from_nnx(build: Callable[[nnx.Rngs], nnx.Module], name: str, *, fresh: bool) -> Network:
    def split(model: nnx.Module) -> tuple[Any, Any, Any]:
        return nnx.split(model, nnx.Param, ...)  # type: ignore[return-value]

    def init(key: jax.Array, inputs: Any) -> tuple[Any, Any]:
        del inputs  # nnx modules know their shapes
        model = build(nnx.Rngs(key))
        if not isinstance(model, nnx.Module):
            raise ValueError(
                f"model {name} gave {type(model).__name__} when called with rngs; "
                "it must give an nnx.Module."
            )
        _, params, rest = split(model)
        return nnx.to_pure_dict(params), nnx.to_pure_dict(rest)

    def merged(params: Any, model_state: Any) -> Any:
        # The structure alone: no array of this model is computed.
        template = nnx.eval_shape(lambda: build(nnx.Rngs(0)))
        graph, abstract_params, abstract_rest = split(template)
        nnx.replace_by_pure_dict(abstract_params, params)
        nnx.replace_by_pure_dict(abstract_rest, model_state)
        return nnx.merge(graph, abstract_params, abstract_rest)

    def apply(
        params: Any,
        model_state: Any,
        inputs: Any,
        *,
        train: bool,
        key: jax.Array | None = None,
        ghost_size: int | None = None,
    ) -> tuple[Any, Any]:
        model = merged(params, model_state)
        flag = _train_flag(model.__call__, train)
        if not train:
            model.eval()
            return model(inputs, **flag), model_state
        model.train()
        if key is not None:
            nnx.reseed(model, default=key)
        if ghost_size is not None:
            model = ghost_nnx.ghostify(model, ghost_size, rescale_momentum=True)
        outputs = model(inputs, **flag)
        _, _, rest = split(model)
        return outputs, nnx.to_pure_dict(rest)

    def batch_statistics(params: Any, model_state: Any, inputs: Any) -> Any:
        if not ghost.batch_norms(model_state):
            return {}
        model = merged(params, model_state)
        model.train()
        model = ghost_nnx.batch_statistics(model)
        model(inputs, **_train_flag(model.__call__, True))
        _, _, rest = split(model)
        return ghost.batch_norms(nnx.to_pure_dict(rest))

    return Network(init, apply, batch_statistics, fresh, name)
