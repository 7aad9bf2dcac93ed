# %% [markdown]
# # The parts in an optax chain of your own
#
# *Rates for another batch, noise, tracking, matching and SAM, each a part of a chain that you already have.*

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from jax.flatten_util import ravel_pytree

from gapjax import data, diffusion, growth, training

digits = data.load("digits")
source = {
    "x": digits.train.images.reshape(len(digits.train), -1).astype(np.float32) / 255,
    "y": digits.train.labels,
}


def losses(params, batch):
    hidden = jax.nn.relu(batch["x"] @ params["w1"] + params["b1"])
    logits = hidden @ params["w2"]
    return optax.losses.softmax_cross_entropy_with_integer_labels(logits, batch["y"])


keys = jax.random.split(jax.random.key(0))
params = {
    "w1": 0.1 * jax.random.normal(keys[0], (64, 32)),
    "b1": jnp.zeros(32),
    "w2": 0.1 * jax.random.normal(keys[1], (32, 10)),
}


def train(tx, batch_size, num_updates, loss_fn=lambda p, b: losses(p, b).mean(), **options):
    """The trained state, and the record of the distance."""
    tx = optax.chain(tx, diffusion.track_diffusion())
    batches = growth.GrowingBatches(source, growth.constant_batch(batch_size), seed=0)
    step = training.compile_step(training.make_train_step(loss_fn, tx, **options))
    state = training.init_state(jax.tree.map(jnp.copy, params), tx, key=jax.random.key(1))
    state, _ = training.fit(step, state, batches, num_updates=num_updates)
    return state, diffusion.diffusion_record(state.opt_state)


# %% [markdown]
# ## Rates
#
# A schedule was tuned at batch 16. `adapt_regime` carries it to batch 256: the same updates (and boundaries in updates), or the same epochs, after which it ends; the rate by the root rule, or by `rule="linear"` or `rule="none"`.

# %%
base = optax.cosine_decay_schedule(0.1, 320)
updates = np.arange(320)
for keep, number in (("updates", 320), ("epochs", 20)):
    adapted = diffusion.adapt_regime(base, batch_size=256, base_batch_size=16, keep=keep)
    rates = [float(adapted(t)) for t in range(number)]
    plt.plot(updates[:number], rates, label=f"batch 256, same {keep}")
plt.plot(updates, [float(base(t)) for t in updates], "k", label="batch 16")
plt.xlabel("updates")
plt.ylabel("rate")
plt.legend();
# %% [markdown]
# For Adam β₂ and ε count too: $\beta_2^\kappa$ for a batch κ times as large remembers as many *examples*, and β₁ stays. `scale_adamw` gives the keyword arguments of `optax.adamw`.

# %%
scaled = diffusion.scale_adamw(1e-3, b2=0.999, weight_decay=0.1, batch_size=256, base_batch_size=16)
print({name: f"{value:.3g}" for name, value in scaled.items()})
adamw = optax.adamw(**scaled)

# %% [markdown]
# ## Tracking, and matching
#
# `track_diffusion` changes no update; it records the distance from the start at log-spaced updates. `match_diffusion` scales updates so that the weights travel as a reference did: here a large batch at a fourth of the rate follows the small one. It scales what it is handed, so it comes after the optimizer.

# %%
_, small = train(optax.sgd(0.2), 16, 160)
_, large = train(optax.sgd(0.05), 256, 160)
matched = optax.chain(optax.sgd(0.05), diffusion.match_diffusion(small))
_, follows = train(matched, 256, 160)
for name, record, line in (
    ("batch 16", small, "-"),
    ("batch 256", large, "-"),
    ("256, matched", follows, "--"),
):
    plt.plot(record.step, record.distance, line, label=name)
plt.xscale("log")
plt.xlabel("updates")
plt.ylabel("distance from the start")
plt.legend();
# %% [markdown]
# ## Noise
#
# Weights $z_n \sim \mathcal N(1, \kappa - 1)$ on the losses, with κ the ratio of the batches, make the gradient of a large batch as noisy as that of a small one (up to a term along the mean gradient). A loss takes `(params, batch)`, or, where it has a state or needs a key, these four, and returns the loss with the state and metrics.

# %%
std = diffusion.noise_std(256, 16)


def noisy(params, model_state, batch, key):
    z = diffusion.example_weights(key, len(batch["y"]), std)
    return jnp.mean(z * losses(params, batch)), (model_state, {})


def plain(params, batch, key):
    return losses(params, batch).mean()


def weighted(params, batch, key):
    return noisy(params, None, batch, key)[0]


def covariance(loss_fn, size):
    """The trace of the covariance of the gradient at the start, over 400 batches."""
    gradient = jax.jit(lambda *given: ravel_pytree(jax.grad(loss_fn)(params, *given))[0])
    batches = growth.GrowingBatches(source, growth.constant_batch(size), seed=0)
    drawn = [gradient(next(batches), key) for key in jax.random.split(keys[0], 400)]
    return float(jnp.var(jnp.stack(drawn), axis=0).sum())


print(f"batch  16             {covariance(plain, 16):.4f}")
print(f"batch 256             {covariance(plain, 256):.4f}")
print(f"batch 256, with noise {covariance(weighted, 256):.4f}")
_, with_noise = train(optax.sgd(0.2), 256, 160, noisy)
print(f"distance travelled with it: {with_noise.distance[-1]:.2f}, batch 16: {small.distance[-1]:.2f}")

# %% [markdown]
# ## SAM, and any optimizer
#
# What changes the *gradient* goes in as `gradient=`: `sam`, `penalize_gradient`, or a function of your own. The chain around it stays as it was. Each group of 16 examples is perturbed along its own gradient (m-sharpness, [Foret et al. 2021](https://arxiv.org/abs/2010.01412)), at the price of a second gradient. One seed tells nothing about which is better: that takes a study.

# %%
test = {
    "x": digits.test.images.reshape(len(digits.test), -1).astype(np.float32) / 255,
    "y": digits.test.labels,
}
for name, tx in (("sgd", optax.sgd(0.5)), ("adamw", adamw), ("lion", optax.lion(1e-3))):
    for gradient in (None, training.sam(0.05, group_size=16)):
        state, record = train(tx, 256, 600, gradient=gradient)
        on_train, on_test = (float(losses(state.params, d).mean()) for d in (source, test))
        print(
            f"{name:6} {'SAM' if gradient else '   '} training loss {on_train:.4f}, "
            f"test loss {on_test:.4f}, distance {record.distance[-1]:.2f}"
        )
