"""How a pure step is laid out over devices and compiled."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from gapjax import _checks
from gapjax.training._steps import TrainStep

_AXIS = "data"


def compile_step(
    step: Callable[..., Any], *, mesh: Mesh | None = None, strategy: str = "jit"
) -> Callable[..., Any]:
    """Compile ``step(state, batch) -> (state, metrics)`` for the devices of a mesh.

    The state is replicated, the leading axis of the batch is split over the mesh's first axis. The
    state handed in is donated: its memory becomes the new state's, so do not use it again.

    Both strategies give the same numbers for a loss that is a mean over examples. Their batch norms
    differ: under ``"jit"`` a batch norm sees the whole batch; under ``"pmap"`` one without an
    ``axis_name`` sees the batch of its device, an accidental ghost batch norm.

    Args:
        step: a pure step, from ``make_train_step`` for ``strategy="pmap"``.
        mesh: the devices; all of them in one axis where left out. Make it with Auto axes.
        strategy: ``"jit"`` (the default: one global program, laid out by ``NamedSharding``) or
            ``"pmap"`` (a program per device, ``axis_name="data"``).

    Returns:
        The compiled step. Batches may be NumPy arrays on the host or arrays already laid out.

    Raises:
        ValueError: an unknown strategy; or, when called, a batch that does not divide over the
            devices.

    Example:
        >>> import jax, optax
        >>> from gapjax.training import init_state, make_train_step
        >>> def loss_fn(params, batch):
        ...     return jax.numpy.mean((batch["x"] @ params - batch["y"]) ** 2)
        >>> tx = optax.sgd(0.1)
        >>> step = compile_step(make_train_step(loss_fn, tx))
        >>> state = init_state(jax.numpy.zeros(2), tx, key=jax.random.key(0))
        >>> batch = {"x": jax.numpy.ones((8, 2)), "y": jax.numpy.ones(8)}
        >>> state, metrics = step(state, batch)
        >>> float(metrics["loss"])
        1.0
    """
    _checks.one_of("strategy", strategy, ("jit", "pmap"))
    if mesh is None:
        mesh = jax.make_mesh((jax.device_count(),), (_AXIS,), axis_types=(_AUTO,))
    return _compile_jit(step, mesh) if strategy == "jit" else _compile_pmap(step, mesh)


_AUTO = jax.sharding.AxisType.Auto


def _compile_jit(step: Callable[..., Any], mesh: Mesh) -> Callable[..., Any]:
    replicated = NamedSharding(mesh, PartitionSpec())
    split = NamedSharding(mesh, PartitionSpec(mesh.axis_names[0]))
    size = mesh.shape[mesh.axis_names[0]]
    compiled = jax.jit(
        step,
        in_shardings=(replicated, split),
        out_shardings=(replicated, replicated),
        donate_argnums=0,
    )

    def run(state: Any, batch: Any) -> Any:
        _check_divides(batch, size)
        return compiled(state, batch)

    return run


def _compile_pmap(step: Callable[..., Any], mesh: Mesh) -> Callable[..., Any]:
    if not isinstance(step, TrainStep):
        raise ValueError(
            'strategy="pmap" averages gradients over devices inside the step, so it needs a step '
            'from make_train_step; use strategy="jit" for any other.'
        )
    devices = list(mesh.devices.flat)
    mapped = jax.pmap(
        dataclasses.replace(step, axis_name=_AXIS),
        axis_name=_AXIS,
        in_axes=(None, 0),
        out_axes=(None, None),
        devices=devices,
    )

    def run(state: Any, batch: Any) -> Any:
        _check_divides(batch, len(devices))
        split = jax.tree.map(
            lambda x: x.reshape(len(devices), x.shape[0] // len(devices), *x.shape[1:]), batch
        )
        return mapped(state, split)

    return run


def _check_divides(batch: Any, devices: int) -> None:
    for path, leaf in jax.tree_util.tree_leaves_with_path(batch):
        if leaf.shape[0] % devices:
            size = leaf.shape[0]
            raise ValueError(
                f"a batch of {size} does not divide over {devices} devices "
                f"(batch{jax.tree_util.keystr(path)}): use {size - size % devices or devices} or "
                f"{size + devices - size % devices} examples, or a mesh of fewer devices."
            )
