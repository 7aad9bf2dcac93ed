"""Learning rates and Adam's hyperparameters as functions of the batch size."""

import numbers
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike

from gapjax._batch_rules import RULES, rule_factor
from gapjax._checks import nonnegative_float, one_of, positive_float, positive_int
from gapjax._whole import floor_times

Rate = TypeVar("Rate", bound=float | jax.Array | optax.Schedule)


def checked_ratio(batch_size: int, base_batch_size: int) -> float:
    """The two batch sizes, checked, as one ratio."""
    size = positive_int("batch_size", batch_size)
    return size / positive_int("base_batch_size", base_batch_size)


def checked_schedule(schedule: optax.Schedule) -> optax.Schedule:
    """A schedule, or a ValueError that says how to make one of a number."""
    if not callable(schedule):
        raise ValueError(
            f"schedule must be a function of the step, not {schedule!r}. For a rate that stays "
            f"the same use optax.constant_schedule({schedule!r})."
        )
    return schedule


def scale_learning_rate(
    lr: Rate, *, batch_size: int, base_batch_size: int, rule: str = "sqrt"
) -> Rate:
    r"""A learning rate tuned at one batch size, carried over to another.

    With :math:`\kappa` = ``batch_size / base_batch_size`` the rate is multiplied by

    * ``"sqrt"``: :math:`\sqrt\kappa`. The covariance of an SGD step is
      :math:`\eta^2 / B \cdot \frac1N \sum_n g_n g_n^\top`; this keeps it the same.
    * ``"linear"``: :math:`\kappa`. The mean step per epoch stays the same.
    * ``"none"``: 1.

    Args:
        lr: a number, an array of them or a schedule ``step -> rate``.
        batch_size: examples per update of the run to come.
        base_batch_size: examples per update of the run the rate was tuned for.
        rule: "sqrt", "linear" or "none".

    Returns:
        The rate, of the kind that was given: a number for a number, a schedule for a schedule. A
        schedule keeps its boundaries, in updates; :func:`adapt_regime` can move them.

    Raises:
        ValueError: for a size that is not positive, an unknown rule, or a rate that is none.

    Example:
        >>> scale_learning_rate(0.1, batch_size=2048, base_batch_size=128)
        0.4
        >>> schedule = optax.piecewise_constant_schedule(0.1, {100: 0.1})
        >>> scaled = scale_learning_rate(schedule, batch_size=2048, base_batch_size=128)
        >>> [round(float(scaled(step)), 3) for step in (0, 99, 100)]
        [0.4, 0.4, 0.04]

    References:
        Hoffer, Hubara, Soudry, `Train longer, generalize better
        <https://arxiv.org/abs/1705.08741>`_, 2017 (square root); Goyal et al, `Accurate, Large
        Minibatch SGD <https://arxiv.org/abs/1706.02677>`_, 2017 (linear).
    """
    one_of("rule", rule, RULES)
    factor = rule_factor(checked_ratio(batch_size, base_batch_size), rule)
    given: Any = lr  # of the kind that goes out again, which no type checker can follow
    if callable(given):
        scaled: Any = lambda step: given(step) * factor  # noqa: E731
        return scaled
    if not isinstance(given, jax.core.Tracer):
        rates = np.asarray(given).ravel().tolist() if hasattr(given, "dtype") else [given]
        if not all(isinstance(one, numbers.Real) and not isinstance(one, bool) for one in rates):
            raise ValueError(f"lr must be a number or a schedule (step -> rate), not {lr!r}.")
        for rate in rates:
            nonnegative_float("lr", rate)
    return given * factor


def adapt_regime(
    schedule: optax.Schedule,
    *,
    batch_size: int,
    base_batch_size: int,
    rule: str = "sqrt",
    keep: str = "updates",
) -> optax.Schedule:
    r"""A schedule written for one batch size, adapted to another.

    The schedule counts *updates* of the base run. Its rate is multiplied as in
    :func:`scale_learning_rate`. Its boundaries

    * stay where they are with ``keep="updates"``: this is *regime adaptation*. The run makes as
      many updates as the base run at every rate, so it sees ``batch_size / base_batch_size`` times
      as many epochs.
    * move with ``keep="epochs"``: update t of the new run has the rate of update
      :math:`\lfloor t B / B_\mathrm{base} \rfloor` of the base run, exactly for every t below
      :math:`2^{31}`. The run sees as many epochs as the base run, so it makes
      ``base_batch_size / batch_size`` times as many updates.

    Args:
        schedule: ``step -> rate``, in updates of the base run.
        batch_size: examples per update of the run to come.
        base_batch_size: examples per update of the run the schedule was written for.
        rule: "sqrt", "linear" or "none".
        keep: "updates" or "epochs".

    Returns:
        A schedule ``step -> rate`` in updates of the new run.

    Raises:
        ValueError: for a schedule that is no function, a size that is not positive, or an unknown
            word.

    Example:
        >>> base = optax.piecewise_constant_schedule(0.1, {31_000: 0.1})
        >>> same_epochs = adapt_regime(
        ...     base, batch_size=4096, base_batch_size=128, rule="none", keep="epochs")
        >>> [round(float(same_epochs(step)), 3) for step in (968, 969)]
        [0.1, 0.01]

    References:
        Hoffer, Hubara, Soudry, `Train longer, generalize better
        <https://arxiv.org/abs/1705.08741>`_, 2017, section on regime adaptation.
    """
    schedule = checked_schedule(schedule)
    one_of("keep", keep, ("updates", "epochs"))
    scaled = scale_learning_rate(
        schedule, batch_size=batch_size, base_batch_size=base_batch_size, rule=rule
    )
    if keep == "updates":
        return scaled
    times, over = int(batch_size), int(base_batch_size)
    # float32 misses boundaries, and step * batch_size overflows 32 bits
    return lambda step: scaled(floor_times(step, times, over))


def boost_early(
    schedule: optax.Schedule, *, factor: float, hold: int, decay: int
) -> optax.Schedule:
    r"""A higher learning rate in the initial phase, then down to the schedule.

    The rate of ``schedule`` is multiplied by

    .. math:: m(t) = \mathrm{factor}^{1 - u(t)}, \quad
        u(t) = \min(1, \max(0, (t - \mathrm{hold}) / \mathrm{decay}))

    that is, by ``factor`` for the first ``hold`` updates, then by a factor that falls
    geometrically to 1 over ``decay`` updates, then by 1. ``decay=0`` drops at once.

    Early in training the weights diffuse, and the rate of diffusion rises with the learning rate:
    boosting this phase is the cheap way to get a large batch as far from its start as a small one.

    Args:
        schedule: ``step -> rate``.
        factor: what the rate is multiplied by at first, above 0.
        hold: updates at the full factor.
        decay: updates from the full factor down to 1.

    Returns:
        A schedule ``step -> rate``.

    Raises:
        ValueError: for a schedule that is no function, or a negative number.

    Example:
        >>> boosted = boost_early(optax.constant_schedule(0.1), factor=4.0, hold=100, decay=100)
        >>> [round(float(boosted(step)), 3) for step in (0, 100, 150, 200, 300)]
        [0.4, 0.4, 0.2, 0.1, 0.1]

    References:
        Hoffer, Hubara, Soudry, `Train longer, generalize better
        <https://arxiv.org/abs/1705.08741>`_, 2017: a high rate in the early, diffusing phase.
    """
    schedule = checked_schedule(schedule)
    positive_float("factor", factor)
    for name, value in (("hold", hold), ("decay", decay)):
        if value != 0:
            positive_int(name, value)

    def boosted(step: ArrayLike) -> ArrayLike:
        count = jnp.asarray(step, jnp.float32)
        # A decay of 0 updates is a decay that is over one update later.
        done = (
            jnp.clip((count - hold) / decay, 0, 1) if decay else (count >= hold).astype("float32")
        )
        return schedule(step) * factor ** (1 - done)

    return boosted
