"""Cross-stage partial blocks (Wang et al. 2020, arXiv 1911.11929) in the form YOLOv8 gave them, and SPPF."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .conv import ConvNormAct


class Bottleneck(nn.Module):
    """Two 3x3 convolutions, plus the input where `residual`."""

    def __init__(self, channels: int, residual: bool):
        super().__init__()
        self.first = ConvNormAct(channels, channels, 3)
        self.second = ConvNormAct(channels, channels, 3)
        self.residual = residual

    def forward(self, x: Tensor) -> Tensor:
        y = self.second(self.first(x))
        return x + y if self.residual else y


class C2f(nn.Module):
    """Split in two halves, run a chain of bottlenecks from the second, join every stage's output.

    half: channels of a half and of the bottlenecks, unless they are to be half of `channels`.
    """

    HALF_PRECISION = True

    def __init__(self, channels_in: int, channels: int, depth: int, residual: bool, half: int | None = None):
        super().__init__()
        half = half or channels // 2
        self.split = ConvNormAct(channels_in, 2 * half)
        self.blocks = nn.ModuleList(Bottleneck(half, residual) for _ in range(depth))
        self.join = ConvNormAct((2 + depth) * half, channels)

    def forward(self, x: Tensor) -> Tensor:
        stages = list(self.split(x).chunk(2, 1))
        for block in self.blocks:
            stages.append(block(stages[-1]))
        return self.join(torch.cat(stages, 1))


class PyramidPooling(nn.Module):
    """Spatial pyramid pooling, fast form (SPPF): three chained 5x5 max-pools see 5, 9 and 13 cells."""

    HALF_PRECISION = True

    def __init__(self, channels: int):
        super().__init__()
        self.reduce = ConvNormAct(channels, channels // 2)
        self.pool = nn.MaxPool2d(5, stride=1, padding=2)
        self.join = ConvNormAct(channels // 2 * 4, channels)

    def forward(self, x: Tensor) -> Tensor:
        stages = [self.reduce(x)]
        for _ in range(3):
            stages.append(self.pool(stages[-1]))
        return self.join(torch.cat(stages, 1))
