"""Meshes of every kind: Auto and Explicit, set or not, of several axes; annotated parameters."""

import contextlib
import functools

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from gapjax import diffusion, ghost, growth, models, training
from tests.meshes import data_mesh
from tests.training import problem

KINDS = {"auto": AxisType.Auto, "explicit": AxisType.Explicit}
NORM = functools.partial(ghost.linen.GhostBatchNorm, ghost_size=4, momentum=0.9)


def _square(kind=AxisType.Auto, names=("data", "model")):
    return jax.make_mesh((4, 2), names, axis_types=(kind, kind))


def _everything():
    """A step with all that has to know of devices, its state and batches."""
    network = models.as_network(models.MLP((64, 32), 4, norm=NORM))
    reference = diffusion.DiffusionRecord(np.arange(1, 9), np.linspace(0.1, 0.8, 8), np.ones(8))
    tx = optax.chain(
        optax.clip_by_global_norm(1.0),
        diffusion.scale_by_batch_size(16),
        optax.sgd(0.1, momentum=0.9),
        diffusion.match_diffusion(reference),
        diffusion.track_diffusion(8),
        training.average_weights(100),
    )

    def loss_fn(params, model_state, batch, key):
        weights = diffusion.example_weights(key, len(batch["y"]), 0.5)
        logits, after = network.apply(params, model_state, batch["x"], train=True, key=key)
        losses = optax.losses.softmax_cross_entropy_with_integer_labels(logits, batch["y"])
        return jnp.mean(weights * losses), (after, {"weight": weights.mean()})

    data = problem.batches(2)
    step = training.make_train_step(loss_fn, tx, on_fault="skip")
    return step, lambda: problem.start(network, tx, data[0]["x"]), data


@functools.cache
def _alone():
    step, start, data = _everything()
    state, jitted = start(), jax.jit(step)
    for batch in data:
        state, metrics = jitted(state, batch)
    return jax.device_get(_told(state, metrics))


def _told(state, metrics):
    average = training.evaluation_params(state.opt_state, state.params)
    return state._replace(key=jax.random.key_data(state.key)), metrics, average


LAYOUTS = {
    "replicated": {"parameters": "replicated", "axis": "data"},
    "sharded": {"parameters": "sharded", "axis": "data"},
    "two axes": {"parameters": "replicated", "axis": ("data", "model")},
    "two axes, sharded": {"parameters": "sharded", "axis": ("data", "model")},
}


@pytest.mark.parametrize(
    ("context", "layout"),
    [
        ("none", "replicated"),
        ("none", "two axes, sharded"),
        ("same", "sharded"),
        ("other", "sharded"),
    ],
)
@pytest.mark.parametrize("kind", KINDS)
def test_everything_is_as_on_one_device(kind, context, layout, tmp_path):
    options, mesh = LAYOUTS[layout], _square(KINDS[kind])
    other = _square(KINDS["auto" if kind == "explicit" else "explicit"])
    set_mesh = {"none": contextlib.nullcontext, "same": lambda: jax.set_mesh(mesh)}
    step, start, data = _everything()
    state = start()
    compiled = training.compile_step(step, mesh=mesh, **options)
    with set_mesh.get(context, lambda: jax.set_mesh(other))():
        for batch in data:
            state, metrics = compiled(state, batch)
        with training.Checkpoints(tmp_path, every=1) as checkpoints:
            checkpoints.save(2, state)
            checkpoints.wait()
            restored = checkpoints.restore(state).state
    layout = training.state_shardings(state, mesh, **options)
    jax.tree.map(lambda leaf, at: chex.assert_equal(leaf.sharding, at), state, layout)
    jax.tree.map(lambda leaf, at: chex.assert_equal(leaf.sharding, at), restored, layout)
    # The devices add up in another order, which the norms of the optimizer see.
    chex.assert_trees_all_close(
        jax.device_get(_told(state, metrics)), _alone(), rtol=1e-4, atol=1e-5
    )
    chex.assert_trees_all_equal(jax.device_get(restored.params), jax.device_get(state.params))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_explicit_meshes_communicate_what_auto_ones_do(layout):
    step, start, data = _everything()
    state = jax.eval_shape(start)
    programs = []
    for kind in KINDS.values():
        compiled = training.compile_step(step, mesh=_square(kind), **LAYOUTS[layout])
        program = training.inspect_program(compiled.lower(state, data[0]).compile())
        programs.append(program.by_kind())
    assert programs[0] == programs[1] and "all-reduce" in programs[0]


@pytest.mark.parametrize("kind", KINDS)
def test_batches_of_a_growing_iterator_on_either_kind_of_mesh(kind):
    """Its batches lie on the mesh already, of this kind or the other."""
    step, state, batches = problem.make()
    source = {name: np.concatenate([b[name] for b in batches]) for name in ("x", "y")}
    found = []
    for of_batches in KINDS.values():
        grown = growth.GrowingBatches(
            source, growth.piecewise_batch(8, {2: 16}), seed=0, mesh=data_mesh(8, of_batches)
        )
        compiled = training.compile_step(step, mesh=data_mesh(8, KINDS[kind]))
        after, _ = training.fit(compiled, jax.tree.map(jnp.copy, state), grown, num_updates=4)
        found.append(jax.device_get(after.params))
    chex.assert_trees_all_close(found[0], found[1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_pmap_takes_either_kind_of_mesh(kind):
    step, state, batches = problem.make(
        models.MLP((16,), 4, norm=lambda use_running_average: lambda x: x)
    )
    expected, _ = jax.jit(step)(state, batches[0])
    compiled = training.compile_step(step, mesh=data_mesh(4, KINDS[kind]), strategy="pmap")
    with jax.set_mesh(data_mesh(4, KINDS[kind])):
        found, _ = compiled(jax.tree.map(jnp.copy, state), batches[0])
    chex.assert_trees_all_close(found.params, expected.params, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("strategy", ["jit", "pmap"])
def test_batches_may_lie_anywhere(strategy, kind):
    """Bound to one device, as what other libraries hand over is, or laid out in another way."""
    step, state, batches = problem.make(
        models.MLP((16,), 4, norm=lambda use_running_average: lambda x: x)
    )
    expected, _ = jax.jit(step)(state, batches[0])
    mesh = data_mesh(4, KINDS[kind])
    compiled = training.compile_step(step, mesh=mesh, strategy=strategy, donate=False)
    for place in (jax.devices()[0], jax.devices()[5], NamedSharding(mesh, P())):
        found, _ = compiled(state, jax.device_put(batches[0], place))
        chex.assert_trees_all_close(found.params, expected.params, rtol=1e-5, atol=1e-6)


class _Annotated(nn.Module):
    """Two layers, the first split over "model" by its outputs, the second by its inputs."""

    @nn.compact
    def __call__(self, x):
        init = nn.initializers.lecun_normal()
        wide = nn.Dense(64, kernel_init=nn.with_partitioning(init, (None, "model")))
        narrow = nn.Dense(4, kernel_init=nn.with_partitioning(init, ("model", None)))
        return narrow(jnp.tanh(wide(x)))


class _AnnotatedNnx(nnx.Module):
    def __init__(self, rngs):
        init = nnx.initializers.lecun_normal()
        wide = nnx.with_partitioning(init, (None, "model"))
        narrow = nnx.with_partitioning(init, ("model", None))
        self.wide = nnx.Linear(32, 64, kernel_init=wide, rngs=rngs)
        self.narrow = nnx.Linear(64, 4, kernel_init=narrow, rngs=rngs)

    def __call__(self, x):
        return self.narrow(jnp.tanh(self.wide(x)))


TX = optax.chain(optax.sgd(0.1, momentum=0.9), training.average_weights(64))


def _annotated(flavour, unboxed=False):
    """Parameters with annotations, their specs, and a step."""
    if flavour == "linen":
        module = _Annotated()
        variables = module.init(jax.random.key(0), jnp.ones((1, 32)))
        params, specs = variables["params"], nn.get_partition_spec(variables)["params"]
        params = nn.unbox(params) if unboxed else params

        def apply(params, x):
            return module.apply({"params": params}, x)
    else:
        with jax.set_mesh(_square()):  # nnx lays annotated variables out where it makes them
            graph, params = nnx.split(_AnnotatedNnx(nnx.Rngs(0)), nnx.Param)
        specs = nnx.get_partition_spec(params)

        def apply(params, x):
            return nnx.merge(graph, params)(x)

    def loss_fn(params, batch):
        logits = apply(params, batch["x"])
        losses = optax.losses.softmax_cross_entropy_with_integer_labels(logits, batch["y"])
        return losses.mean()

    return params, specs, training.make_train_step(loss_fn, TX)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("flavour", "unboxed", "given"),
    [
        ("linen", False, "annotated"),
        ("linen", False, "specs"),
        ("linen", True, "specs"),
        ("linen", True, "shardings"),
        ("nnx", False, "annotated"),
        ("nnx", False, "specs"),
    ],
)
def test_parameters_lie_as_their_module_says(kind, flavour, unboxed, given, tmp_path):
    """And what the optimizer keeps of them; no parameter is gathered."""
    mesh, batch = _square(KINDS[kind]), problem.batches(1)[0]
    params, specs, step = _annotated(flavour, unboxed)
    if given == "shardings":
        specs = jax.tree.map(lambda spec: NamedSharding(mesh, spec), specs)
    parameters = "annotated" if given == "annotated" else specs
    state = training.init_state(params, TX, key=jax.random.key(0))
    alone = jax.device_put(jax.tree.map(jnp.copy, state), jax.devices()[0])
    compiled = training.compile_step(step, mesh=mesh, parameters=parameters)
    program = training.inspect_program(compiled.lower(state, batch).compile())
    expected = alone
    for _ in range(2):
        state, _ = compiled(state, batch)
        expected, _ = jax.jit(step)(expected, batch)
    split = [leaf for leaf in jax.tree.leaves(state) if leaf.sharding.spec not in (P(), P(None))]
    assert len(split) == 2 * 3  # kernels: parameters, momentum, averages
    assert all("model" in leaf.sharding.spec for leaf in split)
    weights = jax.tree.map(jax.device_get, (state.params, expected.params))
    chex.assert_trees_all_close(*weights, rtol=1e-4, atol=1e-6)
    kernel = (32, 64)
    shapes = {shape for c in program.collectives for _, shape in c.arrays}
    assert kernel not in shapes and kernel[::-1] not in shapes
    with training.Checkpoints(tmp_path, every=1) as checkpoints:
        checkpoints.save(1, state)
        checkpoints.wait()
        restored = checkpoints.restore(state).state
    jax.tree.map(lambda a, b: chex.assert_equal(a.sharding, b.sharding), restored, state)


def test_annotations_and_words_that_contradict_each_other_are_refused():
    batch = problem.batches(1)[0]
    for flavour, told in (("linen", r"params.Dense_\d.kernel"), ("nnx", r"params.narrow.kernel")):
        params, _, step = _annotated(flavour)
        state = training.init_state(params, TX, key=jax.random.key(0))
        for word in ("replicated", "sharded"):
            compiled = training.compile_step(step, mesh=_square(), parameters=word)
            match = rf"{told} is annotated .* 'model', and parameters='{word}' contradicts it"
            with pytest.raises(ValueError, match=match):
                compiled(state, batch)
        # Over a mesh without that axis there is nothing to contradict.
        training.compile_step(step, mesh=data_mesh(8))(state, batch)


@pytest.mark.parametrize(
    ("specs", "told"),
    [
        ({"w": P("modle")}, r"params\['w'\] is to be split over 'modle', and the mesh has"),
        ({"w": P(None, None, "model")}, r"params\['w'\] has 2 axes, and its spec .* has 3"),
        ({"w": P("model")}, r"params\['w'\] of shape \(3, 8\) does not split .*: 3 over 2 devices"),
        ({"w": P(None, ("data", "model")), "b": P()}, r"a spec for b, and the state has no such"),
        ({}, r"says nothing of params\['w'\]"),
        ({"w": "model"}, r"parameters\['w'\] is a str: give a tree of PartitionSpec"),
        (
            {"w": NamedSharding(jax.make_mesh((1,), ("data",)), P())},
            r"over the mesh \{'data': 1\}, and the step is compiled for \{'data': 4, 'model': 2\}",
        ),
    ],
)
def test_specs_that_do_not_fit_are_named(specs, told):
    state = training.init_state({"w": jnp.ones((3, 8))}, optax.sgd(0.1), key=jax.random.key(0))
    with pytest.raises(ValueError, match=told):
        training.state_shardings(state, _square(), parameters=specs)


def test_axes_that_do_not_fit_are_named():
    step, state, _ = problem.make()
    with pytest.raises(ValueError, match=r"the mesh has the axes \('data', 'model'\), none .* 'x'"):
        training.compile_step(step, mesh=_square(), axis=("data", "x"))
    with pytest.raises(ValueError, match=r"or a tuple of some, not \('data', 'data'\)"):
        training.compile_step(step, mesh=_square(), axis=("data", "data"))
    with pytest.raises(ValueError, match=r"names several axes, and there is no mesh: give one"):
        training.compile_step(step, axis=("data", "model"))
    compiled = training.compile_step(step, mesh=_square(), axis=("data", "model"))
    assert compiled.devices == 8
    with pytest.raises(ValueError, match="batch of 12 does not divide over 8 devices"):
        compiled(state, {"x": np.zeros((12, 32), np.float32), "y": np.zeros(12, np.int32)})
