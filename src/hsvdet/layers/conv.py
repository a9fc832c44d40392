"""Convolution blocks: [B, D, H, W] in and out."""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn


class ConvNormAct(nn.Module):
    """Convolution without bias, batch normalisation, SiLU; padded so that stride 1 keeps the size.

    Batch normalisation uses eps 1e-3 and momentum 0.03, the YOLOv8 settings: with PyTorch's own eps the
    published weights answer differently. groups: as many as channels for a depthwise convolution.
    """

    HALF_PRECISION = True

    def __init__(self, channels_in: int, channels: int, kernel: int = 1, stride: int = 1, groups: int = 1):
        super().__init__()
        self.conv = nn.Conv2d(channels_in, channels, kernel, stride, kernel // 2, groups=groups, bias=False)
        self.norm = nn.BatchNorm2d(channels, eps=1e-3, momentum=0.03)
        self.act = nn.SiLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.norm(self.conv(x)))


class ConvNorm(nn.Module):
    """Convolution without bias, batch normalisation with PyTorch's settings, and what comes after, if anything.

    norm: channels to the normalisation; FrozenBatchNorm2d for statistics that are not to change.
    """

    HALF_PRECISION = True

    def __init__(
        self,
        channels_in: int,
        channels: int,
        kernel: int = 1,
        stride: int = 1,
        activation: Callable[[], nn.Module] = nn.Identity,
        norm: Callable[[int], nn.Module] = nn.BatchNorm2d,
    ):
        super().__init__()
        self.conv = nn.Conv2d(channels_in, channels, kernel, stride, kernel // 2, bias=False)
        self.norm = norm(channels)
        self.activation = activation()

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(self.norm(self.conv(x)))


def double(x: Tensor) -> Tensor:
    """Twice as high and wide, each cell as four."""
    return F.interpolate(x, scale_factor=2.0, mode="nearest")
