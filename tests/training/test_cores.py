"""Cores as devices: as many as there are, unless it was said how many."""

import os
import subprocess
import sys

import pytest

_TELL = """
import jax
from gapjax import training
{before}
training.use_cores({most})
print(jax.local_device_count("cpu"))
"""


def _devices(before: str = "", most: str = "", **variables: str) -> int:
    kept = {name: value for name, value in os.environ.items() if "XLA" not in name}
    kept.pop("JAX_NUM_CPU_DEVICES", None)
    code = _TELL.format(before=before, most=most)
    found = subprocess.run(
        [sys.executable, "-c", code],
        env={**kept, **variables},
        capture_output=True,
        text=True,
        check=True,
    )
    return int(found.stdout)


def test_each_core_is_a_device() -> None:
    assert _devices() == len(os.sched_getaffinity(0))


def test_no_more_than_needed() -> None:
    assert _devices(most="1") == 1


@pytest.mark.parametrize(
    "variables",
    [
        {"XLA_FLAGS": "--xla_force_host_platform_device_count=3"},
        {"JAX_NUM_CPU_DEVICES": "3"},
    ],
)
def test_what_was_said_before_stays(variables: dict[str, str]) -> None:
    assert _devices(**variables) == 3


def test_devices_that_were_asked_for_stay() -> None:
    assert _devices(before="jax.devices()") == 1
