r"""What each remedy does by itself, and what two do together, where all combinations were trained.

With :math:`m_c` the headline metric of a combination c of k remedies, and signs
:math:`s_A(c) = \pm 1` that say whether A is in it,

.. math:: \mathrm{effect}(A) = 2^{1-k} \sum_c s_A(c)\, m_c, \qquad
    \mathrm{interaction}(A, B) = 2^{2-k} \sum_c s_A(c)\, s_B(c)\, m_c:

what A adds, the mean over all combinations of the others; and how much more it adds where B is.
"""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence

import numpy as np

from gapjax.study._findings._gap import Examples, of_run, weight_of
from gapjax.study._findings._intervals import LEVEL, Interval, holm, paired_difference
from gapjax.study._results._records import Config, RegimeRecord


@dataclasses.dataclass(frozen=True)
class Effect:
    """What a remedy adds to the headline metric, or what two add together.

    Attributes:
        remedies: one, of a main effect, or two, of an interaction.
        estimate: of the headline metric, with its interval over seeds and test examples.
        p_adjusted: its p value adjusted for all effects (Holm); None where there is none.
    """

    remedies: list[str]
    estimate: Interval
    p_adjusted: float | None

    @property
    def resolved(self) -> bool:
        """Whether it is significant, all effects counted."""
        return self.p_adjusted is not None and self.p_adjusted < 1 - LEVEL


def find_effects(
    records: Mapping[str, RegimeRecord], examples: Examples, config: Config
) -> list[Effect]:
    """The main effects and pairwise interactions; none where not all combinations are done."""
    factors: Sequence[str] = config.study.get("factorial", ())
    names = combinations(config.baseline[1], factors)
    if not factors or not set(names.values()) <= set(records):
        return []
    tables = {
        there: of_run(examples[name], config.task.headline, "run", records[name])
        for there, name in names.items()
    }
    if len({table.shape for table in tables.values()}) > 1:
        return []
    weight = weight_of(examples, config)
    found = []
    for some in (*itertools.combinations(factors, 1), *itertools.combinations(factors, 2)):
        signs = [np.prod([1.0 if f in there else -1.0 for f in some]) for there in tables]
        contrast = np.tensordot(signs, np.stack(list(tables.values())), 1)
        contrast *= 2.0 ** (len(some) - len(factors))
        if not contrast.any():  # tuned, rules of one algorithm are one: there is no effect to tell
            continue
        none = np.zeros_like(contrast)
        found.append(Effect(list(some), paired_difference(contrast, none, weight=weight), None))
    told = [effect for effect in found if effect.estimate.p_value is not None]
    adjusted = iter(holm([effect.estimate.p_value or 0.0 for effect in told]))
    return [
        dataclasses.replace(effect, p_adjusted=next(adjusted)) if effect in told else effect
        for effect in found
    ]


def combinations(base: str, factors: Sequence[str]) -> dict[frozenset[str], str]:
    """Which remedies -> the name of the regime that has them, in the order of the factors.

    Example:
        >>> list(combinations("LB", ("LR", "GBN")).values())
        ['LB', 'LB+LR', 'LB+GBN', 'LB+LR+GBN']
    """
    return {
        frozenset(some): "+".join([base, *some])
        for size in range(len(factors) + 1)
        for some in itertools.combinations(factors, size)
    }
