"""How a batch of a given size is split: into how many microbatches, over which devices."""

import dataclasses
import math
from typing import Any

import jax
from jax.sharding import NamedSharding, PartitionSpec

from gapjax import _checks


@dataclasses.dataclass(frozen=True)
class BatchSharding:
    """The rules a batch size has to obey, and the shape and sharding it gets.

    Attributes:
        mesh: the devices, or None for NumPy arrays on the host.
        axis: the name of the mesh axis that batches are split over.
        ghost_size: examples per ghost of the model's batch norm, or None.
        microbatch: the most examples that run at once, or None.
        num_examples: the size of the data.
    """

    mesh: jax.sharding.Mesh | None
    axis: str
    ghost_size: int | None
    microbatch: int | None
    num_examples: int

    def __post_init__(self) -> None:
        for name in ("ghost_size", "microbatch"):
            if getattr(self, name) is not None:
                _checks.positive_int(name, getattr(self, name))
        if self.mesh is not None and not isinstance(self.mesh, jax.sharding.Mesh):
            raise ValueError(f"mesh must be a jax.sharding.Mesh or None, not {self.mesh!r}.")
        if self.mesh is not None and self.axis not in self.mesh.shape:
            raise ValueError(
                f"The mesh has the axes {tuple(self.mesh.shape)}, none of them {self.axis!r}; say "
                "with axis= which one batches are split over."
            )

    @property
    def devices(self) -> int:
        """Over how many parts a batch is split."""
        return 1 if self.mesh is None else self.mesh.shape[self.axis]

    def microbatches(self, size: int) -> int:
        """In how many microbatches a batch of this size runs: the fewest that fit.

        Raises:
            ValueError: if the size fits neither the data, the mesh, the ghosts nor the microbatch.
        """
        _checks.positive_int("A batch size", size)
        if size > self.num_examples:
            raise ValueError(
                f"A batch of {size} is larger than the data ({self.num_examples} examples); the "
                f"largest that fits is {self._below(self.num_examples)}."
            )
        count = self._fewest(size)
        if count is None:
            nearest = " or ".join(map(str, self._neighbours(size)))
            raise ValueError(
                f"A batch of {size} does not split over {self._constraints()}; "
                + (
                    f"{nearest} would."
                    if nearest
                    else f"with {self.num_examples} examples none does."
                )
            )
        return count

    def shape(self, size: int) -> tuple[int, ...]:
        """The leading axes of a batch: ``(B,)``, or ``(A, B / A)`` where microbatches are on.

        For a size that ``microbatches`` lets pass.
        """
        if self.microbatch is None:
            return (size,)
        count = self.microbatches(size)
        return (count, size // count)

    def named(self) -> NamedSharding | None:
        """How a batch lies on the devices: split over the axis of examples."""
        if self.mesh is None:
            return None
        leading: tuple[Any, ...] = () if self.microbatch is None else (None,)
        return NamedSharding(self.mesh, PartitionSpec(*leading, self.axis))

    @property
    def _step(self) -> int:
        """What divides every size that fits, and every part of one."""
        return math.lcm(self.devices, self.ghost_size or 1)

    def _fewest(self, size: int) -> int | None:
        if self.microbatch is None:
            return 1 if self._splits(size) else None
        most = min(self.microbatch, size)
        parts = range(most - most % self._step, 0, -self._step)
        return next((size // n for n in parts if size % n == 0 and self._splits(n)), None)

    def _splits(self, part: int) -> bool:
        if part % self.devices:
            return False
        if self.ghost_size is None:
            return True
        local = part // self.devices
        aligned = local % self.ghost_size == 0 or self.ghost_size % local == 0
        return part % self.ghost_size == 0 and aligned

    def _below(self, size: int) -> int | None:
        """The largest size up to this one that fits."""
        down = range(size - size % self._step, 0, -self._step)
        return next((s for s in down if self._fewest(s) is not None), None)

    def _neighbours(self, size: int) -> list[int]:
        """The nearest sizes below and above that fit."""
        whole = self.devices * (self.ghost_size or 1)  # a multiple always has whole ghosts
        up = range(size + 1, size + whole + 1)
        above = next((s for s in up if self._fewest(s) is not None), None)
        return [s for s in (self._below(size), above) if s is not None and s <= self.num_examples]

    def _constraints(self) -> str:
        words = [f"{self.devices} device{'s' * (self.devices > 1)}"]
        if self.ghost_size is not None:
            words.append(f"ghosts of {self.ghost_size} (whole ghosts per device)")
        if self.microbatch is not None:
            words.append(f"microbatches of at most {self.microbatch}")
        return ", ".join(words)
