"""Data: the embedded digits, any TFDS data set, augmentation on device.

``load("digits")`` needs no network and no download: the digits come with scikit-learn. A
:class:`Dataset` of your own arrays goes wherever a loaded one does.
"""

from gapjax.data._dataset import Dataset, Split, StreamedSplit
from gapjax.data._import import import_local
from gapjax.data._load import load

__all__ = ["Dataset", "Split", "StreamedSplit", "import_local", "load"]
