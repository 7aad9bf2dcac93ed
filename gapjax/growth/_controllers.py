"""Controllers: from what was measured to the next batch size."""

import math
import numbers
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from gapjax import _checks
from gapjax.growth._noise_scale import NoiseScale
from gapjax.growth._schedules import geometric_batch


class ControllerState(NamedTuple):
    """What a controller of this library remembers.

    Attributes:
        size: the batch size now.
        favour: for how many observations in a row a larger batch has been called for.
    """

    size: int
    favour: int


class Proposal(NamedTuple):
    """The batch size for the next update, and why it is what it is."""

    size: int
    reason: str


class Controller(NamedTuple):
    """A pair of functions on the host, and the sizes that they can propose.

    Attributes:
        init: ``() -> state``, any pytree of numbers that has the first batch size as its ``size``:
            a :class:`ControllerState`, or a ``NamedTuple`` of one's own.
        update: ``(state, measured, *, loss=None, learning_rate=None) -> (proposal, state)`` where
            ``measured`` is a :class:`NoiseScale`, or what else the controller goes by. Decide from
            numbers that are replicated, and every host proposes the same.
        sizes: ``() ->`` every size it can propose, rising.
    """

    init: Callable[[], Any]
    update: Callable[..., tuple[Proposal, Any]]
    sizes: Callable[[], tuple[int, ...]]


def noise_scale_controller(
    initial: int,
    *,
    maximum: int,
    factor: int = 2,
    hysteresis: float = 1.3,
    min_dwell: int = 50,
) -> Controller:
    """Grow while the gradient noise scale stays above the batch size.

    A batch much smaller than ``tr(Sigma) / |G|^2`` averages little noise away per example, so a
    larger one costs few updates; beyond it the returns vanish. The batch grows by one rung when the
    noise scale has been above ``hysteresis`` times its size for ``min_dwell`` observations in a
    row; it never shrinks. Where noise hides the gradient (an estimate of ``|G|^2`` below 0) the
    noise scale counts as infinite; where it is NaN nothing grows.

    Args:
        initial: the first batch size.
        maximum: the largest.
        factor: from one rung to the next.
        hysteresis: how far above the batch size the noise scale must be, at least 1.
        min_dwell: for how many observations in a row; also the least between two growths.

    Returns:
        The controller.

    Raises:
        ValueError: if a number is out of range.

    Example:
        >>> from gapjax.growth import NoiseScale
        >>> controller = noise_scale_controller(64, maximum=256, min_dwell=2)
        >>> state, noise = controller.init(), NoiseScale(300.0, 1.0, 300.0, 10.0)
        >>> for _ in range(2):
        ...     proposal, state = controller.update(state, noise)
        >>> proposal
        Proposal(size=128, reason='noise scale 300 above 1.3 x 64 for 2 observations')

    References:
        McCandlish, Kaplan, Amodei et al, `An Empirical Model of Large-Batch Training
        <https://arxiv.org/abs/1812.06162>`_, 2018, section 2.
    """

    def target(size: int, noise: NoiseScale, loss: Any, learning_rate: Any) -> float:
        del size, loss, learning_rate
        trace, norm = _single("trace", noise), _single("squared_norm", noise)
        if math.isnan(trace) or math.isnan(norm):
            return math.nan
        if trace <= 0:  # an estimate of what is not negative: there is no noise to speak of
            return 0.0
        return trace / norm if norm > 0 else math.inf

    return _ladder("noise scale", target, initial, maximum, factor, hysteresis, min_dwell)


def norm_test_controller(
    initial: int,
    *,
    maximum: int,
    theta: float = 0.5,
    factor: int = 2,
    hysteresis: float = 1.0,
    min_dwell: int = 10,
) -> Controller:
    """Grow while the gradient of a batch is too noisy to point downhill (the norm test).

    The test asks that ``tr(Sigma) / B <= theta^2 |g_B|^2``; where it fails, the batch that would
    pass is ``tr(Sigma) / (theta^2 |g_B|^2)``, with ``|G|^2 + tr(Sigma) / B`` for ``|g_B|^2``. As
    that contains the noise itself, the test can only fail for ``theta < 1``.

    Args:
        initial: the first batch size.
        maximum: the largest.
        theta: the noise allowed, as a fraction of the norm of the gradient, in (0, 1).
        factor: from one rung to the next.
        hysteresis: how far the batch that would pass must be above the batch, at least 1.
        min_dwell: for how many observations in a row.

    Returns:
        The controller; see :func:`noise_scale_controller`.

    Example:
        >>> controller = norm_test_controller(64, maximum=256, min_dwell=1)
        >>> noise = NoiseScale(trace=640.0, squared_norm=1.0, noise_scale=640.0, stderr=10.0)
        >>> controller.update(controller.init(), noise)[0].size
        128

    References:
        Byrd, Chin, Nocedal, Wu, Sample size selection in optimization methods for machine learning,
        Mathematical Programming 134, 2012, section 3.
    """
    if not (isinstance(theta, numbers.Real) and 0 < theta < 1):
        raise ValueError(
            f"theta must lie in (0, 1), not {theta!r}: |g_B|^2 holds the noise of the batch, so "
            "with 1 or more the test never fails."
        )

    def target(size: int, noise: NoiseScale, loss: Any, learning_rate: Any) -> float:
        del loss, learning_rate
        trace, norm = _single("trace", noise), _single("squared_norm", noise)
        if trace <= 0:
            return 0.0
        return trace / (theta**2 * (max(norm, 0.0) + trace / size))

    return _ladder(
        "size that passes the norm test", target, initial, maximum, factor, hysteresis, min_dwell
    )


def cabs_controller(
    initial: int,
    *,
    maximum: int,
    factor: int = 2,
    hysteresis: float = 1.0,
    min_dwell: int = 10,
) -> Controller:
    """Couple the batch to the learning rate and the loss: ``B = lr * tr(Sigma) / loss``.

    Derived for plain SGD on a loss whose lower bound is 0. ``update`` needs ``loss`` and
    ``learning_rate``.

    Args:
        initial: the first batch size.
        maximum: the largest.
        factor: from one rung to the next.
        hysteresis: how far the coupled size must be above the batch, at least 1.
        min_dwell: for how many observations in a row.

    Returns:
        The controller; see :func:`noise_scale_controller`.

    Example:
        >>> controller = cabs_controller(64, maximum=256, min_dwell=1)
        >>> noise = NoiseScale(trace=640.0, squared_norm=1.0, noise_scale=640.0, stderr=10.0)
        >>> controller.update(controller.init(), noise, loss=0.5, learning_rate=0.1)[0]
        Proposal(size=128, reason='coupled size 128 above 1 x 64 for 1 observations')

    References:
        Balles, Romero, Hennig, `Coupling Adaptive Batch Sizes with Learning Rates
        <https://arxiv.org/abs/1612.05086>`_, UAI 2017.
    """

    def target(size: int, noise: NoiseScale, loss: Any, learning_rate: Any) -> float:
        del size
        if loss is None or learning_rate is None:
            raise ValueError("cabs_controller needs loss= and learning_rate= at every update.")
        rate, loss = _number("learning_rate", learning_rate), _number("loss", loss)
        return rate * _single("trace", noise) / loss if loss > 0 else math.nan

    return _ladder("coupled size", target, initial, maximum, factor, hysteresis, min_dwell)


def branching_controller(
    initial: int, *, maximum: int, factor: int = 2, hysteresis: float | None = None
) -> Controller:
    """Grow where branches have shown that a larger batch trains as well on as many examples.

    ``update`` is shown what :func:`branched_critical_batch` found, at every checkpoint where it was
    asked. The batch grows by one rung when the geometric mean of its interval (the largest size
    that passed, the smallest that was worse) is above ``hysteresis`` times the batch; where every
    size passed, it counts as infinite.

    Args:
        initial: the first batch size.
        maximum: the largest.
        factor: from one rung to the next.
        hysteresis: how far above the batch the critical batch must be, at least 1; by default
            ``factor``, so that the next rung is below it too.

    Returns:
        The controller; see :func:`noise_scale_controller`.

    Raises:
        ValueError: if a number is out of range.

    Example:
        >>> import types
        >>> controller = branching_controller(1024, maximum=4096)
        >>> found = types.SimpleNamespace(low=2048, high=4096.0)  # a CriticalBatch
        >>> controller.update(controller.init(), found)[0]
        Proposal(size=2048, reason='critical batch 2896 above 2 x 1024 for 1 observations')

    References:
        Merrill, Arora, Groeneveld, Hajishirzi, `Critical Batch Size Revisited
        <https://arxiv.org/abs/2505.23971>`_, 2025, section 4.
    """

    def target(size: int, found: Any, loss: Any, learning_rate: Any) -> float:
        del size, loss, learning_rate
        return math.sqrt(_single("low", found) * _single("high", found))

    hysteresis = factor if hysteresis is None else hysteresis
    return _ladder("critical batch", target, initial, maximum, factor, hysteresis, 1)


def _single(name: str, measured: Any) -> float:
    """A number of what was measured, which is of one run."""
    return _number(name, getattr(measured, name, None))


def _number(name: str, given: Any) -> float:
    value = np.asarray(given)
    if value.size != 1 or value.dtype.kind not in "iuf":
        told = f"of shape {value.shape}" if value.size != 1 else repr(value.item())
        raise ValueError(
            f"A controller goes by one number for {name}, not {told}: show it what one run "
            "measured, and of a population one member, or the average over its members."
        )
    return float(value.item())


def _ladder(
    what: str,
    target: Callable[[int, Any, Any, Any], float],
    initial: int,
    maximum: int,
    factor: int,
    hysteresis: float,
    min_dwell: int,
) -> Controller:
    """One rung up whenever the target has been above the batch for long enough."""
    rungs = geometric_batch(initial, factor=factor, every=1, maximum=maximum).sizes()
    _checks.positive_int("min_dwell", min_dwell)
    _checks.number("hysteresis", hysteresis, least=1)

    def update(
        state: ControllerState,
        measured: Any,
        *,
        loss: Any = None,
        learning_rate: Any = None,
    ) -> tuple[Proposal, ControllerState]:
        size = state.size
        wanted = target(size, measured, loss, learning_rate)
        favour = state.favour + 1 if wanted > hysteresis * size else 0
        if favour >= min_dwell and size < rungs[-1]:
            larger = next(rung for rung in rungs if rung > size)
            reason = f"{what} {wanted:.0f} above {hysteresis:g} x {size} for {favour} observations"
            return Proposal(larger, reason), ControllerState(larger, 0)
        return Proposal(size, f"{what} {wanted:.0f} at {size}"), ControllerState(size, favour)

    return Controller(lambda: ControllerState(rungs[0], 0), update, lambda: rungs)
