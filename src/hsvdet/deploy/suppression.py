"""Non-maximum suppression as one operator with an answer of fixed shape, so that a graph can have it inside."""

from __future__ import annotations

import torch
from torch import Tensor

from ..postprocess import non_maximum_suppression


@torch.library.custom_op("hsvdet::suppress", mutates_args=())
def suppress(boxes: Tensor, scores: Tensor, labels: Tensor, classes: int, iou: float, floor: float) -> Tensor:
    """Which boxes are kept: [B, K] bool. boxes: [B, K, 4] xyxy. scores, labels: [B, K].

    Greedy and exact, per class: the strongest box stays, those of its class that overlap it by more than `iou`
    go, and so on; nothing at or below `floor` is kept.
    """
    kept = torch.zeros_like(scores, dtype=torch.bool)
    for image in range(len(boxes)):
        own = (scores[image] > floor).nonzero().squeeze(1)
        stay = non_maximum_suppression(boxes[image, own], scores[image, own], labels[image, own], iou)
        kept[image, own[stay]] = True
    return kept


@suppress.register_fake
def _(boxes, scores, labels, classes, iou, floor):
    return torch.empty_like(scores, dtype=torch.bool)


def suppress_in_rounds(
    boxes: Tensor,
    scores: Tensor,
    labels: Tensor,
    classes: int,
    iou: float,
    floor: float,
    rounds: int = 16,
) -> Tensor:
    """As `suppress`, for boxes that come strongest first, in operators that every runtime has.

    In each round a box stays that no staying, stronger one of its class overlaps. After n rounds this is exact for
    chains of up to n boxes of which each suppresses the next.
    """
    first = torch.maximum(boxes[:, :, None, :2], boxes[:, None, :, :2])
    last = torch.minimum(boxes[:, :, None, 2:], boxes[:, None, :, 2:])
    width, height = (last - first).clamp(min=0).unbind(-1)
    sides = boxes[..., 2:] - boxes[..., :2]
    area = sides[..., 0] * sides[..., 1]
    shared = width * height
    over = shared > iou * (area[:, :, None] + area[:, None] - shared)
    rank = torch.arange(boxes.shape[1], device=boxes.device)
    same = labels[:, :, None] == labels[:, None]
    beaten = torch.logical_and(torch.logical_and(over, same), rank[None, :] < rank[:, None])
    strong = scores > floor
    kept = strong
    for _ in range(rounds):
        kept = torch.logical_and(strong, torch.logical_not(torch.logical_and(beaten, kept[:, None]).any(-1)))
    return kept
