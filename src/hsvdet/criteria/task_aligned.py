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
    batch, total, _ = scores.shape
    objects = target_boxes.shape[1]
    if objects == 0:
        nothing = torch.zeros(batch, total, device=scores.device)
        return Assignment(nothing.bool(), nothing.long(), nothing)

    first, last = target_boxes[..., :2], target_boxes[..., 2:]
    grow = (smallest_side - (last - first)).clamp(min=0) / 2
    inside = (anchors > (first - grow)[:, :, None] + 1e-9) & (anchors < (last + grow)[:, :, None] - 1e-9)
    inside = inside.all(-1) & target_real[..., None]  # [B, N, A]

    # Only pairs of an object and an anchor inside it are worth computing: few of B x N x A.
    image, row, anchor = inside.nonzero(as_tuple=True)
    overlap = torch.zeros(batch, objects, total, device=scores.device)
    metric = torch.zeros_like(overlap)
    pair_overlap = complete_iou(target_boxes[image, row], boxes[image, anchor]).clamp(min=0)
    pair_score = scores[image, anchor, target_labels[image, row]].float()
    overlap[image, row, anchor] = pair_overlap
    metric[image, row, anchor] = pair_score.pow(alpha) * pair_overlap.pow(beta)

    best = metric.topk(min(top, total), -1)
    chosen = torch.zeros_like(inside).scatter(2, best.indices, best.values > 0)  # [B, N, A]
    contested = chosen.sum(1, keepdim=True) > 1
    nearest = torch.zeros_like(inside).scatter(1, overlap.argmax(1, keepdim=True), True)
    chosen = torch.where(contested, nearest, chosen)

    metric, overlap = metric * chosen, overlap * chosen
    # The best anchor of an object gets the object's best overlap as its target, others in proportion.
    normalised = metric * (overlap.amax(-1, keepdim=True) / (metric.amax(-1, keepdim=True) + 1e-9))
    return Assignment(chosen.any(1), chosen.long().argmax(1), normalised.amax(1))
