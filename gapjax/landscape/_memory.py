"""What would not fit in memory is refused before any work, with the bytes and a way out."""

import pathlib

import jax
import jax.numpy as jnp

from gapjax._text import readable_bytes
from gapjax.landscape._space import VectorSpace


def _available_bytes() -> float:
    """Free memory of a device; unlimited where it cannot be told."""
    device = jax.local_devices()[0]
    if device.platform == "cpu":
        meminfo = pathlib.Path("/proc/meminfo")
        for line in meminfo.read_text().splitlines() if meminfo.exists() else []:
            if line.startswith("MemAvailable:"):
                return 1024 * int(line.split()[1])
        return float("inf")
    stats = device.memory_stats() or {}
    if "bytes_limit" not in stats:
        return float("inf")
    return stats["bytes_limit"] - stats.get("bytes_in_use", 0)


def require_vectors(count: int, space: VectorSpace, remedy: str) -> int:
    """The bytes of a basis on each device, or a MemoryError that says how many and what to do.

    Virtual devices of a CPU share its memory.
    """
    needed = count * space.size_per_device * jnp.dtype(space.dtype).itemsize
    available, here = _available_bytes(), space.num_local_devices
    if jax.local_devices()[0].platform == "cpu":
        available /= here
    if needed > available:
        each = " on each device" if here > 1 else ""
        raise MemoryError(
            f"a basis of {count} vectors of {space.size} parameters takes {needed} bytes"
            f"{each} ({readable_bytes(needed)}), and {readable_bytes(available)} are free: "
            f"{remedy}, or measure fewer parameters with where=."
        )
    return needed
