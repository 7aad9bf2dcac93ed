"""What the loader and the importer need of TFDS, which is never asked for TensorFlow."""

import os
import pathlib
import re
from typing import Any

from gapjax import _checks


def data_folder(data_dir: str | os.PathLike[str] | None) -> pathlib.Path:
    """Where prepared data sets lie: as told, or where TFDS keeps them."""
    if data_dir is None:
        data_dir = os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets")
    return pathlib.Path(data_dir).expanduser()


def known_names() -> list[str]:
    """The data sets that TFDS has a builder for."""
    import tensorflow_datasets as tfds

    return tfds.list_builders(with_community_datasets=False)


def check_name(name: str) -> str:
    """A name as TFDS takes them: `name`, `name/config`, `name:version`."""
    if not isinstance(name, str) or not re.fullmatch(r"[a-z][a-z0-9_]*([/:][\w.*/:+-]+)?", name):
        near = _checks.near_matches(str(name).lower(), known_names())
        raise ValueError(
            f"{name!r} is not the name of a data set; names are lower-case words joined by "
            f"underscores, such as 'fashion_mnist'.{near}"
        )
    return name


def find_builder(name: str, folder: pathlib.Path) -> Any:
    """The TFDS builder of a data set that is known or lies prepared in the folder.

    Raises:
      ValueError: if there is neither; the nearest names are suggested.
    """
    import tensorflow_datasets as tfds

    base = re.split("[/:]", name)[0]
    if base not in (known := known_names()) and not (folder / base).is_dir():
        raise ValueError(
            f"There is no data set named {name!r}, neither in TFDS nor in {folder}; from local "
            f"files it is made by: gapjax data import {base} --from DIR."
            f"{_checks.near_matches(base, ['digits', *known])}"
        )
    try:
        return tfds.builder(name, data_dir=str(folder))
    except (ValueError, AssertionError, ImportError) as error:
        raise ValueError(
            f"TFDS cannot open {name!r} in {folder}: {str(error).splitlines()[0]}"
        ) from error
