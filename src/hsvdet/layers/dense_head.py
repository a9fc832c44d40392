"""The anchor-free dense head of YOLOv8: per cell the distances to the four sides, and classes; and its form whose
answer needs no suppression.

Distances as distributions: generalised focal loss (Li et al. 2020, arXiv 2006.04388), section 3. Consistent dual
assignments: YOLOv10 (Wang et al. 2024, arXiv 2405.14458), section 3.1.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

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


MakeTower = Callable[[int, int, int], nn.Sequential]


class DenseHead(nn.Module):
    """Maps [B, D_l, H_l, W_l] of strides 8, 16, 32 to DenseOutput; two towers a level.

    bins: R of the distance distribution; 1 for the distance itself. class_tower: what gives the classes, made of
    channels in, width and number of classes. Class logits are for sigmoids.
    """

    HALF_PRECISION = False

    def __init__(
        self,
        channels: tuple[int, ...],
        num_classes: int,
        strides: tuple[int, ...] = (8, 16, 32),
        bins: int = 16,
        class_tower: MakeTower | None = None,
    ):
        super().__init__()
        self.strides, self.bins = tuple(strides), bins
        box_width = max(16, channels[0] // 4, 4 * bins)
        class_width = max(channels[0], min(num_classes, 100))
        self.box_towers: Any = nn.ModuleList(_tower(c, box_width, 4 * bins) for c in channels)
        make_classes = class_tower or _tower
        self.class_towers: Any = nn.ModuleList(make_classes(c, class_width, num_classes) for c in channels)
        for boxes, classes, stride in zip(self.box_towers, self.class_towers, self.strides, strict=True):
            nn.init.constant_(boxes[-1].bias, 1.0)
            # About five objects among the cells of a 640-pixel image.
            nn.init.constant_(classes[-1].bias, math.log(5 / num_classes / (640 / stride) ** 2))

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

    def readers(self, level: int) -> tuple[nn.Conv2d, ...]:
        """The convolutions that read the map of a level, 0 the finest, for the answer."""
        return self.box_towers[level][0].conv, self.class_towers[level][0].conv


@dataclass(frozen=True, kw_only=True)
class OneToOneConfig:
    """Of a `OneToOneHead`. bins: R of the distances it answers with; 1 for the distances themselves, which a runtime
    of 8 bits keeps best. twin_bins: of its one-to-many twin. detached: whether maps learn from the twin alone."""

    bins: int = 1
    twin_bins: int = 16
    detached: bool = True


class OneToOneHead(nn.Module):
    """Two dense heads on the same maps: `one_to_one` learns a single cell for each object and gives the answer, which
    needs no suppression; its one-to-many `twin` learns many, as YOLOv8's head does, teaches the maps, and is there
    for training only. In training the output has both.

    Detached, as in the paper, the maps learn from the twin alone: one cell for each object is a poor teacher.
    In 8 bits the distances would have 256 levels between the shortest and the longest, and no suppression after
    them to choose among boxes that repeat an object.
    """

    train_only = ("twin",)
    not_8_bits = ("one_to_one.box_towers",)

    def __init__(
        self,
        channels: tuple[int, ...],
        num_classes: int,
        config: OneToOneConfig,
        class_tower: MakeTower | None = None,
    ):
        super().__init__()
        self.detached = config.detached
        self.one_to_one = DenseHead(channels, num_classes, bins=config.bins, class_tower=class_tower)
        self.twin = DenseHead(channels, num_classes, bins=config.twin_bins, class_tower=class_tower)

    def forward(self, maps: list[Tensor], images: Tensor, padding: Tensor | None) -> DenseOutput:
        read = [level.detach() for level in maps] if self.detached else maps
        output = self.one_to_one(read, images, padding)
        return output._replace(twin=self.twin(maps, images, padding)) if self.training else output

    def readers(self, level: int) -> tuple[nn.Conv2d, ...]:
        """As of `DenseHead`."""
        return self.one_to_one.readers(level)


def separable_tower(channels_in: int, width: int, channels: int) -> nn.Sequential:
    """Of depthwise and pointwise convolutions, which do for classes (YOLOv10, section 3.2)."""
    return nn.Sequential(
        ConvNormAct(channels_in, channels_in, 3, groups=channels_in),
        ConvNormAct(channels_in, width),
        ConvNormAct(width, width, 3, groups=width),
        ConvNormAct(width, width),
        nn.Conv2d(width, channels, 1),
    )


def _tower(channels_in: int, width: int, channels: int) -> nn.Sequential:
    return nn.Sequential(
        ConvNormAct(channels_in, width, 3), ConvNormAct(width, width, 3), nn.Conv2d(width, channels, 1)
    )
