import doctest
import importlib
import pkgutil

import pytest

from gapjax import landscape

MODULES = [m.name for m in pkgutil.iter_modules(landscape.__path__)]


@pytest.mark.parametrize("name", MODULES)
def test_examples_run(name):
    module = importlib.import_module(f"gapjax.landscape.{name}")
    flags = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
    assert doctest.testmod(module, optionflags=flags).failed == 0
