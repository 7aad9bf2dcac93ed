# %% [markdown]
# # Batches that grow
#
# *Schedules, the exact stream of examples, ramps by examples, Seesaw, growth by what is measured, and going on where one stopped.*

# %%
import jax
import matplotlib.pyplot as plt
import numpy as np
import optax

from gapjax import data, growth, training

digits = data.load("digits")
source = {
    "x": digits.train.images.reshape(len(digits.train), -1).astype(np.float32) / 255,
    "y": digits.train.labels,
}

# %% [markdown]
# ## Ramps, and clocks
#
# A ramp says how large the batch is at an update, with exact whole numbers both ways. A schedule written over examples is asked by update, whatever the ramp.

# %%
ramp = growth.parse_batch_schedule("0:16 1280:64 5120:256")
total = 12_800
updates = ramp.update_at(total)
rate = growth.by_examples(
    optax.cosine_decay_schedule(0.1, total), ramp, rule="sqrt", base_batch_size=16
)
print(ramp, updates, "updates for", ramp.examples_before(updates), "examples")

figure, axes = plt.subplots(1, 2, figsize=(10, 3), layout="constrained")
steps = np.arange(updates)
axes[0].step(steps, [ramp(t) for t in steps], where="post")
axes[0].set(yscale="log", xlabel="updates", ylabel="batch")
axes[1].plot(steps, [float(rate(t)) for t in steps])
axes[1].set(xlabel="updates", ylabel="rate, by the root rule");
# %% [markdown]
# ## Seesaw
#
# Where a schedule falls by a factor, the rate falls by its root and the batch grows by it (Meterez et al. 2025, for Adam). The examples stay the same, the updates are fewer.

# %%
cosine = optax.cosine_decay_schedule(1e-3, total)
lr, sizes = growth.seesaw(cosine, total_examples=total, batch_size=16, maximum=256)
print(sizes.sizes(), "-", sizes.update_at(total), "updates instead of", total // 16)

# %% [markdown]
# ## One stream
#
# The order of examples is fixed by the seed alone. When the batch grows, the next one is cut wider from the same stream; the state is a few numbers, and a restored iterator goes on with the very same batch.

# %%
batches = growth.GrowingBatches(source, ramp, seed=0)
rows = growth.stream_rows(0, 0, 64, num_examples=len(source["y"]))
first = [next(batches) for _ in range(4)]
print((np.concatenate([b["y"] for b in first]) == source["y"][rows.example]).all())
saved = batches.state()
again = growth.GrowingBatches(source, ramp, seed=0)
again.restore(saved)
print((next(again)["x"] == next(batches)["x"]).all(), saved)

# %% [markdown]
# ## Growth by what is measured
#
# The gradient noise scale, tr Σ / |G|², is estimated without bias from gradients at two sizes: of microbatches, and of the batch. A controller grows the batch while the noise scale stays above it.


# %%
def loss_fn(params, batch):
    logits = jax.nn.relu(batch["x"] @ params["w1"]) @ params["w2"]
    return optax.losses.softmax_cross_entropy_with_integer_labels(logits, batch["y"]).mean()


keys = jax.random.split(jax.random.key(0))
params = {
    "w1": 0.1 * jax.random.normal(keys[0], (64, 32)),
    "w2": 0.1 * jax.random.normal(keys[1], (32, 10)),
}
controller = growth.noise_scale_controller(16, maximum=256, min_dwell=5)
adaptive = growth.GrowingBatches(
    source, controller, seed=0, microbatch=8, independent_examples=True
)
tx = optax.chain(growth.noise_scale_tracker(0.9), optax.sgd(0.2))
step = training.compile_step(training.make_train_step(loss_fn, tx, microbatched=True))
state = training.init_state(params, tx, key=jax.random.key(0))
seen = []
for _ in range(200):
    state, metrics = step(state, next(adaptive))
    noise = growth.noise_scale_record(state.opt_state)
    adaptive.observe(noise)
    seen.append((adaptive.batch_size, float(noise.noise_scale)))
for switch in adaptive.switches:
    print(f"from update {switch.update} on {switch.size}: {switch.reason}")

# %%
size, noise = np.array(seen).T
plt.plot(noise, label="gradient noise scale")
plt.step(np.arange(len(size)), size, where="post", label="batch")
plt.yscale("log")
plt.xlabel("updates")
plt.ylabel("examples")
plt.legend();
