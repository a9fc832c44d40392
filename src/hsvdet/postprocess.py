"""How an answer is read: from a network's Prediction to each image's Detections, in pixels of the original image.

A model's row (models/__init__.py) has a `Reading`; who does not know the model asks it, and nothing else. Each is
written twice, eager for images of any size and answers of any number, and in fixed shapes for a graph (`rows`,
which deploy/graph.py exports); tests hold the two together.
"""

# pyright: strict, reportUnknownMemberType=false, reportMissingTypeStubs=false
# PyTorch's own types leave some of its functions untyped, and torchvision has none.

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple, cast

import torch
from torch import Tensor
from torchvision.ops import nms

from .boxes import cxcywh_to_xyxy
from .errors import NonFiniteError
from .options import check_reading
from .structures import Detections, Prediction

MOST_CANDIDATES = 30_000  # of an image, so that a network that knows nothing yet is read in bounded time

# Pixels. A box that ends at the image's edge is this wide by rounding alone, which each runtime has its own.
_THINNEST = 0.01

# Boxes up to which one call for all classes is faster than one a class: it compares each with each.
_FEW, _FEW_ON_GPU = 1_000, 25_000


class Candidates(NamedTuple):
    """Pairs of a prediction and a class of one image. boxes: [N, 4] float32 xyxy, pixels of the original, also beyond
    its edges. scores: [N]. labels: [N] int64. rows: [N] int64 in 0..Q-1, of which of the Q predictions it is."""

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    rows: Tensor

    def inside(self, size: tuple[int, int]) -> Candidates:
        """Those that lie in an image of `size` (height, width) at all, cut off at its edges."""
        clipped = self._replace(boxes=clip(self.boxes, scale_of(size, self.boxes)))
        real = has_area(clipped.boxes)
        return Candidates(*(part[real] for part in clipped))


class Thresholds(NamedTuple):
    """What a caller asks for: see `Reading.detections`."""

    score: float
    iou: float
    max_detections: int
    multi_label: bool


# In a graph: indices [B, K] of predictions to their boxes [B, K, 4] xyxy, in pixels of the original and beyond.
BoxesAt = Callable[[Tensor], Tensor]


class GraphSuppression(NamedTuple):
    """How a graph suppresses. candidates: predictions that come to it, the best of an image. kept: (boxes
    [B, K, 4] xyxy, scores [B, K], labels [B, K], C), strongest first, to which of them stay [B, K] bool."""

    candidates: int
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
        """What becomes detections of one image, strongest first, cut off at its edges. prediction: of that image,
        [Q, ...]. size: (height, width)."""

    @abstractmethod
    def rows(
        self, logits: Tensor, boxes_at: BoxesAt, scale: Tensor, most: int, suppression: GraphSuppression
    ) -> GraphRows:
        """As `detections`, of a batch of one size and in operators that can be exported. logits: of the answer, for
        all its predictions [B, Q, ...]. scale: [4], (width, height, width, height) of the images. most: detections
        of an image."""

    def detections(
        self,
        prediction: Prediction,
        sizes: list[tuple[int, int]],
        *,
        score: float = 0.25,
        iou: float = 0.7,
        max_detections: int | None = None,
        multi_label: bool = False,
        names: Sequence[str] = (),
    ) -> list[Detections]:
        """The answer to images of `sizes` (height, width), in their pixels. Boxes are suppressed as the network gave
        them, and what is kept is cut off at the image's edges; a box wholly beyond them is no detection.

        score: only what scores more is a detection. max_detections: of an image; the reading's own number if None.
        iou, multi_label: of the suppression (`Suppressed`); other readings have no use for them. names: of the
        images, for errors. Raises ConfigError, and NonFiniteError for an answer with NaN or infinity.
        """
        most = self.max_detections if max_detections is None else max_detections
        check_reading(score=score, iou=iou, max_detections=most)
        require_finite(prediction, names)
        wanted = Thresholds(score, iou, most, multi_label)
        found: list[Detections] = []
        for size, logits, boxes in zip(sizes, *prediction, strict=True):
            chosen = self.chosen(Prediction(logits, boxes), size, wanted)
            found.append(Detections(chosen.boxes, chosen.scores, chosen.labels))
        return found

    def best(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Of logits [..., C] as the network gives them: the score of each prediction's best class, and the class."""
        scores, labels = self.scores(logits).max(-1)
        return scores, labels

    def candidates(
        self, prediction: Prediction, size: tuple[int, int], *, score: float, multi_label: bool = True
    ) -> Candidates:
        """Every pair of one image that scores more than `score`, before anything is chosen, suppressed or cut off; of
        more than MOST_CANDIDATES the best. prediction: of that image, [Q, ...]. multi_label: False leaves out what
        a reading of `one_class` does not look at: all but each prediction's best class."""
        if self.one_class and not multi_label:
            scores, labels = self.best(prediction.logits)
            index = (scores > score).nonzero(as_tuple=True)[0]
            scores, labels = scores[index], labels[index]
        else:
            every = self.scores(prediction.logits)
            index, labels = (every > score).nonzero(as_tuple=True)
            scores = every[index, labels]
        if len(scores) > MOST_CANDIDATES:
            scores, strongest = scores.topk(MOST_CANDIDATES)
            index, labels = index[strongest], labels[strongest]
        return Candidates(to_pixels(prediction.boxes[index], size), scores, labels, index)


@dataclass(frozen=True)
class Suppressed(Reading):
    """Sigmoid classes and non-maximum suppression per class, for heads that answer several times for an object.

    iou: of two boxes of a class that overlap more, the weaker is dropped. multi_label: a prediction is a candidate
    for every class over the score, as most published tables of COCO's AP count, instead of its best class only.
    """

    suppresses: ClassVar[bool] = True

    def scores(self, logits: Tensor) -> Tensor:
        return logits.float().sigmoid()

    def best(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        strongest, labels = logits.float().max(-1)
        return self.scores(strongest), labels

    def chosen(self, prediction: Prediction, size: tuple[int, int], wanted: Thresholds) -> Candidates:
        found = self.candidates(prediction, size, score=wanted.score, multi_label=wanted.multi_label)
        # Logits say which is stronger, here and in a graph: sigmoids are all 1 from 17 on. Of equals the first stays.
        strength = prediction.logits[found.rows, found.labels].float()
        order = strength.sort(descending=True, stable=True).indices
        found = Candidates(*(part[order] for part in found))
        keep = non_maximum_suppression(found.boxes, found.scores, found.labels, wanted.iou)
        found = Candidates(*(part[keep] for part in found))
        return Candidates(*(part[: wanted.max_detections] for part in found.inside(size)))

    def rows(
        self, logits: Tensor, boxes_at: BoxesAt, scale: Tensor, most: int, suppression: GraphSuppression
    ) -> GraphRows:
        # Boxes are asked for only of the best: decoding all costs more than choosing.
        logits = logits.transpose(1, 2).float()  # [B, C, Q], as a dense head makes them
        index = _best(logits.amax(1), suppression.candidates)  # [B, K]
        best, labels = _columns(logits, index).max(1)
        scores, boxes = best.sigmoid(), boxes_at(index)
        kept = suppression.kept(boxes, scores, labels, logits.shape[1])
        boxes = clip(boxes, scale)
        kept = torch.logical_and(kept, has_area(boxes))
        scores, order = scores.where(kept, 0.0).topk(min(most, index.shape[1]))
        return GraphRows(_rows(boxes, order), scores, labels.gather(1, order))


@dataclass(frozen=True)
class TopPairs(Reading):
    """Sigmoid classes; the best pairs of a prediction and a class, for heads that answer once for an object: of
    queries, or of the anchors of a one-to-one dense head. One prediction may answer with several classes."""

    one_class: ClassVar[bool] = False

    def scores(self, logits: Tensor) -> Tensor:
        return logits.float().sigmoid()

    def chosen(self, prediction: Prediction, size: tuple[int, int], wanted: Thresholds) -> Candidates:
        boxes = clip(to_pixels(prediction.boxes, size), scale_of(size, prediction.boxes))
        logits = prediction.logits.float().masked_fill(~has_area(boxes)[:, None], -torch.inf)
        strongest, best = logits.flatten().topk(min(wanted.max_detections, logits.numel()))
        values = self.scores(strongest)
        best, values = best[values > wanted.score], values[values > wanted.score]
        index, labels = best // logits.shape[-1], best % logits.shape[-1]
        return Candidates(boxes[index], values, labels, index)

    def rows(
        self, logits: Tensor, boxes_at: BoxesAt, scale: Tensor, most: int, suppression: GraphSuppression
    ) -> GraphRows:
        # No more predictions than pairs can be among the best.
        index = _best(logits.transpose(1, 2).float().amax(1), max(most, suppression.candidates))
        boxes, classes = clip(boxes_at(index), scale), logits.shape[2]
        pairs = logits.gather(1, index.unsqueeze(-1).expand(-1, -1, classes)).float()
        pairs = pairs.masked_fill(~has_area(boxes).unsqueeze(-1), -torch.inf).flatten(1)
        values, best = pairs.topk(min(most, pairs.shape[1]))
        return GraphRows(_rows(boxes, best // classes), values.sigmoid(), best % classes)


@dataclass(frozen=True)
class BestClass(Reading):
    """A softmax whose last class is "no object"; each prediction's best class, for heads that answer once for an
    object (DETR)."""

    def scores(self, logits: Tensor) -> Tensor:
        return logits.float().softmax(-1)[..., :-1]

    def chosen(self, prediction: Prediction, size: tuple[int, int], wanted: Thresholds) -> Candidates:
        boxes = clip(to_pixels(prediction.boxes, size), scale_of(size, prediction.boxes))
        scores, labels = self.best(prediction.logits)
        scores = scores.masked_fill(~has_area(boxes), -torch.inf)
        values, index = scores.topk(min(wanted.max_detections, len(scores)))
        index, values = index[values > wanted.score], values[values > wanted.score]
        return Candidates(boxes[index], values, labels[index], index)

    def rows(
        self, logits: Tensor, boxes_at: BoxesAt, scale: Tensor, most: int, suppression: GraphSuppression
    ) -> GraphRows:
        scores, labels = self.best(logits)
        index = _best(scores, max(most, suppression.candidates))
        boxes = clip(boxes_at(index), scale)
        scores = scores.gather(1, index).where(has_area(boxes), 0.0)
        scores, order = scores.topk(min(most, index.shape[1]))
        return GraphRows(_rows(boxes, order), scores, labels.gather(1, index).gather(1, order))


def require_finite(prediction: Prediction, names: Sequence[str] = ()) -> None:
    """Raises NonFiniteError naming the first image whose answer has NaN or infinity: read as any other it would be
    an image without objects."""
    if all(part.sum(dtype=torch.float32).isfinite() for part in prediction):  # most often, and fast
        return
    sound = torch.stack([part.isfinite().flatten(2).all(2) for part in prediction]).all(0)  # [B, Q]
    counts = cast("list[int]", (~sound).sum(1).tolist())
    for image, bad in enumerate(counts):
        if bad:
            name = names[image] if names else f"image {image + 1} of {len(sound)}"
            raise NonFiniteError(
                f"{name}: the network's answer is not finite, NaN or infinity in {bad} of {sound.shape[1]}"
                " predictions. Use weights from before they diverged, or --precision fp32 if a smaller one overflows."
            )


def scale_of(size: tuple[int, int], like: Tensor) -> Tensor:
    """[4] float32 (width, height, width, height) of a `size` (height, width), on the device of `like`."""
    height, width = size
    return like.new_tensor([width, height, width, height], dtype=torch.float32)


def to_pixels(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """[N, 4] fractions to xyxy pixels of an image of `size` (height, width), also beyond its edges."""
    return cxcywh_to_xyxy(boxes.float()) * scale_of(size, boxes)


def clip(xyxy: Tensor, scale: Tensor) -> Tensor:
    """[..., 4] pixels, cut off at the edges of an image of `scale` [4] (width, height, width, height)."""
    return torch.minimum(xyxy.clamp(min=0), scale)


def has_area(xyxy: Tensor) -> Tensor:
    """[..., 4] clipped boxes, pixels, to [...] bool: False for what lies wholly beyond an edge."""
    left, top, right, bottom = xyxy.unbind(-1)
    return torch.logical_and(right - left > _THINNEST, bottom - top > _THINNEST)


def non_maximum_suppression(boxes: Tensor, scores: Tensor, labels: Tensor, iou: float) -> Tensor:
    """Greedy, per class: indices of the boxes that stay, strongest first. boxes: [N, 4] xyxy.

    As torchvision's `batched_nms`, but in float64. That lays classes far from one another to treat them in one call,
    and in float32 the distance costs the third digit of an overlap in a large image of many classes; and where boxes
    begin below 0, two classes meet.
    """
    device = boxes.device if boxes.device.type != "mps" else torch.device("cpu")  # MPS has no float64
    exact, strength, own = (
        boxes.to(device, torch.float64),
        scores.to(device, torch.float64),
        labels.to(device),
    )
    if len(boxes) <= (_FEW if device.type == "cpu" else _FEW_ON_GPU):
        span = exact.max() - exact.min() + 1 if len(boxes) else 0
        return nms(exact + (own * span)[:, None], strength, iou).to(boxes.device)
    kept: list[Tensor] = []
    for label in cast(Tensor, own.unique()):
        of_class = (own == label).nonzero().squeeze(1)
        kept.append(of_class[nms(exact[of_class], strength[of_class], iou)])
    every = torch.cat(kept)
    return every[strength[every].sort(descending=True, stable=True).indices].to(boxes.device)


def _best(scores: Tensor, most: int) -> Tensor:
    """[B, Q] to the indices of the highest [B, min(most, Q)], in descending order."""
    return scores.topk(min(most, scores.shape[1])).indices


def _columns(maps: Tensor, index: Tensor) -> Tensor:
    """maps [B, D, Q] at index [B, K]: [B, D, K]."""
    return maps.gather(2, index.unsqueeze(1).expand(-1, maps.shape[1], -1))


def _rows(boxes: Tensor, index: Tensor) -> Tensor:
    """boxes [B, K, 4] at index [B, R]: [B, R, 4]."""
    return boxes.gather(1, index.unsqueeze(-1).expand(-1, -1, 4))
