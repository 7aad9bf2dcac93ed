"""Notebooks from their texts: `python colabs/sync.py [NAME ...]` runs them, outputs included.

A notebook is written as text, `NAME.py`, in the percent format of jupytext. This adds the first two
cells, runs the rest from a clean kernel and writes `NAME.ipynb`. A test checks that both agree.
"""

import pathlib
import sys
import tempfile

import jupytext
import nbclient
import nbformat

HERE = pathlib.Path(__file__).parent
REPOSITORY = "gapjax/gapjax"  # owner and name on the code host
INSTALL = f"git+https://github.com/{REPOSITORY}"  # what pip installs in Colab

_BADGE = (
    "[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)]"
    "(https://colab.research.google.com/github/{repository}/blob/main/colabs/{name}.ipynb)"
)
_INSTALL = """\
try:
    import gapjax
except ImportError:  # Colab: nothing has to be changed elsewhere
    %pip install -q {install}
    import gapjax"""


def texts() -> list[pathlib.Path]:
    """The notebooks as texts, in order."""
    return sorted(path for path in HERE.glob("*.py") if path.name[0].isdigit())


def notebook(path: pathlib.Path) -> nbformat.NotebookNode:
    """The notebook that a text stands for, not run: badge and install cell, then its cells."""
    first = [
        nbformat.v4.new_markdown_cell(_BADGE.format(repository=REPOSITORY, name=path.stem)),
        nbformat.v4.new_code_cell(_INSTALL.format(install=INSTALL)),
    ]
    made = nbformat.v4.new_notebook(cells=first + jupytext.read(path).cells)
    for i, cell in enumerate(made.cells):
        cell.id = f"cell-{i}"  # the same whenever it is made
    made.metadata["kernelspec"] = {
        "display_name": "Python 3",
        "language": "python",
        "name": "python3",
    }
    return made


def run(path: pathlib.Path) -> None:
    """Run a text from a clean kernel, in a folder of its own, and write its notebook."""
    made = notebook(path)
    with tempfile.TemporaryDirectory() as folder:
        client = nbclient.NotebookClient(
            made, timeout=900, resources={"metadata": {"path": folder}}, record_timing=False
        )
        client.execute()
    made.metadata["language_info"] = {"name": "python"}  # not the version that ran it
    for cell in made.cells:
        for output in cell.get("outputs", []):
            if output.get("name") == "stderr":
                raise RuntimeError(f"{path.name} writes to stderr: {output['text']}")
    nbformat.write(made, path.with_suffix(".ipynb"))
    print(path.with_suffix(".ipynb"))


if __name__ == "__main__":
    for text in texts():
        if not sys.argv[1:] or text.stem in sys.argv[1:]:
            run(text)
