"""Where data lie."""

import os
import pathlib

from gapjax._paths import local_path


def data_folder(data_dir: str | os.PathLike[str] | None) -> pathlib.Path:
    """Where prepared data sets lie: as told, or where TFDS keeps them."""
    if data_dir is not None:
        return local_path("data_dir", data_dir)
    if kept := os.environ.get("TFDS_DATA_DIR"):
        return local_path("TFDS_DATA_DIR", kept)
    try:
        return local_path("data_dir", "~/tensorflow_datasets")
    except ValueError as error:
        raise ValueError(
            "There is no home folder to keep data sets in: pass data_dir, or set TFDS_DATA_DIR."
        ) from error
