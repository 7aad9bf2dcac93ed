"""Does SGD hold batch sharpness at 2 / rate? Three rates and three batches on the digits.

    python -m benchmarks.batch_sharpness [--rates 0.1 0.2 0.4] [--batches 8 32 128] [--updates 5000]

A small tanh network is trained by plain SGD on the squared error of the handwritten digits, the
setting of Andreyev and Beneventano (2024). At points evenly spaced `landscape.batch_sharpness` is
measured on fresh batches of the training size, beside the top eigenvalue of the Hessian of the
whole training loss. The plateau is the mean over the second half of the measured points in time.
Figures go to `benchmarks/results/batch_sharpness-cpu.json`, the picture beside it.
"""

import argparse
import functools
import itertools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.speed.timing import keep
from gapjax import data, landscape

WIDTHS = (64, 48, 48, 10)


def make_digits() -> tuple[np.ndarray, np.ndarray]:
    """The training images, centred and of unit scale, and labels of 0 and 1."""
    split = data.load("digits").train
    images = np.asarray(split.images, np.float32).reshape(len(split), -1)
    images = (images - images.mean()) / images.std()
    return images, np.eye(10, dtype=np.float32)[np.asarray(split.labels)]


def init(key: jax.Array) -> list[dict[str, jax.Array]]:
    """Weights of variance 1 / inputs, biases of zero."""
    sizes = list(itertools.pairwise(WIDTHS))
    keys = jax.random.split(key, len(sizes))
    return [
        {"w": jax.random.normal(k, size) / math.sqrt(size[0]), "b": jnp.zeros(size[1])}
        for k, size in zip(keys, sizes, strict=True)
    ]


def loss(params: Any, batch: tuple[jax.Array, jax.Array]) -> jax.Array:
    """Half the squared error, the mean over examples."""
    x, y = batch
    for layer in params[:-1]:
        x = jnp.tanh(x @ layer["w"] + layer["b"])
    out = x @ params[-1]["w"] + params[-1]["b"]
    return 0.5 * jnp.mean(jnp.sum((out - y) ** 2, axis=1))


@functools.partial(jax.jit, static_argnames="batch_size")
def train(params, key, x, y, rates, *, batch_size: int):  # type: ignore[no-untyped-def]
    """An update at each rate, on batches drawn anew."""

    def update(params, now):  # type: ignore[no-untyped-def]
        key, rate = now
        rows = jax.random.choice(key, len(x), (batch_size,), replace=False)
        gradient = jax.grad(loss)(params, (x[rows], y[rows]))
        return jax.tree.map(lambda p, g: p - rate * g, params, gradient), None

    return jax.lax.scan(update, params, (jax.random.split(key, len(rates)), rates))[0]


def run(rate: float, batch_size: int, num_updates: int, points: int) -> dict[str, Any]:
    """One training run, with what was measured on the way."""
    x, y = map(jnp.asarray, make_digits())
    rng, key = np.random.default_rng(0), jax.random.key(0)
    params, rows = init(jax.random.key(1)), []
    # The same number of updates between points, so that one program does for all.
    every = num_updates // points
    for point in range(points + 1):
        if point:
            # The rate warms up over the first stretch: the start is sharper than what follows.
            ramp = np.linspace(0, 1, every) if point == 1 else np.ones(every)
            rates = jnp.asarray(rate * ramp, jnp.float32)
            own = jax.random.fold_in(key, point)
            params = train(params, own, x, y, rates, batch_size=batch_size)
        if not math.isfinite(float(loss(params, (x, y)))):
            break  # The rate is too high for the batch: what was measured before is kept.

        def fresh():  # type: ignore[no-untyped-def]
            while True:
                drawn = rng.choice(len(x), batch_size, replace=False)
                yield x[drawn], y[drawn]

        found = landscape.batch_sharpness(
            loss, params, fresh, rtol=0.03, max_batches=200, check=False, progress=False
        )
        op = landscape.hessian(loss, params, [(x, y)], check=False)
        top = landscape.eigh_topk(op, key, 1, tol=1e-2, progress=False).values[0]
        low, high = found.interval
        rows.append(
            {
                "update": point * every,
                "loss": float(loss(params, (x, y))),
                "batch_sharpness": found.mean,
                "low": low,
                "high": high,
                "top_eigenvalue": float(top),
            }
        )
    half = [row for row in rows if row["update"] >= num_updates / 2]
    plateau, top = (
        float(np.mean([row[name] for row in half])) if len(rows) > points else None
        for name in ("batch_sharpness", "top_eigenvalue")
    )
    return {
        "rate": rate,
        "batch_size": batch_size,
        "threshold": 2 / rate,
        "plateau": plateau,  # null where training diverged
        "plateau_over_threshold": plateau and plateau * rate / 2,
        "top_over_threshold": top and top * rate / 2,
        "points": rows,
    }


def draw(runs: list[dict[str, Any]], path: Any) -> None:
    """Batch sharpness (solid, with its interval) and top eigenvalue (dotted), over 2 / rate."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    batches = sorted({one["batch_size"] for one in runs})
    figure, axes = plt.subplots(
        1, len(batches), figsize=(4 * len(batches), 3.2), sharey=True, layout="constrained"
    )
    for ax, batch_size in zip(np.atleast_1d(axes), batches, strict=True):
        own = [one for one in runs if one["batch_size"] == batch_size]
        for index, one in enumerate(own):
            keys = ("update", "batch_sharpness", "low", "high", "top_eigenvalue")
            update, mean, low, high, top = (
                np.array([row[k] for row in one["points"]], np.float64) for k in keys
            )
            scale, color = one["rate"] / 2, f"C{index}"
            ax.plot(update, mean * scale, color=color, label=f"rate {one['rate']:g}")
            ax.fill_between(update, low * scale, high * scale, color=color, alpha=0.3, lw=0)
            ax.plot(update, top * scale, color=color, linestyle=":")
        ax.axhline(1, color="0.5", lw=0.8)
        ax.set_title(f"batch {batch_size}", fontsize="medium")
        ax.set_xlabel("update")
    first = np.atleast_1d(axes)[0]
    first.set_ylim(0, 2)  # the start, and what diverged, lie above
    first.set_ylabel("sharpness × rate / 2")
    first.legend(fontsize="small")
    figure.savefig(path, dpi=110)


def told(one: dict[str, Any]) -> str:
    """A run in a line."""
    start = f"batch {one['batch_size']:4d}  rate {one['rate']:<6g} 2 / rate {one['threshold']:6.1f}"
    if one["plateau"] is None:
        return f"{start}  diverged after update {one['points'][-1]['update']}"
    return (
        f"{start}  plateau {one['plateau']:7.2f}, times rate / 2 "
        f"{one['plateau_over_threshold']:.2f} (top eigenvalue {one['top_over_threshold']:.2f})  "
        f"loss {one['points'][-1]['loss']:.4f}"
    )


def main() -> None:
    """Trains, measures, keeps, draws."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rates", type=float, nargs="+", default=[0.1, 0.2, 0.4])
    parser.add_argument("--batches", type=int, nargs="+", default=[8, 32, 128])
    parser.add_argument("--updates", type=int, default=5000)
    parser.add_argument("--points", type=int, default=10)
    args = parser.parse_args()
    runs = []
    for batch_size in args.batches:
        for rate in args.rates:
            runs.append(run(rate, batch_size, args.updates, args.points))
            print(told(runs[-1]), flush=True)
    path = keep("batch_sharpness", {"widths": WIDTHS, "updates": args.updates, "runs": runs})
    draw(runs, path.with_suffix(".png"))


if __name__ == "__main__":
    main()
