"""The network with the reading of its answer, as one graph of fixed shapes: what is exported.

What comes in is a canvas, as `graph_canvas.py` makes it of an image inside the artifact; what goes out are
detections in pixels of the original image. In eager PyTorch it is the reference that a certificate compares with.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from .. import models
from ..boxes import cxcywh_to_xyxy
from ..detector import Detector
from ..layers.dense_head import decode_distances
from ..postprocess import best_class, nms, top_k
from ..structures import DenseOutput, Prediction
from .suppression import suppress, suppress_in_rounds

# Anchors that may come to suppression. Eager takes 30 000; the 4096 best are more than the few hundred that become
# detections ever need, and cost nothing.
CANDIDATES = 4096
# Where each is compared with each other.
_PORTABLE_CANDIDATES = 512

# Cells that have padding are told to dense networks by this many pixels, the finest cell they have.
_CELL = 8


class Rows(NamedTuple):
    """R <= limit detections an image, strongest first. boxes: [B, R, 4] float32 xyxy, pixels of the original.
    scores: [B, R] float32. labels: [B, R] int64. count: [B] int64, how many pass the score; those after are
    weaker, and where there are no more, score 0, label -1 and a box of zeros."""

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    count: Tensor


class ExportGraph(nn.Module):
    """detector: it is folded here. score: what a detection must pass to be counted. floor: what it must pass to
    be there at all; for dense models, below which nothing is suppressed and nothing suppresses. iou: of the
    suppression. limit: detections an image. portable: suppression in plain operators, for runtimes that have none."""

    def __init__(
        self,
        detector: Detector,
        *,
        score: float,
        floor: float,
        iou: float,
        limit: int,
        portable: bool = False,
    ):
        super().__init__()
        self.net = detector.deploy().net.float()
        self.read = models.find(detector.name).postprocess
        self.resize = detector.preprocess.resize
        self.score, self.floor, self.iou, self.limit = score, floor, iou, limit
        self.portable = portable

    def forward(self, canvas: Tensor, content: Tensor, size: Tensor) -> Rows:
        """canvas: [B, 3, h, w] float32, normalised. content: [4] int64, (left, top, width, height) of the picture
        on it. size: [2] int64, (height, width) of the original images."""
        scale = size.flip(0).repeat(2).float()  # width, height, width, height
        output = self.net(canvas, self._padding(canvas, content))
        if self.read is nms:
            boxes, scores, labels = self._suppressed(output, content, scale)
        else:
            read = {top_k: _best_pairs, best_class: _best_classes}[self.read]
            boxes, scores, labels = read(output.answer, self.limit)
            boxes = cut(cxcywh_to_xyxy(boxes) * scale, scale)
        return Rows(boxes, scores, labels, (scores > self.score).sum(-1))

    def _padding(self, canvas: Tensor, content: Tensor) -> Tensor | None:
        """[B, h, w] bool. The rectangle is the same for all images, since they have one size."""
        if self.resize in ("stretch", "shortest"):
            return None
        # A dense network asks which cells are padding, and these are known without making a mask of pixels;
        # where the picture lies is told to `_suppressed`.
        step = _CELL if self.read is nms else 1
        left, top, width, height = content.unbind(0)
        outside = [
            torch.logical_or(place * step >= first + length, place * step + step <= first)
            for place, first, length in (
                (torch.arange(canvas.shape[2] // step, device=canvas.device), top, height),
                (torch.arange(canvas.shape[3] // step, device=canvas.device), left, width),
            )
        ]
        return torch.logical_or(outside[0][:, None], outside[1][None]).expand(canvas.shape[0], -1, -1)

    def _suppressed(
        self, output: DenseOutput, content: Tensor, scale: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """As `postprocess.nms`, but only boxes of candidates are decoded."""
        logits = output.prediction.logits.transpose(1, 2).float()  # [B, C, A], as the head made them
        distances = output.distances.transpose(1, 2)
        count = min(_PORTABLE_CANDIDATES if self.portable else CANDIDATES, logits.shape[2])
        index = logits.amax(1).topk(count).indices  # [B, K]
        strongest, labels = _at(logits, index).max(1)
        scores = strongest.sigmoid()
        reach = _at(distances, index).transpose(1, 2)  # [B, K, 4 R]
        xyxy = decode_distances(reach, output.anchors[index], output.strides[index])
        offset, extent = content[:2].float().repeat(2), content[2:].float().repeat(2)
        boxes = cut((xyxy - offset) / extent * scale, scale)
        if self.portable:
            kept = suppress_in_rounds(boxes, scores, labels, self.iou, self.floor)
        else:
            kept = suppress(boxes, scores, labels, logits.shape[1], self.iou, self.floor, self.limit)
        scores, order = scores.where(kept, 0.0).topk(min(self.limit, count))
        real = scores > 0
        labels = labels.gather(1, order).where(real, -1)
        boxes = boxes.gather(1, order.unsqueeze(-1).expand(-1, -1, 4))
        return boxes * real.unsqueeze(-1), scores, labels


def _best_pairs(answer: Prediction, limit: int) -> tuple[Tensor, Tensor, Tensor]:
    """As `postprocess.top_k`: boxes are fractions."""
    classes = answer.logits.shape[-1]
    logits = answer.logits.float().flatten(1)
    logits, best = logits.topk(min(limit, logits.shape[1]))
    index = (best // classes).unsqueeze(-1).expand(-1, -1, 4)
    return answer.boxes.float().gather(1, index), logits.sigmoid(), best % classes


def _best_classes(answer: Prediction, limit: int) -> tuple[Tensor, Tensor, Tensor]:
    """As `postprocess.best_class`: boxes are fractions."""
    scores, labels = answer.logits.float().softmax(-1)[..., :-1].max(-1)
    scores, best = scores.topk(min(limit, scores.shape[1]))
    index = best.unsqueeze(-1).expand(-1, -1, 4)
    return answer.boxes.float().gather(1, index), scores, labels.gather(1, best)


def cut(xyxy: Tensor, scale: Tensor) -> Tensor:
    """Boxes in pixels of an image of `scale` (width, height, width, height), cut off at its edges."""
    return torch.minimum(xyxy.clamp(min=0), scale)


def _at(maps: Tensor, index: Tensor) -> Tensor:
    """maps [B, D, A] at index [B, K]: [B, D, K]."""
    return maps.gather(2, index.unsqueeze(1).expand(-1, maps.shape[1], -1))
