import doctest
import importlib
import pkgutil

import pytest

import gapjax.ghost

MODULES = [m.name for m in pkgutil.iter_modules(gapjax.ghost.__path__, "gapjax.ghost.")]


@pytest.mark.parametrize("name", ["gapjax.ghost", *MODULES])
def test_examples_run(name):
    module = importlib.import_module(name)
    options = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
    assert doctest.testmod(module, optionflags=options).failed == 0
