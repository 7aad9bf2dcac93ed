"""What the pages show runs, or says why not; what they name is there; what is built is new."""

import contextlib
import importlib
import io
import os
import pathlib
import pkgutil
import re
import shlex
import sys

import jax
import pytest

import gapjax
from gapjax import cli

ROOT = pathlib.Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(p for p in DOCS.rglob("*.md") if not {"_build", "runbooks", "papers"} & {*p.parts})
BLOCK = re.compile(r"(<!-- not run: [^>]+ -->\n)?^```(\w+)\n(.*?)^```$", re.M | re.S)
RUN = ("python", "sh")
sys.path.insert(0, str(DOCS))


def _name(path):
    return str(path.relative_to(DOCS))


def _blocks(path):
    """Kind and text of every block that is to run, in order."""
    found = BLOCK.findall(path.read_text())
    for _, kind, _ in found:
        assert kind in RUN, f"a block of {kind} is never run: python and sh are"
    return [(kind, text) for reason, kind, text in found if not reason]


@pytest.mark.slow
@pytest.mark.parametrize("path", [p for p in PAGES if _blocks(p)], ids=_name)
def test_blocks_run(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "agg")
    names = {}
    as_usual = jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow")
    for kind, text in _blocks(path):
        with as_usual[0], as_usual[1], contextlib.redirect_stdout(io.StringIO()):
            if kind == "python":
                exec(compile(text, _name(path), "exec"), names)
                continue
            for line in text.splitlines():
                program, *arguments = shlex.split(line)
                assert program == "gapjax", f"{line}: say why it is not run"
                assert cli.main(arguments) == 0


@pytest.mark.parametrize("path", PAGES, ids=_name)
def test_links_within_the_site_lead_somewhere(path):
    text = path.read_text()
    for target in re.findall(r"\{doc\}`(?:[^`<]*<)?([^`>]+)>?`", text):
        assert (path.parent / f"{target}.md").exists(), target
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", text):
        assert (path.parent / target).exists(), target
    for target in re.findall(r"\{func\}`([^`]+)`|\{class\}`([^`]+)`", text):
        module, _, name = (target[0] or target[1]).rpartition(".")
        assert name in importlib.import_module(module).__all__, target


def test_substitutions_are_known():
    from _evidence import evidence
    from _gallery import gallery

    known = evidence() | {"gallery": gallery()}
    used = {name for p in PAGES for name in re.findall(r"\{\{ (\w+) \}\}", p.read_text())}
    assert used <= set(known)
    assert set(known) == used  # nothing is read that no page shows


def _public_modules():
    for package in pkgutil.iter_modules(gapjax.__path__):
        if package.ispkg:
            module = importlib.import_module(f"gapjax.{package.name}")
            yield module
            for part in pkgutil.iter_modules(module.__path__):
                if not part.name.startswith("_"):
                    yield importlib.import_module(f"{module.__name__}.{part.name}")


@pytest.mark.parametrize("module", list(_public_modules()), ids=lambda module: module.__name__)
def test_reference_holds_every_public_module(module):
    text = "\n".join(p.read_text() for p in (DOCS / "reference").glob("*.md"))
    assert f".. automodule:: {module.__name__}\n" in text  # and with it, its __all__
    assert module.__all__ and module.__doc__


def test_drawing_of_imports_is_up_to_date():
    import _imports

    assert (DOCS / "imports.svg").read_text() == _imports.draw(), "run: python docs/_imports.py"


def test_every_page_is_in_a_table_of_contents():
    entries = set()
    for path in PAGES:
        for block in re.findall(r"```\{toctree\}\n(.*?)```", path.read_text(), re.S):
            for line in block.splitlines():
                if line and not line.startswith(":"):
                    entries.add(os.path.normpath(path.parent / line))
    for path in PAGES:
        if path != DOCS / "index.md":
            assert str(path.with_suffix("")) in entries, path


def test_citation_names_the_release():
    text = (ROOT / "CITATION.cff").read_text()
    assert f"\nversion: {gapjax.__version__}\n" in text
    assert "\nlicense: Apache-2.0\n" in text


def test_methods_have_a_card_each():
    from gapjax import study

    text = (DOCS / "methods.md").read_text()
    batches = [name for name in study.BATCHES if name not in ("SB", "LB")]
    for name in (*study.REMEDIES, *batches):
        assert re.search(rf"\b{name}\b", text), f"{name} has no card"
