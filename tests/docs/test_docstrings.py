"""Every public name says what it takes, what it gives, and shows itself at work."""

import importlib
import inspect
import pkgutil
import typing

import pytest

import gapjax

# An example of these takes a training run, files, several processes or an axis to draw on; the
# pages and notebooks show them, and tests run those.
SHOWN_ELSEWHERE = {
    "gapjax.data": {"from_folder", "import_local", "import_text"},
    "gapjax.diffusion": {"diffusion_match"},  # by match_diffusion
    "gapjax.training": {"load_tree"},  # by save_tree
    "gapjax.study": {
        "bibliography",
        "columns",
        "finding",
        "fit_columns",
        "fit_rows",
        "format_table",
        "is_sweep",
        "load_result",
        "load_sweep",
        "needs_notes",
        "needs_row",
        "notes",
        "plot_curves",
        "plot_distance",
        "plot_examples",
        "plot_gap_closed",
        "plot_growth",
        "plot_headline",
        "plot_lines",
        "plot_pareto",
        "plot_spectrum",
        "plot_steps",
        "plot_way",
        "rows",
        "sweep_columns",
        "sweep_finding",
        "sweep_notes",
        "sweep_rows",
        "write_figures",
        "write_report",
        "write_sweep_report",
    },
}


def _modules():
    for package in pkgutil.iter_modules(gapjax.__path__):
        if package.ispkg:
            module = importlib.import_module(f"gapjax.{package.name}")
            yield module
            for part in pkgutil.iter_modules(module.__path__):
                if not part.name.startswith("_"):
                    yield importlib.import_module(f"{module.__name__}.{part.name}")


FUNCTIONS = [
    (module, name)
    for module in _modules()
    for name in module.__all__
    if inspect.isfunction(getattr(module, name))
]
CLASSES = [
    (module, name)
    for module in _modules()
    for name in module.__all__
    if inspect.isclass(getattr(module, name))
]


def _id(value):
    return value if isinstance(value, str) else value.__name__


def _gives_nothing(function):
    given = inspect.signature(function).return_annotation
    if typing.get_origin(given) is not None or given is inspect.Signature.empty:
        return "Iterator" in str(given) and hasattr(function, "__wrapped__")  # a context
    return given in (None, "None", typing.NoReturn)


@pytest.mark.parametrize(("module", "name"), FUNCTIONS, ids=_id)
def test_functions_say_what_they_take_and_give(module, name):
    function = getattr(module, name)
    text = inspect.getdoc(function)
    if inspect.signature(function).parameters:
        assert "\nArgs:\n" in text
    assert "\nReturns:\n" in text or "\nYields:\n" in text or _gives_nothing(function)
    if name not in SHOWN_ELSEWHERE.get(module.__name__, ()):
        assert ">>>" in text, "an example is missing"


@pytest.mark.parametrize(("module", "name"), CLASSES, ids=_id)
def test_classes_say_what_they_hold(module, name):
    kind = getattr(module, name)
    text = inspect.getdoc(kind)
    assert text and text != inspect.getdoc(kind.__mro__[1])
    fields = getattr(kind, "_fields", None) or getattr(kind, "__dataclass_fields__", ())
    if "\nAttributes:\n" in text and name != "Study":  # whose help is that of the command line
        for field in {*fields} - {"_", "parent", "name"}:  # flax's own
            assert f"{field}:" in text or f"{field}``" in text, f"{field} is not explained"


def test_what_is_shown_elsewhere_is_there():
    for module, names in SHOWN_ELSEWHERE.items():
        assert names <= set(importlib.import_module(module).__all__)
