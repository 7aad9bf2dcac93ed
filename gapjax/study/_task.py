"""Tasks: the only place that knows what a loss, a label or an accuracy is."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from gapjax import _checks, data
from gapjax.study._errors import naming

PerExample = Callable[[Any, Any], jax.Array]

# Where a task looks by itself for what the network is given, and for what it is to predict.
_INPUTS = ("images", "inputs", "x", "features")
_TARGETS = ("labels", "label", "targets", "target", "y")
_TAKEN = ("loss", "weight", "distance", "gradient_noise", "gradient_norm")


@dataclasses.dataclass(frozen=True)
class Task:
    r"""What a network is trained for, and how it is judged.

    A training batch of examples n with weights :math:`w_n` has the loss
    :math:`\sum_n w_n \ell_n / \sum_n w_n`; a metric of a split is the same mean over all of its
    examples.

    Attributes:
        loss: ``(outputs, batch) -> [B]``, the loss of every example; ``outputs`` is what the
            network gave for ``inputs(batch)``.
        metrics: ``{name: (outputs, batch) -> [B]}``, each a number per example.
        headline: the name of the metric that decides: the generalization gap is a gap of it.
            ``"loss"`` is one of them.
        maximize: whether more of the headline metric is better; of a loss less always is.
        inputs: ``batch -> what the network is given``, an array or any tree of arrays ``[B, ...]``;
            by default ``images``, ``inputs``, ``x`` or ``features`` of a batch.
        weight: ``batch -> [B]``, what an example counts (the tokens in it, say); 1 by default.
        smoothed: ``(outputs, batch, amount) -> [B]``, the loss with smoothed labels, for the remedy
            ``SMOOTH``; None where labels cannot be smoothed.
        width: ``dataset -> int``, how wide the last layer of a network has to be, or None if any
            will do.
        wider: whether a wider one does too, as of a vocabulary that has more than the text. One of
            a network known by name has 256 outputs at least, so that it depends on no text.
        percent: the metrics that are fractions, shown in per cent; by default those whose name
            ends in ``accuracy``.
        name: what reports call it.

    Raises:
        ValueError: something that is no function, a headline that is no metric, or a name that is
            taken.

    Example:
        >>> import jax.numpy as jnp
        >>> hinge = Task(
        ...     loss=lambda outputs, batch: jnp.maximum(0, 1 - batch["y"] * outputs[:, 0]),
        ...     metrics={"accuracy": lambda outputs, batch: batch["y"] * outputs[:, 0] > 0},
        ...     headline="accuracy",
        ... )
        >>> hinge.percent
        ('accuracy',)
    """

    loss: PerExample
    metrics: Mapping[str, PerExample]
    headline: str
    _: dataclasses.KW_ONLY
    maximize: bool = True
    inputs: Callable[[Any], Any] | None = None
    weight: Callable[[Any], jax.Array] | None = None
    smoothed: Callable[[Any, Any, float], jax.Array] | None = None
    width: Callable[[data.Dataset], int | None] | None = None
    wider: bool = False
    percent: Sequence[str] | None = None
    name: str = "custom"

    def __post_init__(self) -> None:
        if not isinstance(self.metrics, Mapping):
            raise ValueError(
                "metrics must be a dict from names to functions (outputs, batch) -> [B], not "
                f"{self.metrics!r}."
            )
        functions = {
            "loss": self.loss,
            **{f"metrics[{name!r}]": function for name, function in self.metrics.items()},
            **{
                name: getattr(self, name)
                for name in ("inputs", "weight", "smoothed", "width")
                if getattr(self, name) is not None
            },
        }
        for name, function in functions.items():
            if not callable(function):
                raise ValueError(f"{name} of a task must be a function, not {function!r}.")
        for name in self.metrics:
            if not isinstance(name, str) or not name.isidentifier() or name in _TAKEN:
                raise ValueError(
                    f"the name of a metric must be a word of letters, digits and underscores, and "
                    f"none of {', '.join(_TAKEN)}: {name!r} is not."
                )
        _checks.one_of("headline", self.headline, ("loss", *self.metrics))
        if self.headline == "loss":
            object.__setattr__(self, "maximize", False)
        elif not isinstance(self.maximize, bool):
            raise ValueError(f"maximize must be True or False, not {self.maximize!r}.")
        percent = self.percent
        if percent is None:
            percent = [name for name in self.metrics if name.endswith("accuracy")]
        for name in percent:
            _checks.one_of("percent", name, self.metrics)
        object.__setattr__(self, "percent", tuple(percent))

    @property
    def measures(self) -> tuple[str, ...]:
        """The names of all that is measured of a split, the loss and the metrics."""
        return ("loss", *self.metrics)

    def select(self, batch: Any) -> Any:
        """What the network is given of a batch."""
        with naming(f"inputs of task {self.name!r}"):
            return (self.inputs or _default_inputs)(batch)

    def weights(self, batch: Any) -> jax.Array:
        """What each example of a batch counts, float32, ``[B]``."""
        if self.weight is None:
            return jnp.ones(_size(batch), jnp.float32)
        return self._each("weight", self.weight(batch), batch)

    def losses(self, outputs: Any, batch: Any) -> jax.Array:
        """The loss of each example, ``[B]``."""
        return self._each("loss", self.loss(outputs, batch), batch)

    def measure(self, outputs: Any, batch: Any) -> dict[str, jax.Array]:
        """The loss and every metric of each example, float32, ``[B]``."""
        found = {"loss": self.losses(outputs, batch)}
        for name, metric in self.metrics.items():
            found[name] = self._each(f"metric {name!r}", metric(outputs, batch), batch)
        return found

    def better(self, first: float, second: float) -> bool:
        """Whether one value of the headline metric is better than another."""
        return first > second if self.maximize else first < second

    def _each(self, what: str, values: Any, batch: Any) -> jax.Array:
        """Values that must be one number per example."""
        size, shape = _size(batch), getattr(values, "shape", None)
        if shape != (size,):
            said = f"shape {list(shape)}" if shape is not None else type(values).__name__
            remedy = "take the mean over all but the first axis"
            if shape is not None and len(shape) == 2 and shape[-1] == 1:
                remedy = "squeeze its last axis: [..., 0]"
            elif not shape:
                remedy = (
                    "leave the mean over examples out; what no example has alone (an F1, an AUC) "
                    "has no interval over test examples and cannot be in a study"
                )
            raise ValueError(
                f"{what} of task {self.name!r} gives {said} for a batch of {size} examples, and "
                f"must give one number for each, shape [{size}]: {remedy}."
            )
        return values.astype(jnp.float32)


def smooth(task: Task, amount: float) -> Task:
    """The task with smoothed labels in its training loss.

    Raises:
        ValueError: a task whose labels cannot be smoothed.
    """
    if task.smoothed is None:
        raise ValueError(
            f"task {task.name!r} has no loss with smoothed labels: give it one, "
            "Task(..., smoothed=lambda outputs, batch, amount: ...), or leave out SMOOTH."
        )
    smoothed = task.smoothed
    return dataclasses.replace(task, loss=lambda outputs, batch: smoothed(outputs, batch, amount))


def classification(*, inputs: Any = None, labels: Any = None) -> Task:
    """One of several classes: softmax cross entropy on whole labels, judged by accuracy.

    Args:
        inputs: ``batch -> inputs``, or the name of a field of the batch; by default ``images``,
            ``inputs``, ``x`` or ``features``.
        labels: likewise, ``[B]``; by default ``labels``, ``label``, ``targets``, ``target``, ``y``.

    Returns:
        A ``Task`` with the metric ``accuracy``. Outputs are logits ``[B, classes]``.

    Example:
        >>> import jax.numpy as jnp
        >>> batch = {"x": jnp.zeros((2, 3)), "y": jnp.array([0, 1])}
        >>> logits = jnp.array([[1.0, 0.0], [1.0, 0.0]])
        >>> measured = classification().measure(logits, batch)
        >>> {name: [round(x, 2) for x in values.tolist()] for name, values in measured.items()}
        {'loss': [0.31, 1.31], 'accuracy': [1.0, 0.0]}
    """
    target = _getter(labels, _TARGETS, "labels")

    def loss(outputs: Any, batch: Any) -> jax.Array:
        _check_outputs(outputs, target(batch), extra=1)
        return optax.losses.softmax_cross_entropy_with_integer_labels(outputs, target(batch))

    def accuracy(outputs: Any, batch: Any) -> jax.Array:
        # A network that diverged is right by accident on class 0: argmax of NaNs is 0.
        right = outputs.argmax(-1) == target(batch)
        return (right & jnp.isfinite(outputs).all(-1)).astype(jnp.float32)

    def smoothed(outputs: Any, batch: Any, amount: float) -> jax.Array:
        kind = outputs.dtype
        goal = jax.nn.one_hot(target(batch), outputs.shape[-1], dtype=kind)
        return optax.losses.softmax_cross_entropy(outputs, optax.smooth_labels(goal, amount))

    def width(dataset: data.Dataset) -> int:
        return max(dataset.num_classes, _largest(target, dataset) + 1)

    return Task(
        loss,
        {"accuracy": accuracy},
        "accuracy",
        inputs=_getter(inputs, _INPUTS, "inputs"),
        smoothed=smoothed,
        width=width,
        name="classification",
    )


def multilabel(*, inputs: Any = None, labels: Any = None) -> Task:
    """Several answers, yes or no, to each example: mean sigmoid cross entropy over the labels.

    Args:
        inputs: as of :func:`classification`.
        labels: likewise, 0 or 1, ``[B, labels]``.

    Returns:
        A ``Task`` with the metrics ``accuracy`` (the share of labels that are right) and
        ``exact_accuracy`` (all labels of an example right). Outputs are logits ``[B, labels]``.

    Example:
        >>> import jax.numpy as jnp
        >>> batch = {"x": jnp.zeros((1, 3)), "y": jnp.array([[0, 1]])}
        >>> multilabel().measure(jnp.array([[-1.0, -1.0]]), batch)["accuracy"].tolist()
        [0.5]
    """
    target = _getter(labels, _TARGETS, "labels")

    def loss(outputs: Any, batch: Any) -> jax.Array:
        _check_outputs(outputs, target(batch))
        goal = target(batch).astype(outputs.dtype)
        return optax.losses.sigmoid_binary_cross_entropy(outputs, goal).mean(-1)

    def smoothed(outputs: Any, batch: Any, amount: float) -> jax.Array:
        goal = target(batch).astype(outputs.dtype) * (1 - amount) + amount / 2
        return optax.losses.sigmoid_binary_cross_entropy(outputs, goal).mean(-1)

    def right(outputs: Any, batch: Any) -> jax.Array:
        return ((outputs > 0) == target(batch).astype(bool)) & jnp.isfinite(outputs)

    return Task(
        loss,
        {
            "accuracy": lambda outputs, batch: right(outputs, batch).mean(-1, dtype=jnp.float32),
            "exact_accuracy": lambda outputs, batch: right(outputs, batch).all(-1),
        },
        "accuracy",
        inputs=_getter(inputs, _INPUTS, "inputs"),
        smoothed=smoothed,
        width=lambda dataset: np.shape(target(dataset.train))[-1],
        name="multilabel",
    )


def regression(*, inputs: Any = None, targets: Any = None) -> Task:
    """Numbers: the squared error, mean over the targets of an example; less is better.

    Args:
        inputs: as of :func:`classification`.
        targets: likewise, floats, ``[B]`` or ``[B, ...]``.

    Returns:
        A ``Task`` with the metric ``absolute_error``; its headline is the loss. Outputs have the
        shape of the targets, or a last axis of 1 more.

    Example:
        >>> import jax.numpy as jnp
        >>> batch = {"x": jnp.zeros((2, 3)), "y": jnp.array([1.0, 2.0])}
        >>> regression().losses(jnp.zeros((2, 1)), batch).tolist()
        [1.0, 4.0]
    """
    target = _getter(targets, _TARGETS, "targets")

    def error(outputs: Any, batch: Any) -> jax.Array:
        goal = target(batch)
        if outputs.shape == (*goal.shape, 1):
            outputs = outputs[..., 0]
        if outputs.shape != goal.shape:
            raise ValueError(
                f"the network gives outputs of shape {list(outputs.shape)} for targets of shape "
                f"{list(goal.shape)}: make its last layer "
                f"{goal.shape[-1] if goal.ndim > 1 else 1} wide."
            )
        return (outputs - goal.astype(outputs.dtype)).reshape(len(goal), -1)

    def width(dataset: data.Dataset) -> int:
        shape = np.shape(target(dataset.train))
        return shape[-1] if len(shape) > 1 else 1

    return Task(
        lambda outputs, batch: jnp.square(error(outputs, batch)).mean(-1),
        {"absolute_error": lambda outputs, batch: jnp.abs(error(outputs, batch)).mean(-1)},
        "loss",
        inputs=_getter(inputs, _INPUTS, "inputs"),
        width=width,
        name="regression",
    )


def next_token(*, tokens: Any = None, pad: int | None = None) -> Task:
    """The next token of a sequence: cross entropy per token that counts; less is better.

    A sequence of T + 1 tokens is T predictions. The loss of a sequence is the mean over those that
    count, and a sequence weighs as many as it has, so means over sequences are means over tokens.

    Args:
        tokens: the field of a batch, or a function of it: whole numbers, ``[B, T + 1]``; by default
            ``tokens``. The network is given the first T of each.
        pad: the token that only fills a sequence up: where it is to be predicted nothing counts.
            A batch may have a ``mask`` besides, ``[B, T + 1]``, 0 where nothing counts.

    Returns:
        A ``Task`` with the metrics ``accuracy`` and ``bits`` (the loss over log 2); its headline is
        the loss, in nats per token. Outputs are logits ``[B, T, vocabulary]``.

    Example:
        >>> import jax.numpy as jnp
        >>> task, batch = next_token(pad=0), {"tokens": jnp.array([[1, 2, 0], [1, 2, 1]])}
        >>> task.select(batch).tolist(), task.weights(batch).tolist()
        ([[1, 2], [1, 2]], [1.0, 2.0])
    """
    sequence = _getter(tokens, ("tokens",), "tokens")

    def counts(batch: Any) -> jax.Array:
        goal = sequence(batch)[:, 1:]
        counted = jnp.ones(goal.shape, bool) if pad is None else goal != pad
        mask = batch.get("mask") if isinstance(batch, Mapping) else None
        if mask is not None:
            mask = mask[:, 1:] if mask.shape[1] == goal.shape[1] + 1 else mask
            counted &= mask.astype(bool)
        return counted.astype(jnp.float32)

    def mean(values: jax.Array, batch: Any) -> jax.Array:
        own = counts(batch)
        return jnp.where(own > 0, values * own, 0).sum(-1) / jnp.maximum(own.sum(-1), 1)

    def loss(outputs: Any, batch: Any) -> jax.Array:
        goal = sequence(batch)[:, 1:]
        _check_outputs(outputs, goal, extra=1)
        losses = optax.losses.softmax_cross_entropy_with_integer_labels(
            outputs.astype(jnp.float32), goal
        )
        return mean(losses, batch)

    def smoothed(outputs: Any, batch: Any, amount: float) -> jax.Array:
        goal = jax.nn.one_hot(sequence(batch)[:, 1:], outputs.shape[-1], dtype=jnp.float32)
        return mean(
            optax.losses.softmax_cross_entropy(
                outputs.astype(jnp.float32), optax.smooth_labels(goal, amount)
            ),
            batch,
        )

    def accuracy(outputs: Any, batch: Any) -> jax.Array:
        right = (outputs.argmax(-1) == sequence(batch)[:, 1:]) & jnp.isfinite(outputs).all(-1)
        return mean(right.astype(jnp.float32), batch)

    return Task(
        loss,
        {"accuracy": accuracy, "bits": lambda o, b: loss(o, b) / float(np.log(2))},
        "loss",
        inputs=lambda batch: sequence(batch)[:, :-1],
        weight=lambda batch: counts(batch).sum(-1),
        smoothed=smoothed,
        width=lambda dataset: _largest(sequence, dataset) + 1,
        wider=True,
        name="next-token",
    )


# Made once, so that studies of the same settings are equal.
TASKS: dict[str, Callable[[], Task]] = {
    "classification": functools.cache(classification),
    "multilabel": functools.cache(multilabel),
    "regression": functools.cache(regression),
    "next-token": functools.cache(next_token),
}


def _size(batch: Any) -> int:
    return jax.tree.leaves(batch)[0].shape[0]


def _largest(labels: Callable[[Any], Any], dataset: data.Dataset) -> int:
    """The largest label or token there is: what is only in the test split is judged too."""
    return max(int(np.asarray(labels(split)).max()) for split in (dataset.train, dataset.test))


def _default_inputs(batch: Any) -> Any:
    return _getter(None, _INPUTS, "inputs")(batch)


def _getter(field: Any, names: Sequence[str], what: str) -> Callable[[Any], Any]:
    """A function from a batch to one of its fields."""
    if callable(field):
        return field
    if field is not None and not isinstance(field, str):
        raise ValueError(
            f"{what} must be the name of a field of a batch, or a function of the batch, not "
            f"{field!r}."
        )
    wanted = names if field is None else (field,)

    def get(batch: Any) -> Any:
        named = isinstance(batch, Mapping)
        for name in wanted:
            if (name in batch) if named else hasattr(batch, name):
                return batch[name] if named else getattr(batch, name)
        has = ", ".join(map(repr, batch)) if named else type(batch).__name__
        raise ValueError(
            f"a batch has no {' or '.join(map(repr, wanted))} (it has {has}): say where the {what} "
            f"are, such as study.regression({what}=lambda batch: ...), or take another task: "
            f"{', '.join(TASKS)}."
        )

    return get


def _check_outputs(outputs: Any, target: Any, extra: int = 0) -> None:
    """Outputs must go with their targets, or values would be broadcast against each other."""
    shape = outputs.shape[: outputs.ndim - extra]
    if shape != target.shape:
        more = ", classes" * extra
        raise ValueError(
            f"the network gives outputs of shape {list(outputs.shape)} for targets of shape "
            f"{list(target.shape)}: they must be [{', '.join(map(str, target.shape))}{more}]."
        )
