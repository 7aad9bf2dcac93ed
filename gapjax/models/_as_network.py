"""One functional view of any Flax module, linen or nnx: what a pure train step needs."""

import inspect
from typing import Any

import flax.linen as nn
import jax
from flax import nnx

from gapjax.models._from_linen import from_linen
from gapjax.models._from_nnx import from_nnx
from gapjax.models._network import Network


def as_network(model: Any) -> Network:
    """The functional view of ``model``.

    A module that takes one input is given the inputs whole. One that takes several is given the
    fields of a dict, by name: ``{"tokens", "mask"}`` for ``__call__(self, tokens, mask)``. That it
    trains, or does not, it is told by whichever of ``train``, ``training``, ``is_training``,
    ``is_train``, ``deterministic``, ``use_running_average``, ``eval``, ``is_eval``, ``evaluate``
    and ``inference`` it has, as arguments of its call or, the first six, as attributes.

    What a module keeps but does not train (running statistics, say) is the model state. What it
    leaves behind for someone to look at, by ``sow`` or ``perturb``, is dropped.

    Args:
        model: a linen module; a function that makes an nnx module from ``rngs``, or from ``rngs``
            and ``inputs`` (arrays or shapes ``[B, ...]``, from which it takes its sizes); an nnx
            class that needs nothing else is one, a partial another; an nnx module that was built
            already; or a ``Network``, returned as it is.

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
        return from_linen(model)
    if isinstance(model, nnx.Module):
        name = type(model).__name__
        network = from_nnx(lambda rngs: nnx.clone(model), name, fresh=False)
        return network._replace(identity=(type(model), network.init(jax.random.key(0), None)))
    if callable(model) and not (inspect.isclass(model) and issubclass(model, nn.Module)):
        name = getattr(model, "__name__", None) or " ".join(repr(model).split())
        return from_nnx(model, name, fresh=True)
    raise ValueError(
        f"model must be a linen module, an nnx module, a function from rngs to an nnx module, or a "
        f"models.Network(init, apply), not {model!r}. A linen class must be called first: "
        "model=MyNet(...)."
    )
