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
# A ramp says how large the batch is at an update: `"0:16 1280:64 5120:256"` starts with 16, and takes 64 once 1,280 examples were seen, that is from update 80 on. Updates and examples follow from each other in exact whole numbers. A schedule written over examples is asked by update, whatever the ramp.

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
axes[0].set(xlabel="updates", ylabel="batch")
axes[0].set_yscale("log", base=2)
axes[0].set_yticks([16, 64, 256], ["16", "64", "256"])
axes[1].step(steps, [float(rate(t)) for t in steps], where="post")
axes[1].set(xlabel="updates", ylabel="rate, by the root rule");
# %% [markdown]
# ## Seesaw
#
# Where a schedule falls by a factor, the rate falls by its root and the batch grows by it ([Meterez et al. 2025](https://arxiv.org/abs/2510.14717), for Adam). The examples stay the same, the updates are fewer. The schedule that goes in counts *examples*; the one that comes out counts updates.

# %%
cosine = optax.cosine_decay_schedule(1e-3, total)
lr, sizes = growth.seesaw(cosine, total_examples=total, batch_size=16, maximum=256)
updates = sizes.update_at(total)
print(sizes.sizes(), "-", updates, "updates instead of", total // 16)
figure, axis = plt.subplots(figsize=(5, 3), layout="constrained")
axis.step(np.arange(updates), [float(lr(t)) for t in range(updates)], where="post", label="Seesaw")
alone = [float(cosine(16 * t)) for t in range(total // 16)]
axis.plot(alone, "k", lw=0.8, label="the schedule at batch 16")
axis.set(xlabel="updates", ylabel="rate")
axis.legend();

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
# The gradient noise scale is tr Σ / |G|²: the covariance of a single example's gradient, and the mean gradient. Both are estimated without bias from gradients at two sizes, of microbatches (here 8) and of the batch, and averaged over updates before they are divided; their ratio is noisy all the same. A controller grows the batch while the noise scale stays above it, and waits `min_dwell` updates in between. The rate is left alone here; `growth.by_examples` and the rules of `diffusion` move it with the batch.
#
# This is one run: early switches tell of the noise of the start, and differ from seed to seed.


# %%
def loss_fn(params, batch):
    logits = jax.nn.relu(batch["x"] @ params["w1"]) @ params["w2"]
    return optax.losses.softmax_cross_entropy_with_integer_labels(logits, batch["y"]).mean()


def start():
    keys = jax.random.split(jax.random.key(0))
    return {
        "w1": 0.1 * jax.random.normal(keys[0], (64, 32)),
        "w2": 0.1 * jax.random.normal(keys[1], (32, 10)),
    }


controller = growth.noise_scale_controller(16, maximum=256, min_dwell=40)
adaptive = growth.GrowingBatches(
    source, controller, seed=0, microbatch=8, independent_examples=True
)
tx = optax.chain(growth.noise_scale_tracker(0.95), optax.sgd(0.2))
step = training.compile_step(training.make_train_step(loss_fn, tx, microbatched=True))
state = training.init_state(start(), tx, key=jax.random.key(0))
seen, examples = [], 0
for _ in range(200):
    size = adaptive.batch_size
    state, metrics = step(state, next(adaptive))
    noise = growth.noise_scale_record(state.opt_state)
    adaptive.observe(noise)
    seen.append((size, float(noise.noise_scale)))
    examples += size
for switch in adaptive.switches:
    print(f"from update {switch.update} on {switch.size}: {switch.reason}")
print(f"loss {float(loss_fn(state.params, source)):.4f} after {examples} examples in 200 updates")
fixed = growth.GrowingBatches(source, growth.constant_batch(16), seed=0)
plain = training.compile_step(training.make_train_step(loss_fn, optax.sgd(0.2)))
other = training.init_state(start(), optax.sgd(0.2), key=jax.random.key(0))
for _ in range(examples // 16):
    other, _ = plain(other, next(fixed))
print(f"loss {float(loss_fn(other.params, source)):.4f} at batch 16, in {examples // 16} updates")

# %% [markdown]
# At the same examples the growing run is behind: it made a fourth of the updates, each at the rate of batch 16. Growing pays where updates are what costs, and with a rate that moves along.

# %%
size, noise = np.array(seen).T
plt.plot(noise, label="gradient noise scale")
plt.step(np.arange(len(size)), size, where="post", label="batch")
plt.yscale("log", base=2)
plt.yticks([16, 64, 256, 1024], ["16", "64", "256", "1024"])
plt.xlabel("updates")
plt.ylabel("examples")
plt.legend();
