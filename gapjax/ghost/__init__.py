"""Ghost batch normalization: statistics of small ghosts inside a large batch.

**What it does.** A batch of B examples is cut into contiguous ghosts of ``ghost_size``; in training
each is normalized with its own mean and variance, as if it had been a small batch (Hoffer, Hubara,
Soudry 2017). Evaluation uses running statistics and takes any batch. A layer costs no more than
plain batch norm: ghosts are a reshape. On images it takes 0.88 to 0.95 of the time of Flax's own,
with ghosts or without (``benchmarks/results/ghost_norm-cpu.json``, ``ghost_norm-gpu.json``): on
CPU, where the compiler does not do so by itself, it takes both sums that it needs in one pass.

**When it helps.** Where a network with batch norm loses accuracy as its batch grows, because the
noise of small-batch statistics regularized it; together with a higher learning rate and enough
updates, since it is only one part of the cure. Summers and Dinneen (2020, "Four things everyone
should know to improve batch normalization") report gains at small and medium batches too.

**When it does not.** Without batch norm in the model there is nothing to cut. Ghosts that are too
small make statistics too noisy, and training and evaluation then disagree. Under data parallelism
where each device normalizes its own examples, plain batch norm already is ghost batch norm, of the
size of a device's batch; under ``jax.jit`` it is not, batch norm is global there. A gain of ghosts
can be a learning rate that was not tuned for the large batch (Shallue et al. 2018): tune both.

**Which ghost size.** The small batch that generalized, often 32 to 128. It counts examples over all
devices and all microbatches: 128 is 128 on one device and on eight.

**Which momentum.** ``momentum`` is the fraction kept, per ghost with ``update="sequential"`` and
per call with ``"mean"``. Sequential wants 0.99 or more: at 0.9 only the last ten ghosts or so
count, whatever the batch. Its statistics do not depend on how examples are spread over calls, so
gradient accumulation needs nothing extra, as long as microbatches are multiples of the ghost
size. With ``"mean"``, K microbatches are K updates. PyTorch's momentum is 1 minus this one.

**Converting a tuned batch norm.** ``ghostify`` turns a model as it is, with the same parameters,
statistics and paths; a checkpoint moves both ways. It keeps each layer's momentum, which then is
one per ghost: with G ghosts a call keeps ``m ** G``. ``rescale_momentum=True`` takes
``m ** (1 / G)`` per ghost, so that a call keeps what it did.

**Which variance.** Ghosts leave out the variance of their means. ``"within"`` keeps what training
normalized with, ``"unbiased"`` is PyTorch's n / (n - 1), which presumes independent elements, and
``"total"`` adds the variance of the ghost means of each call: the one for evaluation on whole
distributions. For weights that were averaged or interpolated: ``precise_statistics``, put into the
state of the model by ``with_statistics``.

**What differs elsewhere.** The authors' code runs the whole network per ghost. Keras 2
(``virtual_batch_size``) makes strided ghosts and one update with the mean ghost; Keras 3 has none.
Composer and pytorch-tabnet loop over chunks and change the ghost size silently when it does not
divide the batch. init2winit keeps the variance of the whole batch, one update per step. To have
theirs: Keras ``update="mean"``; init2winit ``update="mean", variance="total"``; PyTorch ghost by
ghost ``variance="unbiased"``. Flax's own nnx batch norm rounds running statistics to ``dtype`` in
evaluation; here they never are.

**Devices.** Under ``jax.jit`` with a batch sharded over b examples per device, a ghost size that
divides b communicates nothing in the layer but the running statistics; any other size exchanges
moments of ghosts, never activations. In ``jax.shard_map`` and ``jax.pmap`` give ``axis_name``; a
ghost size must divide b or be b times a divisor of the devices. For ghosts larger than b in
``jax.shard_map`` split the mesh, ``axis_name=("outer", "ghost")``.

The pure core works on arrays; ``gapjax.ghost.linen`` and ``gapjax.ghost.nnx`` hold the Flax modules
and are loaded when they are first touched.
"""

from typing import TYPE_CHECKING

from gapjax._lazy import loading
from gapjax.ghost._batch_norms import batch_norms, with_statistics
from gapjax.ghost._moments import Moments, ghost_moments, normalize
from gapjax.ghost._precise import precise_statistics
from gapjax.ghost._running import Running, update_running

if TYPE_CHECKING:
    from gapjax.ghost import linen, nnx

__all__ = [
    "Moments",
    "Running",
    "batch_norms",
    "ghost_moments",
    "linen",
    "nnx",
    "normalize",
    "precise_statistics",
    "update_running",
    "with_statistics",
]


if not TYPE_CHECKING:  # Flax is loaded when a module is first asked for.
    __getattr__ = loading(__name__, ("linen", "nnx"))


def __dir__() -> list[str]:
    return __all__
