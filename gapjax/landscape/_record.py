"""Products kept on disk, so that work that was cut off goes on from its last product."""

import hashlib
import json
import mmap
import pathlib

import jax
import jax.numpy as jnp
import numpy as np

from gapjax._paths import local_path
from gapjax.landscape._operators import Operator
from gapjax.landscape._space import Vector, l2_norm

# A record is this mark, a hash of the vector, the product, and a hash of both.
MARK = b"\x89product"
HASH = 16


def recorded(op: Operator, path: str | pathlib.Path) -> Operator:
    """The same operator, with every product kept in a file, and read back when asked for again.

    Everything here is fixed by its key, so the same call after an interruption asks for the same
    products: those that are in the file are read, the others computed and appended. A product is
    found by a hash of its vector, so neither the order of calls nor their number matters, and one
    file serves several calls. The first one that is found is computed all the same, and compared:
    a file of another operator is noticed, for one product a run. A record that was cut off or
    damaged does not match its checksum, and counts as missing.

    Args:
        op: the operator.
        path: the file; made if it does not exist. It grows by one vector a product; delete it when
            the work is done. Several processes may append to it.

    Returns:
        An `Operator`.

    Raises:
        ValueError: a file of an operator on other parameters; later, one of another operator. One
            run over several processes, none of which has whole vectors.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> import pathlib, tempfile
        >>> from gapjax import landscape
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "products"
        >>> op = landscape.from_matvec(lambda v: jnp.arange(9.0) * v, jnp.zeros(9))
        >>> first = landscape.trace(landscape.recorded(op, path), jax.random.key(0))
        >>> again = landscape.trace(landscape.recorded(op, path), jax.random.key(0))
        >>> again == first
        True
        >>> other = landscape.from_matvec(lambda v: 2 * v, jnp.zeros(9))
        >>> landscape.trace(landscape.recorded(other, path), jax.random.key(0))
        Traceback (most recent call last):
        ValueError: ... holds products of another operator...
    """
    if jax.process_count() > 1:
        raise ValueError(
            f"recorded keeps whole vectors, and of {jax.process_count()} processes none has them: "
            "keep the state that lanczos returns or that progress.partial() hands out, arrays laid "
            "out like the parameters, in a checkpoint, and go on with resume=."
        )
    path, space = local_path("path", path), op.space
    if path.is_dir():
        raise ValueError(f"{path} is a folder; recorded keeps products in a file of its own.")
    shapes, dtype = space.chosen(space.shapes), np.dtype(space.dtype)
    _begin(path, {"shapes": shapes, "dtype": dtype.name})
    length = len(MARK) + HASH + space.size * dtype.itemsize + HASH
    places, compared = _index(path, length), False

    def compare(vector: Vector, product: Vector) -> None:
        anew = op.apply(vector)
        off = float(l2_norm(jax.tree.map(jnp.subtract, anew, product)))
        size = max(float(l2_norm(anew)), float(l2_norm(product)))
        # Another machine may round differently, not by more than this.
        if off > 1000 * np.finfo(dtype).eps * size:
            raise ValueError(
                f"{path} holds products of another operator: computed anew, one of them differs "
                f"by {off / size:.2g} of its length. Give each operator a file of its own; where "
                "the loss, the parameters or the data were changed, delete this one."
            )

    def apply(vector: Vector) -> Vector:
        nonlocal compared
        key = _hash(*(np.asarray(leaf).tobytes() for leaf in vector))
        record = _read(path, places[key], length) if key in places else b""
        if _whole(record, length):
            flat = np.frombuffer(record[len(MARK) + HASH : -HASH], dtype)
            product = space.split(flat)
            if not compared:
                compare(vector, product)
                compared = True
            return product
        product = op.apply(vector)
        body = key + b"".join(np.asarray(leaf).tobytes() for leaf in product)
        with path.open("ab", buffering=0) as file:
            written = file.write(MARK + body + _hash(body))
            places[key] = file.tell() - written
        return product

    return Operator(apply, space)


def _begin(path: pathlib.Path, description: dict) -> None:
    """Makes the file, or refuses one whose products are of other parameters."""
    header = json.dumps(description).encode() + b"\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+b") as file:
        file.seek(0)
        found = file.readline()
        if found != header and header.startswith(found):  # nothing yet, or cut off right there
            file.truncate(0)
            file.write(header)
        elif found != header:
            raise ValueError(
                f"{path} holds products on other parameters ({found[:80]!r}, not {header[:80]!r}): "
                "give each operator a file of its own."
            )


def _index(path: pathlib.Path, length: int) -> dict[bytes, int]:
    """Where the record of each vector starts; what is between whole records is passed over."""
    found = {}
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        at = data.find(MARK)
        while at >= 0:
            record = data[at : at + length]
            whole = _whole(record, length)
            if whole:
                found[record[len(MARK) :][:HASH]] = at
            at = data.find(MARK, at + (length if whole else 1))
    return found


def _read(path: pathlib.Path, start: int, length: int) -> bytes:
    with path.open("rb") as file:
        file.seek(start)
        return file.read(length)


def _whole(record: bytes, length: int) -> bool:
    return len(record) == length and _hash(record[len(MARK) : -HASH]) == record[-HASH:]


def _hash(*parts: bytes) -> bytes:
    digest = hashlib.blake2b(digest_size=HASH)
    for part in parts:
        digest.update(part)
    return digest.digest()
