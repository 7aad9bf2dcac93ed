"""What the minima of a study look like: curvature, sharpness, and what lies between them.

The loss is the same function for every regime: the mean cross entropy over the whole training set,
in evaluation mode.
"""

import functools
import pathlib
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from gapjax import data, ghost, landscape, training
from gapjax.study import _folder
from gapjax.study._landscape_measures import (
    EPSILONS,
    LEVEL_MEASURES,
    MEASURES,
    RHO,
    THRESHOLDS,
    Minimum,
    Report,
)
from gapjax.study._landscape_numbers import evaluated, summarize, summarize_levels
from gapjax.study._levels import crossed, weights_path
from gapjax.study._members import Setup
from gapjax.study._train import Progress

SEEDS = 3
_ROWS = 4096  # examples of one batch


def measure_landscape(
    setup: Setup,
    folder: pathlib.Path,
    regimes: Mapping[str, Mapping[str, Any]],
    history: Mapping[str, Mapping[str, Any]],
    *,
    seeds: int = SEEDS,
    progress: Callable[[Progress], None] | None = None,
) -> dict[str, Any]:
    """Measure the minima that a finished study kept, and write ``landscape.json``.

    Every measurement is kept in ``landscape/`` when it is done, and a later call goes on from
    there. Minima are those at the rule's learning rate; a seed that diverged has none.

    Args:
        setup: of the study.
        folder: of the study.
        regimes: per regime its results, as in ``StudyResult``.
        history: per regime its learning curves, as in ``StudyResult``.
        seeds: how many seeds of each regime.
        progress: called with a ``Progress`` of phase ``"landscape"``; its updates are per cent.

    Returns:
        What ``landscape.json`` holds: per regime numbers over seeds, the paths between SB and LB,
        and what they say.
    """
    (folder / "landscape").mkdir(exist_ok=True)
    bench = _Bench(setup)
    kept: dict[str, dict[int, dict[str, Any]]] = {}
    for name, regime in regimes.items():
        alive = _alive(regime, seeds)
        report = _Reporter(progress, name, len(alive) * len(MEASURES))
        kept[name] = {}
        for member in alive:
            minimum = functools.partial(bench.minimum, folder, name, member)
            path = folder / "landscape" / f"{name}-{regime['seeds'][member]}.json"
            kept[name][member] = _measured(path, MEASURES, minimum, report)
    levels = _levels(setup, bench, folder, regimes, history, seeds, progress)
    paths = {}
    if {"SB", "LB"} <= set(regimes):
        both = [m for m in kept["SB"] if m in kept["LB"]]
        report = _Reporter(progress, "SB to LB", len(both))
        for member in both:
            path = folder / "landscape" / f"SB to LB-{regimes['SB']['seeds'][member]}.json"
            ends = functools.partial(bench.ends, folder, member)
            paths[member] = _measured(path, {"path": bench.between}, ends, report)["path"]
    found = {
        "mode": (
            "Batch norm in evaluation mode at and around each minimum: its own running "
            "statistics, held fixed."
        )
        + (
            " On the way from SB to LB, where neither's statistics fit, they are recomputed over "
            "the training set at every point."
            if paths
            else ""
        ),
        "settings": {
            "seeds": seeds,
            "thresholds": THRESHOLDS,
            "epsilons": EPSILONS,
            "rho": RHO,
        },
        **summarize(kept, paths, regimes, history),
        "levels": summarize_levels(levels),
    }
    _folder.keep_json(folder / "landscape.json", found)
    return _folder.read_json(folder / "landscape.json")  # as every later reader has it


def _levels(
    setup: Setup,
    bench: "_Bench",
    folder: pathlib.Path,
    regimes: Mapping[str, Mapping[str, Any]],
    history: Mapping[str, Mapping[str, Any]],
    seeds: int,
    progress: Callable[[Progress], None] | None,
) -> dict[float, dict[str, dict[int, dict[str, Any]]]]:
    """What was measured where the training loss first fell to each level, by regime and member."""
    found: dict[float, dict[str, dict[int, dict[str, Any]]]] = {}
    for level in setup.study.loss_levels:
        found[level] = {}
        for name, regime in regimes.items():
            update, losses = evaluated(history[name], "train_loss")
            at = crossed(losses, level)[:seeds]
            there = [int(member) for member in np.flatnonzero(at >= 0)]
            report = _Reporter(progress, f"{name} at {level:g}", len(there) * len(LEVEL_MEASURES))
            found[level][name] = {}
            for member in there:
                seed = regime["seeds"][member]
                weights = weights_path(folder, name, seed, level)
                minimum = functools.partial(bench.on_the_way, weights)
                path = folder / "landscape" / f"{name}-{seed} at loss {level:g}.json"
                found[level][name][member] = {
                    "update": int(update[at[member]]),
                    "train_loss": float(losses[at[member], member]),
                    **_measured(path, LEVEL_MEASURES, minimum, report),
                }
    return found


def _alive(regime: Mapping[str, Any], seeds: int) -> list[int]:
    """The first members that did not diverge."""
    values = regime["test_accuracy"]["values"][:seeds]
    return [member for member, value in enumerate(values) if value is not None]


def _measured(
    path: pathlib.Path,
    measures: Mapping[str, Callable[[Any, Report], Any]],
    make: Callable[[], Any],
    report: "_Reporter",
) -> dict[str, Any]:
    """What a file holds, with what is missing measured; each is kept when it is done."""
    found: dict[str, Any] = _folder.read_json(path) if path.exists() else {}
    subject = None
    for name, measure in measures.items():
        if name not in found:
            subject = make() if subject is None else subject
            found[name] = measure(subject, report.inside)
            _folder.keep_json(path, found)
            found = _folder.read_json(path)  # as a run that was interrupted here would have it
        report.done()
    return found


class _Reporter:
    """Turns the progress of one measurement into per cent of all of a regime."""

    def __init__(self, progress: Callable[[Progress], None] | None, regime: str, total: int):
        self.progress, self.regime, self.total = progress, regime, total
        self.finished, self.at_start, self.started = 0, 0, time.perf_counter()
        self.working, self.inner = False, 0.0

    def inside(self, at: landscape.Progress) -> None:
        if not self.working:  # what an earlier run has done took no time in this one
            self.working, self.at_start, self.started = True, self.finished, time.perf_counter()
        # One measurement may run several searches, each with a count of its own.
        self.inner = max(self.inner, at.done / max(at.total, at.done, 1))
        self._tell(self.inner)

    def done(self) -> None:
        self.finished, self.inner = self.finished + 1, 0.0
        self._tell(self.inner)

    def _tell(self, part: float) -> None:
        if self.progress is None:
            return
        here = self.finished + part
        share = (here - self.at_start) / (self.total - self.at_start or 1)
        elapsed = time.perf_counter() - self.started
        left = elapsed / share * (1 - share) if self.working and share > 0 else None
        per_cent = int(100 * here / self.total)
        self.progress(Progress(self.regime, "landscape", per_cent, 100, 0.0, left))


class _Bench:
    """The losses of a study, made once so that every minimum shares what is compiled."""

    def __init__(self, setup: Setup):
        self.setup = setup
        self.batches = {name: _batches(getattr(setup, name)) for name in ("train", "test")}
        network, prepare = setup.network, setup.prepare

        def metrics(model_state: Any, params: Any, batch: data.Split) -> dict[str, jax.Array]:
            logits, _ = network.apply(params, model_state, prepare(batch.images), train=False)
            losses = optax.losses.softmax_cross_entropy_with_integer_labels(logits, batch.labels)
            right = logits.argmax(-1) == batch.labels
            return {"loss": losses.mean(), "accuracy": right.mean(dtype="float32")}

        def loss(model_state: Any, params: Any, batch: data.Split) -> jax.Array:
            return metrics(model_state, params, batch)["loss"]

        def rebuilt(params: Any, model_state: Any, batch: data.Split) -> dict[str, jax.Array]:
            return metrics(model_state, params, batch)

        @jax.jit
        def statistics(params: Any, model_state: Any, batch: data.Split) -> Any:
            return batch_statistics(network.apply, params, model_state, prepare(batch.images))

        self.loss, self.metrics, self.rebuilt, self.statistics = loss, metrics, rebuilt, statistics

    def _as_network(self, params: Any, model_state: Any) -> tuple[Any, Any]:
        """Weights and running statistics from a checkpoint, as the network holds them."""
        images = jax.ShapeDtypeStruct((2, *self.setup.train.images.shape[1:]), np.float32)
        shapes = jax.eval_shape(self.setup.network.init, jax.random.key(0), images)
        params, model_state = map(_as_saved, shapes, (params, model_state or {}))
        return params, model_state

    def _end(self, folder: pathlib.Path, name: str, member: int) -> tuple[Any, Any]:
        """Weights and running statistics of one member at the end."""
        final = training.load_tree(folder / "checkpoints" / name)
        parts = self._as_network(final["params"], final.get("model_state"))
        return jax.tree.map(lambda x: jnp.asarray(x[member]), parts)

    def minimum(self, folder: pathlib.Path, name: str, member: int) -> Minimum:
        """The minimum of one member of a regime."""
        return self._around(*self._end(folder, name, member))

    def on_the_way(self, weights: pathlib.Path) -> Minimum:
        """Where one member was when its loss reached a level."""
        kept = training.load_tree(weights)
        parts = self._as_network(kept["params"], kept.get("state"))
        return self._around(*jax.tree.map(jnp.asarray, parts))

    def _around(self, params: Any, model_state: Any) -> Minimum:
        # The statistics are arguments of what is compiled, not constants in it.
        loss_fn = jax.tree_util.Partial(self.loss, model_state)
        metric_fn = jax.tree_util.Partial(self.metrics, model_state)
        evaluate = {k: landscape.evaluator(metric_fn, v) for k, v in self.batches.items()}
        batches = self.batches["train"]
        return Minimum(
            params, loss_fn, evaluate, batches, landscape.hessian(loss_fn, params, batches)
        )

    def ends(self, folder: pathlib.Path, member: int) -> tuple[Any, Any, Any]:
        """The weights of SB and LB, and the statistics of SB."""
        (small, model_state), (large, _) = (self._end(folder, n, member) for n in ("SB", "LB"))
        return small, large, model_state

    def between(self, ends: tuple[Any, Any, Any], report: Report) -> dict[str, Any]:
        """Losses and accuracies on the line from SB (at 0) to LB (at 1) and beyond."""
        small, large, model_state = ends

        def rebuild(params: Any) -> Any:
            own = functools.partial(self.statistics, model_state=model_state)
            if not batch_norms(model_state):
                return model_state
            pooled = ghost.precise_statistics(
                lambda p, batch: own(p, batch=batch), params, self.batches["train"]
            )
            return _replace(model_state, pooled)

        evaluate = {k: landscape.evaluator(self.rebuilt, v) for k, v in self.batches.items()}
        path = landscape.interpolate(evaluate, small, large, rebuild=rebuild, progress=report)
        return {"alpha": path.coords, **path.values, "barrier": path.barrier}


def _batches(split: data.Split) -> list[data.Split]:
    """A split on the device, in batches."""
    cuts = range(0, len(split), _ROWS)
    return [jax.tree.map(lambda x, i=i: jnp.asarray(x[i : i + _ROWS]), split) for i in cuts]


def _as_saved(shapes: Any, saved: Any) -> Any:
    """A checkpoint under the keys of the network, which it keeps as text."""
    if not isinstance(shapes, Mapping):
        return saved
    return {key: _as_saved(shapes[key], saved.get(key, saved.get(str(key)))) for key in shapes}


def batch_norms(model_state: Any) -> dict[str, dict[str, jax.Array]]:
    """The mean and variance of every batch norm, by the path to it."""
    found: dict[str, dict[str, jax.Array]] = {}
    for path, leaf in jax.tree.leaves_with_path(model_state):
        *place, kind = (str(getattr(key, "key", key)) for key in path)
        if kind in ("mean", "var"):
            found.setdefault("/".join(place), {})[kind] = leaf
    return found


def _replace(model_state: Any, norms: Mapping[str, Mapping[str, jax.Array]]) -> Any:
    """The state with other statistics in its batch norms."""

    def leaf(path: Any, old: jax.Array) -> jax.Array:
        *place, kind = (str(getattr(key, "key", key)) for key in path)
        return norms["/".join(place)][kind] if kind in ("mean", "var") else old

    return jax.tree.map_with_path(leaf, model_state)


def batch_statistics(
    apply: Callable[..., tuple[jax.Array, Any]], params: Any, model_state: Any, images: jax.Array
) -> dict[str, dict[str, jax.Array]]:
    """The statistics of one batch in every batch norm, for any network with running averages.

    An update is ``m r + (1 - m) s``, with m unknown here. From r = 0 and r = 1 it gives (1 - m) s
    and m + (1 - m) s, hence both.
    """

    def update(start: float) -> Any:
        state = jax.tree.map(lambda x: jnp.full_like(x, start), batch_norms(model_state))
        key = jax.random.key(0)
        _, after = apply(params, _replace(model_state, state), images, train=True, key=key)
        return batch_norms(after)

    return jax.tree.map(lambda zero, one: zero / (1 - (one - zero)), update(0.0), update(1.0))
