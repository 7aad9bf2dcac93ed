"""From a name to a data set."""

import os

from gapjax import _checks
from gapjax.data._dataset import Dataset
from gapjax.data._digits import load_digits


def load(name: str, *, data_dir: str | os.PathLike[str] | None = None) -> Dataset:
    """Load a data set by name.

    Args:
      name: ``"digits"``, embedded.
      data_dir: the folder of prepared data sets; not needed for the digits.

    Returns:
      The data set, as arrays in memory.

    Raises:
      ValueError: if there is no data set of that name; the nearest names are suggested.

    Example:
      >>> import gapjax
      >>> digits = gapjax.data.load("digits")
      >>> len(digits.train), len(digits.test), digits.train.images.shape
      (1280, 517, (1280, 8, 8, 1))
    """
    if name == "digits":
        return load_digits()
    known = ["digits"]
    raise ValueError(f"There is no data set named {name!r}.{_checks.near_matches(name, known)}")
