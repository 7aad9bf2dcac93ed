"""Every test runs strictly: 8 virtual CPU devices, strict dtype promotion, warnings as errors."""

import os
import pathlib

import hypothesis
import jax
import pytest

from gapjax import training

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_dtype_promotion", "strict")
os.environ.setdefault("MPLBACKEND", "Agg")
# Many tests compile the same small programs: once is enough, over all workers and children.
os.environ["XDG_CACHE_HOME"] = str(pathlib.Path(__file__).parent.parent / ".pytest_cache")
training.enable_compile_cache()
# On the build machine the same examples in every run; elsewhere new ones.
hypothesis.settings.register_profile("ci", derandomize=True)
if os.environ.get("CI"):
    hypothesis.settings.load_profile("ci")


# What compiles very many programs: these folders and files; single tests carry the mark themselves.
SLOW = {
    *("landscape", "models", "population", "sweep"),
    *("test_add_a_thing.py", "test_communication.py", "test_compile.py"),
    "test_docs.py",
    *("test_fuzz.py", "test_gradients.py", "test_layer_noise.py", "test_meshes.py"),
    *("test_noise_scale.py", "test_population.py", "test_properties.py", "test_remedies.py"),
    *("test_reports.py", "test_run.py", "test_scopes.py", "test_sharding.py", "test_sums.py"),
    "test_tune.py",
}


def pytest_configure(config):
    """What the quick tests compile runs for moments: with little optimization they take less."""
    if "not slow" in (config.option.markexpr or ""):
        given = os.environ.get("XLA_FLAGS", "")
        os.environ["XLA_FLAGS"] = f"{given} --xla_backend_optimization_level=1".strip()


@pytest.hookimpl(tryfirst=True)  # or xdist looks at the groups before
def pytest_collection_modifyitems(items):
    """Mark them, so that the tests of a newcomer take minutes."""
    for item in items:
        if {*item.path.parts} & SLOW:
            item.add_marker(pytest.mark.slow)
        if "finished" in getattr(item, "fixturenames", ()):  # a study that one process trains once
            item.add_marker(pytest.mark.xdist_group("finished"))


@pytest.fixture
def getkey():
    """A fresh key at each call, the same sequence in every run."""
    state = {"key": jax.random.key(0)}

    def next_key():
        state["key"], key = jax.random.split(state["key"])
        return key

    return next_key
