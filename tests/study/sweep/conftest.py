"""A small sweep, trained once and looked at by many tests."""

import pytest

from gapjax import study
from tests.study.conftest import tiny_study

SIZES = (4, 8, 32)


def tiny_sweep(sizes=SIZES, **changes):
    settings = {"target": 0.4, "rates": 2, "epochs": 4, "limit": 1.5}
    own = {name: changes.pop(name) for name in ("task", "noise_scale") if name in changes}
    return study.Sweep(
        tiny_study(learning_rate=0.05, seeds=2, **own), sizes, **{**settings, **changes}
    )


@pytest.fixture(scope="session")
def swept(tmp_path_factory):
    """The folder and the result of a sweep, and what its progress function saw."""
    folder, seen = tmp_path_factory.mktemp("sweep") / "run", []
    result = study.run_sweep(tiny_sweep(), folder, progress=seen.append, command="gapjax sweep x")
    return folder, result, seen
