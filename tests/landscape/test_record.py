import jax
import numpy as np
import pytest

from gapjax import landscape
from tests.landscape.test_lanczos import diagonal


class Cut(Exception):
    pass


def cut_after(op, count, calls):
    def apply(vector):
        if len(calls) >= count:
            raise Cut
        calls.append(1)
        return op.apply(vector)

    return landscape.Operator(apply, op.layout)


@pytest.mark.parametrize("work", ["eigh_topk", "trace", "spectral_density", "count_above"])
def test_interrupted_work_goes_on_from_its_last_product(tmp_path, work):
    op, key = diagonal(np.linspace(0, 3, 40) ** 3), jax.random.key(0)
    do = {
        "eigh_topk": lambda op: landscape.eigh_topk(op, key, 2).values,
        "trace": lambda op: landscape.trace(op, key, 20).mean,
        "spectral_density": lambda op: (
            landscape.spectral_density(op, key, num_probes=2, num_steps=9).density
        ),
        "count_above": lambda op: (
            landscape.count_above(op, 1.0, key=key, num_probes=2, num_steps=5).mean
        ),
    }[work]
    before, after = [], []
    with pytest.raises(Cut):
        do(landscape.recorded(cut_after(op, 7, before), tmp_path / "log"))
    # A record that was being written when the machine went down.
    with (tmp_path / "log").open("ab") as file:
        file.write(b"half")
    resumed = do(landscape.recorded(cut_after(op, 999, after), tmp_path / "log"))
    straight = []
    np.testing.assert_array_equal(resumed, do(cut_after(op, 999, straight)))
    assert len(before) + len(after) == len(straight)


def test_a_file_of_other_work_is_refused(tmp_path):
    op = diagonal(np.arange(20))
    landscape.trace(landscape.recorded(op, tmp_path / "log"), jax.random.key(0), 4)
    with pytest.raises(ValueError, match=r"product 0 .* another key"):
        landscape.lanczos(landscape.recorded(op, tmp_path / "log"), jax.random.key(0), 4)
    with pytest.raises(ValueError, match="a file of its own"):
        landscape.recorded(diagonal(np.arange(5)), tmp_path / "log")
