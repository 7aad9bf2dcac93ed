"""Curvature of a loss over a data set, as linear operators that are never formed."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from gapjax._checks import one_of
from gapjax.landscape._data import (
    Batches,
    Data,
    check_repeatable,
    num_examples,
    weighted_mean,
)
from gapjax.landscape._differentiable import check_hessian_product, check_network_product
from gapjax.landscape._linear import Linearized, linearized
from gapjax.landscape._products import (
    HESSIAN_PRODUCTS,
    OutputProduct,
    check_logits,
    gradient_curvature,
    loss_curvature,
    softmax_curvature,
)
from gapjax.landscape._program import as_partial
from gapjax.landscape._space import (
    Vector,
    VectorSpace,
    Where,
    space_of,
    widened,
)


@dataclasses.dataclass(frozen=True)
class Operator:
    """A symmetric linear operator on parameter trees.

    Attributes:
        apply: the product with a vector, the tuple of the selected leaves in `dtype`, each in the
            shape and with the sharding of its parameter.
        space: the vectors that it acts on.

    Example:
        >>> import jax.numpy as jnp
        >>> from gapjax import landscape
        >>> op = landscape.from_matvec(lambda v: {"w": 2 * v["w"]}, {"w": jnp.zeros(3)})
        >>> (op @ {"w": jnp.ones(3)})["w"].tolist()
        [2.0, 2.0, 2.0]
        >>> op.size
        3
    """

    apply: Callable[[Vector], Vector]
    space: VectorSpace

    @property
    def size(self) -> int:
        """The number of parameters that the operator acts on."""
        return self.space.size

    @property
    def dtype(self) -> str:
        """The type of vectors, the widest of the selected parameters, at least float32."""
        return self.space.dtype

    def ravel(self, tree: Any) -> jax.Array:
        """A tree like the parameters as one flat array of its selected leaves, ``[size]``.

        For tools that want flat arrays; nothing here needs it.
        """
        return jnp.concatenate([leaf.ravel() for leaf in self.space.vector(tree)])

    def unravel(self, flat: jax.Array) -> Any:
        """A flat array, ``[size]``, as a tree like the parameters, zero where not selected."""
        return self.space.embed(self.space.split(flat))

    def matvec(self, tree: Any) -> Any:
        """The product with a tree like the parameters.

        Leaves left out by ``where=`` count as zero, and are zero in the result: the operator is
        the diagonal block of the selected parameters. So are leaves of integers or keys.
        """
        return self.space.embed(self.apply(self.space.vector(tree)))

    def __matmul__(self, tree: Any) -> Any:
        """``op @ tree``, the same as `matvec`."""
        return self.matvec(tree)


def check_operator(op: Any) -> None:
    """Refuse what is no operator."""
    if not isinstance(op, Operator):
        raise ValueError(
            f"op must be an Operator, as hessian(...) or from_matvec(...) gives, not {op!r:.60}."
        )


@jax.jit
def _all_finite(vector: Vector) -> jax.Array:
    """Whether every entry is finite."""
    return jnp.stack([jnp.isfinite(leaf).all() for leaf in vector]).all()


def _streamed(kernel: Any, space: VectorSpace, batches: Batches, *args: Any) -> Operator:
    """The operator whose product is the weighted mean of a kernel over the data."""
    zeros = space.zeros_maker()

    @functools.cache
    def kept() -> Batches | None:
        return linearized(kernel, batches, *args)

    def apply(vector: Vector) -> Vector:
        if (linear := kept()) is None:
            product = weighted_mean(kernel, zeros(), batches, *args, vector)
        else:
            product = weighted_mean(Linearized(space), zeros(), linear, vector)
        if not _all_finite(product):
            _name_the_batch(vector)
        return product

    def _name_the_batch(vector: Vector) -> None:
        if not _all_finite(vector):
            raise FloatingPointError("the vector to multiply is not finite.")
        for index, (batch, _) in enumerate(batches):
            alone = Batches([batch], batches.weight_fn)
            if not _all_finite(weighted_mean(kernel, zeros(), alone, *args, vector)):
                raise FloatingPointError(
                    f"the curvature product of batch {index} is not finite: look there for inputs "
                    "that are not finite or for a function whose derivative is not (a square root "
                    "or a norm at zero, a logarithm of a probability that underflows)."
                )
        raise FloatingPointError("the mean of the products overflows; scale the loss down.")

    return Operator(apply, space)


def hessian(
    loss_fn: Callable[[Any, Any], jax.Array],
    params: Any,
    data: Data,
    *,
    where: Where | None = None,
    product: str = "forward_over_reverse",
    weight_fn: Callable[[Any], float] = num_examples,
    check: bool = True,
) -> Operator:
    r"""The Hessian of the mean loss over a data set.

    .. math:: H v = \frac{1}{\sum_b n_b} \sum_b n_b \nabla^2 \ell_b(w)\, v

    with n_b the examples in batch b. Its eigenvalues depend on how the network is parametrized:
    scaling weights without a change of the function (one ReLU layer up and the next down, or
    weights before a batch norm) makes them as large as one likes (Dinh et al. 2017). Those of
    ``preconditioned(op, w**-2)``, the matrix ``|w| H |w|``, stay where no weight is zero.

    What no vector changes, the activations and their like, is computed by the first product and
    kept for the others, where the data are a list, no parameter is sharded and it takes at most
    1 GiB.

    * ``"forward_over_reverse"``, the gradient differentiated along the vector (Pearlmutter 1994):
      exact, in about 2 gradients of time, or 2.5 and the memory of one where nothing is kept.
    * ``"reverse_over_reverse"``: exact too, with more time and memory. It also takes kernels with
      a derivative of their own (`jax.custom_vjp`), which refuse to be differentiated forward.
    * ``"finite_difference"``: :math:`(g(w + hv) - g(w - hv)) / 2h` with
      :math:`h = \epsilon^{1/3} (1 + \|w\| / \sqrt n) / \|v\|`, two gradients. It takes any loss
      that has a gradient. Where the loss is smooth the error is about :math:`\epsilon^{2/3}` of
      the gradient's scale, three to four digits in float32; across kinks (ReLU) the result is a
      difference quotient, not a derivative. Where matrix products run in fewer bits (TF32,
      bfloat16) ask for ``jax.default_matmul_precision("highest")``.

    Args:
        loss_fn: ``loss_fn(params, batch) -> mean loss`` of the batch, in evaluation mode: dropout
            off and one declared mode of batch norm. What it closes over is compiled in, as it is
            at the call; after a change it is compiled anew. Arrays that change from call to call
            (batch statistics, say) are best bound as ``jax.tree_util.Partial(fn, arrays)``: the
            compiled program is then shared by all of them.
        params: the tree of parameters. It is never changed.
        data: a sequence of batches, or a callable that yields the same batches at each call. Any
            placement works: with batches sharded over a mesh the sums run over its devices.
        where: ``where(path, leaf) -> bool`` selects parameters by path (``"Dense_0/kernel"``); the
            operator is then the diagonal block of the Hessian for these.
        product: how H v is computed, as above.
        weight_fn: the weight of a batch, by default its number of examples.
        check: compare two passes of the loss first (see Raises), and see whether what it closes
            over has changed. It costs one trace of the loss (little where that is a `jax.jit`,
            which by JAX's own rule keeps what it closed over first) and one to two evaluations
            over the data; only the first call compiles. With False, what the loss closes over must
            be what it was at earlier calls.

    Returns:
        An `Operator`.

    Raises:
        ValueError: no data, a loss that is no scalar, or one that changes between two passes
            (dropout, batch statistics, shuffling); a loss that `product` cannot differentiate, with
            those that can.
        FloatingPointError: a loss, or later a product, that is not finite; the batch is named.

    Example:
        >>> import jax.numpy as jnp
        >>> from gapjax import landscape
        >>> def loss(w, batch):
        ...     return jnp.mean((batch @ w) ** 2) / 2
        >>> op = landscape.hessian(loss, jnp.zeros(2), [jnp.eye(2)])
        >>> (op @ jnp.ones(2)).tolist()
        [0.5, 0.5]

    References:
        Dinh et al., Sharp minima can generalize for deep nets, ICML 2017, arXiv:1703.04933.
        Pearlmutter, Fast exact multiplication by the Hessian, Neural Computation 6 (1994).
    """
    one_of("product", product, HESSIAN_PRODUCTS)
    params = widened(params)
    space, batches = space_of(params, where), Batches(data, weight_fn)
    loss_fn = as_partial(loss_fn)
    if check:
        (loss_fn,) = check_repeatable([loss_fn], params, batches)
    check_hessian_product(product, space, batches, loss_fn, params)
    return _streamed(HESSIAN_PRODUCTS[product](space), space, batches, loss_fn, params)


def ggn(
    apply_fn: Callable[[Any, Any], jax.Array],
    output_loss: Callable[[jax.Array, Any], jax.Array],
    params: Any,
    data: Data,
    *,
    where: Where | None = None,
    weight_fn: Callable[[Any], float] = num_examples,
    check: bool = True,
) -> Operator:
    r"""The generalized Gauss-Newton matrix, the Hessian without the network's own curvature.

    .. math:: G = \frac{1}{\sum_b n_b} \sum_b n_b J_b^T \, \nabla^2 \ell(f_b) \, J_b

    It is positive semidefinite wherever the loss is convex in the outputs (Schraudolph 2002).

    Args:
        apply_fn: ``apply_fn(params, batch) -> outputs``, in evaluation mode.
        output_loss: ``output_loss(outputs, batch) -> mean loss``.
        params: as in `hessian`.
        data: as in `hessian`.
        where: as in `hessian`.
        weight_fn: as in `hessian`.
        check: as in `hessian`.

    Returns:
        An `Operator`.

    Raises:
        ValueError: as in `hessian`.
        FloatingPointError: as in `hessian`.

    Example:
        >>> import jax.numpy as jnp
        >>> from gapjax import landscape
        >>> op = landscape.ggn(
        ...     lambda w, x: x @ w, lambda out, x: jnp.mean(out**2) / 2, jnp.zeros(2), [jnp.eye(2)]
        ... )
        >>> (op @ jnp.ones(2)).tolist()
        [0.5, 0.5]
    """
    params = widened(params)
    space, batches = space_of(params, where), Batches(data, weight_fn)
    functions = apply_fn, output_loss
    return _through_outputs(loss_curvature, space, batches, functions, params, check)


def fisher(
    apply_fn: Callable[[Any, Any], jax.Array],
    params: Any,
    data: Data,
    *,
    kind: str = "exact",
    output_loss: Callable[[jax.Array, Any], jax.Array] | None = None,
    where: Where | None = None,
    weight_fn: Callable[[Any], float] = num_examples,
    check: bool = True,
) -> Operator:
    r"""The Fisher information matrix of a classifier, or its empirical stand-in.

    ``"exact"`` takes the outputs as logits and the labels from the model,
    :math:`F = E_x J^T (\mathrm{diag}(p) - p p^T) J` with p the softmax: for cross entropy it
    equals the generalized Gauss-Newton matrix (Martens 2020, section 9). ``"empirical"`` takes
    the labels of the data, :math:`F = \frac{1}{n} \sum_i g_i g_i^T` with g_i the gradient of
    example i: the second moment of the gradient noise, and no estimate of the first. Examples
    count as the ``mask`` of their batch says, if it has one: ``[B]``, or ``[B, T]`` for parts.

    Args:
        apply_fn: ``apply_fn(params, batch) -> outputs``, examples first, in evaluation mode; for
            ``"exact"`` logits ``[B, ..., classes]``, of at least 2 classes.
        params: as in `hessian`.
        data: as in `hessian`.
        kind: ``"exact"`` or ``"empirical"``.
        output_loss: for ``"empirical"``, ``output_loss(outputs, batch) -> mean loss``, a plain mean
            over the examples, or that over those the mask leaves in; it is asked for batches of
            one.
        where: as in `hessian`.
        weight_fn: as in `hessian`.
        check: as in `hessian`.

    Returns:
        An `Operator`, positive semidefinite.

    Raises:
        ValueError: as in `hessian`; an exact Fisher of outputs that are no logits, an empirical one
            without a loss, or a mask that is not one of examples.
        FloatingPointError: as in `hessian`.

    Example:
        >>> import jax.numpy as jnp
        >>> from gapjax import landscape
        >>> op = landscape.fisher(lambda w, x: x @ w, jnp.zeros((1, 2)), [jnp.ones((4, 1))])
        >>> (op @ jnp.array([[1.0, 0.0]])).tolist()
        [[0.25, -0.25]]
    """
    one_of("kind", kind, ["exact", "empirical"])
    if kind == "empirical" and output_loss is None:
        raise ValueError(
            "the empirical Fisher needs the gradient of the loss: pass "
            "output_loss=lambda outputs, batch: mean loss, or kind='exact'."
        )
    params = widened(params)
    space, batches = space_of(params, where), Batches(data, weight_fn)
    functions = apply_fn, output_loss or _mean_output
    of_outputs = softmax_curvature if kind == "exact" else gradient_curvature
    return _through_outputs(of_outputs, space, batches, functions, params, check)


def _through_outputs(
    of_outputs: Callable[..., Any],
    space: VectorSpace,
    batches: Batches,
    functions: Sequence[Callable[[Any, Any], jax.Array]],
    params: Any,
    check: bool,
) -> Operator:
    """J^T C J over the data, with C the curvature in the outputs; of the network and its loss."""
    partials = list(map(as_partial, functions))
    if check:
        partials = check_repeatable(partials, params, batches, _loss_of_outputs)
    kernel, args = OutputProduct(space, of_outputs), (*partials, params)
    check_network_product(kernel, space, batches, *args)
    return _streamed(kernel, space, batches, *args)


def _loss_of_outputs(batch: Any, apply_fn: Any, output_loss: Any, params: Any) -> jax.Array:
    """The loss of one batch."""
    return output_loss(apply_fn(params, batch), batch)


def _mean_output(outputs: jax.Array, batch: Any) -> jax.Array:
    """A number that tells whether two passes of the network agree."""
    check_logits(outputs)
    return jnp.mean(jax.nn.logsumexp(outputs, axis=-1))


def from_matvec(matvec: Callable[[Any], Any], like: Any) -> Operator:
    """An operator from any symmetric product on trees.

    Args:
        matvec: ``tree -> tree``, linear and symmetric; it is called outside of `jax.jit`, so it may
            compile itself.
        like: a tree with the shapes and dtypes of the vectors.

    Returns:
        An `Operator`.

    Raises:
        ValueError: later, when a product does not have the structure of `like`.
        FloatingPointError: later, when a product is not finite.

    Example:
        >>> import jax.numpy as jnp
        >>> from gapjax import landscape
        >>> op = landscape.from_matvec(lambda v: jnp.arange(3.0) * v, jnp.zeros(3))
        >>> (op @ jnp.ones(3)).tolist()
        [0.0, 1.0, 2.0]
    """
    space = space_of(like)

    def apply(vector: Vector) -> Vector:
        product = matvec(space.embed(vector))
        flat = space.vector(product, "the product")
        if not _all_finite(flat):
            raise FloatingPointError("the product of matvec is not finite.")
        return flat

    return Operator(apply, space)
