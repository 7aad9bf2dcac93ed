"""Every notebook runs from first cell to last, shows pictures, and is what its text says."""

import importlib.util
import pathlib

import nbclient
import nbformat
import pytest

COLABS = pathlib.Path(__file__).parent.parent / "colabs"
_SPEC = importlib.util.spec_from_file_location("sync", COLABS / "sync.py")
sync = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(sync)
NOTEBOOKS = sorted(COLABS.glob("*.ipynb"))


@pytest.mark.filterwarnings("ignore::DeprecationWarning:(zmq|tornado|jupyter_client).*")
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
@pytest.mark.slow
def test_notebook_runs(path, tmp_path, monkeypatch):
    # The notebook's own process finds the package of this checkout, whether or not it is installed.
    monkeypatch.setenv("PYTHONPATH", str(COLABS.parent))
    monkeypatch.delenv("MPLBACKEND", raising=False)  # pictures go into the notebook
    notebook = nbformat.read(path, as_version=4)
    client = nbclient.NotebookClient(
        notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}
    )
    client.execute()
    outputs = [o for cell in notebook.cells for o in cell.get("outputs", [])]
    assert not [o for o in outputs if o.get("name") == "stderr"]
    assert any("image/png" in o.get("data", {}) for o in outputs)


def test_every_text_has_its_notebook():
    assert [path.stem for path in sync.texts()] == [path.stem for path in NOTEBOOKS]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_is_what_its_text_says(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    made = sync.notebook(path.with_suffix(".py"))
    found, said = ([(c.id, c.cell_type, c.source) for c in n.cells] for n in (notebook, made))
    told = f"python colabs/sync.py {path.stem}"
    assert found == said, f"run: {told}"
    outputs = [o for cell in notebook.cells for o in cell.get("outputs", [])]
    assert any("image/png" in o.get("data", {}) for o in outputs), f"no outputs are kept: {told}"


def test_cells_of_a_text(tmp_path):
    text = tmp_path / "09_x.py"
    text.write_text("# %% [markdown]\n# # A\n#\n# b\n\n# %%\nx = 1\n\n\n# %%\nx\n")
    made = sync.notebook(text)
    nbformat.validate(made)
    badge, install, *rest = made.cells
    assert "09_x.ipynb" in badge.source and "pip install" in install.source
    found = [(cell.cell_type, cell.source) for cell in rest]
    assert found == [("markdown", "# A\n\nb"), ("code", "x = 1"), ("code", "x")]
