"""A small network on a small problem."""

import jax
import numpy as np
import optax

from gapjax import models, training

BATCH = 32


def batches(count=3, size=BATCH, features=32):
    rng = np.random.default_rng(0)
    return [
        {
            "x": rng.normal(size=(size, features)).astype(np.float32),
            "y": rng.integers(4, size=size).astype(np.int32),
        }
        for _ in range(count)
    ]


def loss_function(network, ghost_size=None):
    def loss_fn(params, model_state, batch, key):
        logits, model_state = network.apply(
            params, model_state, batch["x"], train=True, key=key, ghost_size=ghost_size
        )
        losses = optax.losses.softmax_cross_entropy_with_integer_labels(logits, batch["y"])
        return losses.mean(), (model_state, {})

    return loss_fn


def start(network, tx, x):
    params, model_state = network.init(jax.random.key(0), x)
    return training.init_state(params, tx, key=jax.random.key(1), model_state=model_state)


def make(model=None, tx=None, ghost_size=None, **kwargs):
    """A step, its state, and batches."""
    network = models.as_network(models.MLP((64, 32), 4) if model is None else model)
    tx = optax.sgd(0.1, momentum=0.9) if tx is None else tx
    data = batches()
    step = training.make_train_step(loss_function(network, ghost_size), tx, **kwargs)
    return step, start(network, tx, data[0]["x"]), data
