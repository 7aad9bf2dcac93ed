"""One small folder of every kind that gapjax reads again, and how each is read."""

import contextlib
import pathlib
import shutil
import tempfile
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import PIL.Image

from benchmarks.speed.records import to_tfrecord
from gapjax import data, study, training
from gapjax.data import _kept
from gapjax.study._results import _files, _folder

_STUDY: dict[str, Any] = {
    "epochs": 0.3,
    "seeds": 2,
    "evaluations": 2,
    "controls": True,
    "regimes": ("SB", "LB"),
    "loss_levels": (2.4,),
}


class Kind(NamedTuple):
    """A kind of folder.

    Attributes:
        folder: the files, all of which are read.
        read: what they hold, as something to compare; a ValueError where it is not what was
            written.
    """

    folder: pathlib.Path
    read: Callable[[], Any]


class _Maker(NamedTuple):
    """How a kind of folder is written, and how it is opened to be read."""

    write: Callable[[pathlib.Path], Any]
    open: Callable[[pathlib.Path], Kind]


def make(root: pathlib.Path, kinds: Sequence[str] = ()) -> dict[str, Kind]:
    """Write folders, of every kind or of some, once."""
    root.mkdir(parents=True, exist_ok=True)
    for name in kinds or _MAKERS:
        _MAKERS[name].write(root / name)
    return {name: _MAKERS[name].open(root / name) for name in kinds or _MAKERS}


def reopen(kind: str, made: pathlib.Path, place: pathlib.Path) -> Kind:
    """A copy of a folder that ``make`` made."""
    shutil.copytree(made / kind, place / kind)
    return _MAKERS[kind].open(place / kind)


def _write_study(folder: pathlib.Path) -> None:
    study.run_study(study.Study(**_STUDY), folder)
    for name in ("results.json", "history.csv", "report.html"):  # for people, never read again
        (folder / name).unlink()


def _open_study(folder: pathlib.Path) -> Kind:
    config = _folder.read_config(folder)

    def read() -> Any:
        _folder.open_folder(folder, config)
        result = study.load_result(folder)
        return repr((result.config.study, result.regimes, result.convex))

    return Kind(folder, read)


_OF = {"study": "a", "measurement": "LB-0", "networks": {"LB": "b"}}


def _write_measurement(folder: pathlib.Path) -> None:
    folder.mkdir()
    values = np.random.default_rng(0).normal(size=50)
    _files.keep(folder / "LB-0.json", {"top": {"values": values}, "trace": {"mean": 1.5}}, of=_OF)


def _open_measurement(folder: pathlib.Path) -> Kind:
    return Kind(folder, lambda: repr(_files.read(folder / "LB-0.json", dict, of=_OF)))


def _state() -> Any:
    return {"w": jnp.arange(24.0).reshape(4, 6), "count": 7}


def _write_checkpoints(folder: pathlib.Path) -> None:
    history = training.History(np.array([1, 2]), {"loss": np.array([0.5, 0.25])})
    with training.Checkpoints(folder, every=1, keep=1) as checkpoints:
        checkpoints.save(2, _state(), history=history)


def _open_checkpoints(folder: pathlib.Path) -> Kind:
    def read() -> Any:
        found = training.Checkpoints(folder, every=1, keep=1).restore(_state())
        past = (found.history.step, found.history.metrics)
        return repr((found.update, np.asarray(found.state["w"]), found.state["count"], past))

    return Kind(folder, read)


def _write_tree(folder: pathlib.Path) -> None:
    training.save_tree(folder, {"w": np.arange(24.0), "n": np.arange(5)})


def _open_tree(folder: pathlib.Path) -> Kind:
    def read() -> Any:
        return repr({name: np.asarray(x) for name, x in training.load_tree(folder).items()})

    return Kind(folder, read)


def mnist_files(
    rng: np.random.Generator, train: int, test: int, side: int, classes: int
) -> dict[str, bytes]:
    """The four files of MNIST's format, of noise."""
    files = {}
    for split, count in (("train", train), ("t10k", test)):
        head = b"".join(n.to_bytes(4, "big") for n in (count, side, side))
        pixels = rng.bytes(side * side * count)
        files[f"{split}-images-idx3-ubyte"] = b"\0\0\x08\x03" + head + pixels
        labels = bytes(i % classes for i in range(count))
        files[f"{split}-labels-idx1-ubyte"] = b"\0\0\x08\x01" + head[:4] + labels
    return files


def _write_array_record(root: pathlib.Path) -> pathlib.Path:
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as source:
        for split in ("train", "test"):
            for label in "ab":
                place = pathlib.Path(source, split, label)
                place.mkdir(parents=True)
                for i in range(4):
                    pixels = rng.integers(0, 256, (6, 6), np.uint8)
                    PIL.Image.fromarray(pixels).save(place / f"{i}.png")
        return data.import_local("images", source, data_dir=root)


def _write_tfrecord(root: pathlib.Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        written = _write_array_record(pathlib.Path(folder))
        to_tfrecord(written, root / "images" / "1.0.0")


def _open_prepared(root: pathlib.Path) -> Kind:
    def read() -> Any:
        for kept in root.rglob("*.npz"):  # what was decoded is another kind
            kept.unlink()
        found = data.load("images", data_dir=root)
        splits = (found.train, found.test)
        parts = ((split.images.tobytes(), split.labels.tobytes()) for split in splits)
        return repr((*parts, found.class_names))

    return Kind(root / "images" / "1.0.0", read)


_ARRAYS = {"images": np.arange(600, dtype=np.uint8).reshape(10, 60)}


def _kept_arrays(root: pathlib.Path, make: Callable[[], Any]) -> Any:
    kinds = {name: (array.shape, array.dtype) for name, array in _ARRAYS.items()}
    return _kept.kept_arrays(root / "kept" / "images.npz", "key", kinds, make)


def _write_arrays(root: pathlib.Path) -> None:
    root.mkdir()
    _kept_arrays(root, lambda: _ARRAYS)


def _open_arrays(root: pathlib.Path) -> Kind:
    def made() -> Any:
        raise ValueError("it is made again")

    return Kind(root, lambda: repr(_kept_arrays(root, made)["images"].tobytes()))


_MAKERS = {
    "study": _Maker(_write_study, _open_study),
    "measurement": _Maker(_write_measurement, _open_measurement),
    "checkpoints": _Maker(_write_checkpoints, _open_checkpoints),
    "tree": _Maker(_write_tree, _open_tree),
    "tfrecord": _Maker(_write_tfrecord, _open_prepared),
    "array_record": _Maker(_write_array_record, _open_prepared),
    "kept arrays": _Maker(_write_arrays, _open_arrays),
}


@contextlib.contextmanager
def quiet() -> Any:
    """What is put aside with a warning is put aside."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
