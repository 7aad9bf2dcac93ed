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

from gapjax import data, ghost, growth, study, training

print(jax.devices())
mesh = jax.make_mesh((8,), ("data",))
alone = jax.make_mesh((1,), ("data",), devices=jax.devices()[:1])

# %% [markdown]
# ## A batch over devices
#
# The step stays the pure function that it was. `compile_step` says onto what it is compiled, by default all devices there are: `jit` with named shardings, or `pmap`. For a loss that is a mean over examples the numbers are the same up to rounding. A batch norm sees, under `jit`, the whole batch; under `pmap` every device runs its own part, so give the norm `axis_name="data"` there.

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
    tx = optax.sgd(0.5)
    batches = growth.GrowingBatches(
        source, growth.geometric_batch(64, factor=2, every=10, maximum=256), seed=0, mesh=mesh
    )
    step = training.compile_step(
        training.make_train_step(loss_fn, tx), mesh=mesh, strategy=strategy
    )
    state = training.init_state(params, tx, key=jax.random.key(1))
    return training.fit(step, state, batches, num_updates=100)[1]


histories = {
    "one device": train(alone, "jit"),
    "jit, 8 devices": train(mesh, "jit"),
    "pmap, 8 devices": train(mesh, "pmap"),
}
for (name, history), line in zip(histories.items(), ("-", "--", ":"), strict=True):
    plt.plot(history.metrics["loss"], line, lw=2, label=name)
plt.xlabel("updates")
plt.ylabel("loss, the batch growing from 64 to 256")
plt.legend();
# %%
one = histories["one device"].metrics["loss"]
for name, history in histories.items():
    print(f"{name:16} differs by at most {np.abs(history.metrics['loss'] - one).max():.1e}")

# %% [markdown]
# ## Ghosts across devices
#
# Under `jit` a ghost of 32 may lie over two devices that have 16 of its examples each: moments are of whole ghosts, wherever they lie.

# %%
x = 3 + 2 * jax.random.normal(jax.random.key(2), (128, 4))
layer = ghost.linen.GhostBatchNorm(use_running_average=False, ghost_size=32)
variables = layer.init(jax.random.key(3), x)


@jax.jit
def normalized(x):
    return layer.apply(variables, x, mutable=["batch_stats"])[0]


rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
spread = normalized(jax.device_put(x, rows))
print("on", len(spread.sharding.device_set), "devices, 16 examples each")
print("differs from one device by at most", float(abs(spread - normalized(x)).max()))

# %% [markdown]
# ## Before anything is paid for
#
# Seeds of a study lie over the devices there are and send nothing; `batch_devices` puts a batch over several devices as well, and then an update sums its gradients over them. `dry_run` (on the command line `--dry-run`) compiles what `run_study` would and tells devices (seeds over `member`, batches over `data`), memory and what an update sends; nothing is trained.

# %%
for seeds, batch_devices in ((8, 1), (2, 4)):
    asked = study.Study(regimes=("LB+LR+GBN",), seeds=seeds, epochs=1, controls=False)
    for need in study.dry_run(asked, batch_devices=batch_devices):
        for title, value in zip(study.NEEDS_COLUMNS, study.needs_row(need), strict=True):
            print(f"{getattr(title, 'title', title)}: {value}")
    print()

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
