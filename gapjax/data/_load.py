"""From a name to a data set."""

import os

from gapjax.data import _fetch, _places, _prepared, _tfds
from gapjax.data._dataset import Dataset
from gapjax.data._digits import load_digits
from gapjax.data._text import load_pydoc


def load(
    name: str,
    *,
    data_dir: str | os.PathLike[str] | None = None,
    train: str = "train",
    test: str | None = None,
    image_size: int | None = None,
    sequence_length: int | None = None,
) -> Dataset:
    """Load a data set by name: an embedded one, or any that TFDS knows, without TensorFlow.

    Embedded are ``"digits"`` (those of scikit-learn) and ``"pydoc"`` (the language reference that
    comes with Python, as bytes, in windows of ``tokens``; its name holds the version of Python).

    A set lying prepared in ``data_dir`` (by :func:`import_local` or by TFDS, as array_record or
    tfrecord) is read from its files alone: no code of the data set is run. Images are decoded once
    and kept as arrays beside the prepared files, so that the next load is quick; a split that would
    take more than a quarter of the machine's memory becomes a :class:`StreamedSplit`, decoded as it
    is read. A set that is not there is fetched if it is one whose original files can be read
    without TensorFlow (MNIST, Fashion-MNIST, KMNIST, CIFAR-10 and CIFAR-100).

    Args:
        name: ``"digits"``, ``"pydoc"``, or a name as TFDS writes it (``"mnist"``,
            ``"emnist/letters"``).
        data_dir: the folder of prepared data sets; that of TFDS by default (``$TFDS_DATA_DIR`` or
            ``~/tensorflow_datasets``).
        train: the split to train on, as TFDS writes splits: ``"train[:90%]"``.
        test: the split to test on. By default ``"test"``, or ``"validation"`` where there is none
            or its answers are kept back.
        image_size: resize the shorter side of every image to this and cut out the middle; needed
            where the images differ in size.
        sequence_length: of ``"pydoc"``: how many bytes a window predicts, T; 128 by default.

    Returns:
        The data set: :class:`Split` of images or features with class labels, or a dict with
        ``tokens`` (int32 ``[N, T + 1]``) where it is text.

    Raises:
        ValueError: there is no data set or split of that name (the nearest are suggested), it does
            not consist of examples with class labels, a file of it is damaged (it is named), or it
            is neither there nor can be fetched; the message then holds the command that imports it
            from local files.

    Example:
        >>> import gapjax
        >>> digits = gapjax.data.load("digits")
        >>> len(digits.train), len(digits.test), digits.train.images.shape
        (1280, 517, (1280, 8, 8, 1))
    """
    if name in _tfds.EMBEDDED:
        if (train, test, image_size) != ("train", None, None):
            raise ValueError(
                f"The {name} come as they are: train, test and image_size are fixed."
                if name == "digits"
                else "The text of pydoc comes as it is: train and test are fixed, and it has no "
                "images."
            )
        if name == "pydoc":
            return load_pydoc(sequence_length)
    if sequence_length is not None:
        raise ValueError(f"sequence_length is for 'pydoc'; of {name!r} it is as it was imported.")
    if name == "digits":
        return load_digits()
    folder, parsed = _places.data_folder(data_dir), _tfds.parse_name(name)
    place = _tfds.find_prepared(parsed, folder)
    if place is None:
        _fetch.prepare(name, _tfds.stock_builder(parsed, folder), folder)
        place = _tfds.find_prepared(parsed, folder)
        assert place is not None
    builder = _tfds.open_prepared(place)
    return _prepared.read_dataset(name, builder, folder, train, test, image_size)
