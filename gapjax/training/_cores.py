"""The cores of this machine as devices."""

import os

import jax

from gapjax._cores import cores

_FLAG = "--xla_force_host_platform_device_count"


def use_cores(most: int | None = None) -> None:
    """Make each core a device of JAX's CPU backend, unless how many there are was said before.

    One device shares the work of a program among the cores operation by operation, which for small
    networks costs more than it brings. Members of a population share nothing: over a device for
    each core they train side by side. To be called before JAX is first asked for its devices:
    afterwards, or where ``JAX_NUM_CPU_DEVICES`` or ``XLA_FLAGS`` say how many there are, nothing
    happens.

    Args:
        most: as many devices at most; what all of them need is kept once on each.

    Example:
        >>> use_cores(8)  # doctest: +SKIP
        >>> len(jax.devices("cpu"))  # doctest: +SKIP
        2
    """
    said = getattr(jax.config, "jax_num_cpu_devices", -1) > 0
    if said or _FLAG in os.environ.get("XLA_FLAGS", ""):
        return
    try:
        jax.config.update("jax_num_cpu_devices", min(cores(), most or cores()))
    except RuntimeError:  # the devices were asked for
        return
