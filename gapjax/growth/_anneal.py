"""Growth of the batch in place of decay of the learning rate."""

from collections.abc import Mapping

import optax

from gapjax import _checks
from gapjax.growth._schedules import StepwiseBatch, at_least_initial


def grow_instead_of_decay(
    lr: float,
    boundaries_and_scales: Mapping[int, float],
    *,
    batch_size: int,
    maximum: int,
    keep: str = "updates",
) -> tuple[optax.Schedule, StepwiseBatch]:
    """Turn each drop of the learning rate into growth of the batch by the inverse factor.

    The noise of SGD is set by ``lr / B``, so ``B -> B / scale`` does what ``lr -> scale * lr``
    does. With ``s`` the product of the scales so far,

        ``B = min(maximum, batch_size / s)`` and ``learning rate = lr * s * B / batch_size``,

    so ``lr / B`` is at every point what it was in the schedule given, and past the maximum the
    learning rate decays again. ``B`` is rounded down to a multiple of ``batch_size``, so that it
    splits over the devices wherever ``batch_size`` does; the learning rate makes up for it.

    Args:
        lr: the learning rate at the start.
        boundaries_and_scales: from an update to the factor, at most 1, that the learning rate takes
            there; as in ``optax.piecewise_constant_schedule``.
        batch_size: the global batch size at the start, for which the schedule was written.
        maximum: the largest batch size.
        keep: ``"updates"``: the boundaries stay where they are, counted in updates of the run that
            grows. ``"epochs"``: a boundary falls after as many *examples* as in the run that
            decays, that is ``boundary * batch_size``, and so after fewer updates (the experiment of
            the paper: the same epochs, several times fewer updates).

    Returns:
        The learning-rate schedule (optax) and the batch schedule, both over updates.

    Raises:
        ValueError: if a scale is not in (0, 1], or the maximum is below ``batch_size``.

    Example:
        >>> lr, size = grow_instead_of_decay(0.1, {100: 0.2, 200: 0.2}, batch_size=128, maximum=640)
        >>> size(99), size(100), size(200)
        (128, 640, 640)
        >>> [round(float(lr(update)), 3) for update in (99, 100, 200)]
        [0.1, 0.1, 0.02]
        >>> _, size = grow_instead_of_decay(
        ...     0.1, {100: 0.2, 200: 0.2}, batch_size=128, maximum=5120, keep="epochs"
        ... )
        >>> size.boundaries, size.sizes()
        ((100, 120), (128, 640, 3200))

    References:
        Smith, Kindermans, Ying, Le, `Don't Decay the Learning Rate, Increase the Batch Size
        <https://arxiv.org/abs/1711.00489>`_, ICLR 2018, sections 3 to 5.
    """
    lr = _checks.positive_float("lr", lr)
    batch_size = _checks.positive_int("batch_size", batch_size)
    at_least_initial(maximum, batch_size)
    _checks.one_of("keep", keep, ("updates", "epochs"))
    values, rates, product = [batch_size], [lr], 1.0
    boundaries: list[int] = []
    examples = 0
    for boundary in sorted(boundaries_and_scales):
        scale = boundaries_and_scales[boundary]
        if not 0 < scale <= 1:
            raise ValueError(
                f"The scale at update {boundary} must be above 0 and at most 1, not {scale!r}; to "
                "raise the learning rate, join a warm-up to the schedule returned."
            )
        _checks.positive_int("A boundary", boundary)
        start = boundaries[-1] if boundaries else 0
        length = boundary - start
        if keep == "epochs":
            length = max(1, -(-(boundary * batch_size - examples) // values[-1]))
        boundaries.append(start + length)
        examples += length * values[-1]
        product *= scale
        values.append(min(batch_size * int(1 / product + 1e-6), int(maximum)))
        rates.append(lr * product * values[-1] / batch_size)
    # Not piecewise_constant_schedule, which mixes types where promotion is strict.
    constants = [optax.constant_schedule(rate) for rate in rates]
    return (
        optax.join_schedules(constants, boundaries),
        StepwiseBatch(tuple(boundaries), tuple(values)),
    )
