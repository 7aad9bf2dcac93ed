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
# A schedule was tuned at batch 16. `adapt_regime` carries it to batch 256: the same updates (and boundaries in updates), or the same epochs; the rate by the root, the linear rule, or none.

# %%
base = optax.cosine_decay_schedule(0.1, 320)
updates = np.arange(320)
for keep in ("updates", "epochs"):
    adapted = diffusion.adapt_regime(base, batch_size=256, base_batch_size=16, keep=keep)
    plt.plot(updates, [float(adapted(t)) for t in updates], label=f"batch 256, same {keep}")
plt.plot(updates, [float(base(t)) for t in updates], "k", label="batch 16")
plt.xlabel("updates")
plt.ylabel("rate")
plt.legend();
# %% [markdown]
# For Adam the betas count too. `scale_adamw` gives the keyword arguments of `optax.adamw`.

# %%
scaled = diffusion.scale_adamw(1e-3, b2=0.999, weight_decay=0.1, batch_size=256, base_batch_size=16)
print({name: round(value, 6) for name, value in scaled.items()})
adamw = optax.adamw(**scaled)

# %% [markdown]
# ## Tracking, and matching
#
# `track_diffusion` changes no update; it records the distance from the start at log-spaced updates. `match_diffusion` scales updates so that the weights travel as a reference did: here a large batch follows the small one.

# %%
_, small = train(optax.sgd(0.2), 16, 160)
_, large = train(optax.sgd(0.2), 256, 160)
matched = optax.chain(optax.sgd(0.2), diffusion.match_diffusion(small))
_, follows = train(matched, 256, 160)
for name, record in (("batch 16", small), ("batch 256", large), ("256, matched", follows)):
    plt.plot(record.step, record.distance, label=name)
plt.xscale("log")
plt.xlabel("updates")
plt.ylabel("distance from the start")
plt.legend();
# %% [markdown]
# ## Noise
#
# Weights $z_n \sim \mathcal N(1, \kappa - 1)$ on the losses make the gradient of a large batch as noisy as that of a small one.

# %%
std = diffusion.noise_std(256, 16)


def noisy(params, model_state, batch, key):
    z = diffusion.example_weights(key, len(batch["y"]), std)
    return jnp.mean(z * losses(params, batch)), (model_state, {})


_, with_noise = train(optax.sgd(0.2), 256, 160, noisy)
print(f"batch 256 {large.distance[-1]:.3f}, with noise {with_noise.distance[-1]:.3f}")

# %% [markdown]
# ## SAM, and any optimizer
#
# What changes the *gradient* goes in as `gradient=`: `sam`, `penalize_gradient`, or a function of your own. The chain around it stays as it was.

# %%
for name, tx in (("sgd", optax.sgd(0.5)), ("adamw", adamw), ("lion", optax.lion(1e-3))):
    for gradient in (None, training.sam(0.05, group_size=16)):
        state, record = train(tx, 256, 60, gradient=gradient)
        loss = float(losses(state.params, source).mean())
        print(
            f"{name:6} {'SAM' if gradient else '   '} loss {loss:.4f} distance {record.distance[-1]:.2f}"
        )
