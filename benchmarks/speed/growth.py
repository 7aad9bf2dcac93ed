"""Growing batches: what a growth costs, and whether reading data holds training up.

    python -m benchmarks.speed.growth --data-dir DIR      # DIR: where MNIST lies prepared

* growth: the update after a growth over the median update at the new size, F1, compiled ahead and
  recompiled naively. Bar: at most 2 times.
* loader: updates per second from `GrowingBatches` over those from batches that already lie on the
  device (bar: at least 0.95), and images per second beside a plain Grain pipeline over the same
  prepared files (bar: at least 5 times).
* microbatches: collectives and temporary memory of a summed gradient, for the layout delivered and
  for slices of the big batch. Bar: no all-gather. Needs several devices; on a CPU they are made up.
"""

import argparse
import functools
import itertools
import statistics
import time

import jax
import jax.numpy as jnp
import optax
from jax.sharding import NamedSharding, PartitionSpec

from benchmarks.speed.timing import interleave, keep, table
from gapjax.data import load, normalize
from gapjax.growth import GrowingBatches, constant_batch, geometric_batch
from gapjax.models import as_network, f1
from gapjax.training import compile_ahead, init_state, inspect_program, make_train_step

BATCH = 512


def f1_step():
    """A freshly jitted update of F1, and a state to begin with."""
    network, tx = as_network(f1()), optax.sgd(0.05, momentum=0.9)

    def loss_fn(params, model_state, batch, key):
        logits, model_state = network.apply(
            params, model_state, normalize(batch.images), train=True, key=key
        )
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch.labels)
        return losses.mean(), (model_state, {})

    params, model_state = network.init(jax.random.key(0), jnp.zeros((2, 28, 28, 1)))
    state = init_state(params, tx, model_state=model_state, key=jax.random.key(1))
    return jax.jit(make_train_step(loss_fn, tx), donate_argnums=0), state


def one_device_mesh():
    auto = (jax.sharding.AxisType.Auto,)
    return jax.make_mesh((1,), ("data",), axis_types=auto, devices=jax.devices()[:1])


def replicated(state, mesh):
    return jax.device_put(state, NamedSharding(mesh, PartitionSpec()))


def growth_costs(split, *, ahead, every, rounds):
    """First update after each growth over the median of the other updates at the new size."""
    ratios, waits, medians = [], [], []
    for seed in range(rounds):
        mesh = one_device_mesh()
        schedule = geometric_batch(128, factor=2, every=every, maximum=1024)
        batches = GrowingBatches(split, schedule, seed=seed, mesh=mesh)
        step, state = f1_step()
        step = compile_ahead(step, batches) if ahead else step
        state = replicated(state, mesh)
        times = []
        for _ in range(every * len(schedule.sizes())):
            start = time.perf_counter()
            state, metrics = step(state, next(batches))
            jax.block_until_ready(metrics)
            times.append(time.perf_counter() - start)
        for growth in range(1, len(schedule.sizes())):
            own = times[growth * every : (growth + 1) * every]
            medians.append(statistics.median(own[1:]))
            ratios.append(own[0] / medians[-1])
            waits.append(own[0])
    return {
        "ratio_median": statistics.median(ratios),
        "ratio_max": max(ratios),
        "ratios": [round(ratio, 2) for ratio in ratios],
        "first_update_ms": [round(1e3 * wait, 1) for wait in waits],
        "median_update_ms": [round(1e3 * middle, 1) for middle in medians],
    }


def loader_against_device(split, *, updates, rounds):
    """Training from the iterator against training from batches that lie on the device."""
    mesh = one_device_mesh()
    step, state = f1_step()
    states = {name: replicated(state, mesh) for name in ("device", "loader")}
    states["device"] = jax.tree.map(jnp.copy, states["loader"])
    loader = GrowingBatches(split, constant_batch(BATCH), seed=0, mesh=mesh)
    placed = itertools.cycle([next(loader) for _ in range(8)])

    def run(name, batches):
        for _ in range(updates):
            states[name], metrics = step(states[name], next(batches))
        jax.block_until_ready(metrics)

    contestants = {
        "device": functools.partial(run, "device", placed),
        "loader": functools.partial(run, "loader", loader),
    }
    return interleave(contestants, reference="device", rounds=rounds)


def loader_against_grain(split, data_dir, *, batches, rounds):
    """Images per second of batches alone, from the iterator and from Grain.

    One after the other, not interleaved: Grain's threads go on reading ahead in its pauses.
    """
    import grain
    import tensorflow_datasets as tfds

    def pipeline(source, threads):
        data = grain.MapDataset.source(source).shuffle(seed=0).repeat().batch(BATCH)
        return iter(data.to_iter_dataset(grain.ReadOptions(num_threads=threads)))

    class Arrays:
        def __len__(self):
            return len(split)

        def __getitem__(self, number):
            return {"image": split.images[number], "label": split.labels[number]}

    files = tfds.data_source("mnist", split="train", data_dir=data_dir)
    contestants = {
        "gapjax": lambda: GrowingBatches(split, constant_batch(BATCH), seed=0),
        "Grain over the decoded arrays, no threads": lambda: pipeline(Arrays(), 0),
        "Grain over the prepared files, no threads": lambda: pipeline(files, 0),
        "Grain over the prepared files, 16 threads": lambda: pipeline(files, 16),
    }
    rates = {}
    for name, make in contestants.items():
        iterator, times = make(), []
        next(iterator)
        for _ in range(rounds):
            start = time.perf_counter()
            for _ in range(batches):
                next(iterator)
            times.append(time.perf_counter() - start)
        rates[name] = round(batches * BATCH / statistics.median(times))
        print(f"{name}: {rates[name]} images per second")
    return rates


def microbatch_programs(parts=8):
    """Collectives and temporaries of a gradient summed over microbatches, in two layouts."""
    auto = (jax.sharding.AxisType.Auto,)
    mesh = jax.make_mesh((jax.device_count(),), ("data",), axis_types=auto)
    kernels = [(3, 3, 3, 32), (3, 3, 32, 32)]
    params = [
        jax.ShapeDtypeStruct(shape, jnp.float32, sharding=NamedSharding(mesh, PartitionSpec()))
        for shape in kernels
    ]

    def loss(params, images):
        for kernel in params:
            images = jax.nn.relu(
                jax.lax.conv_general_dilated(
                    images, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
                )
            )
        return jnp.mean(images**2)

    def summed(params, images):
        def add(total, part):
            return jax.tree.map(jnp.add, total, jax.grad(loss)(params, part)), None

        return jax.lax.scan(add, jax.tree.map(jnp.zeros_like, params), images)[0]

    def sliced(params, images):
        return summed(params, images.reshape(parts, -1, *images.shape[1:]))

    def spec(shape, *axes):
        sharding = NamedSharding(mesh, PartitionSpec(*axes))
        return jax.ShapeDtypeStruct((*shape, 32, 32, 3), jnp.float32, sharding=sharding)

    programs = {
        "one big batch": (jax.grad(loss), spec((1024,), "data")),
        "delivered as (A, B / A)": (summed, spec((parts, 1024 // parts), None, "data")),
        "slices of the big batch": (sliced, spec((1024,), "data")),
    }
    figures = {}
    for name, (program, images) in programs.items():
        compiled = jax.jit(program).lower(params, images).compile()
        program = inspect_program(compiled)
        kinds = program.by_kind()
        figures[name] = {
            "all_gather": kinds.get("all-gather", (0,))[0],
            "all_reduce": kinds.get("all-reduce", (0,))[0],
            "temporary_mib": round(program.memory.temporaries / 2**20, 1),
        }
    return {"devices": jax.device_count(), **figures}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data-dir", default=None)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--every", type=int, default=150)
    parser.add_argument("--only", choices=("growth", "loader", "grain", "microbatches"))
    args = parser.parse_args()
    wanted = {args.only} if args.only else {"growth", "loader", "grain", "microbatches"}
    if "microbatches" in wanted and jax.config.jax_platforms in (None, "", "cpu"):
        jax.config.update("jax_num_cpu_devices", 8)
    split = load("mnist", data_dir=args.data_dir).train if wanted != {"microbatches"} else None
    figures = {}
    if "growth" in wanted:
        for name, ahead in (("compiled_ahead", True), ("recompiled", False)):
            costs = growth_costs(split, ahead=ahead, every=args.every, rounds=args.rounds)
            figures[name] = costs
            print(
                f"{name}: first update {costs['ratio_median']:.2f} times the median one, "
                f"at most {costs['ratio_max']:.2f}"
            )
    if "loader" in wanted:
        timings = loader_against_device(split, updates=30, rounds=11)
        figures["loader_against_device"] = {k: t._asdict() for k, t in timings.items()}
        print(table(timings))
    if "grain" in wanted:
        figures["images_per_second"] = loader_against_grain(
            split, args.data_dir, batches=10, rounds=5
        )
    if "microbatches" in wanted:
        figures["microbatches"] = microbatch_programs()
        for name, figure in figures["microbatches"].items():
            print(name, figure)
    if not args.only:
        print("kept in", keep("growth", figures))


if __name__ == "__main__":
    main()
