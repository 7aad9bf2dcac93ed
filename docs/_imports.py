"""The import graph of the house, drawn from the code: run this file to write imports.svg."""

import ast
import pathlib
from itertools import product

HERE = pathlib.Path(__file__).parent
PACKAGE = HERE.parent / "gapjax"
ROWS = (
    ("cli",),
    ("study",),
    ("models", "data", "training"),
    ("landscape", "growth", "diffusion", "ghost"),
)
WIDTH, HEIGHT, BOX = 640, 90, (110, 34)


def edges() -> set[tuple[str, str]]:
    """Which folder imports which, at any depth."""
    folders = {name for row in ROWS for name in row}
    found = set()
    for path in PACKAGE.rglob("*.py"):
        here = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        here = "cli" if here == "_commands" else here  # what it calls
        for node in ast.walk(ast.parse(path.read_text())):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [f"{node.module}.{alias.name}" for alias in node.names]
            for name in names:
                parts = name.split(".")
                if parts[0] == "gapjax" and len(parts) > 1 and {here, parts[1]} <= folders:
                    found.add((here, parts[1]))
    return {(here, there) for here, there in found if here != there}


def draw() -> str:
    """The graph as SVG, an arrow from who imports to what is imported."""
    places = {
        name: ((i + 1) * WIDTH / (len(row) + 1), 30 + HEIGHT * level)
        for level, row in enumerate(ROWS)
        for i, name in enumerate(row)
    }
    order = {name: i for i, name in enumerate(places)}
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT * len(ROWS)}" '
        'font-family="sans-serif" font-size="14">',
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="7" '
        'markerHeight="7" orient="auto"><path d="M0 0L8 4L0 8z" fill="#8a929e"/></marker></defs>',
    ]
    drawn = edges()
    for here, there in sorted(product(places, places), key=lambda e: [order[n] for n in e]):
        if (here, there) in drawn:
            (x, y), (to_x, to_y) = places[here], places[there]
            lines.append(
                f'<line x1="{x:g}" y1="{y + BOX[1] / 2:g}" x2="{to_x:g}" '
                f'y2="{to_y - BOX[1] / 2:g}" stroke="#8a929e" marker-end="url(#tip)"/>'
            )
    for name, (x, y) in places.items():
        lines.append(
            f'<rect x="{x - BOX[0] / 2:g}" y="{y - BOX[1] / 2:g}" width="{BOX[0]}" '
            f'height="{BOX[1]}" rx="6" fill="#eef1f6" stroke="#2f5fd0"/>'
        )
        lines.append(
            f'<text x="{x:g}" y="{y + 5:g}" text-anchor="middle" fill="#1c1f24">{name}</text>'
        )
    return "\n".join([*lines, "</svg>", ""])


if __name__ == "__main__":
    (HERE / "imports.svg").write_text(draw())
