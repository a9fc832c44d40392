"""From a network's Prediction to each image's Detections, in pixels of the original image: once, here."""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.ops import batched_nms

from .boxes import cxcywh_to_xyxy
from .structures import Detections, Prediction

MOST_CANDIDATES = 30_000


def nms(
    prediction: Prediction,
    sizes: list[tuple[int, int]],
    *,
    score: float = 0.25,
    iou: float = 0.7,
    limit: int = 300,
    several_labels: bool = False,
) -> list[Detections]:
    """Non-maximum suppression per class, for dense heads with sigmoid classes.

    sizes: (height, width) of each original image. score: candidates below are dropped. iou: of two boxes of
    a class that overlap more, the weaker is dropped. several_labels: one candidate for every class over the
    score, as COCO's AP wants, instead of the best class only.
    """
    results = []
    probabilities = prediction.logits.float().sigmoid()
    for image, size in enumerate(sizes):
        if several_labels:
            query, label = (probabilities[image] > score).nonzero(as_tuple=True)
            values = probabilities[image, query, label]
        else:
            values, label = probabilities[image].max(-1)
            query = (values > score).nonzero(as_tuple=True)[0]
            values, label = values[query], label[query]
        if len(values) > MOST_CANDIDATES:
            values, best = values.topk(MOST_CANDIDATES)
            query, label = query[best], label[best]
        boxes = to_pixels(prediction.boxes[image, query], size)
        keep = batched_nms(boxes, values, label, iou)[:limit]
        results.append(Detections(boxes[keep], values[keep], label[keep]))
    return results


def top_k(
    prediction: Prediction,
    sizes: list[tuple[int, int]],
    *,
    score: float = 0.25,
    limit: int = 300,
) -> list[Detections]:
    """The `limit` best pairs of a query and a class, for query detectors with sigmoid classes.

    sizes: (height, width) of each original image. score: pairs below are dropped. Queries do not repeat one
    another, so nothing is suppressed, and one of them may answer with several classes.
    """
    results = []
    probabilities = prediction.logits.float().sigmoid()
    classes = probabilities.shape[-1]
    for image, size in enumerate(sizes):
        pairs = probabilities[image].flatten()
        values, best = pairs.topk(min(limit, len(pairs)))
        best, values = best[values > score], values[values > score]
        boxes = to_pixels(prediction.boxes[image, best // classes], size)
        results.append(Detections(boxes, values, best % classes))
    return results


def best_class(
    prediction: Prediction,
    sizes: list[tuple[int, int]],
    *,
    score: float = 0.25,
    limit: int = 300,
) -> list[Detections]:
    """Each query's best class, for query detectors with a softmax whose last class is "no object".

    Parameters as of `top_k`.
    """
    results = []
    probabilities, labels = prediction.logits.float().softmax(-1)[..., :-1].max(-1)
    for image, size in enumerate(sizes):
        values, best = probabilities[image].topk(min(limit, probabilities.shape[1]))
        best, values = best[values > score], values[values > score]
        boxes = to_pixels(prediction.boxes[image, best], size)
        results.append(Detections(boxes, values, labels[image, best]))
    return results


def to_pixels(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """[N, 4] fractions to xyxy pixels of an image of `size` (height, width), cut off at its edges."""
    height, width = size
    scale = boxes.new_tensor([width, height, width, height], dtype=torch.float32)
    xyxy = cxcywh_to_xyxy(boxes.float()) * scale
    return torch.minimum(xyxy.clamp(min=0), scale)
