# %% [markdown]
# # The gap, and how it closes
#
# *The story of [Keskar et al. (2017)](https://arxiv.org/abs/1609.04836) and [Hoffer, Hubara and Soudry (2017)](https://arxiv.org/abs/1705.08741), told on handwritten digits that come with scikit-learn. No download.*
#
# Train the same network twice, once with a small batch and once with a large one, for the same number of epochs. The large batch makes 40 times fewer updates, fits the training set a little less well, and does worse on the test set. Why, and what helps?

# %%
import matplotlib.pyplot as plt
import numpy as np
from IPython.display import Markdown

from gapjax import study

plt.rcParams |= {"figure.figsize": (6, 3.6), "axes.spines.top": False, "axes.spines.right": False}

# %% [markdown]
# ## Five regimes
#
# `SB` is the small batch, of 16, and `LB` the large one, of 640, both for 20 epochs. Each further regime adds one remedy: the learning rate times the square root of the batch ratio (`LR`), ghost batch normalization (`GBN`), regime adaptation, which keeps the number of *updates* instead of the number of epochs (`RA`). Seeds are a vmapped axis: eight of each train as one program. This takes a minute.

# %%
result = study.run_study(study.Study(controls=False), "runs/colab")
Markdown(study.format_table(result, "markdown"))

# %% [markdown]
# ## Budgets
#
# Every row names what was held fixed against the small batch. At the same *epochs* a batch 40 times as large makes 40 times fewer updates. `RA` makes as many updates and pays for it with 40 times the examples. That is not a detail: it is most of the story, so a share of the gap never stands without its budget.

# %%
print(study.finding(result))

# %% [markdown]
# Every point is a seed; the bar above is the mean with its 95% interval over seeds. Shares count the test examples as well. All of this, and more, is in `runs/colab/report.html`.

# %%
figure, axes = plt.subplots(1, 2, figsize=(11, 3.2), layout="constrained")
study.plot_headline(result, axes[0])
study.plot_gap_closed(result, axes[1]);  # no remedy is 0, the small batch 100

# %% [markdown]
# ## Too few updates
#
# Keskar saw large batches end *near the start*. Hoffer saw why: the distance from the start grows like the logarithm of the number of updates, a random walk on a random potential. A large batch makes few updates, so it never gets far. Before the learning rate first drops, the small batch's curve is close to a straight line on a log axis.
#
# Look at `RA`, too: it makes as many updates as the small batch, travels less far, and generalizes as well. Distance need not match.
#
# Bands are one standard deviation over the seeds. Dashed is the log-*t* law, dotted a power law, fitted before the rate first falls; the first 50 updates, in which momentum still remembers the start, are left out where enough others are there.

# %%
figure, axes = plt.subplots(1, 2, figsize=(11, 3.6), layout="constrained")
study.plot_distance(result, axes[0])
axes[0].legend()
study.plot_curves(result, axes[1], name="test_accuracy")
axes[1].set_ylim(90, 100)
axes[1].legend();
# %% [markdown]
# ## What log *t* does not show
#
# `fit_diffusion` holds the log-*t* law against a power law on the same points, and says how sure it is. A curve that is straight on a log axis over a decade or two is no proof: a power law with a small exponent looks much the same, another range of updates may favour it (the report fits from the first update on as well), and a *convex* problem, which has no barriers to climb, gives such curves too (`Study(controls=True)`, the default, trains one beside). Distance is a symptom worth matching, not the cause of generalization.

# %%
from gapjax.diffusion import fit_diffusion

small = result.regimes["SB"]
update, distance = (
    np.array(small.curves.update),
    small.curves.array("distance").T,
)  # [seeds, updates]
fit = fit_diffusion(update, distance, last=small.boundaries[0])
low, high = fit.log_interval
print(
    f"log t: slope {fit.log_slope:.2f} (95% interval {low:.2f} to {high:.2f}), R² {fit.log_r2:.4f}"
)
print(f"power law: exponent {fit.power_exponent:.2f}, R² {fit.power_r2:.4f}")
first, last = fit.step_range
print(f"over updates {first} to {last}: AIC favours log t by {fit.delta_aic:.1f}: {fit.better}")

# %% [markdown]
# ## Ghosts
#
# Batch normalization over 640 examples sees hardly any noise. Ghost batch normalization cuts the large batch into ghosts of the small size and normalizes each by its own mean and variance: notebook 02.

# %%
import jax

from gapjax.ghost import ghost_moments

activations = 3 + 2 * jax.random.normal(jax.random.key(0), (640, 1))
whole, ghosts = ghost_moments(activations), ghost_moments(activations, 16)
plt.hist(np.asarray(ghosts.mean)[:, 0], bins=15, alpha=0.6, label="means of 40 ghosts of 16")
plt.axvline(float(whole.mean[0, 0]), color="k", label="mean of the batch of 640")
plt.xlabel("mean used to normalize")
plt.ylabel("ghosts")
plt.ylim(0, 9)
plt.legend();

# %% [markdown]
# ## What a sceptic asks
#
# *Was the learning rate of the large batch tuned?* Rates are a vmapped axis as well: `Study(tune=7)` tries seven around each regime's rule on a validation split cut from the training set, and the report shows the rule's rate and the tuned one. On these digits much of the gap at the same epochs *is* the learning rate: see what `LR` alone closes above.
#
# *Did it see more data?* With `controls=True` a small batch that sees as many examples as the regime that sees most is trained beside it.
#
# *Is the minimum sharp?* `run_study(..., landscape=True)` measures it; notebook 05 shows what to make of the numbers.
