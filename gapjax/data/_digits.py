"""The embedded digits of scikit-learn."""

import gzip
import importlib.util
import pathlib

import numpy as np

from gapjax.data._dataset import Dataset, Split

_TRAIN = 1280
_SEED = 0  # of the split below; changing it changes every published figure on this data set


def load_digits() -> Dataset:
    """The 1797 handwritten digits of 8 by 8 pixels that come with scikit-learn.

    The order is one fixed permutation (NumPy's ``Philox(key=0)``), since the file keeps the
    writers together; the first 1280 examples are for training, the other 517 for testing. Pixels
    run from 0 to 16 in the file and are scaled to 0 to 255 as for every other set of images.

    Source: the test part of "Optical Recognition of Handwritten Digits" (E. Alpaydin and
    C. Kaynak, 1998), UCI Machine Learning Repository.
    """
    table = _table()
    images = table[:, :-1].reshape(-1, 8, 8, 1)
    images = np.round(images * (255.0 / 16.0)).astype(np.uint8)
    labels = table[:, -1].astype(np.int32)
    order = np.random.Generator(np.random.Philox(key=_SEED)).permutation(len(labels))
    images, labels = images[order], labels[order]
    return Dataset(
        train=Split(images[:_TRAIN], labels[:_TRAIN]),
        test=Split(images[_TRAIN:], labels[_TRAIN:]),
        class_names=tuple(map(str, range(10))),
        name="digits",
    )


def _table() -> np.ndarray:
    """One row per digit: its pixels, then which it is, float64 ``[1797, 65]``."""
    # The file itself, where it is: importing scikit-learn takes two seconds.
    package = importlib.util.find_spec("sklearn")
    for folder in (package and package.submodule_search_locations) or ():
        file = pathlib.Path(folder, "datasets", "data", "digits.csv.gz")
        if file.is_file():
            # Opened here: NumPy looks for the folder that the process is in, which may be gone.
            with gzip.open(file, "rt", encoding="ascii") as lines:
                return np.loadtxt(lines, delimiter=",")
    from sklearn.datasets import load_digits as embedded

    bunch = embedded()
    return np.column_stack([bunch.data, bunch.target])
