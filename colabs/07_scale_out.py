# %% [markdown]
# # From one device to many
#
# *Eight virtual devices on this machine: a batch over devices under jit and pmap, ghosts across them, seeds over devices, and what a study would take before it is paid for.*

# %%
import os

os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"  # before JAX starts

import jax
import matplotlib.pyplot as plt
import numpy as np
import optax

from gapjax import data, growth, study, training

print(jax.devices())
mesh = jax.make_mesh((8,), ("data",))

# %% [markdown]
# ## A batch over devices
#
# The step stays the pure function that it was. `compile_step` says onto what it is compiled: `jit` with named shardings, or `pmap`. The numbers are the same up to rounding.

# %%
digits = data.load("digits")
source = {
    "x": digits.train.images.reshape(len(digits.train), -1).astype(np.float32) / 255,
    "y": digits.train.labels,
}


def loss_fn(params, batch):
    logits = jax.nn.relu(batch["x"] @ params["w1"]) @ params["w2"]
    return optax.losses.softmax_cross_entropy_with_integer_labels(logits, batch["y"]).mean()


def train(mesh, strategy):
    keys = jax.random.split(jax.random.key(0))
    params = {
        "w1": 0.1 * jax.random.normal(keys[0], (64, 32)),
        "w2": 0.1 * jax.random.normal(keys[1], (32, 10)),
    }
    tx = optax.sgd(0.1)
    batches = growth.GrowingBatches(
        source, growth.geometric_batch(64, factor=2, every=10, maximum=256), seed=0, mesh=mesh
    )
    step = training.compile_step(
        training.make_train_step(loss_fn, tx), mesh=mesh, strategy=strategy
    )
    state = training.init_state(params, tx, key=jax.random.key(1))
    return training.fit(step, state, batches, num_updates=30)[1]


histories = {
    "one device": train(None, "jit"),
    "jit, 8 devices": train(mesh, "jit"),
    "pmap, 8 devices": train(mesh, "pmap"),
}
for name, history in histories.items():
    plt.plot(history.metrics["loss"], label=name, alpha=0.6)
plt.xlabel("updates")
plt.ylabel("loss, the batch growing from 64 to 256")
plt.legend();
# %%
one = histories["one device"].metrics["loss"]
for name, history in histories.items():
    print(f"{name:16} differs by at most {np.abs(history.metrics['loss'] - one).max():.1e}")

# %% [markdown]
# ## Before anything is paid for
#
# Seeds of a study lie over the devices there are and send nothing. `dry_run` (on the command line `--dry-run`) compiles what `run_study` would and tells devices, memory and what an update sends; nothing is trained.

# %%
asked = study.Study(regimes=("LB+LR+GBN",), seeds=8, epochs=1, controls=False)
for need in study.dry_run(asked):
    for title, value in zip(study.NEEDS_COLUMNS, study.needs_row(need), strict=True):
        print(f"{getattr(title, 'title', title)}: {value}")

# %% [markdown]
# ## Many hosts
#
# The same command on every host, with `--distributed` and a folder that all hosts see:
#
# ```sh
# gapjax study hoffer-f1-mnist --seeds 16 --distributed --out /shared/runs/f1
# ```
#
# Your own loop calls `training.connect()` first; `GrowingBatches` with a mesh over all devices then reads on every host what its devices need, the same stream on any number of hosts. The runbooks of the repository go through a TPU pod, a GPU node and SLURM.
