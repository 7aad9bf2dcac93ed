"""Every notebook runs from its first cell to its last, and shows pictures."""

import pathlib

import nbclient
import nbformat
import pytest

COLABS = pathlib.Path(__file__).parent.parent / "colabs"


@pytest.mark.filterwarnings("ignore::DeprecationWarning:(zmq|tornado|jupyter_client).*")
@pytest.mark.parametrize("path", sorted(COLABS.glob("*.ipynb")), ids=lambda path: path.stem)
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
