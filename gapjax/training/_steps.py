"""Pure train steps over the functions a user brings."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import optax

from gapjax import _checks
from gapjax._means import AxisName
from gapjax.training._batch_loss import BatchLoss
from gapjax.training._faults import ON_FAULT, find_fault
from gapjax.training._gradients import GradientStrategy, ValueAndGrad, plain
from gapjax.training._losses import (
    Batch,
    LossFn,
    Metrics,
    check_dtype,
    checked,
    computing_in,
    weigh,
    with_state,
)
from gapjax.training._optimizers import strong, with_all_extras
from gapjax.training._state import TrainState


def make_train_step(
    loss_fn: LossFn,
    tx: optax.GradientTransformation,
    *,
    gradient: GradientStrategy | None = None,
    microbatched: bool = False,
    axis_name: str | tuple[str, ...] | None = None,
    on_fault: str = "ignore",
    compute_dtype: Any = None,
    weight_fn: Callable[[Batch], Any] | None = None,
) -> "TrainStep":
    r"""One update as a pure function ``(state, batch) -> (state, metrics)``.

    A batch may be split into parts: microbatches, devices, the groups of a strategy. The gradient
    is the mean over parts a, each as heavy as ``weight_fn`` says,

    .. math::

        g = \frac{\sum_a w_a\, g_a}{\sum_a w_a},

    so for a loss that is a weighted mean over what counts (examples, tokens) it is that of the
    whole batch, however it is split. A part of weight 0 adds nothing, even where its own mean is
    NaN.

    Args:
        loss_fn: ``(params, model_state, batch, key) -> (mean loss, (model_state, metrics))``, or,
            for a network without state or randomness, ``(params, batch) -> mean loss``.
        tx: the optimizer, any optax chain, or ``optax.MultiSteps``. Each transform is told what of
            these its ``update`` takes: ``value`` (the loss), ``grad``; ``value_fn`` and ``obj_fn``,
            ``params -> loss`` of this very batch, and ``grad_fn``, ``(params, ...) -> gradient``;
            ``batch_size`` (in examples; inside ``optax.MultiSteps`` those of all mini-steps; where
            leaves of the batch share no leading axis, what ``weight_fn`` says); of microbatches
            also ``part_size``, ``part_squared_norm`` (the mean squared norm of their gradients)
            and, where examples are weighed, ``effective_size``, from which a
            ``growth.noise_scale_tracker`` learns. Of ``optax.LookaheadParams`` the gradient is
            taken at the fast ones.
        gradient: what gradient to follow: ``sam(...)``, ``penalize_gradient(...)``, or a
            ``GradientStrategy`` of your own; that of the loss if left out. Of microbatches each
            goes through it.
        microbatched: whether batches come as ``[A, B / A, ...]``, as
            ``growth.GrowingBatches(microbatch=...)`` delivers them: the gradient is summed over A,
            in float32 or better, and divided once; model state goes from one to the next.
        axis_name: the mapped axis over which a batch is split, where the step runs inside ``pmap``
            or ``shard_map``: gradients, loss, metrics and floating-point model state are averaged
            over it. Under ``jit`` leave it out. ``compile_step`` sets it where it is needed. Random
            numbers have to come from ``key``, of which each device has its own: keys in the model
            state, such as those of an nnx module's rngs, are the same on all of them.
        on_fault: what to do about a loss or gradient that is not finite (or whose squares sum to
            more than the type holds), found by sums that an optimizer which clips takes anyway.
            ``"ignore"``: nothing. ``"stop"``: ``metrics["fault"]`` is the number of the first leaf
            of the gradient that is not finite (see ``fault_path``; -1: none), and ``fit`` raises
            ``NumericalFault``; the newest checkpoint is from before it. ``"skip"``: that number is
            ``metrics["skipped"]``, the update leaves parameters, model state and optimizer as they
            were (``step`` counts it, so the next one draws other numbers), and ``fit`` goes on and
            says at the end how many were skipped. ``optax.apply_if_finite`` guards parameters and
            optimizer alone: running statistics that took up a NaN stay broken. It gives up after so
            many faults in a row: use it, with ``"ignore"``, for a network without state where that
            is wanted.
        compute_dtype: ``jnp.bfloat16`` for mixed precision: ``loss_fn`` sees parameters and
            floating-point leaves of the batch in this type; parameters, gradients, optimizer and
            model state keep their types, loss and metrics are float32 or better. A Flax module
            follows unless it was given a ``dtype`` of its own. Sum what needs precision, such as
            the loss over logits, in float32 inside ``loss_fn``.
        weight_fn: ``batch -> number``, how much a batch, or a part of one, counts: the sum of the
            weights over which ``loss_fn`` takes its mean, such as the number of tokens that are not
            padding. By default the sum of the batch's own mask, where it has one (an entry or field
            ``mask``, ``[B]`` or ``[B, T]``, as in ``growth.Batch``), else its number of examples.
            At least 0: a mean over parts of which one weighs less is NaN, a fault.

    Returns:
        The step. Its metrics are those of ``loss_fn`` and ``"loss"``, the loss before the update;
        of parts, their weighted means.

    Raises:
        ValueError: ``loss_fn`` takes neither two nor four arguments, an optimizer that is none or
            whose transforms cannot be told what they need, an unknown ``on_fault``, or a type to
            compute in whose range is smaller than float32's. When called: a loss that is no scalar,
            a metric called ``"loss"``, ``"fault"`` or ``"skipped"``, leaves of a batch that do not
            share an axis of examples.

    Example:
        >>> import jax, optax
        >>> from gapjax.training import init_state
        >>> def loss_fn(params, batch):
        ...     return jax.numpy.mean((batch["x"] @ params["w"] - batch["y"]) ** 2)
        >>> tx = optax.sgd(0.1)
        >>> state = init_state({"w": jax.numpy.zeros(2)}, tx, key=jax.random.key(0))
        >>> batch = {"x": jax.numpy.eye(2), "y": jax.numpy.ones(2)}
        >>> state, metrics = jax.jit(make_train_step(loss_fn, tx))(state, batch)
        >>> int(state.step), float(metrics["loss"])
        (1, 1.0)
    """
    _checks.one_of("on_fault", on_fault, ON_FAULT)
    check_dtype(compute_dtype)
    for name, value in (("gradient", gradient), ("weight_fn", weight_fn)):
        if value is not None and not callable(value):
            raise ValueError(f"{name} must be a function, or left out, not {value!r}.")
    return TrainStep(
        with_state(loss_fn),
        with_all_extras(tx),
        gradient,
        microbatched,
        axis_name,
        on_fault,
        compute_dtype,
        weight_fn,
    )


def _hash_of(value: Any) -> int:
    """That of a callable of a user's, say, which may be a dataclass that has none."""
    try:
        return hash(value)
    except TypeError:
        return id(value)


@dataclasses.dataclass(frozen=True)
class TrainStep:
    """What ``make_train_step`` gives: call it with a state and a batch."""

    loss_fn: LossFn
    tx: optax.GradientTransformationExtraArgs
    gradient: GradientStrategy | None = None
    microbatched: bool = False
    axis_name: AxisName | None = None
    on_fault: str = "ignore"
    compute_dtype: Any = None
    weight_fn: Callable[[Batch], Any] | None = None
    split: bool = False  # whether jit splits a batch over devices

    def __hash__(self) -> int:
        """By value, so that equal steps share their programs; what has none counts by itself."""
        return hash(tuple(map(_hash_of, vars(self).values())))

    def __call__(self, state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        """The state after one update with ``batch``, and the metrics of the batch."""
        key = jax.random.fold_in(state.key, state.step)
        if self.axis_name is not None:
            key = jax.random.fold_in(key, jax.lax.axis_index(self.axis_name))
        value_and_grad = ValueAndGrad(
            computing_in(self.compute_dtype, checked(self.loss_fn)),
            functools.partial(weigh, weight_fn=self.weight_fn),
            self.axis_name,
            self.split,
        )
        loss = BatchLoss(value_and_grad, self.microbatched, state.model_state, batch, key)
        (grads, model_state, metrics), parts = loss.gradient(state.params, self.gradient or plain)

        def update() -> tuple[Any, Any, Any]:
            updates, opt_state = self.tx.update(
                grads,
                state.opt_state,
                state.params,
                value=metrics["loss"],
                grad=grads,
                value_fn=loss.value,
                obj_fn=loss.value,
                grad_fn=lambda params, *_: loss.gradient(params, plain)[0][0],
                batch_size=loss.batch_size(),
                **parts,
            )
            return strong((optax.apply_updates(state.params, updates), model_state, opt_state))

        if self.on_fault == "ignore":
            new = update()
        elif self.on_fault == "stop":
            new, metrics = update(), {**metrics, "fault": find_fault(metrics["loss"], grads)}
        else:
            fault = find_fault(metrics["loss"], grads)
            old = strong((state.params, state.model_state, state.opt_state))
            # Not a choice leaf by leaf, which reads and writes everything once more.
            new = jax.lax.cond(fault < 0, update, lambda: old)
            metrics = {**metrics, "skipped": fault}
        return TrainState(state.step + 1, *new, state.key), metrics
