"""The house rules: imports go one way, `import gapjax` is light, every public name has one path."""

import ast
import importlib
import itertools
import pathlib
import pkgutil
import re
import subprocess
import sys
import tomllib

import pytest
from packaging.version import Version

import gapjax

ROOT = pathlib.Path(gapjax.__file__).parent
IDEAS = {"ghost", "diffusion", "growth", "landscape"}
ALLOWED = {
    **{idea: set() for idea in IDEAS},
    "training": IDEAS,
    "data": set(),
    "models": IDEAS,
    "study": IDEAS | {"models", "data", "training"},
    "cli": {"study", "data", "growth", "training"},
}
FLAX = {f"{idea}/{module}.py" for idea in ("ghost", "growth") for module in ("linen", "nnx")}


def _imports(path):
    """Every module a file imports, at any depth, as dotted names."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import; use the full name"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


FILES = sorted(p for p in ROOT.rglob("*.py") if p.parent != ROOT or p.stem == "cli")


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_go_one_way(path):
    relative = path.relative_to(ROOT)
    here = relative.parts[0].removesuffix(".py")
    for name in _imports(path):
        parts = name.split(".")
        if parts[0] == "gapjax" and len(parts) > 1 and parts[1] in ALLOWED:
            there = parts[1]
            assert there == here or there in ALLOWED[here], f"{relative} imports {name}"
        if parts[0] == "flax" and here in IDEAS | {"training", "data"}:
            assert str(relative) in FLAX, f"{relative} imports {name}"


SECTIONS = ("Args:", "Attributes:", "Returns:", "Raises:", "Yields:", "Example:", "References:")


def test_docstrings_have_one_form():
    """Google's, with what stands under a heading four columns to the right of it."""
    documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            text = ast.get_docstring(node) if isinstance(node, documented) else None
            for head, first in itertools.pairwise((text or "").splitlines()):
                if head in SECTIONS:
                    assert len(first) - len(first.lstrip()) == 4, f"{path}: {head} {first}"


def _lines_of_code(text):
    """Lines that hold code: neither blank, nor a comment, nor part of a docstring."""
    told = set()
    for node in ast.walk(ast.parse(text)):
        documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
        if isinstance(node, documented) and ast.get_docstring(node) is not None:
            told |= set(range(node.body[0].lineno, node.body[0].end_lineno + 1))
    lines = enumerate(text.splitlines(), start=1)
    return sum(bool(x.strip()) and x.strip()[0] != "#" and i not in told for i, x in lines)


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_files_stay_small(path):
    assert _lines_of_code(path.read_text()) <= 300


def test_import_is_light():
    heavy = [
        "tensorflow",
        "tensorflow_datasets",
        "orbax",
        "matplotlib",
        "sklearn",
        "flax",
        "rich",
        "tyro",
        "jinja2",
    ]
    code = (
        "import sys, gapjax\n"
        f"print([name for name in {heavy} if name in sys.modules])\n"
        "import gapjax.training, gapjax.growth, gapjax.diffusion, gapjax.landscape, gapjax.data\n"
        "gapjax.data.load('digits')\n"
        f"print([name for name in {heavy} if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:2] == ["[]", "[]"]


def _packages():
    return [m.name for m in pkgutil.iter_modules([str(ROOT)]) if m.ispkg]


@pytest.mark.parametrize("package", _packages())
def test_public_names_are_documented_and_have_one_path(package):
    module = importlib.import_module(f"gapjax.{package}")
    assert module.__doc__
    for name in getattr(module, "__all__", []):
        value = getattr(module, name)
        if callable(value):
            assert value.__doc__, f"gapjax.{package}.{name} has no docstring"
        assert not hasattr(gapjax, name), f"{name} has a second path at the top level"
    public = [m.name for m in pkgutil.iter_modules(module.__path__) if not m.name.startswith("_")]
    allowed = {"linen", "nnx"} if package in ("ghost", "growth", "models") else set()
    assert set(public) <= allowed, "implementation files start with an underscore"


def test_every_public_name_is_listed_and_found_before_it_is_loaded():
    packages = [f"gapjax.{package}" for package in _packages()]
    code = (
        "import gapjax, importlib, pkgutil\n"
        f"for package in {packages}:\n"
        "    module = importlib.import_module(package)\n"
        "    files = {m.name for m in pkgutil.iter_modules(module.__path__) if m.name[0] != '_'}\n"
        "    missing = {*module.__all__, *files} - {*dir(module)}\n"
        "    missing |= {name for name in files if not hasattr(module, name)}\n"
        "    assert not missing, (package, missing)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


PROJECT = tomllib.loads((ROOT.parent / "pyproject.toml").read_text())["project"]


def _oldest():
    text = (ROOT.parent / "constraints" / "oldest.txt").read_text()
    return dict(re.findall(r"^([\w.-]+)==([\d.]+)$", text, flags=re.M))


def test_the_oldest_versions_are_the_bounds():
    """What the lower bounds promise is what is tested: neither is moved alone."""
    required = PROJECT["dependencies"] + PROJECT["optional-dependencies"]["test"]
    bounds = dict(re.match(r"([\w.-]+)>=([\d.]+)", line).groups() for line in required)
    assert len(bounds) == len(required)
    assert _oldest() == bounds


def test_the_table_of_versions_shows_the_bounds():
    page = (ROOT.parent / "docs" / "start.md").read_text()
    rows = (row.split(" | ") for row in re.findall(r"^\| (.*) \|$", page, flags=re.M))
    names, oldest = (row for row in rows if "jax" in row or "oldest" in row)
    shown = dict(zip(names, oldest, strict=True))
    assert PROJECT["requires-python"] == f">={shown.pop('Python')}"
    pins = {name: Version(pin) for name, pin in _oldest().items()}
    of_packages = {name: Version(shown[name]) for name in shown.keys() & pins.keys()}
    assert len(of_packages) >= 5
    assert of_packages.items() <= pins.items()


def test_a_source_distribution_has_what_pages_link_to():
    # Forced by its target, a folder would leave the place where tests look for it.
    links = {
        str(p.relative_to(ROOT.parent)) for p in (ROOT.parent / "docs").rglob("*") if p.is_symlink()
    }
    settings = tomllib.loads((ROOT.parent / "pyproject.toml").read_text())
    forced = settings["tool"]["hatch"]["build"]["targets"]["sdist"]["force-include"]
    assert all(source == place for source, place in forced.items())
    assert links <= set(forced)
