"""Ghost batch norm against Flax's batch norm, a loop over chunks, PyTorch and memory bandwidth.

One round of a contestant is forward, backward (input, scale, bias) and the running update of one
layer. ``python -m benchmarks.speed.ghost_norm`` measures [512, 32, 32, 64] and [4096, 512] at ghost
sizes 32, 64 and 128, and keeps the figures under ``benchmarks/results/``. PyTorch is measured when
it is installed (``pip install torch==2.13.0``), on the same number of threads.

The floor is the time in which the machine reads and writes the bytes that any such layer has to
move when it fuses perfectly: forward reads x twice and writes y, backward reads x and the cotangent
twice and writes the gradient, 8 times the input in all. On an accelerator a round is many calls,
sent off one after another, or sending them off would be what is timed; an input that fits into its
cache can then beat the floor.
"""

import argparse
import contextlib
import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from benchmarks.speed.timing import interleave, keep, stream, table
from gapjax._cores import cores
from gapjax.ghost.linen import GhostBatchNorm

SHAPES = {"conv": (512, 32, 32, 64), "dense": (4096, 512)}
GHOSTS = (32, 64, 128)
REFERENCE = "flax BatchNorm"
PASSES = 8
CALLS = 1 if jax.default_backend() == "cpu" else 50  # of a round


def _flax_step(apply, variables, x, cotangent):
    """A jitted round of a layer, ``apply(params, stats, x) -> (y, stats)``."""

    @jax.jit
    def step(params, stats, x, cotangent):
        y, backward, stats = jax.vjp(
            lambda params, x: apply(params, stats, x), params, x, has_aux=True
        )
        return y, backward(cotangent), stats

    params, stats = variables["params"], variables["batch_stats"]

    def once():
        for _ in range(CALLS):
            out = step(params, stats, x, cotangent)
        jax.block_until_ready(out)

    return once


def _module(layer):
    def apply(params, stats, x):
        y, updates = layer.apply(
            {"params": params, "batch_stats": stats}, x, False, mutable=["batch_stats"]
        )
        return y, updates["batch_stats"]

    return apply


def _loop(ghost_size):
    """How ghosts are written by hand: the batch norm of Flax, chunk by chunk in order."""
    apply = _module(nn.BatchNorm())

    def chunked(params, stats, x):
        ys = []
        for start in range(0, len(x), ghost_size):
            y, stats = apply(params, stats, x[start : start + ghost_size])
            ys.append(y)
        return jnp.concatenate(ys), stats

    return chunked


def _torch_steps(x, cotangent, ghost_sizes):
    import torch

    torch.set_num_threads(cores())
    device = "cuda" if jax.default_backend() == "gpu" else "cpu"
    kind = torch.nn.BatchNorm1d if x.ndim == 2 else torch.nn.BatchNorm2d
    # channels_last is the layout of the same memory in PyTorch, and its faster one here.
    tensors = [torch.from_numpy(np.array(a)).to(device).movedim(-1, 1) for a in (x, cotangent)]
    norm = kind(x.shape[-1], momentum=0.01).to(device)

    def step(ghost_size):
        for _ in range(CALLS):
            inputs = tensors[0].detach().requires_grad_()
            chunks = (
                [norm(part) for part in inputs.split(ghost_size)] if ghost_size else [norm(inputs)]
            )
            torch.cat(chunks).backward(tensors[1]) if ghost_size else chunks[0].backward(tensors[1])
            norm.zero_grad()
        if device == "cuda":
            torch.cuda.synchronize()

    steps = {"torch BatchNorm": lambda: step(None)}
    steps |= {f"torch chunks of {size}": functools.partial(step, size) for size in ghost_sizes}
    return steps, {"torch": torch.__version__, "torch_threads": torch.get_num_threads()}


def _floor(x):
    """Seconds to stream the bytes of a round, from one read and one write of ``x``'s size."""
    if jax.default_backend() != "cpu":
        return lambda: stream(x, CALLS * PASSES // 2).block_until_ready()
    source, target = np.array(x), np.array(x)  # memory that is mapped already
    return lambda: [np.copyto(target, source) for _ in range(PASSES // 2)]


def measure(shape, ghost_sizes, rounds):
    """The timings of every contestant on one shape."""
    x = jax.random.normal(jax.random.key(0), shape) + 0.5
    cotangent = jax.random.normal(jax.random.key(1), shape)
    variables = nn.BatchNorm().init(jax.random.key(2), x[:2], False)
    prepare = functools.partial(_flax_step, variables=variables, x=x, cotangent=cotangent)
    contestants = {
        REFERENCE: prepare(_module(nn.BatchNorm())),
        "ghost_size=None": prepare(_module(GhostBatchNorm())),
    }
    for size in ghost_sizes:
        contestants[f"ghost_size={size}"] = prepare(_module(GhostBatchNorm(ghost_size=size)))
    for size in ghost_sizes:
        contestants[f"flax chunks of {size}"] = prepare(_loop(size))
    versions = {}
    with contextlib.suppress(ModuleNotFoundError):
        steps, versions = _torch_steps(x, cotangent, ghost_sizes)
        contestants |= steps
    contestants["memory floor"] = _floor(x)
    return interleave(contestants, reference=REFERENCE, rounds=rounds), versions


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--ghosts", nargs="+", type=int, default=list(GHOSTS))
    given = parser.parse_args()
    figures = {}
    for name in given.shapes:
        timings, versions = measure(SHAPES[name], given.ghosts, given.rounds)
        print(f"{name} {SHAPES[name]}, {CALLS} x (forward + backward + running update)")
        print(f"{table(timings)}\n")
        figures[name] = {
            "shape": SHAPES[name],
            "calls of a round": CALLS,
            **versions,
            "timings": {contestant: timing._asdict() for contestant, timing in timings.items()},
        }
    print("kept in", keep("ghost_norm", {"rounds": given.rounds, "figures": figures}))


if __name__ == "__main__":
    main()
