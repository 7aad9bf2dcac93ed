"""What several processes have to agree on."""

import jax
import numpy as np


def everywhere(here: bool) -> bool:
    """Whether something holds in every process."""
    if jax.process_count() == 1:
        return here
    from jax.experimental import multihost_utils

    return bool(np.all(multihost_utils.process_allgather(np.array(here))))
