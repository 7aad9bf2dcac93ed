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
whole = [source]  # a sequence of batches; here all of the data in one
print("loss", float(loss_fn(small, source)), float(loss_fn(large, source)))

# %% [markdown]
# ## The spectrum
#
# Nothing is ever formed: an operator multiplies the Hessian with a vector. Eigenvalues come with residuals, densities with standard errors.

# %%
hessian = {name: landscape.hessian(loss_fn, w, whole) for name, w in (("SB", small), ("LB", large))}
for name, op in hessian.items():
    top = landscape.eigh_topk(op, keys[2], 3, progress=False)
    trace = landscape.trace(op, keys[3], progress=False)
    print(
        f"{name}: λ {np.round(top.values, 3)} ± {top.residuals.max():.0e}, trace {trace.mean:.2f} ± {trace.stderr:.2f}"
    )

# %%
for name, op in hessian.items():
    density = landscape.spectral_density(op, keys[2], num_probes=4, num_steps=40, progress=False)
    plt.semilogy(density.grid, np.maximum(density.density, 1e-4), label=name)
plt.xlabel("eigenvalue")
plt.ylabel("density")
plt.legend();
# %% [markdown]
# ## Sharpness, and what it is invariant to
#
# A ReLU network does the same with $(aW_1, W_2/a)$ (Dinh et al. 2017). Keskar's box and the eigenvalues move at will; adaptive sharpness, whose box is in units of the weights, does not.

# %%
for a in (0.5, 1.0, 2.0):
    w = {"w1": a * small["w1"], "w2": small["w2"] / a}
    keskar = landscape.keskar_sharpness(
        loss_fn, w, whole, epsilon=1e-3, key=keys[2], num_starts=1, progress=False
    )
    adaptive = landscape.adaptive_sharpness(loss_fn, w, whole, rho=0.02, progress=False)
    print(
        f"a = {a}: loss {float(loss_fn(w, source)):.4f}, Keskar {keskar.value:.2f}, adaptive {adaptive.value:.4f}"
    )

# %% [markdown]
# ## The way from one to the other, and a plane


# %%
def evaluate(params):
    return {"loss": loss_fn(params, source)}


figure, axes = plt.subplots(1, 2, figsize=(10, 3.4), layout="constrained")
path = landscape.interpolate(evaluate, small, large, np.linspace(-0.5, 1.5, 31), progress=False)
landscape.plot_path(path, axes[0])
first, second = (landscape.random_direction(key, small) for key in keys[:2])
grid = np.linspace(-1, 1, 11)
plane = landscape.plane(evaluate, small, first, second, grid, grid, progress=False)
landscape.plot_contour(plane, axes[1]);
# %% [markdown]
# ## Against 2 / rate
#
# Gradient descent on the whole batch drives the largest eigenvalue towards 2 / rate and holds it there (Cohen et al. 2021). With small batches it is the *batch* sharpness, the curvature that a step meets on its own batch, that is held there, while the Hessian of the whole loss stays below. Once the training loss is small both may fall again. So a comparison of sharpness across rates is a comparison of rates.

# %%
batches = [jax.tree.map(lambda v: v[i : i + 16], source) for i in range(0, 640, 16)]
found = landscape.batch_sharpness(loss_fn, small, batches, rtol=0.1, progress=False)
low, high = found.interval
print(f"batch sharpness {found.mean:.2f} [{low:.2f}, {high:.2f}], 2 / rate = {2 / 0.8:g}")
