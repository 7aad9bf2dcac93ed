# %% [markdown]
# # How large may the batch be?
#
# *A sweep over batch sizes to a target, and the critical batch size by three methods: what each asks, and what it costs.*

# %%
import jax
import matplotlib.pyplot as plt
import numpy as np
import optax

from gapjax import data, growth, study

# %% [markdown]
# ## 1. Steps to a target
#
# At every size the same number of learning rates is tried, and the best one counts: a curve of steps at one rate would say how well that rate suits each batch. Far below the critical batch size twice the batch nearly halves the updates; at it, updates and examples are twice their least; far above it, devices buy nothing. It costs a run for every size, rate and seed: 80 here.

# %%
asked = study.Sweep(
    study.Study(seeds=4, noise_scale=True), (16, 64, 256, 1024), target=0.08, rates=5, epochs=3
)
found = study.run_sweep(asked, "runs/sweep")
print(study.sweep_finding(found))

# %%
figure, axes = plt.subplots(1, 2, figsize=(11, 3.6), layout="constrained")
study.plot_steps(found, axes[0])
study.plot_examples(found, axes[1]);

# %% [markdown]
# Left, updates to the target by batch size: points with 95% intervals over seeds, perfect scaling dashed, and the fitted curve, its knee with the interval of the critical batch; dark, where a larger batch costs at most 20% more examples, light, where it still saves updates. Right, what the same cost in examples.
#
# The fit is $(S / S_{min} - 1)(E / E_{min} - 1) = 1$ over what was measured ([McCandlish et al. 2018](https://arxiv.org/abs/1812.06162)); its knee is the critical batch size, where both cost twice their least. The "20%" batch of later work is where examples cost 1.2 times those of $B_r$, the largest batch tried that still scales perfectly ([Zhang et al. 2024](https://arxiv.org/abs/2410.21676)), $0.2 B_c + 1.2 B_r$: never mix the two.

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
# $\mathrm{tr}\,\Sigma / |G|^2$, the covariance of one example's gradient over the mean gradient, measured on the way to the target. It costs almost nothing, and in a run of your own, `growth.noise_scale_tracker`, it needs no sweep. It is also the least reliable: it assumes a well-conditioned Hessian and the best rate at every step, and it has no interval here.

# %%
for point in line.points:
    if point.noise_scale is not None:
        print(f"batch {point.batch_size}: noise scale {point.noise_scale:.0f}")

# %% [markdown]
# ## 3. Branches of a run
#
# From one checkpoint, branches with multiples of the batch (and the rate by the linear rule, for SGD) train on the same stream of examples ([Merrill et al. 2025](https://arxiv.org/abs/2505.23971)). It costs a few short branches. The answer is an interval of the sizes that were tried, not a confidence interval: the largest batch that kept up, the smallest that clearly did not (`inf`: all kept up). It says how large the batch may be *now*; asked again later the answer is another.
#
# The methods ask different things, and here of different networks, too: the first two of the study's, with batch norm and momentum, this one of a plain network that you see whole. They need not agree: say which one a number is from.

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
    rate = 0.1 * len(batch["y"]) / 16
    grads = jax.grad(loss_fn)(params, batch)
    return jax.tree.map(lambda w, g: w - rate * g, params, grads), None


keys = jax.random.split(jax.random.key(0))
params = {
    "w1": 0.1 * jax.random.normal(keys[0], (64, 32)),
    "w2": 0.1 * jax.random.normal(keys[1], (32, 10)),
}
batches = growth.GrowingBatches(source, growth.constant_batch(16), seed=0)
for updates in (64, 256):
    while batches.update < updates:
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
    print(f"after {updates} updates between {branches.low} and {branches.high:g} examples")
