"""What an update sends over 8 devices, counted in the compiled program; nothing is run."""

import functools

import jax
import optax
import pytest

from gapjax import models, training
from tests.meshes import data_mesh
from tests.training import problem

NETWORKS = {
    "f1": (models.f1(), (28, 28, 1)),
    "resnet": (models.ResNet(blocks=(1, 1), widths=(16, 32)), (8, 8, 3)),
}


def _bytes(tree):
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


@functools.cache
def _program(name, ghost_size, parameters="replicated"):
    """The state's shapes, and the program of an update on 16 examples per device."""
    model, image = NETWORKS[name]
    network, tx = models.as_network(model), optax.sgd(0.1, momentum=0.9)
    images = jax.ShapeDtypeStruct((128, *image), "float32")
    batch = {"x": images, "y": jax.ShapeDtypeStruct((128,), "int32")}
    state = jax.eval_shape(functools.partial(problem.start, network, tx), images)
    step = training.make_train_step(problem.loss_function(network, ghost_size), tx)
    compiled = training.compile_step(step, mesh=data_mesh(8), parameters=parameters)
    return state, training.inspect_program(compiled.lower(state, batch).compile())


@pytest.mark.parametrize("network", NETWORKS)
def test_gradients_are_reduced_once_and_ghosts_add_nothing(network):
    state, ghosts = _program(network, 16)
    gradients, statistics = _bytes(state.params), _bytes(state.model_state)
    # Everything in one collective: gradients, running statistics, the loss.
    assert ghosts.by_kind() == {"all-reduce": (1, gradients + statistics + 4)}
    _, plain = _program(network, None)
    assert set(plain.by_kind()) == {"all-reduce"}
    # Moments forward, and their gradients backward, of which scale and bias share one.
    assert plain.by_kind()["all-reduce"][1] <= gradients + 2 * statistics + 4
    assert plain.by_kind()["all-reduce"][1] >= ghosts.by_kind()["all-reduce"][1]


@pytest.mark.parametrize("network", NETWORKS)
def test_sharded_parameters_are_gathered_once_and_activations_never(network):
    state, program = _program(network, 16, "sharded")
    layout = training.state_shardings(state.params, data_mesh(8), parameters="sharded")
    split = [
        leaf
        for leaf, sharding in zip(
            jax.tree.leaves(state.params), jax.tree.leaves(layout), strict=True
        )
        if not sharding.is_fully_replicated
    ]
    kinds = program.by_kind()
    assert set(kinds) <= {"all-gather", "all-reduce", "reduce-scatter"}
    assert kinds["all-gather"] == (len(split), _bytes(split))
    _, replicated = _program(network, 16)
    saved = replicated.memory.arguments - program.memory.arguments
    assert saved == 2 * _bytes(split) * 7 // 8  # parameters and momentum
