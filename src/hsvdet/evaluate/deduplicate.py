"""What deduplication alone is worth: the same predictions, deduplicated by one who knows the objects."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

from ..boxes import iou
from ..postprocess import non_maximum_suppression

MIN_IOU = 0.5


def perfectly_deduplicated(
    xyxy: Tensor, scores: Tensor, labels: Tensor, truth_xyxy: Tensor, truth_labels: Tensor
) -> Tensor:
    """[K] int64: which predictions of an image stay, strongest first.

    A prediction belongs to the object of its class that it overlaps most, if by IoU >= 0.5. Of each object the
    strongest prediction stays; those that belong to none are suppressed within classes at IoU 0.5.
    xyxy: [N, 4], scores, labels: [N]; truth_xyxy: [M, 4] in the same unit, truth_labels: [M], without crowd regions.
    """
    order = scores.argsort(descending=True, stable=True)
    xyxy, scores, labels = xyxy[order].float(), scores[order].float(), labels[order]
    overlap = iou(xyxy[:, None], truth_xyxy).masked_fill(labels[:, None] != truth_labels, 0)
    best, owner = pad(overlap, (0, 1)).max(1)  # a column of its own for no object at all
    rank = torch.arange(len(order), device=order.device)
    owned = best >= MIN_IOU
    first = rank.new_full((len(truth_labels),), len(order))
    first = first.scatter_reduce(0, owner[owned], rank[owned], "amin")
    alarms = rank[~owned]
    alarms = alarms[non_maximum_suppression(xyxy[alarms], scores[alarms], labels[alarms], MIN_IOU)]
    return order[torch.cat([first[first < len(order)], alarms]).sort().values]
