"""Models: the networks of the papers, every one with ``norm=``, and a transformer.

Constructors take the width of the last layer, ``norm=`` and ``dtype=``, and give what
``as_network`` takes: linen modules, or functions from ``rngs`` to an nnx module of
:mod:`gapjax.models.nnx`. ``as_network`` gives the functional view of any Flax module that a pure
train step needs. ``NETWORKS`` are the names that the command line knows.

Of Keskar et al. (2017): ``f1``, ``f2``, ``c1``, ``c2``, ``c3``, ``c4``. Of Hoffer et al. (2017):
``resnet44``, ``vgg``, ``wrn16_4``, ``alexnet``, and ``f1``, ``c1`` and ``c3`` as their code has
them. Besides: ``resnet``, ``resnet50``, ``alexnet_cifar``, ``digits_mlp``, ``transformer``.
"""

from gapjax.models import nnx
from gapjax.models._as_network import as_network
from gapjax.models._conv_net import ConvNet
from gapjax.models._mlp import MLP, digits_mlp, f1, f2
from gapjax.models._network import Network
from gapjax.models._networks import NETWORKS, find_network
from gapjax.models._nnx_alexnet import alexnet, alexnet_cifar
from gapjax.models._nnx_conv_net import c1, c3
from gapjax.models._nnx_vgg import c2, c4, vgg
from gapjax.models._resnet import ResNet
from gapjax.models._resnets import resnet, resnet44, resnet50, wrn16_4
from gapjax.models._transformer import transformer, transformer_tiny

__all__ = [
    "MLP",
    "NETWORKS",
    "ConvNet",
    "Network",
    "ResNet",
    "alexnet",
    "alexnet_cifar",
    "as_network",
    "c1",
    "c2",
    "c3",
    "c4",
    "digits_mlp",
    "f1",
    "f2",
    "find_network",
    "nnx",
    "resnet",
    "resnet44",
    "resnet50",
    "transformer",
    "transformer_tiny",
    "vgg",
    "wrn16_4",
]
