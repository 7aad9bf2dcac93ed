"""The re-sharding iterator: one exact stream of examples, cut into batches that may grow."""

import itertools
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from gapjax import _checks
from gapjax.growth import _sources, _stream
from gapjax.growth._controllers import Controller
from gapjax.growth._prefetch import Prefetcher
from gapjax.growth._reader import BatchReader
from gapjax.growth._schedules import BatchSchedule, StepwiseBatch, constant_batch
from gapjax.growth._sharding import BatchSharding

_VERSION = 1


class Switch(NamedTuple):
    """One change of the batch size: from which update on, to what, and why."""

    update: int
    size: int
    reason: str


class _Cursor(NamedTuple):
    """Everything that moves: the next row of the stream, and what the last batch was."""

    row: int
    update: int
    examples: int
    size: int


class GrowingBatches(Iterator[Any]):
    """Batches from one exact stream of examples; the next batch may be larger than the last.

    The order of epoch ``e`` is one permutation, fixed by ``(seed, e)`` alone. A batch is the next
    ``schedule(update)`` examples of the stream, so neither growth nor the number of hosts or
    devices changes which example comes when, and within an epoch each is seen exactly once
    (``stream_rows`` gives the same rows as numbers). Batches that are read ahead are no part of
    :meth:`state`.

    Args:
        source: a pytree of arrays with a leading axis of examples (a ``Split``, a dict, a data
            frame), or any object with ``__len__`` and ``__getitem__`` (``__getitems__`` is used
            where there is one). A list stands for one array if it holds numbers, else for records;
            Python numbers take the types that JAX gives them.
        schedule: from the number of the update to the global batch size; a pure function, asked a
            few updates ahead. Or a :class:`Controller`, which is shown what :meth:`observe` is
            told.
        seed: fixes the order, together with the epoch.
        mesh: the devices to lay batches over; None gives NumPy arrays on the host.
        axis: the mesh axis that batches are split over; along others they are replicated.
        end_of_epoch: ``"carry"``: a batch may span the border of two epochs. ``"pad"``: the last
            batch of an epoch is filled up with rows whose ``mask`` is False. ``"drop"``: examples
            that do not fill a batch are left out of that epoch.
        with_index: deliver :class:`Batch` (with example numbers, epochs and mask) in place of the
            bare examples; always so for ``"pad"``.
        ghost_size: the ghost size of the model's batch norm; every size is checked against it.
        microbatch: the most examples that run at once. Batches then come as ``[A, B / A, ...]``
            with A as small as it can be (1 while they fit), rows in order, so ghosts are the same.
        independent_examples: states that the loss is a mean over examples that do not see each
            other (no batch norm). Microbatches need this or a ``ghost_size``.
        prefetch: how many batches are read ahead in the background; 0 reads when asked. By default
            2, but 0 for arrays in memory: gathering rows takes less than handing them from one
            thread to another, and goes on while the device works.
        workers: how many threads read at once; more than 1 helps where reading decodes, and needs a
            source that several threads may read.

    Raises:
        ValueError: if a size of the schedule does not fit the data, the devices, the ghosts or the
            microbatch (sizes that would fit are named), if the batch would shrink, or for a field
            of the source that holds anything but numbers.

    Example:
        >>> import numpy as np
        >>> from gapjax.growth import GrowingBatches, piecewise_batch
        >>> source = {"x": np.arange(12)}
        >>> batches = GrowingBatches(source, piecewise_batch(2, {2: 4}), seed=0)
        >>> [len(next(batches)["x"]) for _ in range(4)]
        [2, 2, 4, 4]
        >>> saved = batches.state()
        >>> again = GrowingBatches(source, piecewise_batch(2, {2: 4}), seed=0)
        >>> again.restore(saved)
        >>> bool((next(again)["x"] == next(batches)["x"]).all())
        True
    """

    def __init__(
        self,
        source: Any,
        schedule: BatchSchedule | Controller,
        *,
        seed: int,
        mesh: jax.sharding.Mesh | None = None,
        axis: str = "data",
        end_of_epoch: str = "carry",
        with_index: bool = False,
        ghost_size: int | None = None,
        microbatch: int | None = None,
        independent_examples: bool = False,
        prefetch: int | None = None,
        workers: int = 1,
    ):
        self._seed = _stream.check_seed(seed)
        self._end = _checks.one_of("end_of_epoch", end_of_epoch, _stream.ENDS)
        if microbatch is not None and ghost_size is None and not independent_examples:
            raise ValueError(
                f"microbatch={microbatch} changes the statistics of a batch norm without ghosts: "
                "they would be taken over the microbatch. Pass the ghost_size of the model, or "
                "independent_examples=True if it has no batch norm."
            )
        self._source = _sources.as_source(source, workers)
        self._settings: dict[str, Any] = {
            "mesh": mesh,
            "axis": axis,
            "end_of_epoch": end_of_epoch,
            "with_index": with_index,
            "ghost_size": ghost_size,
            "microbatch": microbatch,
            "independent_examples": independent_examples,
            "prefetch": prefetch,
            "workers": workers,
        }
        self._controller, self._control = None, None
        if isinstance(schedule, Controller):
            self._controller, self._control = schedule, schedule.init()
            schedule = constant_batch(_first_size(self._control))
        if not callable(schedule):
            raise ValueError(
                f"schedule must be a function from the update to the batch size, not {schedule!r}; "
                "for one that stays the same use constant_batch."
            )
        if isinstance(schedule, StepwiseBatch):
            changes = itertools.pairwise(schedule.values)
            for update, (size, then) in zip(schedule.boundaries, changes, strict=True):
                _check_growth(size, then, update)
        self._schedule = schedule
        self._sharding = BatchSharding(
            mesh, axis, ghost_size, microbatch, self._source.num_examples
        )
        with_index = with_index or end_of_epoch == "pad"
        self._reader = BatchReader(self._source, self._sharding, self._seed, with_index)
        self._cursor = _Cursor(0, 0, 0, 0)
        self._floor = 1
        self._reason = "schedule"
        self._switches: list[Switch] = []
        if prefetch is None:
            prefetch = 0 if self._source.at_hand else 2
        self._ahead = Prefetcher(self._plan, self._reader.read, prefetch, workers)
        self._fingerprint: str | None = None
        for size in self.sizes() or (self._size(self._cursor),):
            self._sharding.microbatches(size)

    def __next__(self) -> Any:
        batch, cursor = self._ahead.next(self._cursor)
        if cursor.size != self._cursor.size:
            self._switches.append(Switch(self._cursor.update, cursor.size, self._reason))
            self._reason = "schedule"
        self._cursor = cursor
        return batch

    @property
    def update(self) -> int:
        """How many batches have been delivered."""
        return self._cursor.update

    @property
    def examples(self) -> int:
        """How many examples have been delivered, padding not counted."""
        return self._cursor.examples

    @property
    def epoch(self) -> float:
        """How many passes over the data have been made."""
        return self._cursor.row / self._source.num_examples

    @property
    def batch_size(self) -> int:
        """The global size of the next batch."""
        return self._size(self._cursor)

    @property
    def end_of_epoch(self) -> str:
        """What becomes of the examples that do not fill a batch."""
        return self._end

    @property
    def switches(self) -> tuple[Switch, ...]:
        """Every change of the batch size so far (the first size included), and why."""
        return tuple(self._switches)

    def sizes(self) -> tuple[int, ...]:
        """Every size still to come that the schedule names, rising; empty if it names none."""
        named = getattr(self._controller or self._schedule, "sizes", None)
        if named is None:
            return ()
        floor = max(self._floor, self._cursor.size)
        return tuple(sorted({max(int(size), floor) for size in named()}))

    def grow(self, size: int, reason: str = "asked for") -> None:
        """Make every batch from the next one on at least this large.

        Call it at the same update with the same size on every host: decide from numbers that are
        replicated, such as the metrics of a train step.

        Args:
            size: the new global batch size.
            reason: kept in :attr:`switches`.

        Raises:
            ValueError: if the batch would shrink or the size does not fit.
        """
        size, current = _checks.positive_int("A batch size", size), self.batch_size
        if size < current:
            raise ValueError(f"The batch would shrink from {current} to {size}; it only grows.")
        self._sharding.microbatches(size)
        if size > current:
            self._floor, self._reason = size, reason
            self._ahead.forget()

    def fork(
        self, schedule: BatchSchedule | Controller, *, seed: int | None = None
    ) -> "GrowingBatches":
        """An independent iterator at the same place, over the same source.

        It delivers what these batches would deliver next, in the sizes of another schedule, which
        may be smaller than the last; neither moves the other. The schedule is asked by the same
        number of the update, and sizes that :meth:`grow` asked for are not taken over.

        Args:
            schedule: as in the constructor.
            seed: of another order of the examples; by default the order is the same.

        Returns:
            The iterator.

        Example:
            >>> import numpy as np
            >>> from gapjax.growth import GrowingBatches, constant_batch
            >>> batches = GrowingBatches({"x": np.arange(12)}, constant_batch(2), seed=0)
            >>> _ = next(batches)
            >>> branch = batches.fork(constant_batch(4))
            >>> next(branch)["x"].tolist() == [*next(batches)["x"], *next(batches)["x"]]
            True
        """
        seed = self._seed if seed is None else seed
        branch = GrowingBatches(self._source, schedule, seed=seed, **self._settings)
        branch._cursor = self._cursor._replace(size=0)
        branch._fingerprint = self._fingerprint
        return branch

    def observe(
        self,
        measured: Any,
        *,
        loss: Any = None,
        learning_rate: Any = None,
    ) -> bool:
        """Show the controller what was measured; the next batch is as large as it then proposes.

        Call it after the same updates on every host, with the same (replicated) numbers. Reading
        them waits for the device, so on a fast one call it every few updates.

        Args:
            measured: what the controller goes by: the gradient noise, from ``noise_scale_record``,
                or what ``branched_critical_batch`` found.
            loss: the mean loss, for the controllers that need it.
            learning_rate: likewise.

        Returns:
            Whether the batch has grown.

        Raises:
            ValueError: if these batches follow a schedule and no controller.
        """
        if self._controller is None:
            raise ValueError(
                "These batches follow a schedule; to let noise decide, pass a controller, such as "
                "noise_scale_controller(128, maximum=4096), in its place."
            )
        before = self.batch_size
        proposal, self._control = self._controller.update(
            self._control, measured, loss=loss, learning_rate=learning_rate
        )
        if proposal.size > before:
            self.grow(proposal.size, proposal.reason)
        return self.batch_size > before

    def spec(self, size: int) -> Any:
        """What a batch of this size looks like: ``jax.ShapeDtypeStruct`` leaves with shardings."""
        return self._reader.spec(size)

    def state(self) -> dict[str, Any]:
        """Where the stream stands, after the last batch delivered: JSON, the same on every host."""
        epoch, offset = divmod(self._cursor.row, self._source.num_examples)
        return {
            "version": _VERSION,
            "fingerprint": self._source_fingerprint(),
            "num_examples": self._source.num_examples,
            "seed": self._seed,
            "end_of_epoch": self._end,
            "epoch": epoch,
            "offset": offset,
            "update": self._cursor.update,
            "examples": self._cursor.examples,
            "size": self._cursor.size,
            "grown_to": self._floor,
            "grown_because": self._reason,
            "control": self._controller
            and [np.asarray(x).item() for x in jax.tree.leaves(self._control)],
            "switches": [list(switch) for switch in self._switches],
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a state, on any number of hosts and devices.

        Args:
            state: what :meth:`state` returned.

        Raises:
            ValueError: if it belongs to other data, another seed, another end of epochs or another
                version, or is no state; nothing is changed then.
        """
        own = self.state()
        if not isinstance(state, Mapping):
            raise ValueError(f"A state is what state() returned, not {state!r}.")
        for name, remedy in (
            ("version", "use the release of gapjax that wrote it"),
            ("num_examples", "it belongs to another data set"),
            ("fingerprint", "it belongs to another data set of the same size"),
            ("seed", "pass the seed of the run that is continued"),
            ("end_of_epoch", "pass the end_of_epoch of the run that is continued"),
        ):
            if state.get(name) != own[name]:
                raise ValueError(
                    f"This state does not fit: its {name} is {state.get(name)!r}, here it is "
                    f"{own[name]!r}; {remedy}."
                )
        try:
            row = int(state["epoch"]) * self._source.num_examples + int(state["offset"])
            cursor = _Cursor(row, *(int(state[name]) for name in ("update", "examples", "size")))
            floor, reason = int(state["grown_to"]), state["grown_because"]
            control = state["control"]
            switches = [Switch(*switch) for switch in state["switches"]]
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"This state is not what state() returned ({type(error).__name__}: {error}); give "
                "one that was kept whole."
            ) from error
        if self._controller is not None and control is not None:
            self._control = _remembered(self._control, control)
        self._cursor, self._floor, self._reason = cursor, floor, reason
        self._switches = switches
        self._ahead.forget()

    def _source_fingerprint(self) -> str:
        if self._fingerprint is None:
            self._fingerprint = self._source.fingerprint()
        return self._fingerprint

    def _size(self, cursor: _Cursor) -> int:
        size = max(_checks.positive_int("A batch size", self._schedule(cursor.update)), self._floor)
        _check_growth(cursor.size, size, cursor.update)
        return size

    def _plan(self, cursor: _Cursor) -> tuple[_stream.Window, _Cursor]:
        size = self._size(cursor)
        if size != cursor.size:  # the last one has been checked
            self._sharding.microbatches(size)
        window = _stream.cut(cursor.row, size, self._source.num_examples, self._end)
        examples = cursor.examples + window.stop - window.start
        return window, _Cursor(window.stop, cursor.update + 1, examples, size)


def _first_size(control: Any) -> int:
    if not hasattr(control, "size"):
        raise ValueError(
            "init() of the controller must give a state that has the first batch size as its size, "
            f"such as a NamedTuple with size among its fields, not {control!r}."
        )
    return control.size


def _remembered(control: Any, numbers: Any) -> Any:
    """What a controller remembered, in the form of what this one remembers."""
    leaves, form = jax.tree.flatten(control)
    told = numbers if isinstance(numbers, list | tuple) else [None]
    if len(told) != len(leaves) or not all(isinstance(number, int | float) for number in told):
        raise ValueError(
            f"This state does not fit: its controller remembered {numbers!r}, and this one "
            f"remembers {len(leaves)} numbers; pass the controller of the run that is continued."
        )
    return jax.tree.unflatten(form, numbers)


def _check_growth(size: int, then: int, update: int) -> None:
    if then < size:
        raise ValueError(
            f"The schedule shrinks the batch from {size} to {then} at update {update}; a growing "
            f"batch needs at least {size} there."
        )
