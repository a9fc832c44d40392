"""The anchor-free dense head of YOLOv8: per cell a distribution of distances to the four sides, and classes.

Distances as distributions: generalised focal loss (Li et al. 2020, arXiv 2006.04388), section 3.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ..boxes import decode_distances, pixels_to_fractions
from ..structures import DenseOutput, Prediction
from .conv import ConvNormAct
from .tokens import content_extents


def anchor_points(maps: list[Tensor], strides: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Cell centres in input pixels [A, 2] (x, y), levels one after another, row by row; and strides [A]."""
    points, steps = [], []
    for level, stride in zip(maps, strides, strict=True):
        height, width = level.shape[-2:]
        y = torch.arange(height, device=level.device, dtype=torch.float32) + 0.5
        x = torch.arange(width, device=level.device, dtype=torch.float32) + 0.5
        grid = torch.stack([x[None, :].expand(height, width), y[:, None].expand(height, width)], -1)
        points.append(grid.reshape(-1, 2) * stride)
        steps.append(torch.full((height * width,), float(stride), device=level.device))
    return torch.cat(points), torch.cat(steps)


class DenseHead(nn.Module):
    """Maps [B, D_l, H_l, W_l] of strides 8, 16, 32 to DenseOutput; two towers a level.

    bins: R of the distance distribution. Class logits are for sigmoids.
    """

    def __init__(self, channels: tuple[int, ...], num_classes: int, strides=(8, 16, 32), bins: int = 16):
        super().__init__()
        self.strides, self.bins = tuple(strides), bins
        box_width = max(16, channels[0] // 4, 4 * bins)
        class_width = max(channels[0], min(num_classes, 100))
        self.box_towers = nn.ModuleList(_tower(c, box_width, 4 * bins) for c in channels)
        self.class_towers = nn.ModuleList(_tower(c, class_width, num_classes) for c in channels)
        for box_tower, class_tower, stride in zip(
            self.box_towers, self.class_towers, self.strides, strict=True
        ):
            nn.init.constant_(box_tower[-1].bias, 1.0)
            # About five objects among the cells of a 640-pixel image.
            nn.init.constant_(class_tower[-1].bias, math.log(5 / num_classes / (640 / stride) ** 2))

    def forward(self, maps: list[Tensor], images: Tensor, padding: Tensor | None) -> DenseOutput:
        """images, padding: the network's input, for its size and where each picture lies in it."""
        distances, logits = [], []
        for level, box_tower, class_tower in zip(maps, self.box_towers, self.class_towers, strict=True):
            distances.append(box_tower(level).flatten(2))
            logits.append(class_tower(level).flatten(2))
        distances = torch.cat(distances, 2).transpose(1, 2)
        logits = torch.cat(logits, 2).transpose(1, 2)
        anchors, strides = anchor_points(maps, self.strides)
        extents = content_extents(images, padding)
        boxes = pixels_to_fractions(decode_distances(distances, anchors, strides), extents)
        return DenseOutput(Prediction(logits, boxes), distances, anchors, strides, extents)


def _tower(channels_in: int, width: int, channels: int) -> nn.Sequential:
    return nn.Sequential(
        ConvNormAct(channels_in, width, 3), ConvNormAct(width, width, 3), nn.Conv2d(width, channels, 1)
    )
