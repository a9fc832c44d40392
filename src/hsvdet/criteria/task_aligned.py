"""Task-aligned assignment (Feng et al. 2021, TOOD, arXiv 2108.07755, section 3.3) for dense heads."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..boxes import complete_iou


class Assignment(NamedTuple):
    """Which object each anchor learns. positive: [B, A] bool. target: [B, A] int64 index of the object in its
    image (0 where not positive). score: [B, A] float32 in [0, 1], the soft class target and loss weight."""

    positive: Tensor
    target: Tensor
    score: Tensor


class Alignment(NamedTuple):
    """How well anchors suit objects: [B, N, A] each, 0 where the anchor is not inside the object's box. overlap:
    CIoU, at least 0. metric: score^alpha * overlap^beta."""

    overlap: Tensor
    metric: Tensor


@torch.no_grad()
def task_aligned_assignment(
    scores: Tensor,
    boxes: Tensor,
    anchors: Tensor,
    target_labels: Tensor,
    target_boxes: Tensor,
    target_real: Tensor,
    *,
    top: int = 10,
    alpha: float = 0.5,
    beta: float = 6.0,
    smallest_side: float = 0.0,
) -> Assignment:
    """Give each object its `top` best anchors by score^alpha * CIoU^beta, among those inside its box.

    scores: [B, A, C] class probabilities. boxes: [B, A, 4] xyxy pixels. anchors: [A, 2] pixels.
    target_labels: [B, N], target_boxes: [B, N, 4] xyxy pixels, target_real: [B, N] bool, False for filling.
    An anchor claimed by several objects goes to the one it overlaps most. smallest_side: a side d counts as
    max(d, smallest_side) pixels when candidates are chosen, and only then, so that an object smaller than the
    steps between anchors has some. With 16, as the reference of YOLOv8. (STAL, in YOLO26, arXiv 2606.03748,
    raises sides under 8 to 16 and leaves those of 8 to 16: a larger object may then have fewer candidates.)
    """
    inside = _inside(anchors, target_boxes, target_real, smallest_side)
    overlap, metric = _align(scores, boxes, target_labels, target_boxes, inside, alpha, beta)
    if not metric.shape[1]:
        return _nothing(scores)
    best = metric.topk(min(top, metric.shape[-1]), -1)
    chosen = torch.zeros_like(inside).scatter(2, best.indices, best.values > 0)  # [B, N, A]
    contested = chosen.sum(1, keepdim=True) > 1
    nearest = torch.zeros_like(inside).scatter(1, overlap.argmax(1, keepdim=True), True)
    return _assign(torch.where(contested, nearest, chosen), overlap, metric)


@torch.no_grad()
def one_to_one_assignment(
    scores: Tensor,
    boxes: Tensor,
    anchors: Tensor,
    target_labels: Tensor,
    target_boxes: Tensor,
    target_real: Tensor,
    *,
    alpha: float = 0.5,
    beta: float = 6.0,
    smallest_side: float = 0.0,
) -> Assignment:
    """Give each object one anchor, by the same metric, where it has one inside its box that is left to it.

    Parameters as of `task_aligned_assignment`. The best pair of all comes first, then the best of what is left,
    until each object has an anchor or finds none inside its box (a stable matching: no object and anchor would both
    rather have each other). YOLOv10 and its followers settle conflicts within the best few anchors of each object
    instead, and objects that overlap much can be left without any.
    """
    inside = _inside(anchors, target_boxes, target_real, smallest_side)
    overlap, metric = _align(scores, boxes, target_labels, target_boxes, inside, alpha, beta)
    if not metric.shape[1]:
        return _nothing(scores)
    chosen, free = torch.zeros_like(inside), metric.clone()
    while (free > 0).any():
        asks = torch.zeros_like(inside).scatter(2, free.argmax(-1, keepdim=True), True)
        gets = torch.zeros_like(inside).scatter(1, free.argmax(1, keepdim=True), True)
        pairs = asks & gets & (free > 0)  # each the other's best: nothing that comes later parts them
        chosen |= pairs
        free = free.masked_fill(pairs.any(-1, keepdim=True) | pairs.any(1, keepdim=True), 0.0)
    return _assign(chosen, overlap, metric)


def _inside(anchors: Tensor, boxes: Tensor, real: Tensor, smallest_side: float) -> Tensor:
    """[B, N, A] bool: which anchors lie inside which objects."""
    first, last = boxes[..., :2], boxes[..., 2:]
    grow = (smallest_side - (last - first)).clamp(min=0) / 2
    inside = (anchors > (first - grow)[:, :, None] + 1e-9) & (anchors < (last + grow)[:, :, None] - 1e-9)
    return inside.all(-1) & real[..., None]


def _align(
    scores: Tensor,
    boxes: Tensor,
    target_labels: Tensor,
    target_boxes: Tensor,
    inside: Tensor,
    alpha: float,
    beta: float,
) -> Alignment:
    # Only pairs of an object and an anchor inside it are worth computing: few of B x N x A.
    image, row, anchor = inside.nonzero(as_tuple=True)
    overlap = torch.zeros(inside.shape, device=scores.device)
    metric = torch.zeros_like(overlap)
    pair_overlap = complete_iou(target_boxes[image, row], boxes[image, anchor]).clamp(min=0)
    pair_score = scores[image, anchor, target_labels[image, row]].float()
    overlap[image, row, anchor] = pair_overlap
    metric[image, row, anchor] = pair_score.pow(alpha) * pair_overlap.pow(beta)
    return Alignment(overlap, metric)


def _assign(chosen: Tensor, overlap: Tensor, metric: Tensor) -> Assignment:
    """chosen: [B, N, A] bool, at most one object for each anchor."""
    metric, overlap = metric * chosen, overlap * chosen
    # The best anchor of an object gets the object's best overlap as its target, others in proportion.
    normalised = metric * (overlap.amax(-1, keepdim=True) / (metric.amax(-1, keepdim=True) + 1e-9))
    return Assignment(chosen.any(1), chosen.long().argmax(1), normalised.amax(1))


def _nothing(scores: Tensor) -> Assignment:
    nothing = torch.zeros(scores.shape[:2], device=scores.device)
    return Assignment(nothing.bool(), nothing.long(), nothing)
