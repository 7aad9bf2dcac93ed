"""What an update sends between devices: `python -m benchmarks.speed.communication`.

Compiles training steps of F1 and ResNet-44 for 8 devices, from shapes alone, and counts the
collectives of the programs and their bytes. The bar: gradients are reduced once, ghost batch norm
adds nothing to that but its running statistics. Nothing is run.
"""

import time
from typing import Any

import jax
import jax.numpy as jnp
import optax

from benchmarks.speed.timing import keep
from gapjax import models, training

DEVICES = 8
BATCH = 128


def compiled_step(
    model: Any, image: tuple[int, ...], ghost_size: int | None, **layout: Any
) -> tuple[training.TrainState, Any]:
    """The abstract state and the compiled step of a network, for images of this shape."""
    network, tx = models.as_network(model), optax.sgd(0.1, momentum=0.9)

    def loss_fn(params: Any, model_state: Any, batch: Any, key: Any) -> Any:
        logits, model_state = network.apply(
            params, model_state, batch["x"], train=True, key=key, ghost_size=ghost_size
        )
        losses = optax.losses.softmax_cross_entropy_with_integer_labels(logits, batch["y"])
        return losses.mean(), (model_state, {})

    def start(images: Any) -> training.TrainState:
        params, model_state = network.init(jax.random.key(0), images)
        return training.init_state(params, tx, key=jax.random.key(0), model_state=model_state)

    mesh = jax.make_mesh(
        (DEVICES,),
        ("data",),
        axis_types=(jax.sharding.AxisType.Auto,),
        devices=jax.devices()[:DEVICES],
    )
    images = jax.ShapeDtypeStruct((BATCH, *image), jnp.float32)
    labels = jax.ShapeDtypeStruct((BATCH,), jnp.int32)
    state = jax.eval_shape(start, images)
    step = training.compile_step(training.make_train_step(loss_fn, tx), mesh=mesh, **layout)
    return state, step.lower(state, {"x": images, "y": labels}).compile()


def size(tree: Any) -> int:
    """Bytes of the arrays of a tree."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def main() -> None:
    # Below 8 real devices, 8 virtual ones: the partitioned program is the same.
    if jax.config.jax_platforms in (None, "", "cpu"):
        jax.config.update("jax_num_cpu_devices", DEVICES)
    figures: dict[str, Any] = {"devices": DEVICES, "batch": BATCH}
    networks = {
        "F1": (models.f1(), (28, 28, 1)),
        "ResNet-44": (models.resnet44(), (32, 32, 3)),
    }
    variants: dict[str, tuple[int | None, dict[str, str]]] = {
        "batch norm": (None, {}),
        "ghosts of 16, one per device": (16, {}),
        "ghosts of 32, one per two devices": (32, {}),
        "ghosts of 16, parameters sharded": (16, {"parameters": "sharded"}),
    }
    for name, (model, image) in networks.items():
        for variant, (ghost_size, layout) in variants.items():
            started = time.perf_counter()
            state, compiled = compiled_step(model, image, ghost_size, **layout)
            seconds = time.perf_counter() - started
            program = training.inspect_program(compiled)
            gradients, statistics = size(state.params), size(state.model_state)
            reduced = program.by_kind()["all-reduce"][1]
            more = reduced - gradients
            print(f"\n{name}, {variant} ({seconds:.1f} s to trace and compile)\n{program}")
            print(f"reduced beyond the {gradients} bytes of gradients: {more}")
            figures[f"{name}, {variant}"] = {
                "gradient_bytes": gradients,
                "running_statistics_bytes": statistics,
                "reduced_beyond_gradients_bytes": more,
                "collectives": program.by_kind(),
                "memory": program.memory._asdict() if program.memory else None,
                "compile_seconds": round(seconds, 2),
            }
    print(f"\nkept in {keep('communication', figures)}")


if __name__ == "__main__":
    main()
