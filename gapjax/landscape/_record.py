"""Products kept on disk, so that work that was cut off goes on from its last product."""

import json
import os
import pathlib

import jax
import jax.numpy as jnp
import numpy as np

from gapjax.landscape._operators import Operator


def recorded(op: Operator, path: str | pathlib.Path) -> Operator:
    """The same operator, with every product appended to a file and read back on a second run.

    Everything here is fixed by its key, so the same call after an interruption asks for the same
    products in the same order: those already in the file are read, the first new one is computed.
    Each product is stored with a checksum of its vector, and a file that belongs to another
    operator or key is refused. Wrap the operator again for each run; delete the file when done.

    Args:
      op: the operator.
      path: the file; made if it does not exist. It grows by one vector a product.

    Returns:
      An `Operator`.

    Raises:
      ValueError: a file of another operator; later, of another key or call.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> import pathlib, tempfile
      >>> from gapjax import landscape
      >>> path = pathlib.Path(tempfile.mkdtemp()) / "products"
      >>> op = landscape.from_matvec(lambda v: jnp.arange(9.0) * v, jnp.zeros(9))
      >>> first = landscape.trace(landscape.recorded(op, path), jax.random.key(0))
      >>> broken = landscape.from_matvec(lambda v: v / 0, jnp.zeros(9))
      >>> again = landscape.trace(landscape.recorded(broken, path), jax.random.key(0))
      >>> again == first
      True
    """
    path = pathlib.Path(path)
    dtype = np.dtype(op.dtype)
    header = json.dumps({"size": op.size, "dtype": dtype.name}).encode() + b"\n"
    length = 8 + op.size * dtype.itemsize
    if not path.exists() or not path.stat().st_size:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(header)
    with path.open("rb") as file:
        found = file.readline()
    if found != header:
        raise ValueError(
            f"{path} holds other products ({found[:80]!r}, not {header!r}): "
            "give each operator a file of its own."
        )
    # A record that was cut off in the middle of writing is written anew.
    kept = (path.stat().st_size - len(header)) // length
    os.truncate(path, len(header) + kept * length)
    calls = 0

    def apply(vector: jax.Array) -> jax.Array:
        nonlocal calls
        index, calls = calls, calls + 1
        mark = float(_checksum(vector))
        if index < kept:
            with path.open("rb") as file:
                file.seek(len(header) + index * length)
                record = file.read(length)
            # Replayed arithmetic may round differently on another machine, not by more.
            if abs(mark - np.frombuffer(record[:8])[0]) > 1e-2 * float(jnp.linalg.norm(vector)):
                raise ValueError(
                    f"product {index} in {path} is of another vector: the file was made with "
                    "another key or another call. Delete it, or repeat that call."
                )
            return jnp.asarray(np.frombuffer(record[8:], dtype))
        product = op.apply(vector)
        with path.open("ab") as file:
            file.write(np.float64(mark).tobytes() + np.asarray(product).tobytes())
        return product

    return Operator(apply, op.layout)


@jax.jit
def _checksum(vector: jax.Array) -> jax.Array:
    """One number that another direction would not share."""
    signs = jax.random.rademacher(jax.random.key(0), vector.shape, vector.dtype)
    return jnp.vdot(signs, vector)
