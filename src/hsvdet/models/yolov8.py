"""YOLOv8, the yardstick of this library. Jocher et al., 2023; no paper, the graph is public knowledge.

A cross-stage-partial backbone, a path-aggregation neck and an anchor-free decoupled dense head. Written from
the published shapes and constants; published weights are AGPL-3.0 and are not part of this library.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..criteria.dense import DenseCriterion, DualAssignmentCriterion
from ..criteria.numbers import LossNumbers
from ..criteria.task_aligned import one_to_one_assignment
from ..errors import ConfigError
from ..layers.conv import ConvNormAct, double
from ..layers.csp import C2f, PyramidPooling
from ..layers.dense_head import DenseHead, OneToOneConfig, OneToOneHead
from ..structures import DenseOutput, Selection


@dataclass(frozen=True, kw_only=True)
class YoloV8Config:
    """Compound scaling: blocks are repeated `depth` x (3, 6, 6, 3), channels are min(base, cap) x `width`."""

    depth: float
    width: float
    cap: int
    bins: int = 16


VARIANTS: dict[str, dict[str, Any]] = {
    "n": dict(depth=0.33, width=0.25, cap=1024),
    "s": dict(depth=0.33, width=0.50, cap=1024),
    "m": dict(depth=0.67, width=0.75, cap=768),
    "l": dict(depth=1.00, width=1.00, cap=512),
    "x": dict(depth=1.00, width=1.25, cap=512),
}


class YoloV8(nn.Module):
    """images [B, 3, H, W] (H, W multiples of 32, values 0..1) to DenseOutput at strides 8, 16, 32."""

    BACKBONE = ("stem", "stage2", "stage3", "stage4", "stage5")
    NECK = ("top_down4", "top_down3", "down3", "bottom_up4", "down4", "bottom_up5")
    HALF_PRECISION = False

    def __init__(self, config: YoloV8Config, num_classes: int):
        super().__init__()
        c1, c2, c3, c4, c5 = (_width(base, config) for base in (64, 128, 256, 512, 1024))
        if c1 < 1:
            raise ConfigError(f"width expects a number that leaves at least a channel; got {config.width:g}.")
        n1, n2 = max(1, round(3 * config.depth)), max(1, round(6 * config.depth))
        self.stem = ConvNormAct(3, c1, 3, 2)
        self.stage2 = nn.Sequential(ConvNormAct(c1, c2, 3, 2), C2f(c2, c2, n1, residual=True))
        self.stage3 = nn.Sequential(ConvNormAct(c2, c3, 3, 2), C2f(c3, c3, n2, residual=True))
        self.stage4 = nn.Sequential(ConvNormAct(c3, c4, 3, 2), C2f(c4, c4, n2, residual=True))
        self.stage5 = nn.Sequential(
            ConvNormAct(c4, c5, 3, 2), C2f(c5, c5, n1, residual=True), PyramidPooling(c5)
        )
        self.top_down4 = C2f(c5 + c4, c4, n1, residual=False)
        self.top_down3 = C2f(c4 + c3, c3, n1, residual=False)
        self.down3 = ConvNormAct(c3, c3, 3, 2)
        self.bottom_up4 = C2f(c3 + c4, c4, n1, residual=False)
        self.down4 = ConvNormAct(c4, c4, 3, 2)
        self.bottom_up5 = C2f(c4 + c5, c5, n1, residual=False)
        self.head = self.make_head((c3, c4, c5), config, num_classes)

    def make_head(self, channels: tuple[int, ...], config: Any, num_classes: int) -> DenseHead | OneToOneHead:
        return DenseHead(channels, num_classes, bins=config.bins)

    def forward(self, images: Tensor, padding: Tensor | None = None, targets=None) -> DenseOutput:
        maps, selections = self.maps(images, padding, targets)
        return self.head(maps, images, padding)._replace(selections=selections)

    def maps(
        self, images: Tensor, padding: Tensor | None, targets
    ) -> tuple[list[Tensor], tuple[Selection, ...]]:
        """What the head reads: maps [B, D_l, H_l, W_l] of strides 8, 16, 32; and what token selectors answered."""
        p3 = self.stage3(self.stage2(self.stem(images)))
        p4 = self.stage4(p3)
        p5 = self.stage5(p4)
        p4 = self.top_down4(torch.cat([double(p5), p4], 1))
        p3 = self.top_down3(torch.cat([double(p4), p3], 1))
        p4 = self.bottom_up4(torch.cat([self.down3(p3), p4], 1))
        p5 = self.bottom_up5(torch.cat([self.down4(p4), p5], 1))
        return [p3, p4, p5], ()


@dataclass(frozen=True, kw_only=True)
class YoloV8E2eConfig(OneToOneConfig, YoloV8Config):
    """YOLOv8's scaling, and the numbers of its one-to-one head."""


class YoloV8E2e(YoloV8):
    """YOLOv8 with a one-to-one head: its answer needs no suppression (YOLOv10, Wang et al. 2024, arXiv 2405.14458,
    section 3.1)."""

    EXTENDS = {"head.": "head.twin."}

    def make_head(self, channels: tuple[int, ...], config: Any, num_classes: int) -> OneToOneHead:
        return OneToOneHead(channels, num_classes, config)


def criterion(numbers: LossNumbers = LossNumbers()) -> DenseCriterion:
    """Task-aligned assignment, with YOLOv8's published gains."""
    return DenseCriterion(smallest_side=numbers.smallest_side, selection=numbers.selection())


def e2e_criterion(numbers: LossNumbers = LossNumbers()) -> DualAssignmentCriterion:
    """One cell an object for the answer, and many for its twin."""
    one = DenseCriterion(
        assign=one_to_one_assignment, smallest_side=numbers.smallest_side, selection=numbers.selection()
    )
    return DualAssignmentCriterion(one, DenseCriterion(smallest_side=numbers.smallest_side))


def _width(base: int, config: YoloV8Config) -> int:
    return -(-int(min(base, config.cap) * config.width) // 8) * 8
