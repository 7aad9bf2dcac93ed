"""Data: the embedded digits, any TFDS data set, augmentation on device.

``load("digits")`` needs no network and no download: the digits come with scikit-learn. Any other
name is one of TFDS, read without TensorFlow; :func:`import_local` prepares it from local files. A
:class:`Dataset` of your own arrays goes wherever a loaded one does.
"""

from gapjax.data._augment import (
    ChannelStatistics,
    channel_statistics,
    example_keys,
    flip,
    normalize,
    pad_crop,
)
from gapjax.data._dataset import Dataset, Split, StreamedSplit
from gapjax.data._import import import_local
from gapjax.data._load import load

__all__ = [
    "ChannelStatistics",
    "Dataset",
    "Split",
    "StreamedSplit",
    "channel_statistics",
    "example_keys",
    "flip",
    "import_local",
    "load",
    "normalize",
    "pad_crop",
]
