"""How figures look: colours, and SVG that follows the page it is in."""

import io
import re
from collections.abc import Callable, Iterable
from typing import Any

from gapjax.study._findings._result import StudyResult

# Colours as they are on paper; on a page each is a CSS variable, so one drawing is right in light,
# dark and print.
INK, MUTED, GRID = "#1c1f24", "#646b76", "#e3e6ea"
PALETTE = (
    "#2f5fd0",
    "#cc3d4a",
    "#b87a00",
    "#2a8f45",
    "#7d4cc4",
    "#0b8793",
    "#c2508b",
    "#75644f",
    # Of more regimes than eight the others, of the same hues, darker or lighter.
    "#16296b",
    "#ef8f98",
    "#6b4700",
    "#8fcf5a",
    "#3f1c78",
    "#63cfd8",
    "#7d1f55",
    "#b8a892",
)
WIDTH = 5.2  # inches
STYLE: Any = {
    "font.family": "sans-serif",
    "font.size": 10,
    "svg.fonttype": "none",
    "svg.hashsalt": "gapjax",
    "text.color": INK,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "lines.linewidth": 1.6,
}


def color(index: int) -> str:
    """The colour of the regime at ``index``."""
    return PALETTE[index % len(PALETTE)]


def name_points(axis: Any, names: Iterable[tuple[str, tuple[float, float]]]) -> None:
    """A name beside every point, above those that are in its way; after all else is drawn.

    Args:
        axis: with its scales and limits.
        names: each with the place of its point.
    """
    size, points = 8, 72 / axis.figure.dpi
    taken: list[tuple[float, float, float]] = []
    axis.autoscale_view()  # which waits until limits are asked for
    where = [(points * axis.transData.transform(at), at, name) for name, at in names]
    for (x, y), at, name in sorted(where, key=lambda one: (one[0][1], one[0][0])):
        # Room to spare: the layout, which comes later, leaves the axis less than it has now.
        width, tall, up = 0.75 * size * len(name), 1.35 * size, 5.0
        while any(
            x < right and left < x + width and abs(y + up - height) < tall
            for left, right, height in taken
        ):
            up += 1
        taken.append((x, x + width, y + up))
        axis.annotate(name, at, (7, up), textcoords="offset points", color=INK, fontsize=size)


def to_svg(draw: Callable[[Any], None], *, width: float = WIDTH, height: float = 3.5) -> str:
    """What ``draw`` puts on an axis, as SVG that follows the colours of the page it is in."""
    (svg,) = to_svgs([draw], width=width, height=height)
    return svg


def to_svgs(
    draws: Iterable[Callable[[Any], None]], *, width: float = WIDTH, height: float = 3.5
) -> list[str]:
    """Drawings that take each other's place, as ``to_svg``: their axes lie in the same place."""
    import matplotlib

    place, texts = None, []
    with matplotlib.rc_context(STYLE):
        from matplotlib.figure import Figure as Canvas
        from matplotlib.layout_engine import ConstrainedLayoutEngine

        for draw in draws:
            canvas = Canvas(figsize=(width, height))
            canvas.patch.set_alpha(0)
            axis = canvas.add_subplot()
            axis.patch.set_alpha(0)
            draw(axis)
            _plain_powers(axis)
            # Laid out here and once: saving would draw all once more for it.
            if place is None:
                ConstrainedLayoutEngine().execute(canvas)
                place = axis.get_position()
            axis.set_position(place)
            text = io.StringIO()
            canvas.savefig(text, format="svg", metadata={"Date": None})
            texts.append(text.getvalue())
    return [_on_a_page(text) for text in texts]


def _on_a_page(svg: str) -> str:
    """An SVG whose colours are those of the page it is in."""
    svg = svg[svg.index("<svg") :]
    names = {INK: "ink", MUTED: "muted", GRID: "grid"}
    names |= {paper: f"c{i}" for i, paper in enumerate(PALETTE)}
    svg = re.sub("|".join(names), lambda found: f"var(--{names[found[0]]})", svg)
    # Text without a colour of its own would be black, also on a dark page.
    return re.sub(r'(<svg[^>]*?) height="[^"]*"', r'\1 fill="var(--ink)"', svg, count=1)


def _plain_powers(axis: Any) -> None:
    """Label logarithmic axes by letters: formulas at their ticks took a third of the time.

    Where there are enough powers of ten they stand alone, for as much time again.
    """
    from matplotlib.ticker import LogFormatterSciNotation, NullLocator

    class Plain(LogFormatterSciNotation):
        def __call__(self, x: float, pos: Any = None) -> str:
            return _without_formula(super().__call__(x, pos))

    for one in (axis.xaxis, axis.yaxis):
        if one.get_scale() != "log":
            continue
        low, high = one.get_view_interval()
        if high >= 1000 * low:
            one.set_minor_locator(NullLocator())
        for which in ("major", "minor"):
            if type(getattr(one, f"get_{which}_formatter")()) is LogFormatterSciNotation:
                getattr(one, f"set_{which}_formatter")(Plain(labelOnlyBase=which == "major"))


_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def _without_formula(text: str) -> str:
    """``2×10⁻³`` of matplotlib's formula for it."""
    power = re.fullmatch(r"\$\\mathdefault\{(?:(.+)\\times)?10\^\{(-?\d+)\}\}\$", text)
    if power is None:
        return text
    times = f"{power[1]}×" if power[1] else ""
    return f"{times}10{power[2].translate(_RAISED)}"


def label(result: StudyResult, measure: str) -> str:
    task = result.config.task
    return measure.replace("_", " ") + (", %" if measure in task.percent else "")
