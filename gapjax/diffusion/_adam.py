"""Adam's hyperparameters as functions of the batch size."""

import math
import warnings
from typing import Any

from gapjax._checks import nonnegative_float, number, one_of, several
from gapjax.diffusion._rules import Rate, checked_ratio, scale_learning_rate


def scale_adam(
    learning_rate: Rate,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    *,
    batch_size: int,
    base_batch_size: int,
) -> dict[str, Any]:
    r"""Adam's square-root rule: rate, both betas and epsilon carried over together.

    With :math:`\kappa` = ``batch_size / base_batch_size``

    .. math:: \eta \to \sqrt\kappa\,\eta, \quad 1 - \beta_i \to \kappa (1 - \beta_i), \quad
        \epsilon \to \epsilon / \sqrt\kappa

    and a run makes :math:`1/\kappa` times as many updates. The stochastic differential equation
    that Adam approximates is then the same. It holds where gradient noise dominates the gradient.

    Args:
        learning_rate: a number or a schedule. A schedule keeps its boundaries, in updates; give it
            through ``adapt_regime(..., rule="none", keep="epochs")`` first to move them.
        b1: decay of the mean of the gradient.
        b2: decay of the mean of its square.
        eps: added to the denominator.
        batch_size: examples per update of the run to come.
        base_batch_size: examples per update of the run the values were tuned for.

    Returns:
        Keyword arguments of ``optax.adam`` and its kin.

    Raises:
        ValueError: when a beta would leave [0, 1), with the largest batch that would fit.

    Example:
        >>> import optax
        >>> scaled = scale_adam(1e-3, batch_size=1024, base_batch_size=256)
        >>> {name: round(value, 9) for name, value in scaled.items()}
        {'learning_rate': 0.002, 'b1': 0.6, 'b2': 0.996, 'eps': 5e-09}
        >>> optimizer = optax.adam(**scaled)

    References:
        Malladi, Lyu, Panigrahi, Arora, `On the SDEs and Scaling Rules for Adaptive Gradient
        Algorithms <https://arxiv.org/abs/2205.10287>`_, 2022, square root scaling rule.
    """
    ratio = checked_ratio(batch_size, base_batch_size)
    betas = {
        name: _linearly(name, beta, ratio, int(base_batch_size))
        for name, beta in (("b1", b1), ("b2", b2))
    }
    rate = scale_learning_rate(
        learning_rate, batch_size=batch_size, base_batch_size=base_batch_size
    )
    return {"learning_rate": rate, **betas, "eps": nonnegative_float("eps", eps) / ratio**0.5}


def scale_adamw(
    lr: Rate,
    *,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    weight_decay: float = 1e-4,
    batch_size: int,
    base_batch_size: int,
    rule: str = "half_life",
    b2_range: tuple[float, float] = (0.9, 0.9999),
) -> dict[str, Any]:
    r"""AdamW's rate, betas, epsilon and weight decay, carried over to another batch size together.

    With :math:`\kappa` = ``batch_size / base_batch_size`` both rules take

    .. math:: \eta \to \sqrt\kappa\,\eta, \quad \epsilon \to \epsilon / \sqrt\kappa, \quad
        \lambda \to \sqrt\kappa\,\lambda

    The rate and :math:`\epsilon` follow the root of the second moment, which falls like
    :math:`1 / \sqrt B` where gradient noise dominates. The decay keeps AdamW's timescale
    :math:`\tau = B / (\eta \lambda D)`, the epochs over which the weights average their updates
    (D examples to an epoch). They differ in the betas:

    * ``"half_life"``: :math:`\beta_2 \to \beta_2^\kappa`, so that the second moment forgets over as
      many *examples* as before; :math:`\beta_1` stays. It reaches any batch size. Where
      :math:`\beta_2` leaves ``b2_range`` it is set to the nearer end, with a warning: below, an
      average of a few updates is no second moment; above, it takes longer than most runs.
    * ``"sde"``: :math:`1 - \beta_i \to \kappa (1 - \beta_i)` for both, as in :func:`scale_adam`. It
      keeps the stochastic differential equation, and reaches no further than :math:`\kappa < 1 /
      (1 - \beta_1)`.

    Both agree to first order in :math:`\kappa (1 - \beta_2)`.

    Args:
        lr: a number or a schedule. A schedule keeps its boundaries, in updates; give it
            through ``adapt_regime(..., rule="none", keep="epochs")`` first to move them.
        b1: decay of the mean of the gradient.
        b2: decay of the mean of its square.
        eps: added to the denominator.
        weight_decay: decoupled, multiplied by the rate (as optax does).
        batch_size: examples per update of the run to come.
        base_batch_size: examples per update of the run the values were tuned for.
        rule: "half_life" or "sde".
        b2_range: the least and the largest b2 of "half_life"; the b2 that is given is within it.

    Returns:
        Keyword arguments of ``optax.adamw`` and its kin.

    Raises:
        ValueError: for an unknown rule, a beta outside [0, 1), a range that is none, a negative
            epsilon or decay, or a beta that would leave [0, 1) under "sde".

    Warns:
        UserWarning: when b2 had to be clipped; the message says from what to what.

    Example:
        >>> import optax
        >>> scaled = scale_adamw(
        ...     1e-3, b2=0.99, weight_decay=0.1, batch_size=1024, base_batch_size=256)
        >>> {name: round(value, 9) for name, value in scaled.items()}
        {'learning_rate': 0.002, 'b1': 0.9, 'b2': 0.96059601, 'eps': 5e-09, 'weight_decay': 0.2}
        >>> optimizer = optax.adamw(**scaled)

    References:
        Marek, Lotfi, Somasundaram, Wilson, Goldblum, `Small Batch Size Training for Language Models
        <https://arxiv.org/abs/2507.07101>`_, 2025 (half-lives in examples); Malladi, Lyu,
        Panigrahi, Arora, `On the SDEs and Scaling Rules for Adaptive Gradient Algorithms
        <https://arxiv.org/abs/2205.10287>`_, 2022 (square root); Wang, Aitchison, `How to Set
        AdamW's Weight Decay as You Scale Model and Dataset Size
        <https://arxiv.org/abs/2405.13698>`_, 2024, and Bergsma et al, `Power Lines
        <https://arxiv.org/abs/2505.13738>`_, 2025 (the timescale of weight decay).
    """
    one_of("rule", rule, ("half_life", "sde"))
    ratio = checked_ratio(batch_size, base_batch_size)
    decay = nonnegative_float("weight_decay", weight_decay) * ratio**0.5
    if rule == "sde":
        scaled = scale_adam(lr, b1, b2, eps, batch_size=batch_size, base_batch_size=base_batch_size)
        return {**scaled, "weight_decay": decay}
    rate = scale_learning_rate(lr, batch_size=batch_size, base_batch_size=base_batch_size)
    return {
        "learning_rate": rate,
        "b1": _checked_beta("b1", b1),
        "b2": _same_half_life(_checked_beta("b2", b2), ratio, b2_range),
        "eps": nonnegative_float("eps", eps) / ratio**0.5,
        "weight_decay": decay,
    }


def _same_half_life(beta: float, ratio: float, bounds: tuple[float, float]) -> float:
    ends = [_checked_beta("b2_range", bound) for bound in several("b2_range", bounds)]
    if len(ends) != 2 or ends[0] > ends[1]:
        raise ValueError(f"b2_range must be two numbers that rise, not {bounds!r}.")
    (low, high), wanted = ends, beta**ratio
    clipped = min(max(wanted, min(low, beta)), max(high, beta))
    if clipped != wanted:
        warnings.warn(
            f"b2={beta} would become {wanted:.6g} at {ratio:g} times the batch to keep its "
            f"half-life in examples; it is clipped to {clipped:.6g} (b2_range={bounds!r})."
        )
    return clipped


def _linearly(name: str, beta: float, ratio: float, base_batch_size: int) -> float:
    """1 - beta, times the ratio of the batches."""
    # The tolerance forgives 1 - 0.9 = 0.09999999999999998 and its like.
    scaled = 1 - ratio * (1 - _checked_beta(name, beta))
    if scaled < -1e-12:
        raise ValueError(
            f"{name}={beta} at batch {base_batch_size} would become {scaled:.3g} at batch "
            f"{ratio * base_batch_size:.0f}, outside [0, 1). From this {name} the rule reaches "
            f"batch {math.floor(base_batch_size / (1 - beta) + 1e-9)}; start from a larger {name}, "
            "or from values tuned at a larger batch."
        )
    return max(scaled, 0.0)


def _checked_beta(name: str, beta: float) -> float:
    return number(name, beta, least=0, below=1)
