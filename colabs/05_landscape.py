# %% [markdown]
# # How sharp is it?
#
# *Spectrum, sharpness and what it is invariant to, the path from a small batch's solution to a large one's, a plane, and batch sharpness against 2 / rate.*

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

from gapjax import data, growth, landscape, training

digits = data.load("digits")
source = {
    "x": digits.train.images.reshape(len(digits.train), -1).astype(np.float32) / 255,
    "y": digits.train.labels,
}


def loss_fn(params, batch):
    logits = jax.nn.relu(batch["x"] @ params["w1"]) @ params["w2"]
    return optax.losses.softmax_cross_entropy_with_integer_labels(logits, batch["y"]).mean()


keys = jax.random.split(jax.random.key(0), 4)
start = {
    "w1": 0.1 * jax.random.normal(keys[0], (64, 16)),
    "w2": 0.1 * jax.random.normal(keys[1], (16, 10)),
}


def train(batch_size, rate, num_updates):
    tx = optax.sgd(rate)
    batches = growth.GrowingBatches(source, growth.constant_batch(batch_size), seed=0)
    step = training.compile_step(training.make_train_step(loss_fn, tx))
    state = training.init_state(jax.tree.map(jnp.copy, start), tx, key=jax.random.key(0))
    return training.fit(step, state, batches, num_updates=num_updates)[0].params


small, large = train(16, 0.8, 400), train(640, 0.8, 400)
solutions = {"SB": small, "LB": large}
whole = [source]  # a sequence of batches; here all of the data in one


def accuracy(params, split):
    x = split.images.reshape(len(split), -1).astype(np.float32) / 255
    logits = jax.nn.relu(x @ params["w1"]) @ params["w2"]
    return 100 * float((logits.argmax(-1) == split.labels).mean())


for name, w in solutions.items():
    print(f"{name}: loss {float(loss_fn(w, source)):.4f}, test {accuracy(w, digits.test):.1f}%")

# %% [markdown]
# Both made 400 updates at the same rate, so the large batch (of 640; the small one is 16) saw 40 times the examples. There is no gap here to explain: what follows is about the instruments. It is one seed each, and no interval below is one over seeds.
#
# ## The spectrum
#
# Nothing is ever formed: an operator multiplies the Hessian with a vector. Eigenvalues come with residuals, which are numerical errors; the trace and the density come from random probes, with standard errors.

# %%
hessian = {name: landscape.hessian(loss_fn, w, whole) for name, w in solutions.items()}
for name, op in hessian.items():
    top = landscape.eigh_topk(op, keys[2], 3, progress=False)
    trace = landscape.trace(op, keys[3], progress=False)
    print(
        f"{name}: λ {np.round(top.values, 3)}, residuals up to {top.residuals.max():.0e}; "
        f"trace {trace.mean:.2f}, standard error {trace.stderr:.2f}"
    )

# %%
axis = plt.figure().add_subplot()
for name, op in hessian.items():
    density = landscape.spectral_density(
        op, keys[2], num_probes=4, num_steps=40, sigma=0.02, progress=False
    )
    landscape.plot_density(density, axis, floor=1e-4, label=name)
axis.legend();
# %% [markdown]
# Every eigenvalue is drawn as a bell of width `sigma`, the same for both; what lies left of 0 beside the bulk is the bell's flank.
#
# ## Sharpness, and what it is invariant to
#
# A ReLU network does the same with $(aW_1, W_2/a)$ ([Dinh et al. 2017](https://arxiv.org/abs/1703.04933)). Keskar's box and the eigenvalues move at will; adaptive sharpness, whose box is in units of the weights, does not. Keskar's is in percent of 1 + loss, and the maximum in a box is found by an ascent, so it is a lower bound.

# %%
rescaled = {f"SB, a = {a:g}": (a, small) for a in (0.1, 1.0, 10.0)}
for name, (a, w) in {**rescaled, "LB": (1.0, large)}.items():
    w = {"w1": a * w["w1"], "w2": w["w2"] / a}
    keskar = landscape.keskar_sharpness(
        loss_fn, w, whole, epsilon=1e-3, key=keys[2], num_starts=1, progress=False
    )
    adaptive = landscape.adaptive_sharpness(loss_fn, w, whole, rho=0.02, progress=False)
    top = landscape.eigh_topk(landscape.hessian(loss_fn, w, whole), keys[2], 1, progress=False)
    print(
        f"{name:12} loss {float(loss_fn(w, source)):.4f}, λ₁ {top.values[0]:6.2f}, "
        f"Keskar {keskar.value:.2f}%, adaptive {adaptive.value:.4f}"
    )

# %% [markdown]
# So *sharper* depends on the measure: by λ₁ the large batch's solution is sharper than the small one's, by Keskar's box and by adaptive sharpness it is flatter. Say which one a claim is about.
#
# ## The way from one to the other, and a plane
#
# Left, the straight line through both solutions. Right, the loss around the small batch's (in the middle) along two random directions, each filter of which is scaled like the weights ([Li et al. 2018](https://arxiv.org/abs/1712.09913)).


# %%
def evaluate(params):
    return {"loss": loss_fn(params, source)}


figure, axes = plt.subplots(1, 2, figsize=(10, 3.4), layout="constrained")
path = landscape.interpolate(evaluate, small, large, np.linspace(-0.5, 1.5, 31), progress=False)
landscape.plot_path(path, axes[0])
axes[0].set(title="", xlabel="from SB to LB", xticks=[0, 1], xticklabels=["SB", "LB"])
first, second = (landscape.random_direction(key, small) for key in keys[:2])
grid = np.linspace(-1, 1, 11)
plane = landscape.plane(evaluate, small, first, second, grid, grid, progress=False)
landscape.plot_contour(plane, axes[1])
axes[1].plot(0, 0, "k+", ms=10)
axes[1].set(title="loss around SB");
# %% [markdown]
# ## Against 2 / rate
#
# Gradient descent on the whole batch drives the largest eigenvalue towards 2 / rate and holds it there ([Cohen et al. 2021](https://arxiv.org/abs/2103.00065)). With small batches it is the *batch* sharpness, the curvature that a step meets on its own batch, that is driven there, and the Hessian of the whole loss ends below ([Andreyev and Beneventano 2024](https://arxiv.org/abs/2412.20553)). Here the batch sharpness comes up to 2 / rate within 200 updates, while the largest eigenvalue, which was as large before, is left behind; as the training loss becomes small, both fall. So a comparison of sharpness across rates, or at different losses, is a comparison of rates and losses.

# %%
batches = [jax.tree.map(lambda v: v[i : i + 16], source) for i in range(0, 1280, 16)]
updates, measured, largest = (25, 50, 100, 200, 400, 800), [], []
for number in updates:
    w = train(16, 0.8, number)
    measured.append(landscape.batch_sharpness(loss_fn, w, batches, rtol=0.1, progress=False))
    op = landscape.hessian(loss_fn, w, whole)
    largest.append(landscape.eigh_topk(op, keys[2], 1, progress=False).values[0])
low, high = np.array([found.interval for found in measured]).T
middle = np.array([found.mean for found in measured])
plt.errorbar(updates, middle, (middle - low, high - middle), label="batch sharpness, 95% interval")
plt.plot(updates, largest, label="largest eigenvalue of the whole loss")
plt.axhline(2 / 0.8, color="k", lw=0.8, label="2 / rate")
plt.xscale("log", base=2)
plt.xticks(updates, updates)
plt.xlabel("updates")
plt.ylim(0)
plt.legend();
