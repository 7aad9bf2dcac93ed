"""The notebooks as a table: a picture of each, its title, and what it shows."""

import base64
import io
import json
import pathlib
from typing import Any

from PIL import Image

COLABS = pathlib.Path(__file__).parent.parent / "colabs"
_WIDTH = 320  # pixels


def _picture(cells: list[dict[str, Any]]) -> str:
    """The first of a notebook, small, as the address of an image."""
    outputs = [output.get("data", {}) for cell in cells for output in cell.get("outputs", [])]
    data = base64.b64decode(next(one["image/png"] for one in outputs if "image/png" in one))
    image = Image.open(io.BytesIO(data)).convert("RGB")
    image.thumbnail((_WIDTH, _WIDTH))
    made = io.BytesIO()
    image.save(made, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(made.getvalue()).decode()


def gallery() -> str:
    """A row for every notebook, in order."""
    rows = ["| | |", "|---|---|"]
    for path in sorted(COLABS.glob("*.ipynb")):
        cells = json.loads(path.read_text())["cells"]
        head = next(c for c in cells if "".join(c["source"]).startswith("# "))
        title, _, shows, *_ = "".join(head["source"]).split("\n")
        page = f"colabs/{path.stem}"
        image = f'<a href="{page}.html"><img src="{_picture(cells)}" alt="{title[2:]}"></a>'
        rows.append(f"| {image} | {{doc}}`{page}`<br>{shows.strip('*')} |")
    return "\n".join(rows)
