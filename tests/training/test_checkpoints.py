import jax.numpy as jnp
import numpy as np
import pytest

from gapjax import training


def test_round_trip_and_replacement(tmp_path):
    for value in (1.0, 2.0):
        training.save_tree(tmp_path / "c", {"a": {"w": jnp.full((3,), value)}, "n": jnp.int32(7)})
    tree = training.load_tree(tmp_path / "c")
    np.testing.assert_array_equal(tree["a"]["w"], np.full(3, 2.0))
    assert int(tree["n"]) == 7


def test_missing_checkpoint_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"no checkpoint at .*nothing"):
        training.load_tree(tmp_path / "nothing")
