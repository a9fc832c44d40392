"""The network with the reading of its answer, as one graph of fixed shapes: what is exported.

What comes in is a canvas, as `graph_canvas.py` makes it of an image inside the artifact; what goes out are
detections in pixels of the original image. In eager PyTorch it is the reference that a certificate compares with.
"""

# pyright: strict

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from .. import models
from ..boxes import cxcywh_to_xyxy
from ..detector import Detector
from ..postprocess import GraphSuppression
from .suppression import suppress, suppress_in_rounds

# Predictions that may come to suppression. Eager takes 30 000; the 4096 best are more than the few hundred that become
# detections ever need, and cost nothing.
CANDIDATES = 4096
# Where each is compared with each other.
_PORTABLE_CANDIDATES = 512

# More than any sum of sound logits. A comparison with it is False for NaN, and every runtime has it.
_FINITE = 1e30


class Rows(NamedTuple):
    """R <= max_detections detections an image, strongest first. boxes: [B, R, 4] float32 xyxy, pixels of the original.
    scores: [B, R] float32. labels: [B, R] int64. count: [B] int64, how many pass the score; those after are
    weaker, and where there are no more, score 0, label -1 and a box of zeros. Where the network's answer has NaN or
    infinity, count is -1 and scores are NaN."""

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    count: Tensor  # pyright: ignore[reportIncompatibleMethodOverride]: the name is the artifact's


class ExportGraph(nn.Module):
    """detector: it is folded here. score: what a detection must pass to be counted. floor: what it must pass to
    be there at all; for dense models, below which nothing is suppressed and nothing suppresses. iou: of the
    suppression. max_detections: of an image. portable: suppression in plain operators, for runtimes that have none."""

    def __init__(
        self,
        detector: Detector,
        *,
        score: float,
        floor: float,
        iou: float,
        max_detections: int,
        portable: bool = False,
    ):
        super().__init__()
        self.net = detector.deploy().net.float()
        model = models.find(detector.name)
        self.reading, self.padding_cell = model.reading, model.padding_cell
        self.resize = detector.preprocess.resize
        self.score, self.max_detections = score, max_detections
        if portable:
            kept = partial(suppress_in_rounds, iou=iou, floor=floor)
            self.suppression = GraphSuppression(_PORTABLE_CANDIDATES, kept)
        else:
            kept = partial(suppress, iou=iou, floor=floor)
            self.suppression = GraphSuppression(CANDIDATES, kept)

    def forward(self, canvas: Tensor, content: Tensor, size: Tensor) -> Rows:
        """canvas: [B, 3, h, w] float32, normalised. content: [4] int64, (left, top, width, height) of the picture
        on it. size: [2] int64, (height, width) of the original images."""
        scale = size.flip(0).repeat(2).float()  # width, height, width, height
        output = self.net(canvas, self._padding(canvas, content))

        def boxes_at(index: Tensor) -> Tensor:
            return cxcywh_to_xyxy(output.boxes_at(index, content.float()[None])) * scale

        boxes, scores, labels = self.reading.rows(
            output.answer.logits, boxes_at, scale, self.max_detections, self.suppression
        )
        real = scores > 0
        boxes, labels = boxes.where(real.unsqueeze(-1), 0.0), labels.where(real, -1)
        count = (scores > self.score).sum(-1)
        # What sorting and suppression make of NaN is each runtime's own; a sum keeps it.
        sums = [part.transpose(1, 2).float().sum((1, 2)).abs() for part in output.undecoded]
        finite = torch.stack(sums).sum(0) < _FINITE
        return Rows(boxes, scores.where(finite.unsqueeze(-1), torch.nan), labels, count.where(finite, -1))

    def _padding(self, canvas: Tensor, content: Tensor) -> Tensor | None:
        """[B, h, w] bool. The rectangle is the same for all images, since they have one size."""
        if self.resize in ("stretch", "shortest"):
            return None
        # A mask of the cells that the network asks for is made faster than one of pixels; where exactly the picture
        # lies is told to `boxes_at`.
        step = self.padding_cell
        left, top, width, height = content.unbind(0)
        outside = [
            torch.logical_or(cell * step >= first + length, cell * step + step <= first)
            for cell, first, length in (
                (torch.arange(canvas.shape[2] // step, device=canvas.device), top, height),
                (torch.arange(canvas.shape[3] // step, device=canvas.device), left, width),
            )
        ]
        return torch.logical_or(outside[0][:, None], outside[1][None]).expand(canvas.shape[0], -1, -1)
