"""Small inputs that once gave wrong numbers or tracebacks, each the smallest of its kind."""

import contextlib
import functools
import io
import os
import subprocess
import sys
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
import optax
import PIL.Image
import pytest

from gapjax import cli, data, diffusion, ghost, landscape, study, training
from gapjax.growth import GrowingBatches, constant_batch
from gapjax.study._results._identity import identity

ALONE = jax.make_mesh((1,), ("data",), devices=jax.devices()[:1])


def _sgd(momentum, rate):
    return optax.sgd(rate, momentum)


def test_a_study_is_told_from_another_by_partials_and_closures():
    def factory(value):
        return lambda rate: optax.sgd(rate, value)

    for make in (functools.partial(functools.partial, _sgd), factory):
        (one, _), (two, _) = (identity(make(momentum)) for momentum in (0.0, 0.95))
        assert one != two


def test_a_masked_part_of_a_batch_weighs_nothing():
    def loss_fn(params, model_state, batch, key):
        mask = batch.mask.astype(jnp.float32)
        loss = (mask * (params - batch.data["y"]) ** 2).sum() / jnp.maximum(mask.sum(), 1)
        return loss, (model_state, {})

    found = []
    for microbatch in (None, 2):
        tx = optax.sgd(0.1)
        batches = GrowingBatches(
            {"y": np.ones(5, np.float32)},
            constant_batch(4),
            seed=0,
            end_of_epoch="pad",
            microbatch=microbatch,
            independent_examples=True,
            mesh=ALONE,
        )
        step = training.make_train_step(loss_fn, tx, microbatched=microbatch is not None)
        state = training.init_state(jnp.float32(0), tx, key=jax.random.key(0))
        state, _ = training.fit(
            training.compile_step(step, mesh=ALONE), state, batches, num_updates=2
        )
        found.append(float(state.params))
    np.testing.assert_allclose(found, 0.36, rtol=1e-6)


def test_values_with_an_axis_too_many_do_not_spread_over_the_mask():
    step = training.make_eval_step(lambda params, model_state, batch: {"x": batch["x"][:, None]})
    state = training.init_state(jnp.zeros(1), optax.sgd(0.1), key=jax.random.key(0))
    with pytest.raises(ValueError, match=r"\(4, 1\)"):
        step(state, {"x": jnp.array([3.0, 4.0, 5.0, 6.0]), "mask": jnp.ones(4, bool)})


def test_leaves_that_disagree_count_no_examples():
    batch = {"class_weight": np.ones(10), "x": np.ones((512, 3)), "y": np.ones(512)}
    tx = optax.chain(optax.sgd(0.2), diffusion.scale_by_batch_size(128))
    loss_fn = lambda p, s, b, k: (p.sum() * jnp.mean(b["y"]), (s, {}))  # noqa: E731
    step = training.make_train_step(loss_fn, tx)
    state = training.init_state(jnp.zeros(1), tx, key=jax.random.key(0))
    with pytest.raises(ValueError, match=r"class_weight"):
        step(state, batch)


def test_lists_of_numbers_are_arrays_and_lists_of_arrays_are_records():
    rows = [{"input_ids": [i] * 6} for i in range(50)]
    batch = next(GrowingBatches(rows, constant_batch(4), seed=0))
    assert batch["input_ids"].shape == (4, 6)
    batch = next(GrowingBatches([np.ones((8, 8))] * 100, constant_batch(4), seed=0))
    assert jax.tree.leaves(batch)[0].shape == (4, 8, 8)


def test_displacements_of_half_precision_are_not_rounded_away():
    def loss(params, batch):
        return jnp.sum(params["w"].astype(jnp.float32) ** 2) + 0 * batch["x"].sum()

    found = [
        landscape.keskar_sharpness(
            loss, {"w": jnp.array([1, 2, 3], kind)}, [{"x": np.ones(1)}], progress=False
        ).value
        for kind in (jnp.float32, jnp.bfloat16)
    ]
    assert found[0] > 0
    np.testing.assert_allclose(found[1], found[0], rtol=0.05)


def test_gradients_of_half_precision_are_summed_in_full():
    def loss_fn(params, model_state, batch, key):
        return -2 * jnp.mean(batch["x"]) * params.astype(jnp.float32), (model_state, {})

    tx = optax.sgd(1.0)
    step = training.make_train_step(loss_fn, tx, microbatched=True)
    state = training.init_state(jnp.bfloat16(0), tx, key=jax.random.key(0))
    after, _ = step(state, {"x": jnp.ones((512, 1))})
    assert float(after.params) == 2.0


def test_whole_numbers_do_not_wrap():
    with pytest.raises((ValueError, OverflowError), match=r"3000000000|int32"):
        next(
            GrowingBatches({"id": np.full(8, 3_000_000_000)}, constant_batch(4), seed=0, mesh=ALONE)
        )
    schedule = diffusion.adapt_regime(
        lambda step: step, batch_size=65537, base_batch_size=65536, rule="none", keep="epochs"
    )
    assert float(schedule(65535)) >= 65535


def test_directions_of_half_precision_are_not_zero():
    direction = landscape.random_direction(
        jax.random.key(0), {"w": jnp.ones((512, 512), jnp.float16)}, normalize="layer"
    )
    assert 500 < np.linalg.norm(np.asarray(direction["w"], np.float64)) < 525


def test_measurements_are_fitted_in_the_order_of_their_steps():
    step = diffusion.log_spaced(10_000, per_decade=10)
    step = np.asarray(step, float)
    distance = np.log(step) + np.random.default_rng(0).normal(size=len(step)) * 0.05
    order = np.random.default_rng(1).permutation(len(step))
    one = diffusion.fit_diffusion(step, distance, first=10)
    two = diffusion.fit_diffusion(step[order], distance[order], first=10)
    assert one.log_interval == two.log_interval


def test_objects_are_refused_by_name():
    source = {"x": np.arange(20.0), "name": np.array(["a"] * 20, dtype=object)}
    with pytest.raises(ValueError, match=r"name"):
        next(GrowingBatches(source, constant_batch(4), seed=0))


@pytest.mark.parametrize("optimizer", ["sam", "prodigy", "lbfgs", "multi"])
def test_any_optax_chain_trains(optimizer):
    tx = {
        "sam": lambda: optax.contrib.sam(optax.sgd(0.1), optax.sgd(0.01)),
        "prodigy": optax.contrib.prodigy,
        "lbfgs": optax.lbfgs,
        "multi": lambda: optax.MultiSteps(
            optax.chain(optax.sgd(0.1), diffusion.scale_by_batch_size(4)), 2
        ),
    }[optimizer]()
    loss_fn = lambda p, s, b, k: (jnp.sum((p - b["y"].mean()) ** 2), (s, {}))  # noqa: E731
    step = training.compile_step(training.make_train_step(loss_fn, tx), mesh=ALONE)
    state = training.init_state(jnp.zeros(2), tx, key=jax.random.key(0))
    for _ in range(4):
        state, _ = step(state, {"y": jnp.ones(4)})
    assert np.isfinite(np.asarray(state.params)).all()


def test_what_does_not_fit_is_told_before_anything_is_trained(tmp_path):
    asked = study.Study(regimes=("SB", "LB+LR+GBN", "GROW+GBN"), ghost_size=32, seeds=1, epochs=1)
    with pytest.raises(ValueError, match=r"ghost_size"):
        study.run_study(asked, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_train_state_of_flax_comes_back(tmp_path):
    from flax.training.train_state import TrainState

    state = TrainState.create(apply_fn=None, params={"w": jnp.ones(2)}, tx=optax.sgd(0.1))
    with training.Checkpoints(tmp_path / "c", every=1) as checkpoints:
        checkpoints.save(1, state)
    found = training.Checkpoints(tmp_path / "c", every=1).restore(state)
    assert found.state.params["w"].tolist() == [1.0, 1.0]


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
@pytest.mark.processes
def test_a_terminal_that_is_not_unicode_shows_the_table(finished, encoding):
    folder, _, _ = finished
    code = (
        "import sys\nfrom gapjax import _commands, _streams, study\n_streams.prepare()\n"
        "result = study.load_result(sys.argv[1])\n_commands._print_table(result)\n"
        "print(study.finding(result), '\u03bb\u2081\u2080 0.5\u2020 log\u2021')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder)],
        capture_output=True,
        env={**os.environ, "PYTHONIOENCODING": encoding, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.returncode == 0 and not done.stderr, done.stderr.decode()
    shown = done.stdout.decode(encoding)
    assert "w - w0||" in shown and shown.endswith("lambda10 0.5+ log++\n") and "?" not in shown


def test_zero_examples_are_no_division_by_zero():
    layer = ghost.linen.GhostBatchNorm(ghost_size=4, use_running_average=False)
    variables = layer.init(jax.random.key(0), jnp.ones((8, 3)))
    out, _ = layer.apply(variables, jnp.ones((0, 3)), mutable=["batch_stats"])
    assert out.shape == (0, 3)


def test_steps_can_be_told_not_to_donate():
    tx = optax.sgd(0.1)
    loss_fn = lambda p, s, b, k: (jnp.sum(p * b["y"].mean()), (s, {}))  # noqa: E731
    step = training.compile_step(training.make_train_step(loss_fn, tx), mesh=ALONE, donate=False)
    state = training.init_state(jnp.zeros(2), tx, key=jax.random.key(0))
    first, second = (step(state, {"y": jnp.ones(4)})[0] for _ in range(2))
    assert first.params.tolist() == second.params.tolist()


def test_every_preset_is_a_study_with_something_to_say():
    for name in study.PRESETS:
        preset = study.preset(name)
        assert {*preset.baseline} <= {regime.name for regime in preset.all_regimes}, name


@pytest.mark.parametrize("line", ["report --help", "presets --help", "study --help"])
def test_each_command_has_its_own_help(line, capsys):
    with contextlib.suppress(SystemExit):  # of tyro, whose code is 0
        assert cli.main(line.split()) == 0
    assert f"gapjax {line.split()[0]}" in capsys.readouterr().out.splitlines()[0]


def test_a_local_data_set_is_among_the_near_matches(tmp_path):
    (tmp_path / "texts").mkdir()
    for part in "abcdefghijklmnopqrst":
        (tmp_path / "texts" / f"{part}.txt").write_text(part * 300)
    data.import_text("letters", tmp_path / "texts", data_dir=tmp_path / "d", sequence_length=16)
    with pytest.raises(ValueError, match=r"Did you mean 'letters'"):
        data.load("leters", data_dir=tmp_path / "d")


def test_a_bucket_is_no_folder(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["study", "--out", "gs://b/t"]) == 2
    assert "gs://b/t" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def _png(*shape):
    file = io.BytesIO()
    PIL.Image.fromarray(np.zeros(shape, np.uint8)).save(file, "png")
    return file.getvalue()


def test_what_a_mac_adds_to_an_archive_is_no_data_set(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        for split in ("train", "test"):
            for name in "ab":
                archive.writestr(f"x/{split}/{name}/0.png", _png(4, 4, 3))
                archive.writestr(f"__MACOSX/x/{split}/{name}/._0.png", b"\0\5\26\7")
    data.import_local("mine", tmp_path / "x.zip", data_dir=tmp_path / "d")
    assert len(data.load("mine", data_dir=tmp_path / "d").train) == 2
