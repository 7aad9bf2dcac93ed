"""Regimes: one way each to train the same network."""

import dataclasses

from gapjax import _checks


@dataclasses.dataclass(frozen=True)
class Regime:
    """How a study trains: which batch, and which remedies.

    Attributes:
        name: what tables and files call it.
        batch: ``"small"`` or ``"large"`` (the study's sizes), a number of examples, or ``"grow"``:
            from small towards large, growing where the learning rate would drop (Smith et al.
            2018).
        rule: how the learning rate follows the batch size: ``"none"``, ``"sqrt"`` (Hoffer et al.
            2017, section 4) or ``"linear"``.
        ghost: whether batch norms normalize ghosts of the study's ghost size.
        keep: the budget: ``"epochs"`` (as many examples as the small batch sees, so fewer
            updates) or ``"updates"`` (regime adaptation, Hoffer et al. 2017, section 5: as many
            updates, so more epochs).

    Raises:
        ValueError: an unknown word, or a batch that is not positive.

    Example:
        >>> Regime("LB+linear", rule="linear").keep
        'epochs'
    """

    name: str
    batch: str | int = "large"
    rule: str = "none"
    ghost: bool = False
    keep: str = "epochs"
    noise: bool = False
    match: str | None = None
    growths: int | None = None

    def __post_init__(self) -> None:
        if not self.name or set(self.name) & set("/\\\0") or self.name.startswith("."):
            raise ValueError(
                f"a regime's name becomes a file name: {self.name!r} must not be empty, start with "
                "a dot or hold a slash."
            )
        if isinstance(self.batch, str):
            _checks.one_of(f"batch of regime {self.name}", self.batch, ("small", "large", "grow"))
        else:
            _checks.positive_int(f"batch of regime {self.name}", self.batch)
        _checks.one_of(f"rule of regime {self.name}", self.rule, ("none", "sqrt", "linear"))
        _checks.one_of(f"keep of regime {self.name}", self.keep, ("epochs", "updates"))
        grows = self.batch == "grow"
        if grows and (self.rule, self.keep, self.noise) != ("none", "epochs", False):
            raise ValueError(
                f"regime {self.name}: a batch that grows takes the place of the learning rate's "
                'drops, at the same epochs: leave rule="none", keep="epochs", noise=False.'
            )
        if self.growths is not None:
            _checks.positive_int(f"growths of regime {self.name}", self.growths)
            if not grows:
                raise ValueError(f'regime {self.name}: growths goes with batch="grow".')


# The first five are cumulative, as in the tables of Hoffer et al. (2017).
STANDARD = (
    Regime("SB", batch="small"),
    Regime("LB"),
    Regime("LB+LR", rule="sqrt"),
    Regime("LB+LR+GBN", rule="sqrt", ghost=True),
    Regime("LB+LR+GBN+RA", rule="sqrt", ghost=True, keep="updates"),
)
REGIMES = {
    regime.name: regime
    for regime in (
        *STANDARD,
        Regime("LB+NOISE", noise=True),
        Regime("LB+MATCH", match="SB"),
        Regime("GROW", batch="grow"),
        Regime("GROW+GBN", batch="grow", ghost=True),
        Regime("HYBRID", batch="grow", growths=1),
    )
}


def as_regime(regime: Regime | str) -> Regime:
    """A regime by its name, or as it is.

    Raises:
        ValueError: a name that is not among the standard regimes.
    """
    if isinstance(regime, Regime):
        return regime
    _checks.one_of("regime", regime, REGIMES)
    return REGIMES[regime]
