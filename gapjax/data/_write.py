"""Writing a standard TFDS folder, whole or not at all, without TensorFlow."""

import contextlib
import errno
import os
import pathlib
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from gapjax._seal import seal_files
from gapjax.data._tfds import NAMES, SEAL
from gapjax.data._workplace import workplace

OWN_VERSION = "1.0.0"  # of a set that TFDS does not know

Examples = Callable[[Any], Iterator[tuple[int, Any]]]


def make_builder(
    name: str,
    stock: Any,
    features: Any,
    splits: Mapping[str, Examples],
    folder: pathlib.Path,
    about: Mapping[str, Any] | None = None,
) -> Any:
    """A TFDS builder that makes its examples from what it is given.

    Args:
        name: what the set is called.
        stock: the builder that TFDS has for the name, or None.
        features: those of a set without one, as ``FeaturesDict`` takes them.
        splits: for each split, a function from the features to numbered examples.
        folder: where it writes.
        about: what else is known of a set without a stock builder, kept beside it as JSON.
    """
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core import registered

    def info(self: Any) -> Any:
        keys = ("image", "label") if "image" in features else None
        return tfds.core.DatasetInfo(
            builder=self,
            description=f"{name}, imported from local files.",
            features=tfds.features.FeaturesDict(features),
            supervised_keys=keys,
            metadata=tfds.core.MetadataDict(about) if about else None,
        )

    namespace = {
        "name": name,
        "_split_generators": lambda self, manager: {
            split: make(self.info.features) for split, make in splits.items()
        },
        "_generate_examples": None,  # the generators above are ready to run
        # TFDS would announce a download, into the scratch folder
        "_log_download_bytes": lambda self: None,
        "_log_download_done": lambda self: None,
        # and ask for files that the user has brought
        "MANUAL_DOWNLOAD_INSTRUCTIONS": None,
    }
    if stock is None:
        bases: tuple[Any, ...] = (tfds.core.GeneratorBasedBuilder,)
        namespace |= {"VERSION": tfds.core.Version(OWN_VERSION), "_info": info}
        namespace |= {"__module__": __name__, "pkg_dir_path": None}
        title = "".join(map(str.title, name.split("_")))
        settings = {}
    else:
        bases, title = (type(stock),), type(stock).__name__
        namespace["__module__"] = type(stock).__module__
        settings = {"config": stock.builder_config, "version": str(stock.version)}
    with registered.skip_registration():
        cls = type(title, bases, namespace)
    return cls(data_dir=os.fspath(folder), file_format="array_record", **settings)


def write_prepared(
    name: str, folder: pathlib.Path, make: Callable[[pathlib.Path], Any]
) -> pathlib.Path:
    """Run a builder in a scratch folder and put what it made where prepared data sets lie.

    Args:
        name: of the data set, for what is said.
        folder: where prepared data sets lie.
        make: from a scratch folder to a builder that writes into ``prepared`` in it.

    Raises:
        ValueError: the disk's errors, too, in one line; then nothing is left.
    """
    import tensorflow_datasets as tfds

    try:
        with workplace(folder, name) as scratch, warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="PIL")  # images that are odd but whole
            builder = make(scratch)
            relative = pathlib.Path(builder.data_path).relative_to(scratch / "prepared")
            target = folder / relative
            if target.exists():
                raise _there_already(name, target)
            builder.download_and_prepare(
                download_config=tfds.download.DownloadConfig(try_download_gcs=False)
            )
            seal_files(builder.data_path, name=SEAL, suffixes=NAMES)
            _place(name, pathlib.Path(builder.data_path), target)
            return target
    except OSError as error:
        raise ValueError(
            f"{error.strerror or error} ({error.filename or folder}); nothing was imported."
        ) from error
    except Exception as error:  # builders are code of many hands
        full = os.strerror(errno.ENOSPC)
        if full in str(error):  # the writer of array_record knows no OSError
            raise ValueError(f"{full} ({folder}); nothing was imported.") from error
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        if isinstance(error, ValueError) and len(lines) == 1:
            raise
        said = (lines or [type(error).__name__])[0][:300]
        raise ValueError(f"TFDS cannot write {name} ({said}); nothing was imported.") from error


def _there_already(name: str, target: pathlib.Path) -> ValueError:
    return ValueError(f"{name} is there already, at {target}; remove it to import it again.")


def _place(name: str, made: pathlib.Path, target: pathlib.Path) -> None:
    """Move a folder to where it belongs, with the folders above it.

    Raises:
        ValueError: another thread has put one there meanwhile.
        OSError: the disk's; then the folders above it are gone again.
    """
    created = [path for path in (target.parent, *target.parent.parents) if not path.exists()]
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(made, target)
    except OSError as error:
        for path in created:
            with contextlib.suppress(OSError):  # what another thread has put there stays
                path.rmdir()
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
            raise _there_already(name, target) from error
        raise
