"""What is slow in a loop of XLA on a CPU."""

from typing import Any

import jax
import jax.numpy as jnp


def convolves(params: Any) -> bool:
    """Whether there are convolutions: a leaf with 3 axes or more is taken for a kernel.

    On a CPU XLA brings the gradients of a convolution into the form that its fast code takes in
    the main program alone: in the body of a loop they are 6 times slower and more.
    """
    return any(len(jnp.shape(leaf)) >= 3 for leaf in jax.tree.leaves(params))
