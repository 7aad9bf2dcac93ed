"""What a study is: data, network, task, optimizer, schedule, budget, regimes."""

import dataclasses
import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from gapjax import _checks, data, models
from gapjax.study._axes import check_axes, parse_axis
from gapjax.study._budget import check_keep, check_stops
from gapjax.study._controllers import CONTROLLERS, check_controller, controller
from gapjax.study._fields import folder, number, one_of, optional, setting, several, text, whole
from gapjax.study._findings._measures import MEASURES
from gapjax.study._optimizers import HYPERPARAMETERS, OPTIMIZERS, check_optimizer, own_values
from gapjax.study._regimes import STANDARD, Regime, as_regime, check_baseline, with_combinations
from gapjax.study._schedules import SCHEDULES, check_schedule
from gapjax.study._task import TASKS, Task

_LARGEST, _SMALLEST = 1e15, 1e-30  # of float32, with room for squares and products
_MOST_SEEDS = 2**32
_BYTES = 256  # outputs of a named network of tokens at least, so that it depends on no text
_MEASURES = [measure.name for measure in MEASURES]


def _model(name: str, value: Any) -> Any:
    if not isinstance(value, str):
        if not callable(value) and not (hasattr(value, "init") and hasattr(value, "apply")):
            raise ValueError(
                f"{name} must be a network: one of {_named(models.NETWORKS)}, a text such as "
                f"package.module:name, or a Flax module, not {value!r}."
            )
    elif ":" not in value:
        _checks.one_of(name, value, models.NETWORKS)
    return value


def _named(about: Mapping[str, Any]) -> str:
    return ", ".join(about)


def _or_own(name: str, about: str) -> str:
    return f"{about}; None: the optimizer's own, {own_values(name)}"


_REST = "The other fields are explained by ``gapjax study --help``.\n"


def _explained(cls: Any) -> Any:
    """Lets a class's text say of its other fields what the command line says of them."""
    # Indented alike on every Python: 3.13 takes the indentation of texts away. None under -OO.
    told = inspect.cleandoc(cls.__doc__ or "")
    rest = [
        f"    {field.name}: {field.metadata['help']}.\n"
        for field in dataclasses.fields(cls)
        if f"\n    {field.name}: " not in told
    ]
    cls.__doc__ = told.replace("\n" + _REST, "".join(rest))
    return cls


@_explained
@dataclasses.dataclass(frozen=True)
class Study:
    """Which network is trained on what, in which regimes, over how many seeds.

    The schedule of the learning rate is written for the small batch, in its updates; every regime
    adapts it by its own rule. The regimes of ``baseline`` are the two ends of the generalization
    gap, which is a gap of the task's headline metric.

    Attributes:
        dataset: a name (``"digits"``, ``"pydoc"``, or any TFDS name), or a
            ``gapjax.data.Dataset``.
        model: a name from ``gapjax.models.NETWORKS``, or ``"package.module:name"``; any linen
            module, or a function from ``nnx.Rngs`` to an nnx module. An nnx module that was built
            already is the start of every seed, as the report then says.
        task: a name from ``TASKS``, or a ``Task``.
        optimizer: a name from ``OPTIMIZERS``, after clipping by ``clip_norm``; or a function from a
            learning-rate schedule to any optax chain, which stands alone. Hyperparameters that are
            not None are passed to it where its signature takes them.
        schedule: a name from ``SCHEDULES``, or a function ``(num_updates, peak) -> optax
            schedule``, for the small batch.
        regimes: texts as ``Regime.parse`` takes them, or ``Regime`` objects.
        baseline: the names of the two regimes between which the gap lies.
        seeds: how many seeds train at once, each with its own start and its own order of examples;
            the same seed starts alike in every regime.
        controller: what the batch of ``GROW`` grows by where it is not to grow where the rate
            would drop: a name from ``CONTROLLERS``, a ``growth.Controller``, or a function
            ``(initial, maximum)`` that gives one. It is shown the noise of the gradient (mean over
            seeds), the training loss and the rate at every evaluation; one batch for all seeds.
            With ``"branching"`` every seed is trained on with 1, 2 and 4 times the batch at up to 7
            of them, on most of the training set, and judged on the rest of it.
            They see as many examples as the small batch does, and the rate keeps its schedule over
            examples, whatever the batch. It has to be pure: after an interruption it is asked
            again.
        augment: what is done to training examples, see ``gapjax.data.make_augment``.

    The other fields are explained by ``gapjax study --help``.

    Raises:
        ValueError: a field that cannot be, by name, with what would fit.

    Example:
        >>> Study(seeds=4, regimes=("SB", "LB")).large_batch
        640
    """

    dataset: Any = setting("digits", "data set: digits, pydoc (embedded), or any TFDS name")
    model: Any = setting(
        "digits-mlp", f"network: {_named(models.NETWORKS)}, or package.module:name", _model
    )
    task: Any = setting("classification", f"what is trained for: {_named(TASKS)}")
    optimizer: Any = setting("sgd", f"optimizer: {_named(OPTIMIZERS)}")
    schedule: Any = setting("step", f"schedule of the rate: {_named(SCHEDULES)}")
    regimes: Sequence[Regime | str] = setting(
        STANDARD,
        "regimes to train: a batch, then remedies, such as LB+LR+GBN",
        several("('SB', 'LB+LR')"),
    )
    baseline: tuple[str, str] = setting(
        ("SB", "LB"), "the two regimes between which the gap lies", several("('SB', 'LB')", text)
    )
    factorial: tuple[str, ...] = setting(
        (),
        "train all combinations of these remedies on the large batch, and estimate what each does",
        several("('LR', 'GBN')", text),
    )
    seeds: int = setting(8, "seeds per regime, trained at once", whole(1, 100_000))
    first_seed: int = setting(0, "the first seed; the others follow it", whole(0, _MOST_SEEDS))
    epochs: float = setting(
        20.0, "passes of the small batch over the data", number(above=0, most=1e9)
    )
    keep: str = setting(
        "epochs",
        "what is held fixed against the small batch, where no remedy says: epochs, updates, "
        "loss=0.01 (until the training loss falls to that) or plateau (until it stops improving)",
        check_keep,
    )
    maximum: float = setting(
        10.0,
        "loss and plateau: the most training, as a multiple of the epochs",
        number(least=1, most=1e6),
    )
    plateau_factor: float = setting(
        0.99,
        "plateau: an improvement counts where the loss falls below this times its best",
        number(above=0, below=1),
    )
    plateau_epochs: float = setting(
        2.0,
        "plateau: patience, in passes over the data without an improvement",
        number(above=0, most=1e9),
    )
    small_batch: int = setting(16, "examples per update in the small-batch regime", whole(1, 2**31))
    large_batch: int = setting(
        640, "examples per update in the large-batch regimes", whole(1, 2**31)
    )
    controller: Any = setting(
        None,
        f"what decides when GROW grows, in place of the drops of the rate: {_named(CONTROLLERS)}; "
        "it is asked at every evaluation, and the rate keeps its schedule",
        controller,
    )
    ghost_size: int = setting(16, "examples per ghost of ghost batch norm", whole(1, 2**31))
    learning_rate: float = setting(
        0.05,
        "the rate at the small batch, before any decay",
        number(least=_SMALLEST, most=_LARGEST),
    )
    warmup: float = setting(
        0.0, "share of the updates over which the rate rises in a line", number(least=0, most=1)
    )
    decay_at: tuple[float, ...] = setting(
        (0.5, 0.75),
        "step: when the rate drops, in fractions of training",
        several("(0.5, 0.75)", number(above=0, below=1)),
    )
    decay_factor: float = setting(
        0.1, "step: what each drop multiplies the rate by", number(above=0, most=1)
    )
    cooldown: float = setting(
        0.2, "wsd: the share of training over which the rate falls", number(above=0, most=1)
    )
    momentum: float | None = setting(
        None, _or_own("momentum", "momentum"), optional(number(least=0, below=1))
    )
    b1: float | None = setting(
        None, _or_own("b1", "decay of the mean gradient"), optional(number(least=0, below=1))
    )
    b2: float | None = setting(
        None,
        _or_own("b2", "decay of the mean squared gradient"),
        optional(number(least=0, below=1)),
    )
    eps: float | None = setting(
        None,
        _or_own("eps", "added to the denominator"),
        optional(number(least=_SMALLEST, most=1)),
    )
    weight_decay: float | None = setting(
        None,
        _or_own("weight_decay", "weight decay, as the optimizer has it"),
        optional(number(least=0, most=_LARGEST)),
    )
    clip_norm: float | None = setting(
        5.0,
        "global norm to which larger gradients are scaled down; None: no clipping",
        optional(number(least=_SMALLEST, most=_LARGEST)),
    )
    augment: Sequence[Any] = setting(
        (), f"augmentations: {_named(data.AUGMENTATIONS)}", several("('flip',)")
    )
    controls: bool = setting(
        True,
        "controls beside the regimes, unless left out: a small batch that sees as many examples as "
        "the regime that sees most, and a convex network for the curves of distance",
        _checks.boolean,
    )
    tune: int = setting(
        0, "rates to try around each regime's rule, on a validation split; 0: none", whole(0, 1000)
    )
    tune_also: tuple[str, ...] = setting(
        (),
        "tune these too, at random in their ranges: momentum=0.8:0.99, b1, weight_decay, warmup",
        several("('momentum=0.8:0.99',)", parse_axis),
    )
    validation: float = setting(
        0.2, "share of the training set held out, for choosing rates", number(above=0, below=1)
    )
    evaluations: int = setting(40, "points on each learning curve", whole(1, 100_000))
    noise_scale: bool = setting(
        False, "measure the gradient noise scale at every evaluation", _checks.boolean
    )
    loss_levels: tuple[float, ...] = setting(
        (),
        "training losses at which --landscape compares the regimes on their way down, too",
        several("(0.1, 0.01)", number(least=_SMALLEST, most=_LARGEST)),
    )
    landscape_examples: int = setting(
        4096,
        "training examples that --landscape measures on, at most: a part drawn once at random, "
        "with its sampling error",
        whole(50, 2**31),
    )
    landscape_seeds: int = setting(
        3, "seeds of each regime that --landscape measures, at most", whole(1, 100_000)
    )
    landscape_measures: tuple[str, ...] = setting(
        (),
        f"what --landscape measures, and the loss; all where none is named: {', '.join(_MEASURES)}",
        several("('keskar_0.001', 'top')", one_of(*_MEASURES)),
    )
    train_examples: int | None = setting(
        None, "train on the first so many training examples; None: all", optional(whole(1, 2**31))
    )
    data_dir: str | None = setting(
        None, "folder of prepared data sets; TFDS's own by default", optional(folder)
    )
    version: str = setting(
        "", "stands for code that cannot be told apart: another text, another study", text
    )

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            check = field.metadata["check"]
            if check is not None:
                object.__setattr__(self, field.name, check(field.name, getattr(self, field.name)))
        if self.first_seed + self.seeds > _MOST_SEEDS:
            raise ValueError(
                f"first_seed must be at most {_MOST_SEEDS - self.seeds} for {self.seeds} seeds, "
                f"and is {self.first_seed}."
            )
        if list(self.decay_at) != sorted(set(self.decay_at)):
            raise ValueError(
                f"decay_at must be rising fractions between 0 and 1, and is {self.decay_at!r}."
            )
        if self.learning_rate * self.decay_factor ** len(self.decay_at) < 1e-30:
            raise ValueError(
                f"{len(self.decay_at)} drops by decay_factor={self.decay_factor:g} leave nothing "
                f"of learning_rate={self.learning_rate:g} in float32: use fewer, or a larger "
                "factor."
            )
        if self.small_batch >= self.large_batch:
            raise ValueError(
                f"small_batch={self.small_batch} must be smaller than "
                f"large_batch={self.large_batch}: there is no gap between them to study."
            )
        if isinstance(self.task, str):
            _checks.one_of("task", self.task, TASKS)
            object.__setattr__(self, "task", TASKS[self.task]())
        elif not isinstance(self.task, Task):
            raise ValueError(
                f"task must be one of {_named(TASKS)}, or a Task, not {self.task!r}: "
                "study.regression(), say."
            )
        if not isinstance(self.dataset, str | data.Dataset):
            raise ValueError(
                f"dataset must be a name or a gapjax.data.Dataset, not {type(self.dataset)}: "
                "Dataset(train, test) takes any pytrees of arrays."
            )
        check_schedule(self.schedule)
        check_stops(self, "keep", self.keep)
        check_axes(self)
        check_optimizer(self.optimizer, self.hyperparameters)
        data.make_augment(self.augment)
        self._check_regimes()

    def _check_regimes(self) -> None:
        regimes = with_combinations(self, tuple(map(as_regime, self.regimes)))
        names = [regime.name for regime in regimes]
        if not regimes or len(set(names)) < len(names):
            raise ValueError(
                f"regimes must be at least one, each under a name of its own: {names}."
            )
        object.__setattr__(self, "regimes", regimes)
        check_controller(self)
        check_baseline(self.baseline, names, usual=Study.baseline)

    @property
    def hyperparameters(self) -> dict[str, float]:
        """The hyperparameters of the optimizer that are named, not left to its defaults."""
        named = {name: getattr(self, name) for name in HYPERPARAMETERS}
        return {name: value for name, value in named.items() if value is not None}

    @property
    def measures_noise(self) -> bool:
        """Whether the noise of the gradient is measured, for its own sake or to grow by."""
        return self.noise_scale or self.controller is not None

    @property
    def all_regimes(self) -> tuple[Regime, ...]:
        """The regimes, none of them a text any more."""
        return tuple(map(as_regime, self.regimes))

    @property
    def all_seeds(self) -> list[int]:
        """The seeds."""
        return list(range(self.first_seed, self.first_seed + self.seeds))

    def load_dataset(self) -> data.Dataset:
        """The data set itself, or the part of it that is trained on."""
        dataset = self.dataset
        if isinstance(dataset, str):
            dataset = data.load(dataset, data_dir=self.data_dir)
        if self.train_examples is None or isinstance(dataset.train, data.StreamedSplit):
            return dataset
        there = len(jax.tree.leaves(dataset.train)[0])
        if self.train_examples > there:
            raise ValueError(
                f"train_examples={self.train_examples:,} is more than data set {dataset.name} has: "
                f"{there:,} to train on."
            )
        part = jax.tree.map(lambda x: x[: self.train_examples], dataset.train)
        return dataclasses.replace(dataset, train=part)

    def make_network(self, dataset: data.Dataset) -> models.Network:
        """The functional view of the network."""
        model = self.model
        if isinstance(model, str):
            width = None if self.task.width is None else self.task.width(dataset)
            if width is not None and self.task.wider:
                width = max(width, _BYTES)
            model = models.find_network(model, width)
        return models.as_network(model)
