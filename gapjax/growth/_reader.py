"""From a window of the stream to arrays: on the host, or laid over the devices of a mesh."""

import dataclasses
from typing import Any, NamedTuple

import jax
import numpy as np

from gapjax.growth import _stream
from gapjax.growth._layout import Layout
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
class Reader:
    """Reads windows of one stream; pure apart from the reading, so threads may share it."""

    source: Source
    layout: Layout
    seed: int
    with_index: bool

    def spec(self, size: int) -> Any:
        """A batch of this size as ``jax.ShapeDtypeStruct`` leaves."""
        self.layout.parts(size)
        lead, sharding = self.layout.shape(size), self.layout.sharding()
        first = _stream.Window(1, ((0, 0, 1),), _stream.Position(0, 1))
        return jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(lead + leaf.shape[1:], leaf.dtype, sharding=sharding),
            self._columns(first, (1,), 0, 1),
        )

    def read(self, window: _stream.Window) -> Any:
        """The part of a batch that this host holds."""
        lead, sharding = self.layout.shape(window.size), self.layout.sharding()
        if sharding is None:
            return self._columns(window, lead, 0, lead[-1])

        def span(index: Any) -> tuple[int, int]:
            start, stop, _ = index[len(lead) - 1].indices(lead[-1])
            return start, stop

        indices = sharding.addressable_devices_indices_map(lead).values()
        spans = {span(index) for index in indices if index is not None}
        shards = {at: self._columns(window, lead, *at) for at in spans}
        like, treedef = jax.tree.flatten(next(iter(shards.values())))
        leaves = {at: jax.tree.leaves(shard) for at, shard in shards.items()}

        def on_devices(number: int) -> jax.Array:
            shape = lead + like[number].shape[len(lead) :]
            return jax.make_array_from_callback(
                shape, sharding, lambda at: leaves[span(at)][number]
            )

        return jax.tree.unflatten(treedef, [on_devices(number) for number in range(len(like))])

    def _columns(self, window: _stream.Window, lead: tuple[int, ...], start: int, stop: int) -> Any:
        """Rows `start` to `stop` of every microbatch (of the batch, where there is only one)."""
        cut = _stream.rows if self.with_index else _stream.examples
        parts = [
            cut(
                window,
                first + start,
                first + stop,
                seed=self.seed,
                num_examples=self.source.num_examples,
            )
            for first in range(0, window.size, lead[-1])
        ]
        rows = _stream.joined(parts)
        if self.with_index:
            batch = Batch(self.source.take(rows.example), *rows)
        else:
            batch = self.source.take(rows)
        return jax.tree.map(lambda leaf: self._leaf(leaf, (*lead[:-1], stop - start)), batch)

    def _leaf(self, leaf: np.ndarray, lead: tuple[int, ...]) -> np.ndarray:
        if self.layout.mesh is not None:  # the type it will have on devices, without a warning
            leaf = leaf.astype(jax.dtypes.canonicalize_dtype(leaf.dtype), copy=False)
        return leaf.reshape(lead + leaf.shape[1:])
