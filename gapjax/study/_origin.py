"""Where the numbers of a study come from: its data, the machine, the versions."""

import hashlib
import importlib.metadata
import os
import platform
from typing import Any

import jax
import numpy as np

import gapjax


def fingerprint(tree: Any) -> str:
    """A hash of every array, so that a folder belongs to one data set and one start."""
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(tree):
        digest.update(f"{leaf.shape}{leaf.dtype}".encode())
        digest.update(np.ascontiguousarray(leaf).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()[:16]


def environment(command: str | None) -> dict[str, Any]:
    """How a study is run: command, machine, versions."""
    return {
        "command": command,
        "device": jax.devices()[0].device_kind,
        "devices": jax.device_count(),
        "processes": jax.process_count(),
        "platform": platform.platform(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "gapjax": gapjax.__version__,
        **versions(),
    }


def versions() -> dict[str, str]:
    """The versions of what computes the numbers."""
    return {name: importlib.metadata.version(name) for name in ("jax", "flax", "optax", "numpy")}
