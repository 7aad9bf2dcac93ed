"""The networks of the benchmarks in PyTorch, which has to be installed."""

from collections.abc import Sequence
from typing import Any


def f1(ghosts: int = 1, *, view: bool = True) -> Any:
    """F1 of Keskar et al., as `gapjax.models.f1`; with ghosts, by a view or a call for each."""
    from torch import nn

    layers: list[Any] = [nn.Flatten()]
    for width in (784, 512, 512, 512, 512):
        norm = _ghost_norm(512, ghosts, view) if ghosts > 1 else nn.BatchNorm1d(512)
        layers += [nn.Linear(width, 512), norm, nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(512, 10))


def _ghost_norm(features: int, ghosts: int, view: bool) -> Any:
    """Batch norm of so many parts of a batch of vectors, each by itself."""
    import torch
    from torch import nn

    class GhostNorm(nn.BatchNorm1d):
        def __init__(self) -> None:
            super().__init__(features)
            if view:  # channels of a ghost beside those of the next, statistics too
                self.running_mean = self.running_mean.repeat(ghosts)
                self.running_var = self.running_var.repeat(ghosts)

        def forward(self, x: Any) -> Any:
            if not view:
                return torch.cat([nn.BatchNorm1d.forward(self, part) for part in x.chunk(ghosts)])
            return nn.functional.batch_norm(
                x.view(-1, features * ghosts),
                self.running_mean,
                self.running_var,
                self.weight.repeat(ghosts),
                self.bias.repeat(ghosts),
                True,
                0.1,
                self.eps,
            ).view_as(x)

    return GhostNorm()


def resnet(blocks: Sequence[int], widths: Sequence[int]) -> Any:
    """The CIFAR ResNet with projections, as `gapjax.models.ResNet`."""
    import torch
    from torch import nn

    def convolution(before: int, after: int, size: int, stride: int) -> Any:
        return nn.Sequential(
            nn.Conv2d(before, after, size, stride, size // 2, bias=False), nn.BatchNorm2d(after)
        )

    class Block(nn.Module):
        def __init__(self, before: int, after: int, stride: int):
            super().__init__()
            first, second = convolution(before, after, 3, stride), convolution(after, after, 3, 1)
            self.way = nn.Sequential(first, nn.ReLU(inplace=True), second)
            same = before == after
            self.short = nn.Identity() if same else convolution(before, after, 1, stride)

        def forward(self, x: Any) -> Any:
            return torch.relu(self.way(x) + self.short(x))

    layers: list[Any] = [convolution(3, widths[0], 3, 1), nn.ReLU(inplace=True)]
    before = widths[0]
    for stage, (count, width) in enumerate(zip(blocks, widths, strict=True)):
        for i in range(count):
            layers.append(Block(before, width, 2 if stage and not i else 1))
            before = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(before, 10))
