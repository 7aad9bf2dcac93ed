import doctest
import importlib
import pkgutil

import pytest

import gapjax.growth


@pytest.mark.parametrize("name", [m.name for m in pkgutil.iter_modules(gapjax.growth.__path__)])
def test_examples_in_docstrings_run(name):
    module = importlib.import_module(f"gapjax.growth.{name}")
    options = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
    assert doctest.testmod(module, optionflags=options).failed == 0
