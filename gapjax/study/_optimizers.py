"""Optimizers by name: optax's own, after clipping, with the hyperparameters that a study has."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import optax

from gapjax import _checks, diffusion

# Fields of a study that an optimizer may take, and what optax's functions may call them.
HYPERPARAMETERS: dict[str, tuple[str, ...]] = {
    "momentum": ("momentum", "beta"),
    "b1": ("b1", "adam_b1"),
    "b2": ("b2", "adam_b2"),
    "eps": ("eps",),
    "weight_decay": ("weight_decay",),
}


class Optimizer(NamedTuple):
    """An optimizer of a name.

    Attributes:
        about: what it is, in a line.
        defaults: the hyperparameters that it takes, and what they are where a study names none.
        make: ``(schedule, **hyperparameters) -> optax chain``.
        rule: how noise ties its rate to the batch: ``"linear"`` for plain SGD, whose noise is set
            by rate / batch; ``"sqrt"`` where an update has a length of its own.
    """

    about: str
    defaults: Mapping[str, float]
    make: Callable[..., optax.GradientTransformation]
    rule: str = "sqrt"


def not_norms_or_biases(params: Any) -> Any:
    """Which parameters have layers of weights: the others are the scales and biases of norms."""
    return jax.tree.map(lambda leaf: leaf.ndim > 1, params)


def _sgd(schedule: Any, *, momentum: Any, weight_decay: Any, nesterov: bool = False) -> Any:
    return optax.chain(
        optax.add_decayed_weights(weight_decay),
        optax.sgd(schedule, momentum=None if _is_zero(momentum) else momentum, nesterov=nesterov),
    )


def _nesterov(schedule: Any, **hyper: Any) -> Any:
    return _sgd(schedule, nesterov=True, **hyper)


def _adam_l2(schedule: Any, *, weight_decay: Any, **hyper: Any) -> Any:
    return optax.chain(optax.add_decayed_weights(weight_decay), optax.adam(schedule, **hyper))


def _lamb(schedule: Any, *, b1: Any, b2: Any, eps: Any, weight_decay: Any) -> Any:
    # optax.lamb, without the trust ratio for norms and biases, which it has no switch for.
    return optax.chain(
        optax.scale_by_adam(b1=b1, b2=b2, eps=eps),
        optax.add_decayed_weights(weight_decay, not_norms_or_biases),
        optax.masked(optax.scale_by_trust_ratio(), not_norms_or_biases),
        optax.scale_by_learning_rate(schedule),
    )


def _lars(schedule: Any, *, momentum: Any, weight_decay: Any) -> Any:
    return optax.lars(
        schedule,
        weight_decay=weight_decay,
        weight_decay_mask=not_norms_or_biases,
        trust_ratio_mask=not_norms_or_biases,
        momentum=momentum,
    )


def _muon(schedule: Any, *, momentum: Any, weight_decay: Any, b1: Any, b2: Any, eps: Any) -> Any:
    return optax.contrib.muon(
        schedule, beta=momentum, weight_decay=weight_decay, adam_b1=b1, adam_b2=b2, eps=eps
    )


_ADAM = {"b1": 0.9, "b2": 0.999, "eps": 1e-8}

OPTIMIZERS: dict[str, Optimizer] = {
    "sgd": Optimizer(
        "SGD with momentum; decay added to the gradient",
        {"momentum": 0.9, "weight_decay": 1e-4},
        _sgd,
        "linear",
    ),
    "nesterov": Optimizer(
        "the same with Nesterov's momentum",
        {"momentum": 0.9, "weight_decay": 1e-4},
        _nesterov,
        "linear",
    ),
    "adam": Optimizer("Adam, without decay", _ADAM, optax.adam),
    "adam-l2": Optimizer(
        "Adam, decay added to the gradient", {**_ADAM, "weight_decay": 1e-4}, _adam_l2
    ),
    "adamw": Optimizer("Adam, decoupled decay", {**_ADAM, "weight_decay": 1e-4}, optax.adamw),
    "lamb": Optimizer(
        "layer-wise Adam", {"b1": 0.9, "b2": 0.999, "eps": 1e-6, "weight_decay": 0.0}, _lamb
    ),
    "lars": Optimizer("layer-wise SGD", {"momentum": 0.9, "weight_decay": 1e-4}, _lars),
    "lion": Optimizer(
        "the sign of a momentum", {"b1": 0.9, "b2": 0.99, "weight_decay": 1e-3}, optax.lion
    ),
    "muon": Optimizer(
        "orthogonalized momentum; Adam for vectors",
        {"momentum": 0.95, "b1": 0.9, "b2": 0.999, "eps": 1e-8, "weight_decay": 0.0},
        _muon,
    ),
}


def own_values(name: str) -> str:
    """What a hyperparameter is, by optimizer, where a study names none."""
    found = {which: one.defaults[name] for which, one in OPTIMIZERS.items() if name in one.defaults}
    return ", ".join(f"{which} {value:g}" for which, value in found.items())


def in_words(optimizer: str, given: Mapping[str, float], clip_norm: float | None) -> str:
    """An optimizer of a name with all that it is set to.

    Example:
        >>> in_words("sgd", {"momentum": 0.95}, 5.0)
        'sgd (momentum 0.95, weight_decay 0.0001), gradients clipped to a norm of 5'
    """
    values = {**OPTIMIZERS[optimizer].defaults, **given}
    told = ", ".join(f"{name} {value:g}" for name, value in values.items())
    clipped = "" if clip_norm is None else f", gradients clipped to a norm of {clip_norm:g}"
    return f"{optimizer} ({told}){clipped}"


def check_optimizer(optimizer: Any, given: Mapping[str, float]) -> None:
    """Refuse an unknown optimizer, and hyperparameters that it does not take.

    Args:
        optimizer: a name, or a function from a schedule to an optax chain.
        given: the hyperparameters that a study names.
    """
    if isinstance(optimizer, str):
        _checks.one_of("optimizer", optimizer, OPTIMIZERS)
    elif not callable(optimizer):
        raise ValueError(
            f"optimizer must be one of {', '.join(OPTIMIZERS)}, or a function from a learning-rate "
            f"schedule to an optax chain, not {optimizer!r}: write optimizer=lambda lr: "
            "optax.sgd(lr)."
        )
    taken = taken_by(optimizer)
    for name in given:
        if name not in taken:
            what = optimizer if isinstance(optimizer, str) else _name(optimizer)
            takes = f"it takes {', '.join(taken)}" if taken else "it takes none of a study's"
            hint = ""
            if name == "weight_decay" and optimizer == "adam":
                hint = " Use adamw (decoupled decay) or adam-l2 (decay added to the gradient)."
            raise ValueError(f"optimizer {what} has no {name}; {takes}.{hint}")


def taken_by(optimizer: Any) -> tuple[str, ...]:
    """The hyperparameters of a study that an optimizer takes."""
    if isinstance(optimizer, str):
        return tuple(OPTIMIZERS[optimizer].defaults)
    own = _parameters(optimizer)
    return tuple(n for n, names in HYPERPARAMETERS.items() if any(name in own for name in names))


def rule_of(optimizer: Any) -> str:
    """How noise ties the rate of an optimizer to the batch; of a function of the user's, as Adam's.

    Example:
        >>> rule_of("sgd"), rule_of("adamw")
        ('linear', 'sqrt')
    """
    return OPTIMIZERS[optimizer].rule if isinstance(optimizer, str) else "sqrt"


def is_adam(optimizer: Any) -> bool:
    """Whether an optimizer is Adam, or Adam with weight decay."""
    return isinstance(optimizer, str) and optimizer in ("adam", "adam-l2", "adamw")


def carry_over(
    optimizer: Any, hyper: Mapping[str, float], *, batch_size: int, base_batch_size: int
) -> dict[str, float]:
    """The hyperparameters of Adam and its kin at another batch size; of others, as they are.

    The half-life of the second moment stays in examples, and so does the timescale of decoupled
    weight decay, see ``diffusion.scale_adamw``. The rate is not among them.

    Example:
        >>> carry_over("adam", {"b2": 0.99}, batch_size=64, base_batch_size=16)["b2"]
        0.96059601
    """
    if not is_adam(optimizer) or batch_size == base_batch_size:
        return dict(hyper)
    own: dict[str, Any] = {**OPTIMIZERS[optimizer].defaults, **hyper}
    scaled = diffusion.scale_adamw(
        1.0, **own, batch_size=batch_size, base_batch_size=base_batch_size
    )
    if optimizer == "adam-l2":  # decay that is a part of the gradient is normalized with it
        scaled["weight_decay"] = own["weight_decay"]
    return {name: scaled[name] for name in own}


def make_optimizer(
    optimizer: Any, schedule: optax.Schedule, hyper: Mapping[str, Any], clip_norm: float | None
) -> optax.GradientTransformation:
    """The optax chain of a study.

    Args:
        optimizer: a name, or a function from a schedule to an optax chain, which then stands alone:
            it is passed the hyperparameters that its signature takes, and nothing is clipped.
        schedule: of the learning rate.
        hyper: the hyperparameters that the study names; numbers, or traced arrays.
        clip_norm: the global norm to which gradients are clipped before a named optimizer.
    """
    if not isinstance(optimizer, str):
        own = _parameters(optimizer)
        named = {
            next(n for n in HYPERPARAMETERS[name] if n in own): value
            for name, value in hyper.items()
        }
        made = optimizer(schedule, **named)
        if isinstance(made, optax.MultiSteps):
            return optax.GradientTransformationExtraArgs(made.init, made.update)
        if not (hasattr(made, "init") and hasattr(made, "update")):
            raise ValueError(
                f"optimizer {_name(optimizer)} gave {made!r} for a schedule; it must give an optax "
                "chain, such as optax.sgd(schedule)."
            )
        return made
    found = OPTIMIZERS[optimizer]
    chain = found.make(schedule, **{**found.defaults, **hyper})
    return chain if clip_norm is None else optax.chain(optax.clip_by_global_norm(clip_norm), chain)


def _name(function: Any) -> str:
    return getattr(function, "__qualname__", repr(function))


def _parameters(function: Any) -> tuple[str, ...]:
    try:
        return tuple(inspect.signature(function).parameters)
    except (TypeError, ValueError):
        return ()


def _is_zero(value: Any) -> bool:
    return not isinstance(value, jax.Array) and not value
