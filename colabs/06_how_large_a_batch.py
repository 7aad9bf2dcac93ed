# %% [markdown]
# # How large may the batch be?
#
# *A sweep over batch sizes to a target, the critical batch size by three methods, and what each of them costs.*

# %%
import jax
import matplotlib.pyplot as plt
import numpy as np
import optax

from gapjax import data, growth, study

# %% [markdown]
# ## 1. Steps to a target
#
# At every size the same number of learning rates is tried, and the best one counts: a curve of steps at one rate would say how well that rate suits each batch. Up to the critical batch size twice the batch halves the updates; far above it, devices buy nothing.

# %%
asked = study.Sweep(
    study.Study(seeds=2, noise_scale=True), (16, 64, 256, 1024), target=0.08, rates=3, epochs=3
)
found = study.run_sweep(asked, "runs/sweep")
print(study.sweep_finding(found))

# %%
figure, axes = plt.subplots(1, 2, figsize=(11, 3.6), layout="constrained")
study.plot_steps(found, axes[0])
study.plot_examples(found, axes[1]);

# %% [markdown]
# The fit is $(S / S_{min} - 1)(E / E_{min} - 1) = 1$ over what was measured; its knee is the critical batch size, where both cost twice their least. The "20%" batch of later work is about a fifth of it: never mix the two.

# %%
line = found.lines["none"]
for point in line.points:
    print(f"batch {point.batch_size}: rate {point.learning_rate:.3g}, {point.steps.mean:.0f} updates")
if line.fit is not None:
    low, high = line.fit.critical_batch_interval
    print(f"critical batch {line.fit.critical_batch:.0f} [{low:.0f}, {high:.0f}]")

# %% [markdown]
# ## 2. Gradient noise
#
# $\mathrm{tr}\,\Sigma / |G|^2$, measured on the way to the target. It costs almost nothing and needs no sweep. It is also the least reliable: it assumes a well-conditioned Hessian and the best rate at every step.

# %%
for point in line.points:
    if point.noise_scale is not None:
        print(f"batch {point.batch_size}: noise scale {point.noise_scale:.0f}")

# %% [markdown]
# ## 3. Branches of a run
#
# From one checkpoint, branches with multiples of the batch (and the rate by the rule) train on the same stream of examples. The answer is an interval: the largest batch that kept up, the smallest that clearly did not. It says how large the batch may be *now*, early in training; ask again later and the answer has grown. So the three methods need not agree, and here they do not: say which one a number is from.

# %%
digits = data.load("digits")
x = digits.train.images.reshape(len(digits.train), -1).astype(np.float32) / 255
source = {"x": x[:1024], "y": digits.train.labels[:1024]}
held_out = {"x": x[1024:], "y": digits.train.labels[1024:]}


def loss_fn(params, batch):
    logits = jax.nn.relu(batch["x"] @ params["w1"]) @ params["w2"]
    return optax.losses.softmax_cross_entropy_with_integer_labels(logits, batch["y"]).mean()


@jax.jit
def step(params, batch):
    rate = 0.2 * (len(batch["y"]) / 16) ** 0.5
    grads = jax.grad(loss_fn)(params, batch)
    return jax.tree.map(lambda w, g: w - rate * g, params, grads), None


keys = jax.random.split(jax.random.key(0))
params = {
    "w1": 0.1 * jax.random.normal(keys[0], (64, 32)),
    "w2": 0.1 * jax.random.normal(keys[1], (32, 10)),
}
batches = growth.GrowingBatches(source, growth.constant_batch(16), seed=0)
for _ in range(64):
    params, _ = step(params, next(batches))
branches = growth.branched_critical_batch(
    params,
    step,
    batches,
    evaluate=jax.jit(lambda w: loss_fn(w, held_out)),
    multiples=(1, 2, 4, 8, 16),
    examples=1024,
    seeds=4,
)
print(f"between {branches.low} and {branches.high:g} examples, after 64 updates")
