"""One small study of two regimes, trained once and looked at by many tests."""

import pytest

from gapjax import study


@pytest.fixture(scope="session")
def small():
    return study.Study(seeds=3, epochs=2, regimes=("SB", "LB", "LB+LR+GBN"), evaluations=3)


@pytest.fixture(scope="session")
def finished(small, tmp_path_factory):
    """The folder and the result of a finished study."""
    folder = tmp_path_factory.mktemp("study") / "run"
    seen = []
    result = study.run_study(small, folder, progress=seen.append, command="gapjax study x")
    return folder, result, seen
