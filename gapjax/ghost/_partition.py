"""How a batch is cut into ghosts, decided from shapes alone, before anything is traced."""

import contextlib
import math
import numbers
import operator
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from gapjax._checks import one_of, positive_int

REMAINDERS = ("error", "short", "merge")


@contextlib.contextmanager
def at_layer(layer: str) -> Iterator[None]:
    """Put the name of a layer in front of what a ValueError says."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{layer}: {error}") from error


def feature_axes(ndim: int, axis: int | Iterable[int]) -> tuple[int, ...]:
    """The axes that keep their own statistics, counted from the front, in order."""
    axes = tuple(axis) if isinstance(axis, Iterable) else (axis,)
    for one in axes:
        if isinstance(one, bool) or not isinstance(one, numbers.Integral):
            raise ValueError(f"axis must be a whole number, or several, not {axis!r}.")
        if not -ndim <= operator.index(one) < ndim:
            raise ValueError(f"axis {one} does not exist in an input with {ndim} axes.")
    return tuple(sorted({operator.index(one) % ndim for one in axes}))


class Partition(NamedTuple):
    """Contiguous ghosts, and the equal blocks that the arithmetic works on.

    Usually a block is a ghost. Ghosts of unequal sizes, and ghosts whose borders may
    fall inside the shard of a device, are unions of smaller blocks: then only moments of
    blocks, never activations, cross the borders.
    """

    sizes: tuple[int, ...]  # examples per ghost
    block: int  # examples per block; divides every size
    run: int  # examples in a row that surely lie on one device; divides the block
    sharding: NamedSharding | None = None  # of the axis of blocks, where types show it

    @property
    def regular(self) -> bool:
        """Whether blocks and ghosts are the same."""
        return all(size == self.block for size in self.sizes)

    def map(
        self, function: Callable[..., Any], examples: Sequence[Any], blocks: Sequence[Any] = ()
    ) -> Any:
        """``jax.vmap`` over blocks: of arrays [B, ...], cut, and of arrays [blocks, ...]."""
        if len(self.sizes) == 1 and self.regular:
            # XLA on CPU reduces an array with a leading axis of 1 several times more slowly.
            only = function(*examples, *(a[0] for a in blocks))
            return jax.tree.map(lambda a: a[None], only)
        cut = [a.reshape(-1, self.block, *a.shape[1:]) for a in examples]
        return jax.vmap(function)(*cut, *blocks)

    def membership(self, dtype: jnp.dtype) -> np.ndarray:
        """[G, blocks], 1 where a block belongs to a ghost."""
        blocks = [size // self.block for size in self.sizes]
        return np.repeat(np.eye(len(blocks)), blocks, axis=1).astype(dtype)

    def gather(self, of_blocks: jax.Array) -> jax.Array:
        """Sum the blocks of each ghost: [blocks, ...] to [G, ...]."""
        # As a product with a constant, a batch sharded in any way is summed by an
        # all-reduce of [G, ...]; the default precision of accelerators would round.
        member = self.membership(of_blocks.dtype)
        return jnp.einsum("gb,b...->g...", member, of_blocks, precision="highest")

    def spread(self, of_ghosts: jax.Array) -> jax.Array:
        """Give each block what its ghost has: [G, ...] to [blocks, ...]."""
        if self.regular:
            return of_ghosts
        member = self.membership(of_ghosts.dtype)
        of_blocks = jnp.einsum("gb,g...->b...", member, of_ghosts, precision="highest")
        if self.sharding is None:
            return of_blocks
        others = jax.typeof(of_blocks).sharding.spec[1:]
        spec = PartitionSpec(*self.sharding.spec, *others)
        return jax.sharding.reshard(of_blocks, NamedSharding(self.sharding.mesh, spec))


def partition(x: jax.Array, ghost_size: int | None, remainder: str = "error") -> Partition:
    """Cut a batch, the first axis of ``x``, into contiguous ghosts.

    Raises:
        ValueError: the batch is not a multiple of ``ghost_size`` and ``remainder`` is ``"error"``.
    """
    one_of("remainder", remainder, REMAINDERS)
    batch = x.shape[0]
    if not isinstance(batch, int):  # of a program that is exported for any batch
        if ghost_size is not None:
            raise ValueError(
                f"a batch of {batch} examples cannot be cut into ghosts of {ghost_size}: export "
                "the model in evaluation, which has none, or for a batch of a known size."
            )
        return Partition((batch,), batch, batch)
    sharding, shard = _shard(x)

    def cut(sizes: Sequence[int], block: int, shown: NamedSharding | None = None) -> Partition:
        # Where types show shardings, sums over several devices are not ours to arrange.
        run = math.gcd(block, shard) if sharding is None else 1
        return Partition(tuple(sizes), block, run, shown)

    if ghost_size is None:
        return cut([batch], batch)
    ghost_size = positive_int("ghost_size", ghost_size)
    full, left = divmod(batch, ghost_size)
    sizes = [ghost_size] * full
    if left and remainder == "error":
        # A ghost of one example has no variance where an example is one number per feature.
        fitting = [size for size in range(min(2, batch), batch + 1) if batch % size == 0]
        nearest = sorted(sorted(fitting, key=lambda size: abs(math.log(size / ghost_size)))[:8])
        ghosts = "1 full ghost" if full == 1 else f"{full} full ghosts"
        raise ValueError(
            f"a batch of {batch} is not a multiple of ghost_size={ghost_size} ({ghosts}, {left} "
            f"left over). Drop the last batch, choose ghost_size from {tuple(nearest)}, or pass "
            'remainder="short" (the last ghost is smaller) or "merge" (the last ghost is larger).'
            + (
                " Inside pmap, count the examples of one device, and give axis_name."
                if not full
                else ""
            )
        )
    if left and remainder == "merge" and full:
        sizes[-1] += left
    elif left:
        sizes.append(left)
    # The compiler joins the shards of a ghost by itself where types leave shardings to it.
    joins = sharding is None and ghost_size % max(shard, 1) == 0
    if left == 0 and (shard % ghost_size == 0 or joins or full == 1):
        return cut(sizes, ghost_size)
    return cut(sizes, math.gcd(shard, *sizes), sharding)


def _shard(x: jax.Array) -> tuple[NamedSharding | None, int]:
    """The sharding of the first axis, if it is part of the type, and the examples per device."""
    batch = x.shape[0]
    sharding = jax.typeof(x).sharding
    entry = sharding.spec[0] if len(sharding.spec) else None
    if entry is None:
        # Any divisor of the devices may turn out to share the batch: so much lies on one for sure.
        return None, batch // math.gcd(batch, jax.device_count())
    names = entry if isinstance(entry, tuple) else (entry,)
    shards = math.prod(sharding.mesh.shape[name] for name in names)
    return NamedSharding(sharding.mesh, PartitionSpec(entry)), batch // shards
