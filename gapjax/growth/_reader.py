"""From a window of the stream to arrays: on the host, or laid over the devices of a mesh."""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import numpy as np

from gapjax import _arrays
from gapjax.growth import _stream
from gapjax.growth._sharding import BatchSharding
from gapjax.growth._sources import Source


class Batch(NamedTuple):
    """A batch that knows which examples it holds; every leaf has the leading axes of the batch.

    Attributes:
        data: the examples, a pytree like the source.
        example: the number of each example in the source.
        epoch: the epoch each example belongs to.
        mask: False where a row only pads the end of an epoch.
    """

    data: Any
    example: Any
    epoch: Any
    mask: Any


@dataclasses.dataclass(frozen=True)
class BatchReader:
    """Reads windows of one stream; pure apart from the reading, so threads may share it."""

    source: Source
    sharding: BatchSharding
    seed: int
    with_index: bool

    def spec(self, size: int) -> Any:
        """A batch of this size as ``jax.ShapeDtypeStruct`` leaves."""
        self.sharding.microbatches(size)
        lead, sharding = self.sharding.shape(size), self.sharding.named()
        return jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(lead + leaf.shape, leaf.dtype, sharding=sharding),
            self._example,
        )

    @functools.cached_property
    def _example(self) -> Any:
        """What one example looks like; a record is read for it once."""
        one = self._columns(_stream.Window(0, 1, 1), (1,), slice(None))
        return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), one)

    def read(self, window: _stream.Window) -> Any:
        """The part of a batch that this host holds."""
        lead, sharding = self.sharding.shape(window.size), self.sharding.named()
        if sharding is None:
            return self._columns(window, lead, slice(None))

        def rows(index: Any) -> tuple[int, int]:
            start, stop, _ = index[len(lead) - 1].indices(lead[-1])
            return start, stop

        indices = sharding.addressable_devices_indices_map(lead).values()
        wanted = {rows(index) for index in indices if index is not None}
        shards = {at: self._columns(window, lead, slice(*at)) for at in wanted}
        like, treedef = jax.tree.flatten(next(iter(shards.values())))
        leaves = {at: jax.tree.leaves(shard) for at, shard in shards.items()}

        def on_devices(number: int) -> jax.Array:
            shape = lead + like[number].shape[len(lead) :]
            return jax.make_array_from_callback(
                shape, sharding, lambda index: leaves[rows(index)][number]
            )

        return jax.tree.unflatten(treedef, [on_devices(number) for number in range(len(like))])

    def _columns(self, window: _stream.Window, lead: tuple[int, ...], rows: slice) -> Any:
        """These rows of every microbatch (of the batch, where there is only one)."""
        stream, mask = _stream.window_rows(window, self.seed, self.source.num_examples)
        example, epoch, mask = (x.reshape(lead)[..., rows] for x in (*stream, mask))
        batch = self.source.take(example.reshape(-1))
        if self.with_index:
            batch = Batch(batch, example.reshape(-1), epoch.reshape(-1), mask.reshape(-1))
        return jax.tree_util.tree_map_with_path(
            lambda path, leaf: self._leaf(path, leaf, example.shape), batch
        )

    def _leaf(self, path: Any, leaf: np.ndarray, lead: tuple[int, ...]) -> np.ndarray:
        if self.sharding.mesh is not None:
            leaf = _arrays.as_on_device(path, leaf)
        return leaf.reshape(lead + leaf.shape[1:])
