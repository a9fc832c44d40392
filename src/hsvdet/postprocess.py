"""How an answer is read: from a network's Prediction to each image's Detections, in pixels of the original image.

A model's row (models/__init__.py) has a `Reading`; who does not know the model asks it, and nothing else. Each is
written twice, eager for images of any size and answers of any number, and in fixed shapes for a graph (`rows`,
which deploy/graph.py exports); tests hold the two together.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor
from torchvision.ops import batched_nms

from .boxes import cxcywh_to_xyxy
from .errors import ConfigError
from .structures import Detections, Prediction

MOST_CANDIDATES = 30_000  # of an image, so that a network that knows nothing yet is read in bounded time


class Candidates(NamedTuple):
    """Pairs of a prediction and a class of one image. boxes: [N, 4] float32 xyxy, pixels of the original.
    scores: [N]. labels: [N] int64. index: [N] int64 in 0..Q-1, whose box it is."""

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    index: Tensor


class Thresholds(NamedTuple):
    """What a caller asks for: see `Reading.detections`."""

    score: float
    iou: float
    max_detections: int
    multi_label: bool


# In a graph: indices [B, K] of predictions to their boxes [B, K, 4] xyxy, in pixels of the original.
BoxesAt = Callable[[Tensor], Tensor]


class GraphSuppression(NamedTuple):
    """How a graph suppresses. most: predictions that come to it, the best of an image. kept: (boxes [B, K, 4] xyxy,
    scores [B, K], labels [B, K], C), strongest first, to which of them stay [B, K] bool."""

    most: int
    kept: Callable[[Tensor, Tensor, Tensor, int], Tensor]


class GraphRows(NamedTuple):
    """Fixed shapes: boxes [B, R, 4] xyxy in pixels of the original, scores [B, R] descending, labels [B, R]; score 0
    where there is no detection."""

    boxes: Tensor
    scores: Tensor
    labels: Tensor


@dataclass(frozen=True)
class Reading(ABC):
    """max_detections: of an image, where the caller does not say another number: the paper's own.

    suppresses: whether boxes that overlap stronger ones of their class are dropped, and so whether an overlap
    threshold means anything. one_class: whether a prediction answers with its best class only.
    """

    max_detections: int = 300
    suppresses: ClassVar[bool] = False
    one_class: ClassVar[bool] = True

    @abstractmethod
    def scores(self, logits: Tensor) -> Tensor:
        """Logits as the network gives them to probabilities [..., C] float32, a column for each class."""

    @abstractmethod
    def chosen(self, prediction: Prediction, size: tuple[int, int], wanted: Thresholds) -> Candidates:
        """What becomes detections of one image, strongest first. prediction: of that image, [Q, ...]. size: (height,
        width)."""

    @abstractmethod
    def rows(
        self, logits: Tensor, boxes_at: BoxesAt, max_detections: int, suppression: GraphSuppression
    ) -> GraphRows:
        """As `detections`, of a batch of one size and in operators that can be exported. logits: of the answer, for
        all its predictions [B, Q, ...]."""

    def detections(
        self,
        prediction: Prediction,
        sizes: list[tuple[int, int]],
        *,
        score: float = 0.25,
        iou: float = 0.7,
        max_detections: int | None = None,
        multi_label: bool = False,
    ) -> list[Detections]:
        """The answer to images of `sizes` (height, width), in their pixels.

        score: only what scores more is a detection. max_detections: of an image; the reading's own number if None.
        iou, multi_label: of the suppression (`Suppressed`); other readings have no use for them.
        Raises ConfigError.
        """
        most = self.max_detections if max_detections is None else max_detections
        if most < 1:
            raise ConfigError(f"max_detections expects a number from 1 on; got {most}.")
        wanted = Thresholds(score, iou, most, multi_label)
        found = []
        for size, logits, boxes in zip(sizes, *prediction, strict=True):
            chosen = self.chosen(Prediction(logits, boxes), size, wanted)
            found.append(Detections(chosen.boxes, chosen.scores, chosen.labels))
        return found

    def candidates(self, prediction: Prediction, size: tuple[int, int], *, score: float) -> Candidates:
        """Every pair of one image that scores more than `score`, before anything is chosen or suppressed; of more
        than MOST_CANDIDATES the best. prediction: of that image, [Q, ...]."""
        scores = self.scores(prediction.logits)
        index, labels = (scores > score).nonzero(as_tuple=True)
        return _strongest(prediction, size, scores[index, labels], labels, index)


@dataclass(frozen=True)
class Suppressed(Reading):
    """Sigmoid classes and non-maximum suppression per class, for heads that answer several times for an object.

    iou: of two boxes of a class that overlap more, the weaker is dropped. multi_label: a prediction is a candidate
    for every class over the score, as most published tables of COCO's AP count, instead of its best class only.
    """

    suppresses: ClassVar[bool] = True

    def scores(self, logits: Tensor) -> Tensor:
        return logits.float().sigmoid()

    def chosen(self, prediction: Prediction, size: tuple[int, int], wanted: Thresholds) -> Candidates:
        if wanted.multi_label:
            found = self.candidates(prediction, size, score=wanted.score)
        else:
            scores, labels = self.scores(prediction.logits).max(-1)
            index = (scores > wanted.score).nonzero(as_tuple=True)[0]
            found = _strongest(prediction, size, scores[index], labels[index], index)
        keep = batched_nms(found.boxes, found.scores, found.labels, wanted.iou)[: wanted.max_detections]
        return Candidates(*(part[keep] for part in found))

    def rows(
        self, logits: Tensor, boxes_at: BoxesAt, max_detections: int, suppression: GraphSuppression
    ) -> GraphRows:
        # Boxes are asked for only of the best: decoding all costs more than choosing.
        logits = logits.transpose(1, 2).float()  # [B, C, Q], as a dense head makes them
        count = min(suppression.most, logits.shape[2])
        index = logits.amax(1).topk(count).indices  # [B, K]
        best, labels = _columns(logits, index).max(1)
        scores, boxes = best.sigmoid(), boxes_at(index)
        kept = suppression.kept(boxes, scores, labels, logits.shape[1])
        scores, order = scores.where(kept, 0.0).topk(min(max_detections, count))
        return GraphRows(_rows(boxes, order), scores, labels.gather(1, order))


@dataclass(frozen=True)
class TopPairs(Reading):
    """Sigmoid classes; the best pairs of a prediction and a class, for heads that answer once for an object: of
    queries, or of the anchors of a one-to-one dense head. One prediction may answer with several classes."""

    one_class: ClassVar[bool] = False

    def scores(self, logits: Tensor) -> Tensor:
        return logits.float().sigmoid()

    def chosen(self, prediction: Prediction, size: tuple[int, int], wanted: Thresholds) -> Candidates:
        scores = self.scores(prediction.logits)
        values, best = scores.flatten().topk(min(wanted.max_detections, scores.numel()))
        best, values = best[values > wanted.score], values[values > wanted.score]
        index, labels = best // scores.shape[-1], best % scores.shape[-1]
        return Candidates(to_pixels(prediction.boxes[index], size), values, labels, index)

    def rows(
        self, logits: Tensor, boxes_at: BoxesAt, max_detections: int, suppression: GraphSuppression
    ) -> GraphRows:
        classes = logits.shape[2]
        logits = logits.float().flatten(1)
        values, best = logits.topk(min(max_detections, logits.shape[1]))
        return GraphRows(boxes_at(best // classes), values.sigmoid(), best % classes)


@dataclass(frozen=True)
class BestClass(Reading):
    """A softmax whose last class is "no object"; each prediction's best class, for heads that answer once for an
    object (DETR)."""

    def scores(self, logits: Tensor) -> Tensor:
        return logits.float().softmax(-1)[..., :-1]

    def chosen(self, prediction: Prediction, size: tuple[int, int], wanted: Thresholds) -> Candidates:
        scores, labels = self.scores(prediction.logits).max(-1)
        values, index = scores.topk(min(wanted.max_detections, len(scores)))
        index, values = index[values > wanted.score], values[values > wanted.score]
        return Candidates(to_pixels(prediction.boxes[index], size), values, labels[index], index)

    def rows(
        self, logits: Tensor, boxes_at: BoxesAt, max_detections: int, suppression: GraphSuppression
    ) -> GraphRows:
        scores, labels = self.scores(logits).max(-1)
        scores, index = scores.topk(min(max_detections, scores.shape[1]))
        return GraphRows(boxes_at(index), scores, labels.gather(1, index))


def to_pixels(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """[N, 4] fractions to xyxy pixels of an image of `size` (height, width), cut off at its edges."""
    height, width = size
    scale = boxes.new_tensor([width, height, width, height], dtype=torch.float32)
    xyxy = cxcywh_to_xyxy(boxes.float()) * scale
    return torch.minimum(xyxy.clamp(min=0), scale)


def _strongest(
    prediction: Prediction, size: tuple[int, int], scores: Tensor, labels: Tensor, index: Tensor
) -> Candidates:
    if len(scores) > MOST_CANDIDATES:
        scores, best = scores.topk(MOST_CANDIDATES)
        index, labels = index[best], labels[best]
    return Candidates(to_pixels(prediction.boxes[index], size), scores, labels, index)


def _columns(maps: Tensor, index: Tensor) -> Tensor:
    """maps [B, D, Q] at index [B, K]: [B, D, K]."""
    return maps.gather(2, index.unsqueeze(1).expand(-1, maps.shape[1], -1))


def _rows(boxes: Tensor, index: Tensor) -> Tensor:
    """boxes [B, K, 4] at index [B, R]: [B, R, 4]."""
    return boxes.gather(1, index.unsqueeze(-1).expand(-1, -1, 4))
