"""Pure train and eval steps over the functions a user brings."""

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from gapjax import _checks
from gapjax.training._faults import ON_FAULT, find_fault
from gapjax.training._state import TrainState

Batch = Any
Metrics = dict[str, jax.Array]
LossFn = Callable[..., Any]


def make_train_step(
    loss_fn: LossFn,
    tx: optax.GradientTransformation,
    *,
    microbatched: bool = False,
    axis_name: str | None = None,
    on_fault: str = "ignore",
    compute_dtype: Any = None,
) -> "TrainStep":
    """One update as a pure function ``(state, batch) -> (state, metrics)``.

    Args:
        loss_fn: ``(params, model_state, batch, key) -> (mean loss, (model_state, metrics))``, or,
            for a network without state or randomness, ``(params, batch) -> mean loss``.
        tx: the optimizer, any optax chain. It is handed ``value`` (the loss) and ``batch_size`` as
            extra arguments; of microbatches also ``part_size`` and ``part_squared_norm`` (the mean
            squared norm of their gradients), from which a ``growth.noise_scale_tracker`` learns.
        microbatched: whether batches come as ``[A, B / A, ...]``, as
            ``growth.GrowingBatches(microbatch=...)`` delivers them: the gradient is summed over A
            and divided once, model state goes from one microbatch to the next.
        axis_name: the mapped axis over which a batch is split, where the step runs inside ``pmap``
            or ``shard_map``: gradients, loss, metrics and floating-point model state are averaged
            over it. Under ``jit`` leave it out. ``compile_step`` sets it where it is needed.
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
            model state, loss and metrics stay float32. A Flax module follows unless it was given
            a ``dtype`` of its own. Sum what needs precision, such as the loss over logits, in
            float32 inside ``loss_fn``.

    Returns:
        The step. Its metrics are those of ``loss_fn`` and ``"loss"``, the loss before the update.

    Raises:
        ValueError: ``loss_fn`` takes neither two nor four arguments, an unknown ``on_fault``, or a
            type to compute in whose range is smaller than float32's.

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
    tx = optax.with_extra_args_support(tx)
    _checks.one_of("on_fault", on_fault, ON_FAULT)
    _check_dtype(compute_dtype)
    return TrainStep(_with_state(loss_fn), tx, microbatched, axis_name, on_fault, compute_dtype)


@dataclasses.dataclass(frozen=True)
class TrainStep:
    """What ``make_train_step`` gives: call it with a state and a batch."""

    loss_fn: LossFn
    tx: optax.GradientTransformationExtraArgs
    microbatched: bool = False
    axis_name: str | None = None
    on_fault: str = "ignore"
    compute_dtype: Any = None

    def __call__(self, state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        """The state after one update with ``batch``, and the metrics of the batch."""
        key = jax.random.fold_in(state.key, state.step)
        if self.axis_name is not None:
            key = jax.random.fold_in(key, jax.lax.axis_index(self.axis_name))
        shape = jax.tree.leaves(batch)[0].shape
        batch_size = shape[0] * shape[1] if self.microbatched else shape[0]
        told: dict[str, Any] = {}
        if self.microbatched:
            grads, model_state, metrics, told = self._accumulate(state, batch, key)
        else:
            grads, model_state, metrics = self._gradient(
                state.params, state.model_state, batch, key
            )
        if self.axis_name is not None:
            batch_size *= jax.lax.axis_size(self.axis_name)
            model_state, metrics, grads, told = _mean_over(
                self.axis_name, (model_state, metrics, grads, told)
            )

        def update() -> tuple[Any, Any, Any]:
            updates, opt_state = self.tx.update(
                grads,
                state.opt_state,
                state.params,
                value=metrics["loss"],
                batch_size=batch_size,
                **told,
            )
            return optax.apply_updates(state.params, updates), model_state, opt_state

        if self.on_fault == "ignore":
            new = update()
        elif self.on_fault == "stop":
            new, metrics = update(), {**metrics, "fault": find_fault(metrics["loss"], grads)}
        else:
            fault = find_fault(metrics["loss"], grads)
            old = (state.params, state.model_state, state.opt_state)
            # Not a choice leaf by leaf, which reads and writes everything once more.
            new = jax.lax.cond(fault < 0, update, lambda: old)
            metrics = {**metrics, "skipped": fault}
        return TrainState(state.step + 1, *new, state.key), metrics

    def _gradient(
        self, params: Any, model_state: Any, batch: Batch, key: jax.Array
    ) -> tuple[Any, Any, Metrics]:
        loss_fn = _computing_in(self.compute_dtype, self.loss_fn)
        value_and_grad = jax.value_and_grad(loss_fn, has_aux=True)
        (loss, (model_state, metrics)), grads = value_and_grad(params, model_state, batch, key)
        return grads, model_state, {**metrics, "loss": loss}

    def _accumulate(
        self, state: TrainState, batch: Batch, key: jax.Array
    ) -> tuple[Any, Any, Metrics, dict[str, Any]]:
        """The mean gradient over microbatches, in the memory of one."""

        def add(carry: tuple[Any, Any], part: tuple[jax.Array, Batch]) -> Any:
            total, model_state = carry
            number, microbatch = part
            grads, model_state, metrics = self._gradient(
                state.params, model_state, microbatch, jax.random.fold_in(key, number)
            )
            squared_norm = optax.tree.norm(grads, squared=True)
            return (jax.tree.map(jnp.add, total, grads), model_state), (metrics, squared_norm)

        count, size = jax.tree.leaves(batch)[0].shape[:2]
        start = (jax.tree.map(jnp.zeros_like, state.params), state.model_state)
        (total, model_state), (metrics, squared_norms) = jax.lax.scan(
            add, start, (jnp.arange(count), batch)
        )
        grads = jax.tree.map(lambda g: g / count, total)
        metrics = jax.tree.map(lambda m: jnp.mean(m, axis=0), metrics)
        # One part alone says nothing of the noise.
        told = {"part_size": size, "part_squared_norm": squared_norms.mean()} if count > 1 else {}
        return grads, model_state, metrics, told


def make_eval_step(eval_fn: LossFn) -> Callable[[TrainState, Batch], Metrics]:
    """Sums over a batch as a pure function ``(state, batch) -> metrics``.

    Args:
        eval_fn: ``(params, model_state, batch) -> {name: value of each example, [B]}``, in
            evaluation mode.

    Returns:
        The step. A batch with a ``"mask"`` entry ([B], 1 for a real example, 0 for padding) is
        summed over its real examples. The metrics hold the sum of each value and ``"count"``, the
        number of real examples: add them up over batches and divide once, and the mean over a data
        set is exact also when its last batch is ragged.

    Example:
        >>> import jax, optax
        >>> from gapjax.training import init_state
        >>> step = make_eval_step(lambda params, model_state, batch: {"square": batch["x"] ** 2})
        >>> state = init_state({}, optax.identity(), key=jax.random.key(0))
        >>> batch = {"x": jax.numpy.arange(3.0), "mask": jax.numpy.array([1.0, 1.0, 0.0])}
        >>> {name: float(value) for name, value in step(state, batch).items()}
        {'square': 1.0, 'count': 2.0}
    """

    def step(state: TrainState, batch: Batch) -> Metrics:
        values = eval_fn(state.params, state.model_state, batch)
        size = jax.tree.leaves(batch)[0].shape[0]
        mask = batch.get("mask") if isinstance(batch, dict) else None
        mask = jnp.ones(size, jnp.float32) if mask is None else mask.astype(jnp.float32)
        sums = {
            name: jnp.sum(jnp.where(mask > 0, value.astype(jnp.float32), 0.0))
            for name, value in values.items()
        }
        return {**sums, "count": jnp.sum(mask)}

    return step


def _with_state(loss_fn: LossFn) -> LossFn:
    """``loss_fn`` with the four arguments of the general form."""
    parameters = inspect.signature(loss_fn).parameters.values()
    required = [
        p
        for p in parameters
        if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) and p.default is p.empty
    ]
    if len(required) == 4 or any(p.kind is p.VAR_POSITIONAL for p in parameters):
        return loss_fn
    if len(required) == 2:
        return lambda params, model_state, batch, key: (loss_fn(params, batch), (model_state, {}))
    raise ValueError(
        "loss_fn must take (params, model_state, batch, key) and give (loss, (model_state, "
        f"metrics)), or take (params, batch) and give the loss; this one takes {len(required)}: "
        f"({', '.join(p.name for p in required)})."
    )


def _check_dtype(dtype: Any) -> None:
    if dtype is None:
        return
    if not jnp.issubdtype(dtype, jnp.floating):
        raise ValueError(f"compute_dtype must be a floating-point type, not {dtype!r}.")
    if jnp.finfo(dtype).maxexp < jnp.finfo(jnp.float32).maxexp:
        raise ValueError(
            f"compute_dtype={jnp.dtype(dtype).name} would lose small gradients: its range is "
            "smaller than float32's, and losses are not scaled here. Use jnp.bfloat16."
        )


def _computing_in(dtype: Any, loss_fn: LossFn) -> LossFn:
    """``loss_fn`` on parameters and batch in another type; what it gives stays as it was."""
    if dtype is None:
        return loss_fn

    def cast(tree: Any, dtype: Any) -> Any:
        def one(x: Any) -> Any:
            return x.astype(dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x

        return jax.tree.map(one, tree)

    def loss(params: Any, model_state: Any, batch: Batch, key: jax.Array) -> Any:
        value, (after, metrics) = loss_fn(cast(params, dtype), model_state, cast(batch, dtype), key)
        after = jax.tree.map(lambda new, old: new.astype(old.dtype), after, model_state)
        return value.astype(jnp.float32), (after, cast(metrics, jnp.float32))

    return loss


def _mean_over(axis_name: str, tree: Any) -> Any:
    """The mean of every floating-point leaf over a mapped axis; other leaves stay as they are."""

    def mean(leaf: Any) -> Any:
        floating = jnp.issubdtype(jnp.result_type(leaf), jnp.floating)
        return jax.lax.pmean(leaf, axis_name) if floating else leaf

    return jax.tree.map(mean, tree)
