"""Data: the embedded digits, any TFDS data set, augmentation on device.

``load("digits")`` needs no network and no download: the digits come with scikit-learn. Any other
name is one of TFDS, read without TensorFlow; :func:`import_local` prepares it from local files. A
:class:`Dataset` of your own arrays goes wherever a loaded one does.
"""

from gapjax._doors import as_arrays
from gapjax.data._augment import AUGMENTATIONS, example_keys, flip, make_augment, pad_crop
from gapjax.data._dataset import Dataset, Split, StreamedSplit
from gapjax.data._from_folder import from_folder
from gapjax.data._import import import_local
from gapjax.data._load import load
from gapjax.data._normalize import (
    ChannelStatistics,
    Normalizer,
    channel_statistics,
    fit_normalizer,
    normalize,
)
from gapjax.data._text import import_text

__all__ = [
    "AUGMENTATIONS",
    "ChannelStatistics",
    "Dataset",
    "Normalizer",
    "Split",
    "StreamedSplit",
    "as_arrays",
    "channel_statistics",
    "example_keys",
    "fit_normalizer",
    "flip",
    "from_folder",
    "import_local",
    "import_text",
    "load",
    "make_augment",
    "normalize",
    "pad_crop",
]
