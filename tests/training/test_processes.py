"""Two real processes that do not fare alike: each mistake is told to both, and nothing hangs."""

import contextlib
import json
import pathlib
import re
import resource
import sys
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gapjax import growth, training
from tests.meshes import data_mesh
from tests.processes import finish, start

# They share runs that take long.
pytestmark = [pytest.mark.processes, pytest.mark.xdist_group("two processes")]

SECONDS = 120  # after which a hung process is killed
LOST_AFTER = 6  # seconds
EXAMPLES = {"x": np.random.default_rng(0).normal(size=(64, 4)).astype(np.float32)}


def _state(seed=0):
    """As anyone makes it: on this process alone."""
    kernel = jax.random.normal(jax.random.key(seed), (512, 512))
    return training.init_state({"w": kernel, "b": jnp.ones(4)}, TX, key=jax.random.key(seed))


def _loss(params, batch):
    return jnp.mean((batch["x"] @ params["w"][:4, :4] + params["b"]) ** 2)


TX = optax.sgd(0.1)


def _fit(mesh, updates, state=None, strategy="jit", **settings):
    step = training.compile_step(
        training.make_train_step(_loss, TX),
        mesh=mesh,
        strategy=strategy,
        parameters="sharded" if strategy == "jit" else "replicated",
    )
    batches = settings.pop("batches", None)
    if batches is None:
        batches = growth.GrowingBatches(EXAMPLES, growth.constant_batch(16), seed=0, mesh=mesh)
    return training.fit(step, state or _state(), batches, num_updates=updates, **settings)


@contextlib.contextmanager
def _full_disk(here):
    """This process can write small files only."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    if here:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


class _Reluctant(growth.GrowingBatches):
    """Batches that only the first process can take to their place."""

    def restore(self, state):
        if not training.is_first():
            raise ValueError("the data are gone here")
        super().restore(state)


def main(folder):
    """Of one process: a line of JSON per case; the last error ends it."""
    training.connect(lost_after=LOST_AFTER)
    mesh, first = data_mesh(jax.device_count()), training.is_first()

    def say(case, action):
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            try:
                found = action()
            except (ValueError, OSError) as error:
                found = f"{type(error).__name__}: {error}"
        mine = [str(w.message) for w in said if w.category is training.CheckpointWarning]
        print(json.dumps([case, found, mine]), flush=True)

    def losses(updates, **settings):
        return _fit(mesh, updates, **settings)[1].metrics["loss"].tolist()

    def saving(name, **settings):
        return training.Checkpoints(folder / name, every=2, timeout=3, **settings)

    def unwritten(name, **settings):
        with _full_disk(not first), saving(name, **settings) as checkpoints:
            return losses(3, checkpoints=checkpoints), list(checkpoints.updates)

    def unplaced():
        batches = _Reluctant(EXAMPLES, growth.constant_batch(16), seed=0, mesh=mesh)
        with saving("whole") as checkpoints:
            return losses(4, checkpoints=checkpoints, batches=batches)

    def whole(updates):
        with saving("whole") as checkpoints:
            return losses(updates, checkpoints=checkpoints), list(checkpoints.updates)

    say("a state of each", lambda: losses(3))
    say("states that differ", lambda: losses(3, state=_state(0 if first else 1)))
    say("pmap", lambda: losses(3, strategy="pmap"))
    for strategy in ("jit", "pmap"):
        own = [{"x": jnp.full((16, 4), float(first))}]
        say(f"a part of each, {strategy}", lambda: losses(1, strategy=strategy, batches=own))
    say("a disk full for one, raise", lambda: unwritten("raise"))
    say("a disk full for one, warn", lambda: unwritten("warn", on_save_error="warn"))
    say("saved", lambda: whole(2))
    say("data gone for one", unplaced)
    say("gone on", lambda: whole(3))

    def break_one(update, *_):
        if update == 2 and not first:
            raise RuntimeError("broken here alone")

    _fit(mesh, 1000, callbacks=[break_one])


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """Both processes ended: what they said, by case, and how they left."""
    folder = tmp_path_factory.mktemp("both")
    ended = finish(start([[__file__, str(folder)]] * 2, devices=2), SECONDS)
    said = [
        {case: (found, mine) for case, found, mine in map(json.loads, out.splitlines())}
        for out, *_ in ended
    ]
    return said, [rest for _, *rest in ended]


@pytest.fixture(scope="module")
def alone():
    """The losses of one process with as many devices."""
    return _fit(data_mesh(4), 3)[1].metrics["loss"].tolist()


def test_a_state_made_on_each_process_is_laid_out_over_both(both, alone):
    for said in both[0]:
        np.testing.assert_allclose(said["a state of each"][0], alone, rtol=1e-5)


def test_states_that_differ_are_refused(both):
    for said in both[0]:
        told = r"the processes differ in state\.params\['w'\] \(checksum\): process 0 has \d+"
        assert re.match(f"ValueError: {told}", said["states that differ"][0])


def test_a_program_per_device_has_the_numbers_of_one_process(both, alone):
    for said in both[0]:
        np.testing.assert_allclose(said["pmap"][0], alone, rtol=1e-5)


@pytest.mark.parametrize("strategy", ["jit", "pmap"])
def test_batches_that_lie_in_one_process_alone_are_refused(both, strategy):
    for said in both[0]:
        told = r"batch\['x'\] lies in this process alone, .* 2 processes: growth.GrowingBatches"
        found = said[f"a part of each, {strategy}"][0]
        assert re.match(f"ValueError: {told}", found)
        assert r"make_array_from_process_local_data(NamedSharding(mesh, P('data',)), part)" in found


@pytest.mark.parametrize("how", ["raise", "warn"])
def test_a_save_that_fails_in_one_process_fails_in_both(both, alone, how):
    for said in both[0]:
        found, mine = said[f"a disk full for one, {how}"]
        told = r"the checkpoint of update 2 could not be written to .*: process 1: File too large"
        if how == "raise":
            assert re.match(f"OSError: {told}", found) and not mine
        else:
            losses, updates = found
            np.testing.assert_allclose(losses, alone, rtol=1e-5)
            assert len(mine) == 2 and re.match(told, mine[0]) and updates == []


def test_data_that_one_process_cannot_take_to_its_place(both, alone):
    for said in both[0]:
        assert said["data gone for one"][0] == "ValueError: process 1: the data are gone here"
        losses, updates = said["gone on"][0]
        np.testing.assert_allclose(losses, alone, rtol=1e-5)
        assert updates == [2, 3]


def test_an_error_in_one_process_ends_both(both):
    (_, first), (errors, second) = both[1]
    assert second == 1 and errors.rstrip().endswith("RuntimeError: broken here alone")
    assert first != 0


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
