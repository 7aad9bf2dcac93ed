"""Quantiles of Student's t, by which every interval of a few values reaches."""

import functools


@functools.lru_cache(maxsize=1024)  # an interval that is searched for asks for few, many times
def t_quantile(freedom: float, tail: float = 0.025) -> float:
    """How many standard errors a two-sided interval reaches from its middle.

    Args:
        freedom: degrees of freedom; infinite for the normal law. NaN comes of none.
        tail: probability beyond either end; that of a 95% interval unless told.
    """
    from scipy.special import stdtrit  # imported here: scipy.special takes a while to load

    return -float(stdtrit(freedom, tail))
