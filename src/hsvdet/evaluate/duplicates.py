"""How many answers compete for one object, before and after suppression."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from ..boxes import iou

_AT_ONCE = 4_000_000  # pairs of a prediction and an object


class Duplicates(NamedTuple):
    """objects: how many have a prediction at all. mean, largest: predictions per such object. Ideal is 1, and in a
    crowd what the true boxes have: the box of a neighbour of the class counts as well where it overlaps enough."""

    objects: int
    mean: float
    largest: int


def duplicates_per_object(
    prediction_xyxy: Tensor,
    scores: Tensor,
    truth_xyxy: Tensor,
    labels: Tensor,
    *,
    min_iou: float = 0.5,
    min_share: float = 0.3,
) -> Tensor:
    """[N] int64: for each object, the predictions that a suppression must remove but for one.

    Counted are those that overlap the object by IoU >= `min_iou` and score its class at least `min_share`
    times as high as the highest such prediction (and above 0). prediction_xyxy: [Q, 4], scores: [Q, C] in
    [0, 1] after sigmoid or softmax, truth_xyxy: [N, 4] in the same unit, labels: [N] in 0..C-1.
    Every class of a prediction counts by itself, as it does for a suppression within classes.
    """
    if not len(prediction_xyxy) or not len(truth_xyxy):
        return torch.zeros(len(truth_xyxy), dtype=torch.int64, device=scores.device)
    counts: list[Tensor] = []
    step = max(1, _AT_ONCE // len(prediction_xyxy))
    for xyxy, some in zip(truth_xyxy.split(step), labels.split(step), strict=True):
        own = scores[:, some].float()  # [Q, N]
        own = own.masked_fill(iou(prediction_xyxy[:, None], xyxy) < min_iou, 0)
        counts.append(((own > 0) & (own >= min_share * own.amax(0))).sum(0))
    return torch.cat(counts)


def summarise_duplicates(counts: Iterable[Tensor]) -> Duplicates:
    """From what `duplicates_per_object` gave for each image."""
    counts = [count.cpu() for count in counts]
    found = torch.cat(counts) if counts else torch.zeros(0, dtype=torch.int64)
    found = found[found > 0]
    if not len(found):
        return Duplicates(0, float("nan"), 0)
    return Duplicates(len(found), float(found.double().mean()), int(found.max()))
