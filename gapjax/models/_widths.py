"""Thin siblings: the same network with every width divided."""

from collections.abc import Sequence

from gapjax import _checks


def thinned(widths: Sequence[int], thin: int) -> tuple[int, ...]:
    """Widths divided by ``thin``.

    Raises:
        ValueError: it does not divide one of them.

    Example:
        >>> thinned((64, 384), 4)
        (16, 96)
    """
    _checks.positive_int("thin", thin)
    for width in widths:
        if width % thin:
            fitting = [n for n in range(1, width + 1) if not any(w % n for w in widths)]
            raise ValueError(
                f"thin={thin} does not divide a width of {width}: use one of "
                f"{', '.join(map(str, fitting))}."
            )
    return tuple(width // thin for width in widths)
