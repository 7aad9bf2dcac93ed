"""What a study measures, written for TensorBoard as it comes."""

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any

from gapjax._paths import local_path


@contextlib.contextmanager
def logging(folder: str) -> Iterator[Callable[[Any], None]]:
    """A progress function that writes the metrics of every regime under ``folder/REGIME``.

    Args:
        folder: where to; an empty text writes nothing.

    Raises:
        ValueError: TensorBoard is not installed, or the folder cannot be written.
    """
    if not folder:
        yield lambda at: None
        return
    try:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.summary.writer.event_file_writer import EventFileWriter
    except ImportError as error:
        raise ValueError(
            f"--log-dir needs TensorBoard ({error}): pip install 'gapjax[tensorboard]', or leave "
            "it out."
        ) from None
    from gapjax.study._results._names import file_name

    root, writers = local_path("log_dir", folder), dict[str, Any]()
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"cannot write to --log-dir {root}: {error.strerror}.") from None

    def log(at: Any) -> None:
        if not at.metrics or at.phase != "train":
            return
        if at.regime not in writers:
            writers[at.regime] = EventFileWriter(str(root / file_name(at.regime)))
        values = [
            Summary.Value(tag=_tag(name), simple_value=value) for name, value in at.metrics.items()
        ]
        writers[at.regime].add_event(
            Event(wall_time=time.time(), step=at.update, summary=Summary(value=values))
        )

    try:
        yield log
    finally:
        for writer in writers.values():
            writer.close()


def _tag(name: str) -> str:
    """``test_accuracy`` as ``test/accuracy``: a section per split."""
    split, _, measure = name.partition("_")
    return f"{split}/{measure}" if split in ("train", "test") else name
