"""A convex network beside the others: what its weights do, no random potential can explain.

The loss of a linear network is convex, and all its examples in every update leave no noise. Where
the examples can be told apart its weights still grow like log t (Soudry et al. 2018), so a curve
of that law is no evidence of a random walk by itself.
"""

import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from gapjax import diffusion, training
from gapjax.study._population._setup import Setup, count
from gapjax.study._results import _folder
from gapjax.study._results._files import keep, read
from gapjax.study._results._records import Config, Convex

_EXAMPLES, _UPDATES = 2048, 2000  # at most, so that it takes seconds
_MOMENTUM = 0.9
_FILE = "convex.json"


def keep_convex(
    setup: Setup, width: int | None, updates: int, folder: pathlib.Path, config: Config
) -> None:
    """Train a linear network of the study's task and data, unless that is done; keep its curves.

    Nothing is kept where the task has no linear network: inputs that are no numbers, say, or
    targets of several axes; or where its loss is too steep for the rate.

    Args:
        setup: of the study.
        width: of the outputs.
        updates: about how many; a round number of them at most.
        folder: of the study.
        config: of the study.
    """
    examples = jax.tree.map(lambda x: x[:_EXAMPLES], setup.train)
    inputs = setup.inputs(examples)
    if (folder / _FILE).exists() or width is None or not _are_numbers(inputs):
        return
    x = jnp.asarray(inputs).reshape(len(inputs), -1)
    # No step of a softmax, a sigmoid or a square can be too long at this rate; a bias sees ones.
    seen = jnp.concatenate([x, jnp.ones((len(x), 1), x.dtype)], axis=1)
    rate = 1 / float(jnp.linalg.norm(seen, ord=2) ** 2 / len(x))
    updates = min(updates, _UPDATES)
    try:
        found = _distances(setup, examples, x, width, rate, updates)
    except (TypeError, ValueError):  # targets that no linear network has the shape of
        return
    distance = np.asarray(found, np.float64)
    if not np.isfinite(distance).all():  # a loss of its own that is steeper than these
        return
    marks = diffusion.log_spaced(updates)
    rows = distance.T[np.array(marks) - 1]
    control = Convex(count(examples), rate, _MOMENTUM, list(marks), rows.tolist())
    of = _folder.origin(config, (), "convex")
    training.on_first(lambda: keep(folder / _FILE, control, of=of))


def read_convex(folder: pathlib.Path, config: Config) -> Convex | None:
    """The curves of the convex network; None where none was trained."""
    path = folder / _FILE
    of = _folder.origin(config, (), "convex")
    if not path.exists():
        return None
    found = read(path, Convex, of=of, cost="it is trained again")
    return found if np.isfinite(np.array(found.distance, np.float64)).all() else None


def _are_numbers(inputs: Any) -> bool:
    return hasattr(inputs, "dtype") and jnp.issubdtype(inputs.dtype, jnp.floating)


def _distances(
    setup: Setup, examples: Any, x: jax.Array, width: int, rate: float, updates: int
) -> jax.Array:
    """The distance from the start after every update, ``[S, updates]``."""
    task, tx = setup.task, optax.sgd(rate, momentum=_MOMENTUM)
    weights = task.weights(examples)

    def loss(params: Any) -> jax.Array:
        losses = task.losses(x @ params["kernel"] + params["bias"], examples)
        return jnp.sum(losses * weights) / jnp.sum(weights)

    def member(seed: jax.Array) -> jax.Array:
        kernel = jax.nn.initializers.lecun_normal()(jax.random.key(seed), (x.shape[1], width))
        start = {"kernel": kernel, "bias": jnp.zeros(width)}

        def update(at: Any, _: None) -> Any:
            params, state = at
            changes, state = tx.update(jax.grad(loss)(params), state, params)
            params = optax.apply_updates(params, changes)
            return (params, state), diffusion.distance(params, start)

        return jax.lax.scan(update, (start, tx.init(start)), length=updates)[1]

    return training.jit_once(jax.vmap(member))(jnp.array(setup.study.all_seeds, jnp.uint32))
