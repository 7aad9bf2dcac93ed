"""What would not fit in memory is refused before any work, with the bytes and a way out."""

import pathlib

import jax
import jax.numpy as jnp


def _available_bytes() -> float:
    """Free memory of the default device; unlimited where it cannot be told."""
    device = jax.devices()[0]
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


def readable(num_bytes: float) -> str:
    """Bytes in the unit that reads best."""
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if num_bytes < 1024:
            return f"{num_bytes:.4g} {unit}"
        num_bytes /= 1024
    return f"{num_bytes:.4g} TiB"


def require_vectors(count: int, size: int, dtype: str, remedy: str) -> int:
    """The bytes of a basis, or a MemoryError that says how many and what to do."""
    needed = count * size * jnp.dtype(dtype).itemsize
    available = _available_bytes()
    if needed > available:
        raise MemoryError(
            f"a basis of {count} vectors of {size} parameters takes {needed} bytes "
            f"({readable(needed)}), and {readable(available)} are free: {remedy}, or measure "
            "fewer parameters with where=."
        )
    return needed
