"""Every test runs strictly: 8 virtual CPU devices, strict dtype promotion, warnings as errors."""

import os

import jax
import pytest

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_dtype_promotion", "strict")
os.environ.setdefault("MPLBACKEND", "Agg")


@pytest.fixture
def getkey():
    """A fresh key at each call, the same sequence in every run."""
    state = {"key": jax.random.key(0)}

    def next_key():
        state["key"], key = jax.random.split(state["key"])
        return key

    return next_key
