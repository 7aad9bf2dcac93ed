import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gapjax import landscape
from tests.landscape import networks
from tests.landscape.test_lanczos import diagonal


class Cut(Exception):
    pass


def cut_after(op, count, calls):
    def apply(vector):
        if len(calls) >= count:
            raise Cut
        calls.append(1)
        return op.apply(vector)

    return landscape.Operator(apply, op.space)


KEY = jax.random.key(0)
WORK = {
    "eigh_topk": lambda op: landscape.eigh_topk(op, KEY, 2).values,
    "trace": lambda op: landscape.trace(op, KEY, 20).mean,
    "spectral_density": lambda op: (
        landscape.spectral_density(op, KEY, num_probes=2, num_steps=9).density
    ),
    "count_above": lambda op: (
        landscape.count_above(op, 1.0, key=KEY, num_probes=2, num_steps=5).mean
    ),
}


def spread():
    return diagonal(np.linspace(0, 3, 40) ** 3)


@pytest.mark.parametrize("work", WORK)
def test_interrupted_work_goes_on_from_its_last_product(tmp_path, work):
    op, do = spread(), WORK[work]
    before, after, straight = [], [], []
    with pytest.raises(Cut):
        do(landscape.recorded(cut_after(op, 7, before), tmp_path / "log"))
    # A record that was being written when the machine went down.
    with (tmp_path / "log").open("ab") as file:
        file.write(b"\x89producthalf")
    resumed = do(landscape.recorded(cut_after(op, 999, after), tmp_path / "log"))
    np.testing.assert_array_equal(resumed, do(cut_after(op, 999, straight)))
    # One product that was known is computed again, to be compared.
    assert len(before) + len(after) == len(straight) + 1
    again = []
    np.testing.assert_array_equal(
        do(landscape.recorded(cut_after(op, 999, again), tmp_path / "log")), resumed
    )
    assert len(again) == 1


def test_neither_order_nor_number_of_calls_matters(tmp_path):
    op, calls = spread(), []
    one, two = (op.space.normal(jax.random.key(i)) for i in (1, 2))
    known = landscape.recorded(op, tmp_path / "log")
    for vector in (one, two, one):
        known.apply(vector)
    reopened = landscape.recorded(cut_after(op, 999, calls), tmp_path / "log")
    for vector in (two, one, two):
        np.testing.assert_array_equal(reopened.apply(vector), op.apply(vector))
    assert len(calls) == 1
    landscape.lanczos(landscape.recorded(op, tmp_path / "log"), KEY, 4)  # other work, same file


def test_another_operator_is_noticed(tmp_path):
    params, batch = networks.make()
    other = jax.tree.map(lambda leaf: leaf + 0.01, params)
    ops = [landscape.hessian(networks.loss, p, [batch]) for p in (params, other)]
    found = [landscape.trace(op, KEY, 4).mean for op in ops]
    assert landscape.trace(landscape.recorded(ops[0], tmp_path / "log"), KEY, 4).mean == found[0]
    for do in WORK.values():
        landscape.recorded(ops[0], tmp_path / "log")
        do(landscape.recorded(ops[0], tmp_path / "log"))
        with pytest.raises(ValueError, match=r"products of another operator.* differs by"):
            do(landscape.recorded(ops[1], tmp_path / "log"))
    with pytest.raises(ValueError, match="a file of its own"):
        landscape.recorded(diagonal(np.arange(5)), tmp_path / "log")


def test_a_flipped_bit_is_noticed_wherever_it_is(tmp_path):
    op, path = diagonal(np.arange(6.0)), tmp_path / "log"
    expected = landscape.trace(landscape.recorded(op, path), KEY, 4)
    whole = path.read_bytes()
    header = whole.index(b"\n") + 1
    rng = np.random.default_rng(0)
    for place in rng.choice(np.arange(header, len(whole)), 40, replace=False):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(damaged)
        calls = []
        again = landscape.trace(landscape.recorded(cut_after(op, 99, calls), path), KEY, 4)
        assert again == expected
        assert len(calls) == 2, "what was damaged, and one to compare"
    for end in range(header):  # killed while it was begun
        path.write_bytes(whole[:end])
        assert landscape.trace(landscape.recorded(op, path), KEY, 4) == expected


def test_two_that_write_at_once_lose_nothing(tmp_path):
    op, path = spread(), tmp_path / "log"
    vectors = [op.space.normal(jax.random.key(i)) for i in range(20)]
    expected = [np.asarray(op.apply(v)[0]) for v in vectors]
    writers = [landscape.recorded(op, path) for _ in range(2)]  # as two processes open it

    def write(writer, order):
        for v in order:
            writer.apply(v)

    threads = [
        threading.Thread(target=write, args=(writers[0], vectors[:15])),
        threading.Thread(target=write, args=(writers[1], vectors[:4:-1])),
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    calls = []
    reopened = landscape.recorded(cut_after(op, 99, calls), path)
    for vector, product in zip(vectors, expected, strict=True):
        np.testing.assert_array_equal(reopened.apply(vector)[0], product)
    assert len(calls) == 1


def test_trees_of_parameters_come_back_as_they_were(tmp_path):
    params, batch = networks.make()
    op = landscape.hessian(networks.loss, params, [batch])
    product = landscape.recorded(op, tmp_path / "log") @ params
    again = landscape.recorded(op, tmp_path / "log") @ params
    jax.tree.map(np.testing.assert_array_equal, again, product)
    with jax.enable_x64(True):
        wide = landscape.from_matvec(lambda v: jnp.pi * v, jnp.ones((2, 2)))
        for _ in range(2):
            found = landscape.recorded(wide, tmp_path / "wide") @ jnp.ones((2, 2))
            np.testing.assert_array_equal(found, np.full((2, 2), np.pi))
