"""What a study is: data, network, optimizer, budget, regimes. Presets are studies with a name."""

import dataclasses
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import optax

from gapjax import _checks, data, models
from gapjax.study._regimes import REGIMES, STANDARD, Regime, as_regime

MODELS: dict[str, Callable[..., Any]] = {
    "digits-mlp": models.digits_mlp,
    "f1": models.f1,
    "resnet44": models.resnet44,
}


def _field(default: Any, help: str) -> Any:
    return dataclasses.field(default=default, metadata={"help": help})


@dataclasses.dataclass(frozen=True)
class Study:
    """Which network is trained on what, in which regimes, over how many seeds.

    The schedule of the learning rate is written for the small batch, in its updates:
    ``learning_rate``, multiplied by ``decay_factor`` at each fraction of the budget in
    ``decay_at``. Every regime adapts it by its own rule.

    Attributes:
        dataset: a name (``"digits"``, or any TFDS name), or a ``gapjax.data.Dataset``.
        model: a name (``"digits-mlp"``, ``"f1"``, ``"resnet44"``), any linen module, or a function
            from ``nnx.Rngs`` to an nnx module. An nnx module that was built already is the start of
            every seed, as the report then says.
        optimizer: ``"sgd"`` or ``"adam"``, after clipping and weight decay as set below; or a
            function from a learning-rate schedule to any optax chain, which then stands alone.
        regimes: names of standard regimes, or ``Regime``s.
        seeds: how many seeds train at once, each with its own start and its own order of examples;
            the same seed starts alike in every regime.

    The other fields are explained by ``gapjax study --help``.

    Raises:
        ValueError: a field that cannot be, by name, with what would fit.

    Example:
        >>> Study(seeds=4, regimes=("SB", "LB")).large_batch
        640
    """

    dataset: Any = _field("digits", "data set: digits (embedded), or any TFDS name")
    model: Any = _field("digits-mlp", "network: digits-mlp, f1 or resnet44")
    optimizer: Any = _field("sgd", "optimizer: sgd or adam")
    regimes: Sequence[Regime | str] = _field(
        tuple(regime.name for regime in STANDARD), f"regimes to train, of {', '.join(REGIMES)}"
    )
    seeds: int = _field(8, "seeds per regime, trained at once")
    first_seed: int = _field(0, "the first seed; the others follow it")
    epochs: float = _field(20.0, "passes of the small batch over the data")
    small_batch: int = _field(16, "examples per update in the small-batch regime")
    large_batch: int = _field(640, "examples per update in the large-batch regimes")
    ghost_size: int = _field(16, "examples per ghost in regimes with ghost batch norm")
    learning_rate: float = _field(0.05, "the rate at the small batch, before any decay")
    decay_at: tuple[float, ...] = _field(
        (0.5, 0.75), "when the rate drops, in fractions of training"
    )
    decay_factor: float = _field(0.1, "what each drop multiplies the rate by")
    momentum: float = _field(0.9, "momentum of sgd; adam has its own")
    weight_decay: float = _field(1e-4, "weight decay, added to the gradient")
    clip_norm: float = _field(5.0, "global norm to which larger gradients are scaled down")
    tune: int = _field(0, "rates to try around each regime's rule, on a validation split; 0: none")
    validation: float = _field(0.2, "share of the training set that --tune validates on")
    evaluations: int = _field(40, "points on each learning curve")
    loss_levels: tuple[float, ...] = _field(
        (), "training losses at which --landscape compares the regimes on their way down, too"
    )

    def __post_init__(self) -> None:
        for name in ("seeds", "small_batch", "large_batch", "ghost_size", "evaluations"):
            _checks.positive_int(name, getattr(self, name))
        for name in ("epochs", "learning_rate", "decay_factor", "clip_norm"):
            _checks.positive_float(name, getattr(self, name))
        for name in ("first_seed", "tune", "weight_decay", "momentum"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must not be negative, and is {getattr(self, name)!r}.")
        if self.first_seed + self.seeds > 2**32:
            raise ValueError(
                f"first_seed must be at most {2**32 - self.seeds} for {self.seeds} seeds, and is "
                f"{self.first_seed}."
            )
        if not self.momentum < 1:
            raise ValueError(f"momentum must be below 1, and is {self.momentum!r}.")
        if not 0 < self.validation < 1:
            raise ValueError(f"validation must lie between 0 and 1, and is {self.validation!r}.")
        if list(self.decay_at) != sorted(set(self.decay_at)) or not all(
            0 < fraction < 1 for fraction in self.decay_at
        ):
            raise ValueError(
                f"decay_at must be rising fractions between 0 and 1, and is {self.decay_at!r}."
            )
        if any(not level > 0 for level in self.loss_levels):
            raise ValueError(f"loss_levels must be losses above 0, and are {self.loss_levels!r}.")
        if self.small_batch >= self.large_batch:
            raise ValueError(
                f"small_batch={self.small_batch} must be smaller than "
                f"large_batch={self.large_batch}: there is no gap between them to study."
            )
        if isinstance(self.model, str):
            _checks.one_of("model", self.model, MODELS)
        if isinstance(self.optimizer, str):
            _checks.one_of("optimizer", self.optimizer, ("sgd", "adam"))
        elif not callable(self.optimizer):
            raise ValueError(
                "optimizer must be 'sgd', 'adam' or a function from a learning-rate schedule to an "
                f"optax chain, not {self.optimizer!r}: write optimizer=lambda lr: optax.sgd(lr)."
            )
        regimes = tuple(map(as_regime, self.regimes))
        names = [regime.name for regime in regimes]
        if not regimes or len(set(names)) < len(names):
            raise ValueError(
                f"regimes must be at least one, each under a name of its own: {names}."
            )
        for i, regime in enumerate(regimes):
            if regime.match is not None and regime.match not in names[:i]:
                raise ValueError(
                    f"regime {regime.name} follows {regime.match}, which must be among the regimes "
                    f"before it: {names}."
                )
        object.__setattr__(self, "regimes", regimes)

    def make_optimizer(self, schedule: optax.Schedule) -> optax.GradientTransformation:
        """The optax chain for one schedule of the learning rate."""
        if callable(self.optimizer):
            return self.optimizer(schedule)
        step = (
            optax.sgd(schedule, momentum=self.momentum or None)
            if self.optimizer == "sgd"
            else optax.adam(schedule)
        )
        return optax.chain(
            optax.clip_by_global_norm(self.clip_norm),
            optax.add_decayed_weights(self.weight_decay),
            step,
        )

    def load_dataset(self) -> data.Dataset:
        """The data set itself."""
        return data.load(self.dataset) if isinstance(self.dataset, str) else self.dataset

    def make_network(self, num_classes: int) -> models.Network:
        """The functional view of the network."""
        model = MODELS[self.model](num_classes) if isinstance(self.model, str) else self.model
        return models.as_network(model)


# How the default preset was chosen stands in the README; the test set had no part in it.
PRESETS: dict[str, tuple[str, Study]] = {
    "digits": ("the embedded digits: minutes on a laptop, no download", Study()),
    "smith-digits": (
        "the digits, Smith et al. (2018): decay the rate, grow the batch, or half of each",
        Study(regimes=("SB", "HYBRID", "GROW", "GROW+GBN")),
    ),
    "keskar-digits": (
        "Adam on the digits until the loss stops improving, as Keskar et al. (2017); --landscape",
        Study(
            optimizer="adam",
            regimes=("SB", "LB"),
            seeds=5,
            epochs=100.0,
            large_batch=128,  # 10% of the data
            learning_rate=1e-3,
            decay_at=(),
            weight_decay=0.0,
            clip_norm=1e6,  # never reached: the paper does not clip
            evaluations=200,
            loss_levels=(0.3, 0.1, 0.03, 0.01, 0.003, 0.001),
        ),
    ),
    "hoffer-f1-mnist": (
        "F1 on MNIST with the batches of Hoffer et al. (2017)",
        Study(
            dataset="mnist",
            model="f1",
            epochs=50.0,
            small_batch=128,
            large_batch=4096,
            ghost_size=128,
            learning_rate=0.1,
            decay_at=(0.2, 0.4, 0.6),
            seeds=5,
        ),
    ),
}


def preset(name: str) -> Study:
    """A study by the name of its preset.

    Raises:
        ValueError: an unknown name.

    Example:
        >>> preset("digits").seeds
        8
    """
    _checks.one_of("preset", name, PRESETS)
    return PRESETS[name][1]


def describe(study: Study) -> dict[str, Any]:
    """The study as JSON-able values, the same for the same study: what a folder belongs to."""
    values = {f.name: getattr(study, f.name) for f in dataclasses.fields(study)}
    values["regimes"] = [dataclasses.asdict(regime) for regime in study.regimes]  # type: ignore[arg-type]
    values |= {"decay_at": list(study.decay_at), "loss_levels": list(study.loss_levels)}
    if not isinstance(study.dataset, str):
        values["dataset"] = study.dataset.name
    if not isinstance(study.model, str):
        values["model"] = models.as_network(study.model).describe
    if not isinstance(study.optimizer, str):
        values["optimizer"] = _source(study.optimizer)
    return values


def _source(function: Callable[..., Any]) -> str:
    """The source of a function where it can be had, else its name."""
    try:
        return " ".join(inspect.getsource(function).split())
    except (OSError, TypeError):
        return getattr(function, "__qualname__", type(function).__qualname__)
