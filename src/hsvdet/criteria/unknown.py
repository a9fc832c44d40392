"""What is not known of an image, as masks over predictions: there no loss may teach that nothing is here.

Two things can be unknown: what lies in a region to ignore, such as a crowd (`Target.ignored`), and whether there are
objects of classes that were not annotated (`Target.labelled`). Objects that are annotated stay known wherever they
are. Every function gives None where all is known, which is the usual case and costs nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..boxes import area, cxcywh_to_xyxy
from ..structures import Prediction, Target

_MOSTLY = (
    0.5  # share of a box's own area inside one region, as COCO's evaluation ignores detections in a crowd
)


def ignored_boxes(boxes: Tensor, targets: Sequence[Target]) -> Tensor | None:
    """boxes [B, Q, 4] to [B, Q] bool: at least half of its own area lies in one region to ignore. Of a box
    that reaches beyond the picture that counts which lies in it, as in a detection, which is cut off at the edges."""
    if all(target.ignored is None or not len(target.ignored) for target in targets):
        return None
    xyxy = cxcywh_to_xyxy(boxes.detach().float()).clamp(0, 1)
    regions = cxcywh_to_xyxy(_regions(targets, boxes.device))[:, None]  # [B, 1, M, 4]
    first = torch.maximum(xyxy[..., None, :2], regions[..., :2])
    last = torch.minimum(xyxy[..., None, 2:], regions[..., 2:])
    inside = (last - first).clamp(min=0).prod(-1)  # [B, Q, M]
    return ((inside >= _MOSTLY * area(xyxy)[..., None]) & (inside > 0)).any(-1)


def ignored_points(points: Tensor, targets: Sequence[Target], extents: Tensor) -> Tensor | None:
    """points [P, 2], x and y in pixels of the input, to [B, P] bool: in a region to ignore.

    extents: [B, 4], left, top, width and height of each picture in pixels of the input.
    """
    if all(target.ignored is None or not len(target.ignored) for target in targets):
        return None
    return _inside(points, _regions(targets, points.device), extents).any(-1)


def object_points(points: Tensor, targets: Sequence[Target], extents: Tensor) -> Tensor:
    """As `ignored_points`, of the boxes of annotated objects."""
    return _inside(points, _stacked([target.boxes for target in targets], points.device), extents).any(-1)


def unlabelled_classes(targets: Sequence[Target], columns: int, device: torch.device) -> Tensor | None:
    """[B, columns] bool: classes that were not annotated in the image. columns: of the logits, which may be more
    than classes (DETR's "no object" is the last)."""
    if all(target.labelled is None for target in targets):
        return None
    unlabelled = torch.zeros(len(targets), columns, dtype=torch.bool, device=device)
    for row, target in zip(unlabelled, targets, strict=True):
        if target.labelled is not None:
            row[: len(target.labelled)] = ~target.labelled.to(device)
    return unlabelled


def unknown_classes(
    prediction: Prediction, targets: Sequence[Target], matched: Tensor, *, matched_alone: bool = False
) -> Tensor | None:
    """[B, Q, C] bool over the logits of a set of queries: those that are not to learn to be low.

    matched: [B, Q] bool, which queries learn an object. These know what they are, but for unlabelled classes.
    matched_alone: whether the others are to learn nothing at all.
    """
    columns = prediction.logits.shape[-1]
    rows = ~matched if matched_alone else ignored_boxes(prediction.boxes, targets)
    classes = unlabelled_classes(targets, columns, matched.device)
    if rows is not None:
        rows = (rows & ~matched)[..., None].expand(*matched.shape, columns)
    if classes is not None:
        classes = classes[:, None].expand(*matched.shape, columns)
    return classes if rows is None else rows if classes is None else rows | classes


def _regions(targets: Sequence[Target], device: torch.device) -> Tensor:
    none = torch.zeros(0, 4)
    return _stacked([none if target.ignored is None else target.ignored for target in targets], device)


def _stacked(boxes: Sequence[Tensor], device: torch.device) -> Tensor:
    """[B, M, 4], with boxes without area where an image has fewer than M."""
    return torch.nn.utils.rnn.pad_sequence([part.to(device).float() for part in boxes], batch_first=True)


def _inside(points: Tensor, boxes: Tensor, extents: Tensor) -> Tensor:
    """points [P, 2] pixels, boxes [B, M, 4] fractions, to [B, P, M] bool."""
    xyxy = cxcywh_to_xyxy(boxes) * extents[:, None, 2:].repeat(1, 1, 2) + extents[:, None, :2].repeat(1, 1, 2)
    within = (points[:, None] > xyxy[:, None, :, :2]) & (points[:, None] < xyxy[:, None, :, 2:])
    return within.all(-1)
