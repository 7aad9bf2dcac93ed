"""Whether a loss can be differentiated as a product asks, found out by lowering before any work."""

from typing import Any

import jax

from gapjax.landscape._data import Batches, loss_kernel, refuse_no_scalar
from gapjax.landscape._linear import lower_product
from gapjax.landscape._products import HESSIAN_PRODUCTS, Gradient, loss_curvature
from gapjax.landscape._space import VectorSpace


def check_hessian_product(
    name: str, space: VectorSpace, batches: Batches, loss_fn: Any, params: Any
) -> None:
    """Refuses a product that the loss cannot be differentiated by, and says which ones can."""
    batch = batches.first

    def fails(name: str) -> Exception | None:
        return _failure(HESSIAN_PRODUCTS[name](space), space, batches, loss_fn, params)

    error = fails(name)
    if error is None:
        return
    # What is wrong with the loss itself, or with its gradient, says so in its own words.
    refuse_no_scalar(jax.eval_shape(loss_kernel, batch, loss_fn, params))
    jax.eval_shape(Gradient(space), batch, loss_fn, params)
    others = [repr(other) for other in HESSIAN_PRODUCTS if other != name and fails(other) is None]
    raise ValueError(
        f"the loss cannot be differentiated by product={name!r} ({_first_line(error)}). It has a "
        "part with a derivative of its own (jax.custom_vjp, a Pallas kernel) that cannot be "
        f"differentiated once more in this way: pass product={' or '.join(others)}."
    ) from error


def check_network_product(kernel: Any, space: VectorSpace, batches: Batches, *args: Any) -> None:
    """Refuses a network that cannot be differentiated forward, as J^T C J needs."""
    error = _failure(kernel, space, batches, *args)
    if error is None:
        return
    batch, (apply_fn, output_loss, params) = batches.first, args
    # What is wrong with the outputs, with their loss or its curvature, says so in its own words.
    outputs = jax.eval_shape(apply_fn, params, batch)
    refuse_no_scalar(jax.eval_shape(output_loss, outputs, batch))
    try:
        jax.eval_shape(kernel.of_outputs, output_loss, batch, outputs, outputs)
    except Exception as own:  # of any type, as above
        if kernel.of_outputs is loss_curvature:
            own.add_note(
                "while differentiating output_loss in the outputs of the network: give a part of "
                "it with a jax.custom_vjp a jax.custom_jvp instead, or measure hessian(..., "
                "product='reverse_over_reverse')."
            )
        raise
    raise ValueError(
        f"the network cannot be differentiated forward ({_first_line(error)}), and the products "
        "with its Jacobian need that: give the part with a jax.custom_vjp a jax.custom_jvp "
        "instead, or measure hessian(..., product='reverse_over_reverse')."
    ) from error


def _failure(kernel: Any, space: VectorSpace, batches: Batches, *args: Any) -> Exception | None:
    """What lowering a product raises."""
    try:
        lower_product(kernel, space, batches, *args)
    except Exception as error:  # of any type: each rule of differentiation refuses in its own way
        return error
    return None


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0].rstrip(".")[:200]
