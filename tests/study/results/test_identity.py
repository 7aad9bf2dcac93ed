"""A folder is another experiment's wherever a function could have done something else."""

import dataclasses
import functools
import importlib
import sys
import types

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gapjax import study
from gapjax.study._results import _identity
from gapjax.study._results._identity import identity
from tests.study.conftest import tiny_study

FACTOR = 1.0


def _same(a, b):
    return identity(a)[0] == identity(b)[0]


def _factory(rate):
    return lambda x: rate * x


def _with_default(x, rate=1.0):
    return rate * x


def _reads_a_global(x):
    return FACTOR * x


class _Callable:
    def __init__(self, rate):
        self.rate = rate

    def __call__(self, x):
        return self.rate * x

    def method(self, x):
        return self.rate * x


@dataclasses.dataclass(frozen=True)
class _Settings:
    rate: float
    names: tuple = ("a",)


def _with_a_rule(rate):
    @jax.custom_vjp
    def straight(x):
        return x

    straight.defvjp(lambda x: (x, None), lambda saved, g: (rate * g,))
    return straight


class _Wrapper:
    def __init__(self, rate):
        functools.update_wrapper(self, _with_default)
        self._rate = rate

    def __call__(self, x):
        return _with_default(x, self._rate)


def _decorated(rate):
    def scaled(method):
        @functools.wraps(method)
        def call(self, x):
            return rate * method(self, x)

        return call

    class Scaled:
        @scaled
        def __call__(self, x):
            return x

    return Scaled


class Net(nn.Module):
    width: int = 3

    @nn.compact
    def __call__(self, x):
        return nn.Dense(self.width)(x)


def _make(rate):
    """As many kinds of things as hold a number, each made anew."""

    def nested():
        def inner(x):
            return rate * x

        return lambda x: inner(x)

    module = types.ModuleType("own_settings")
    module.RATE = rate
    reads = types.FunctionType(
        compile("def f(x): return settings.RATE * x", "f", "exec").co_consts[0],
        {"settings": module},
    )
    return {
        "closure": _factory(rate),
        "nested closure": nested(),
        "partial": functools.partial(_with_default, rate=rate),
        "positional partial": functools.partial(_with_default, 1.0, rate),
        "default": lambda x, r=rate: r * x,
        "keyword default": eval(f"lambda x, *, r={rate}: r * x"),
        "constant": eval(f"lambda x: {rate} * x"),
        "attribute": _Callable(rate),
        "bound method": _Callable(rate).method,
        "dataclass": _Settings(rate),
        "nested dataclass": {"a": [_Settings(1.0), _Settings(rate)]},
        "namedtuple": optax.ScaleByScheduleState(rate),
        "array": jnp.array([rate]),
        "numpy scalar": np.float32(rate),
        "optax schedule": optax.cosine_decay_schedule(rate, 10),
        "jitted": jax.jit(_factory(rate)),
        "rule of a derivative": _with_a_rule(rate),
        "wrapper with a state": _Wrapper(rate),
        "method that is decorated": _decorated(rate),
        "wrapped": functools.wraps(_with_default)(_factory(rate)),
        "module of the user's": reads,
        "linen": Net(width=int(rate)),
        "set": {rate, 7.0},
        "remedy": study.Remedy("X", "x", loss=lambda losses, batch, key, plan: rate * losses),
    }


@pytest.mark.parametrize("kind", list(_make(1.0)))
def test_what_differs_in_what_it_holds_is_another(kind):
    assert _same(_make(1.0)[kind], _make(1.0)[kind])
    assert not _same(_make(1.0)[kind], _make(2.0)[kind])


def test_globals_that_a_function_reads(monkeypatch):
    before = identity(_reads_a_global)[0]
    monkeypatch.setattr(sys.modules[__name__], "FACTOR", 2.0)
    assert identity(_reads_a_global)[0] != before


def test_attributes_are_no_globals(monkeypatch):
    def error(outputs, batch):
        return (outputs - batch).mean()

    before = identity(error)[0]
    monkeypatch.setattr(sys.modules[__name__], "mean", np.ones(3), raising=False)
    assert identity(error)[0] == before


PACKAGE = {
    "__init__": "",
    "losses": "def f(x): return {} * x\ndef g(x): return x",
    "uses": """
import own_package.losses
import own_package.losses as alias
from own_package import losses
from own_package.losses import f as named
def chain(x): return own_package.losses.f(x)
def by_alias(x): return alias.f(x)
def by_module(x): return losses.f(x)
def by_name(x): return named(x)
def inside(x):
    from own_package.losses import f
    return f(x)
def inside_as(x):
    import own_package.losses as inner
    return inner.f(x)
def inside_chain(x):
    import own_package.losses
    return own_package.losses.f(x)
def relative(x):
    from . import losses as near
    return near.f(x)
def relative_name(x):
    from .losses import f
    return f(x)
def other(x): return losses.g(x)
""",
}


@pytest.fixture
def own_package(tmp_path, monkeypatch):
    """Makes a package of the user's, of a factor, and gives what uses it."""

    def make(factor):
        folder = tmp_path / str(factor) / "own_package"
        folder.mkdir(parents=True)
        for name, text in PACKAGE.items():
            (folder / f"{name}.py").write_text(text.replace("{}", str(factor)))
        for name in [name for name in sys.modules if name.startswith("own_package")]:
            del sys.modules[name]
        monkeypatch.syspath_prepend(folder.parent)
        importlib.invalidate_caches()
        return importlib.import_module("own_package.uses")

    yield make
    for name in [name for name in sys.modules if name.startswith("own_package")]:
        del sys.modules[name]


def test_functions_of_modules_of_ones_own_are_read_however_they_are_reached(own_package):
    def hashes(uses):
        own = [f for f in vars(uses).values() if getattr(f, "__module__", "") == uses.__name__]
        return {f.__name__: identity(f) for f in own}

    first, second = hashes(own_package(1)), hashes(own_package(2))
    assert len(first) == 10 and not any(vague for _, vague in first.values())
    assert [name for name in first if first[name] == second[name]] == ["other"]


def test_a_library_is_the_same_before_and_after_it_is_imported(monkeypatch):
    def f(x):
        import tabnanny

        return tabnanny.check(x)

    monkeypatch.delitem(sys.modules, "tabnanny", raising=False)
    _identity._is_library.cache_clear()
    before = identity(f)
    assert "tabnanny" not in sys.modules  # nor is it imported for this
    importlib.import_module("tabnanny")
    _identity._is_library.cache_clear()
    assert identity(f) == before


def test_a_module_that_is_not_there_is_named():
    def f(x):
        from own_package_that_is_not import g

        return g(x)

    assert identity(f, "loss")[1] == ["loss (import own_package_that_is_not)"]


def test_what_loops_back_to_itself_ends():
    def recurse(n):
        return recurse(n - 1) if n else 0

    loop = []
    loop.append(loop)
    assert identity(recurse)[0] and identity(loop)[0]


def test_what_has_no_state_to_read_is_named():
    class Opaque:
        __slots__ = ()

    digest, vague = identity({"a": Opaque()}, "optimizer")
    assert digest and vague == ["optimizer['a']"]


@pytest.mark.slow
def test_a_study_of_another_optimizer_or_closure_is_another_study(tmp_path):
    def sgd(schedule, m):
        return optax.sgd(schedule, momentum=m)

    settings = {"regimes": ("SB", "LB"), "epochs": 1, "seeds": 1, "evaluations": 1}
    first = tiny_study(optimizer=functools.partial(sgd, m=0.0), **settings)
    study.run_study(first, tmp_path / "a")
    again = tiny_study(optimizer=functools.partial(sgd, m=0.0), **settings)
    study.run_study(again, tmp_path / "a")
    other = tiny_study(optimizer=functools.partial(sgd, m=0.95), **settings)
    with pytest.raises(ValueError, match=r"holds another study.* optimizer is"):
        study.run_study(other, tmp_path / "a")
    with pytest.raises(ValueError, match=r"holds another study.* version is"):
        study.run_study(dataclasses.replace(again, version="2"), tmp_path / "a")
