"""Remedies: what is changed about training with a batch, each a small object with a few hooks."""

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

import optax

from gapjax import _checks, diffusion, training
from gapjax.study._optimizers import carry_over
from gapjax.study._plan import Plan
from gapjax.study._task import smooth

RHO = 0.05
SMOOTHING = 0.1
LARS_RATE, LAMB_RATE = 10.0, 1e-2
WARMUP = 5 / 90


@dataclasses.dataclass(frozen=True)
class Remedy:
    """What a regime changes about training, in up to six places.

    Every hook is handed the ``Plan`` of the regime, from which it reads what it needs: the batch
    sizes, the study and its fields, how many examples there are. Remedies of a regime act in the
    order in which they are named.

    Attributes:
        name: what regimes call it, a word without ``+``.
        meaning: what it does, in a line.
        source: the paper it is from.
        plan: ``plan -> plan``: rate and budget, by ``dataclasses.replace``.
        network: ``(apply, plan) -> apply``, where ``apply(params, model_state, inputs, *, train,
            key, ghost_size) -> (outputs, model_state)``, in training alone.
        loss: ``(losses [B], batch, key, plan) -> losses [B]``, of training, per example.
        gradient: ``plan -> strategy``, what goes into ``training.make_train_step`` as
            ``gradient=``.
        optimizer: ``(tx, plan) -> tx``, around the optax chain of the study.
        weights: ``(state, plan) -> params``, the weights to evaluate with, of a ``TrainState``.
            Statistics of batch norms are then taken anew, over the training set.
        excludes: names of remedies, and of batches, that it does not go with.

    Raises:
        ValueError: a name that regimes could not call it by, or a hook that is no function.

    Example:
        >>> import dataclasses, optax
        >>> halved = Remedy(
        ...     "HALF", "half the learning rate",
        ...     plan=lambda plan: dataclasses.replace(plan, peak=plan.peak / 2))
        >>> signs = Remedy("SIGN", "signs alone", optimizer=lambda tx, plan: optax.chain(
        ...     optax.scale_by_sign(), tx))
    """

    name: str
    meaning: str
    source: str = ""
    _: dataclasses.KW_ONLY
    plan: Callable[[Plan], Plan] | None = None
    network: Callable[[Callable[..., Any], Plan], Callable[..., Any]] | None = None
    loss: Callable[[Any, Any, Any, Plan], Any] | None = None
    gradient: Callable[[Plan], Any] | None = None
    optimizer: Callable[[Any, Plan], optax.GradientTransformation] | None = None
    weights: Callable[[training.TrainState, Plan], Any] | None = None
    excludes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name or set(self.name) & set("+/\\ \n\t\0"):
            raise ValueError(
                f"the name of a remedy is a word without + or slashes, such as 'HALF', not "
                f"{self.name!r}."
            )
        if not isinstance(self.meaning, str) or not self.meaning.strip():
            raise ValueError(f"remedy {self.name} needs a meaning: what it does, in a line.")
        several = isinstance(self.excludes, list | tuple | set | frozenset)
        if not several or not all(isinstance(name, str) for name in self.excludes):
            raise ValueError(
                f"excludes of remedy {self.name} must be names, such as ('LR',), not "
                f"{self.excludes!r}."
            )
        for hook in HOOKS:
            value = getattr(self, hook)
            if value is not None and not callable(value):
                raise ValueError(f"{hook} of remedy {self.name} must be a function, not {value!r}.")


HOOKS = ("plan", "network", "loss", "gradient", "optimizer", "weights")


def _edit(**changes: Any) -> Callable[[Plan], Plan]:
    """A plan hook that sets fields, from the plan where they are functions of it."""

    def hook(plan: Plan) -> Plan:
        values = {k: v(plan) if callable(v) else v for k, v in changes.items()}
        return dataclasses.replace(plan, **values)

    return hook


def _carried(plan: Plan) -> Plan:
    plan = dataclasses.replace(plan, rule="sqrt")
    if plan.regime.grows:  # half-lives are constants of a chain, and this batch is none
        return plan
    hyper = carry_over(
        plan.optimizer, plan.hyper, batch_size=plan.batch_size, base_batch_size=plan.small_batch
    )
    return dataclasses.replace(plan, hyper=hyper)


def _late(plan: Plan) -> Plan:
    if plan.regime.batch != "seesaw":
        raise ValueError(
            f"regime {plan.name}: LATE says when the batch of SEESAW begins to grow; use it there, "
            "SEESAW+LATE, or leave it out."
        )
    return dataclasses.replace(plan, grows_from=LATE)


def _noise(losses: Any, batch: Any, key: Any, plan: Plan) -> Any:
    del batch
    std = diffusion.noise_std(plan.batch_size, min(plan.small_batch, plan.batch_size))
    return losses * diffusion.example_weights(key, len(losses), std)


def _match(tx: Any, plan: Plan) -> Any:
    assert plan.reference is not None  # a plan that follows another is given it before
    return optax.chain(tx, diffusion.match_diffusion(plan.reference, steps_per_update=plan.pace))


def _average(tx: Any, plan: Plan) -> Any:
    half_life = float(plan.num_examples)
    size = None if plan.regime.grows else plan.batch_size  # the step tells that of each update
    return optax.chain(tx, training.average_weights(half_life, batch_size=size))


def _averaged(state: training.TrainState, plan: Plan) -> Any:
    del plan
    return training.evaluation_params(state.opt_state, state.params)


def _group(plan: Plan) -> int:
    """The examples of a group, of which every batch is whole ones."""
    size = min(plan.small_batch, plan.batch_size)
    if odd := [batch for batch in plan.sizes if batch % size]:
        below = odd[-1] - odd[-1] % size
        near = " or ".join(str(batch) for batch in (below, below + size) if batch)
        raise ValueError(
            f"regime {plan.name}: its gradient is taken in groups of the small batch's {size} "
            f"examples, and a batch of {odd[-1]} is no multiple of that: make it {near}."
        )
    return size


_GROWS_AHEAD = ("HYBRID", "SEESAW")
_GROWS = ("GROW", *_GROWS_AHEAD)
LATE = 0.75
_HOFFER = "Hoffer, Hubara, Soudry 2017, arXiv:1705.08741"

REMEDIES: dict[str, Remedy] = {
    remedy.name: remedy
    for remedy in (
        Remedy(
            "LR",
            "the rate grows with the square root of the batch; "
            "Adam's second moment forgets over as many examples",
            f"{_HOFFER}, section 4; Adam: diffusion.scale_adamw",
            plan=_carried,
            excludes=("LINEAR", *_GROWS_AHEAD),
        ),
        Remedy(
            "LINEAR",
            "the rate grows with the batch",
            "Goyal et al. 2017, arXiv:1706.02677",
            plan=_edit(rule="linear"),
            excludes=("LR", *_GROWS_AHEAD),
        ),
        Remedy(
            "LATE",
            f"the rate of SEESAW falls over the first {100 * LATE:.0f}% of the examples, and the "
            "batch grows from there",
            "Wang et al. 2026, arXiv:2602.14208: a late switch beats an early one",
            plan=_late,
            excludes=("SB", "LB", "GROW", "HYBRID"),
        ),
        Remedy(
            "GBN",
            "batch norm over ghosts of ghost_size examples",
            f"{_HOFFER}, section 5",
            plan=_edit(ghost_size=lambda plan: plan.study.ghost_size),
        ),
        Remedy(
            "RA",
            "as many updates as the small batch, so more epochs",
            f"{_HOFFER}, section 6: regime adaptation",
            plan=_edit(keep="updates"),
            excludes=("LONG", *_GROWS),
        ),
        Remedy(
            "NOISE",
            "losses weighted at random, so that gradients are as noisy as the small batch's",
            f"{_HOFFER}, section 4",
            loss=_noise,
            excludes=_GROWS,
        ),
        Remedy(
            "MATCH",
            "updates scaled so that the weights travel as far as the small batch's",
            f"after {_HOFFER}, section 3",
            plan=_edit(follows=lambda plan: plan.study.baseline[0]),
            optimizer=_match,
            excludes=_GROWS,
        ),
        Remedy(
            "WARMUP",
            f"the rate rises in a line over the first {100 * WARMUP:.1f}% of the updates",
            "Goyal et al. 2017, arXiv:1706.02677, section 2.2: 5 of 90 epochs",
            plan=_edit(warmup=lambda plan: max(plan.warmup, WARMUP)),
        ),
        Remedy(
            "SAM",
            f"the gradient at the worst point within {RHO:g}, in groups of the small batch's size",
            "Foret et al. 2020, arXiv:2010.01412; groups: m-sharpness, its section 4.1",
            gradient=lambda plan: training.sam(RHO, group_size=_group(plan)),
            excludes=("PENALTY",),
        ),
        Remedy(
            "LARS",
            f"SGD whose steps are in proportion to the weights of each layer, rate {LARS_RATE:g}",
            "You, Gitman, Ginsburg 2017, arXiv:1708.03888",
            plan=_edit(optimizer="lars", peak=LARS_RATE, hyper=lambda plan: plan.hyper_of("lars")),
            excludes=("LAMB",),
        ),
        Remedy(
            "LAMB",
            f"Adam whose steps are in proportion to the weights of each layer, rate {LAMB_RATE:g}",
            "You et al. 2019, arXiv:1904.00962",
            plan=_edit(optimizer="lamb", peak=LAMB_RATE, hyper=lambda plan: plan.hyper_of("lamb")),
            excludes=("LARS",),
        ),
        Remedy(
            "EMA",
            "evaluated at a moving average of the weights, of a half-life of one epoch, with "
            "statistics of batch norms taken anew",
            "Polyak, Juditsky 1992, doi:10.1137/0330046; half-life in examples: Busbridge et al. "
            "2023, arXiv:2307.13813",
            optimizer=_average,
            weights=_averaged,
        ),
        Remedy(
            "PENALTY",
            "a penalty on squared gradient norms of groups of the small batch's size",
            "Smith, Dherin, Barrett, De 2021, arXiv:2101.12176: a quarter of the small batch's "
            "rate; by finite differences, Geiping et al. 2021, arXiv:2109.14119",
            gradient=lambda plan: training.penalize_gradient(
                plan.study.learning_rate / 4, group_size=_group(plan)
            ),
            excludes=("SAM",),
        ),
        Remedy(
            "SMOOTH",
            f"labels smoothed by {SMOOTHING:g} in the training loss",
            "Szegedy et al. 2016, arXiv:1512.00567",
            plan=_edit(task=lambda plan: smooth(plan.task, SMOOTHING)),
        ),
        Remedy(
            "PLATEAU",
            "until the training loss no longer improves",
            "Keskar et al. 2017, arXiv:1609.04836, section 2.2",
            plan=_edit(keep="plateau"),
            excludes=("RA", "LONG"),
        ),
        Remedy(
            "LONG",
            "as many examples as the regime that sees most",
            "Shallue et al. 2018, arXiv:1811.03600: at which budget?",
            plan=_edit(keep="longest"),
            excludes=("RA",),
        ),
    )
}


def find_remedies(names: Iterable[Any], regime: str) -> tuple[Remedy, ...]:
    """Remedies by their names, or as they are; those that exclude each other are refused."""
    found: list[Remedy] = []
    for name in names:
        if isinstance(name, Remedy):
            found.append(name)
            continue
        if not isinstance(name, str):
            raise ValueError(
                f"remedies of regime {regime} are names or Remedy objects, not {name!r}."
            )
        _checks.one_of(f"remedy of regime {regime}", name, REMEDIES)
        found.append(REMEDIES[name])
    names = [remedy.name for remedy in found]
    for i, remedy in enumerate(found):
        if remedy.name in names[:i]:
            raise ValueError(f"regime {regime} names remedy {remedy.name} twice.")
    gradients = [remedy.name for remedy in found if remedy.gradient is not None]
    if len(gradients) > 1:
        raise ValueError(
            f"regime {regime}: {' and '.join(gradients)} each say how the gradient is taken; leave "
            "one out."
        )
    return tuple(found)


def check_together(regime: str, batch: str, remedies: Iterable[Remedy]) -> None:
    """Refuse remedies that exclude each other, or the batch."""
    remedies = tuple(remedies)
    there = {remedy.name for remedy in remedies}
    for remedy in remedies:
        if batch in remedy.excludes:
            raise ValueError(
                f"regime {regime}: {remedy.name} ({remedy.meaning}) does not go with {batch}: "
                "leave it out."
            )
        for other in remedy.excludes:
            if other in there:
                raise ValueError(
                    f"regime {regime}: {remedy.name} and {other} exclude each other; leave one out."
                )
