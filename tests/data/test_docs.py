import doctest
import importlib
import pkgutil

import pytest

import gapjax.data


@pytest.mark.parametrize("name", [m.name for m in pkgutil.iter_modules(gapjax.data.__path__)])
def test_examples_in_docstrings_run(name):
    module = importlib.import_module(f"gapjax.data.{name}")
    options = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
    assert doctest.testmod(module, optionflags=options).failed == 0
