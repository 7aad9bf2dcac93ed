"""The nnx modules behind the networks of :mod:`gapjax.models`, to build, take apart and copy.

Each takes ``norm=``, called as ``norm(num_features, rngs=rngs)``, and ``rngs``.
"""

from gapjax.models._nnx_alexnet import AlexNet
from gapjax.models._nnx_conv_net import ConvNet
from gapjax.models._nnx_vgg import VGG
from gapjax.models._transformer import Transformer

__all__ = ["VGG", "AlexNet", "ConvNet", "Transformer"]
