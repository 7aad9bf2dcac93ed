"""From a name to a network: those of this folder, or any object that Python can import."""

import functools
import importlib
import inspect
from collections.abc import Callable
from typing import Any

from gapjax import _checks
from gapjax.models._calls import signature
from gapjax.models._mlp import digits_mlp, f1, f2
from gapjax.models._nnx_alexnet import alexnet, alexnet_cifar
from gapjax.models._nnx_conv_net import c1, c3
from gapjax.models._nnx_vgg import c2, c4, vgg
from gapjax.models._resnets import resnet, resnet44, resnet50, wrn16_4
from gapjax.models._transformer import transformer, transformer_tiny

# What people call the width of the last layer.
_WIDTHS = ("num_outputs", "num_classes", "classes", "outputs", "num_labels", "out_features")

# Each takes the width of its last layer first (the number of classes, say). The thin ones are the
# same networks with every width divided, for machines without an accelerator.
NETWORKS: dict[str, Callable[..., Any]] = {
    "alexnet": alexnet,
    "alexnet-cifar": alexnet_cifar,
    "alexnet-thin": functools.partial(alexnet_cifar, thin=8),
    "c1": c1,
    "c1-hoffer": functools.partial(c1, code="hoffer"),
    "c1-hoffer-thin": functools.partial(c1, code="hoffer", thin=4),
    "c1-thin": functools.partial(c1, thin=4),
    "c2": c2,
    "c2-thin": functools.partial(c2, thin=8),
    "c3": c3,
    "c3-hoffer": functools.partial(c3, code="hoffer"),
    "c3-hoffer-thin": functools.partial(c3, code="hoffer", thin=4),
    "c3-thin": functools.partial(c3, thin=4),
    "c4": c4,
    "c4-thin": functools.partial(c4, thin=8),
    "digits-mlp": digits_mlp,
    "f1": f1,
    "f1-hoffer": functools.partial(f1, code="hoffer"),
    "f2": f2,
    "resnet44": resnet44,
    "resnet50": resnet50,
    "resnet8": functools.partial(resnet, 8),
    "transformer": transformer,
    "transformer-tiny": transformer_tiny,
    "vgg": vgg,
    "vgg-thin": functools.partial(vgg, thin=8),
    "wrn16-4": wrn16_4,
    "wrn16-thin": functools.partial(wrn16_4, thin=4),
}


def find_network(name: str, num_outputs: int | None = None) -> Any:
    """The network of a name, as ``as_network`` takes it.

    Args:
        name: one of ``NETWORKS``; or ``"package.module:name"``, an object that is imported: a
            module, a function from ``rngs`` to an nnx module (an nnx class, say), or a function (or
            a linen class) that makes a network when it is called.
        num_outputs: the width of the last layer. It is given to the argument that is called
            ``num_outputs``, ``num_classes``, ``classes``, ``outputs``, ``num_labels`` or
            ``out_features``; else to the only argument that is needed, if there is one. Where it
            is not known, the constructor's own default.

    Returns:
        A linen or nnx module, or a function from rngs to one.

    Raises:
        ValueError: an unknown name (the nearest are suggested), an object that is not there, or one
            that needs something else, or fails when it is called.

    Example:
        >>> find_network("f1", 10).features
        (512, 512, 512, 512, 512)
        >>> find_network("gapjax.models:digits_mlp", 3).num_outputs
        3
    """
    wide = () if num_outputs is None else (num_outputs,)
    if name in NETWORKS:
        return NETWORKS[name](*wide)
    module, colon, attribute = name.partition(":")
    if not colon:
        try:
            _checks.one_of("model", name, NETWORKS)
        except ValueError as error:
            raise ValueError(
                f"{error} A network of your own goes by package.module:name."
            ) from None
    found = _imported(name, module, attribute)
    if _is_constructor(found):
        return _made(found, name, num_outputs)
    if num_outputs is None or not _is_maker(found):
        return found
    named = _named_width(found)
    return found if named is None else functools.partial(found, **{named: num_outputs})


def _imported(name: str, module: str, attribute: str) -> Any:
    try:
        found = importlib.import_module(module)
    except Exception as error:  # whatever a module of the user's may raise
        raise ValueError(
            f"model {name}: {module!r} cannot be imported ({type(error).__name__}: {error}). Give "
            "package.module:name of a module that Python finds (see PYTHONPATH)."
        ) from error
    for part in attribute.split("."):
        if not hasattr(found, part):
            public = [n for n in vars(found) if not n.startswith("_")]
            raise ValueError(
                f"model {name}: {module} has no {attribute!r}."
                f"{_checks.near_matches(attribute, public)}"
            )
        found = getattr(found, part)
    return found


def _made(found: Any, name: str, num_outputs: int | None) -> Any:
    """What a constructor makes, of a width if it takes one."""
    variadic = inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD
    parameters = [
        p
        for p in signature(found).parameters.values()
        if p.kind not in variadic and p.name not in ("parent", "name")  # of every linen module
    ]
    needed = [p for p in parameters if p.default is p.empty]
    wide = _named_width(found)
    # Another argument is a width only where nothing else could be meant: what has a default may be
    # a hidden width, a depth or a rate.
    takes = [p for p in parameters if p.name == wide] or needed
    others = [p for p in needed if p not in takes[:1]]
    if others or (needed and num_outputs is None):
        raise ValueError(
            f"model {name}: it needs {', '.join(p.name for p in needed)}, and is given the width "
            f"of its last layer alone, {num_outputs}: name a function that needs no more, or "
            "nothing."
        )
    try:
        if not takes or num_outputs is None:
            return found()
        if takes[0].kind is inspect.Parameter.POSITIONAL_ONLY:
            return found(num_outputs)
        return found(**{takes[0].name: num_outputs})
    except ValueError:  # which says what is wrong
        raise
    except Exception as error:  # whatever a function of the user's may raise
        told = "" if not takes or num_outputs is None else f" with {takes[0].name}={num_outputs}"
        raise ValueError(
            f"model {name}: calling it{told} failed ({type(error).__name__}: {error}). Give "
            "package.module:name of a function that takes the width of the last layer, or of one "
            "from rngs= to an nnx module."
        ) from error


def _named_width(found: Any) -> str | None:
    """The argument that is the width of the last layer by its name."""
    return next((name for name in signature(found).parameters if name in _WIDTHS), None)


def _is_maker(found: Any) -> bool:
    """Whether a network is made by a call of it: it is none itself."""
    import flax.linen as nn
    from flax import nnx

    return callable(found) and not isinstance(found, nn.Module | nnx.Module)


def _is_constructor(found: Any) -> bool:
    """Whether it has to be called for a network, and not with rngs."""
    import flax.linen as nn
    from flax import nnx

    if not _is_maker(found):
        return False
    if inspect.isclass(found) and issubclass(found, nnx.Module):
        return False
    if inspect.isclass(found) and issubclass(found, nn.Module):
        return True
    parameters = list(signature(found).parameters.values())
    needed = [p for p in parameters if p.default is p.empty and p.kind is not p.VAR_KEYWORD]
    return not any(p.name == "rngs" for p in needed)
