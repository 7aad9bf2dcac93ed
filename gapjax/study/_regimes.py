"""Regimes: one way each to train the same network."""

import dataclasses

from gapjax import _checks


@dataclasses.dataclass(frozen=True)
class Regime:
    """How a study trains: which batch, and which remedies.

    Attributes:
        name: what tables and files call it.
        batch: ``"small"`` or ``"large"`` (the study's sizes), or a number of examples.
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

    def __post_init__(self) -> None:
        if not self.name or set(self.name) & set("/\\\0") or self.name.startswith("."):
            raise ValueError(
                f"a regime's name becomes a file name: {self.name!r} must not be empty, start with "
                "a dot or hold a slash."
            )
        if isinstance(self.batch, str):
            _checks.one_of(f"batch of regime {self.name}", self.batch, ("small", "large"))
        else:
            _checks.positive_int(f"batch of regime {self.name}", self.batch)
        _checks.one_of(f"rule of regime {self.name}", self.rule, ("none", "sqrt", "linear"))
        _checks.one_of(f"keep of regime {self.name}", self.keep, ("epochs", "updates"))


# Cumulative, as in the tables of Hoffer et al. (2017).
REGIMES = {
    regime.name: regime
    for regime in (
        Regime("SB", batch="small"),
        Regime("LB"),
        Regime("LB+LR", rule="sqrt"),
        Regime("LB+LR+GBN", rule="sqrt", ghost=True),
        Regime("LB+LR+GBN+RA", rule="sqrt", ghost=True, keep="updates"),
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
