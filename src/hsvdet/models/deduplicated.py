"""Dense detectors with a learned suppressor in place of non-maximum suppression. This project, 2026.

What is deleted where objects overlap is decided by what the candidates look like and how they lie to one another,
not by one threshold on overlap. The suppressor is that of MDS-DETR (arXiv 2605.23507), which has it at the end of a
decoder; here it stands behind a dense head, whose maps, boxes and classes it takes as they are: a detector that is
there already learns it in minutes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from ..criteria.dual import DeduplicatedCriterion, DualCriterion
from ..criteria.numbers import LossNumbers
from ..layers.suppressor import Suppressor, SuppressorConfig
from ..structures import DualOutput, QueryOutput
from . import yolov8
from .hsv_det import HsvDet, HsvDetConfig
from .yolov8 import YoloV8, YoloV8Config


@dataclass(frozen=True, kw_only=True)
class DeduplicatedYoloV8Config(SuppressorConfig, YoloV8Config):
    """YOLOv8's scaling, and the numbers of the suppressor."""


@dataclass(frozen=True, kw_only=True)
class DeduplicatedHsvDetConfig(SuppressorConfig, HsvDetConfig):
    """HSV-DET's options, and the numbers of the suppressor."""


class _Deduplicated(nn.Module):
    """forward: images [B, 3, H, W], padding [B, H, W] bool or None, to DualOutput: the dense head, and the candidates
    it is read by. A frozen detector stays in evaluation mode, and answers as it did."""

    head: Any  # of the detector that this is mixed with, as `maps`
    maps: Any

    def __init__(self, config: DeduplicatedYoloV8Config | DeduplicatedHsvDetConfig, num_classes: int):
        super().__init__(config, num_classes)
        self.frozen = config.frozen_detector
        if config.frozen_detector:
            self.requires_grad_(False)
        channels = tuple(tower[0].conv.in_channels for tower in self.head.class_towers)
        self.suppressor = Suppressor(channels, num_classes, config)

    def train(self, mode: bool = True):
        super().train(mode)
        if self.frozen:
            for name, child in self.named_children():
                child.train(mode and name == "suppressor")
        return self

    def forward(self, images: Tensor, padding: Tensor | None = None, targets=None) -> DualOutput:
        maps, selections = self.maps(images, padding, targets)
        dense = self.head(maps, images, padding)
        answer, cells = self.suppressor(maps, dense)
        return DualOutput(answer, dense, QueryOutput((answer,)), cells, cells, selections)


class DeduplicatedYoloV8(_Deduplicated, YoloV8):  # pyright: ignore[reportIncompatibleMethodOverride] another output
    """YOLOv8 and a suppressor."""


class DeduplicatedHsvDet(_Deduplicated, HsvDet):  # pyright: ignore[reportIncompatibleMethodOverride] another output
    """HSV-DET and a suppressor."""


def criterion(numbers: LossNumbers = LossNumbers()) -> DualCriterion:
    """That of the dense head, and of the candidates' keep-scores."""
    return DualCriterion(yolov8.criterion(numbers), DeduplicatedCriterion())
