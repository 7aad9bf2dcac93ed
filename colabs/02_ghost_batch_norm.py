# %% [markdown]
# # Ghost batch normalization
#
# *Batch norm over parts of the batch, in linen and nnx, in models that know nothing of it; and what running statistics do.*

# %%
import flax.linen as nn
import jax
import matplotlib.pyplot as plt
import numpy as np
from flax import nnx

from gapjax import ghost

# %% [markdown]
# ## The layer
#
# `GhostBatchNorm` takes Flax's arguments, in Flax's order, with Flax's defaults, and `ghost_size`. Each ghost of 16 examples is normalized by its own mean and variance. `ghost_size=None` is Flax's batch norm.

# %%
x = 3 + 2 * jax.random.normal(jax.random.key(0), (64, 4))
layer = ghost.linen.GhostBatchNorm(use_running_average=False, ghost_size=16)
variables = layer.init(jax.random.key(1), x)
y, updates = layer.apply(variables, x, mutable=["batch_stats"])
print("means of the four ghosts after it:", np.round(y.reshape(4, 16, 4).mean(1)[:, 0], 6))

# %% [markdown]
# ## A model that knows nothing of it
#
# `ghostify` is a context for linen modules, and gives a new model for nnx. Parameters and statistics keep their names, so a checkpoint of one loads into the other. Momentum 0.9 was tuned for one update of the running statistics a batch: `rescale_momentum` keeps its meaning, see below.


# %%
class Net(nn.Module):
    @nn.compact
    def __call__(self, x, train=False):
        x = nn.BatchNorm(use_running_average=not train, momentum=0.9)(nn.Dense(8)(x))
        return nn.Dense(2)(nn.relu(x))


net = Net()
weights = net.init(jax.random.key(0), x)
with ghost.linen.ghostify(16, rescale_momentum=True):
    ghosts, _ = net.apply(weights, x, train=True, mutable=["batch_stats"])
    evaluated = net.apply(weights, x)
plain, _ = net.apply(weights, x, train=True, mutable=["batch_stats"])
print("training differs by up to", float(abs(ghosts - plain).max()))
same = bool((evaluated == net.apply(weights, x)).all())
print("with the same statistics, evaluation is the same:", same)

# %%
rngs = nnx.Rngs(0)
model = nnx.Sequential(nnx.Linear(4, 8, rngs=rngs), nnx.BatchNorm(8, rngs=rngs), nnx.relu)
converted = ghost.nnx.ghostify(model, 16)
print([type(part).__name__ for part in converted.layers[:2]], converted.layers[1].ghost_size)
state = nnx.state(model)  # a checkpoint of the plain model
nnx.update(converted, state)
print("training differs by up to", float(abs(converted(x) - model(x)).max()))

# %% [markdown]
# ## What does not fit is said
#
# A batch that is no multiple of the ghost size is never re-balanced in silence.

# %%
try:
    layer.apply(variables, x[:40], mutable=["batch_stats"])
except ValueError as error:
    print(error)
short = ghost.ghost_moments(x[:40], 16, remainder="short")
print("with remainder='short' the ghosts hold", short.count.ravel()[:3])

# %% [markdown]
# ## What running statistics do
#
# Evaluation uses running statistics. `update="sequential"` moves them ghost after ghost, as algorithm 1 of Hoffer et al. does: with momentum 0.9 and 40 ghosts a call keeps 0.9⁴⁰ ≈ 1.5% of what was before, so the statistics are those of about the last ten of its ghosts, and noisy. `"mean"` moves them once per call, as `virtual_batch_size` of Keras 2 did. Rescaled momentum does the same by another way; both need as many calls as plain batch norm to forget their start, here 12% of it after 20. Use 0.99 or more with `"sequential"`, or `rescale_momentum=True` for a momentum that was tuned with plain batch norm.


# %%
def running_means(**settings):
    layer = ghost.linen.GhostBatchNorm(use_running_average=False, ghost_size=16, **settings)
    batches = 3 + 2 * jax.random.normal(jax.random.key(2), (40, 640, 1))
    variables, seen = layer.init(jax.random.key(0), batches[0]), []
    step = jax.jit(lambda variables, x: layer.apply(variables, x, mutable=["batch_stats"])[1])
    for batch in batches:
        variables = step(variables, batch)
        seen.append(float(variables["batch_stats"]["mean"][0]))
    return seen


settings = {
    "sequential, 0.9": {"momentum": 0.9},
    "sequential, 0.99": {"momentum": 0.99},
    "sequential, 0.9 rescaled": {"momentum": 0.9, "rescale_momentum": True},
    "mean, 0.9": {"momentum": 0.9, "update": "mean"},
}
for name, values in settings.items():
    means = running_means(use_scale=False, use_bias=False, **values)
    plt.plot(np.arange(1, 41), means, "--" if name.startswith("mean") else "-", label=name)
plt.axhline(3, color="k", lw=0.8)
plt.xlabel("calls")
plt.ylabel("running mean (true: 3)")
plt.ylim(0, 3.5)
plt.legend();
# %% [markdown]
# ## Statistics taken anew
#
# Whatever the momentum, the statistics of the final weights can be taken anew: `batch_statistics` gives those of one batch, `precise_statistics` pools them over as many as the training set has.

# %%
@jax.jit
def statistics(params, batch):
    with ghost.linen.batch_statistics():
        variables = {"params": params, "batch_stats": weights["batch_stats"]}
        return net.apply(variables, batch, train=True, mutable=["batch_stats"])[1]["batch_stats"]


batches = 3 + 2 * jax.random.normal(jax.random.key(3), (40, 64, 4))
pooled = ghost.precise_statistics(statistics, weights["params"], batches)
hidden = batches @ weights["params"]["Dense_0"]["kernel"] + weights["params"]["Dense_0"]["bias"]
off = pooled["BatchNorm_0"]["mean"] - hidden.mean((0, 1))
print("off the mean over all batches by", float(abs(off).max()))
