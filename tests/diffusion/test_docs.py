"""The examples in the docstrings run."""

import doctest
import importlib
import pkgutil

import pytest

import gapjax.diffusion

MODULES = [m.name for m in pkgutil.iter_modules(gapjax.diffusion.__path__)]


@pytest.mark.parametrize("name", MODULES)
def test_examples(name):
    module = importlib.import_module(f"gapjax.diffusion.{name}")
    flags = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
    assert doctest.testmod(module, optionflags=flags).failed == 0
