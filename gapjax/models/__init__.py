"""Models: the networks of the papers, every one with ``norm=``.

``f1`` is Keskar's fully connected network, ``digits_mlp`` its small sibling, ``resnet44`` the
residual network of Hoffer et al. ``as_network`` gives the functional view of any Flax module, linen
or nnx, that a pure train step needs. ``NETWORKS`` are the names that the command line knows.
"""

from gapjax.models._as_network import as_network
from gapjax.models._mlp import MLP, digits_mlp, f1
from gapjax.models._network import Network
from gapjax.models._networks import NETWORKS, find_network
from gapjax.models._resnet import ResNet, resnet, resnet44

__all__ = [
    "MLP",
    "NETWORKS",
    "Network",
    "ResNet",
    "as_network",
    "digits_mlp",
    "f1",
    "find_network",
    "resnet",
    "resnet44",
]
