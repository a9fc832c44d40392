"""Detections of a whole data set in, one Evaluation out."""

# pyright: strict, reportUnknownMemberType=false
# PyTorch's own types leave some of its functions untyped.

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from ..data.dataset import DetectionData
from ..data.nms_ceiling import OVERLAPS, nms_ceiling
from ..structures import Detections
from .average_precision import COCO_DETECTIONS, coco_scores
from .confusion import confusion_matrix
from .duplicates import duplicates_per_object, summarise_duplicates
from .evaluation import Beyond, ClassScores, Evaluation
from .occlusion import occlusion_bins
from .operating import operating
from .pairing import Pair, in_order, match_within_class, pair_up
from .recall import Recalls, recalls
from .selections import SelectionScores
from .worst import worst_images

Item = TypeVar("Item")


def evaluate_detections(
    data: DetectionData,
    detections: Mapping[int | str, Detections],
    *,
    candidates: Mapping[int | str, Tensor] | None = None,
    deduplicated: Mapping[int | str, Detections] | None = None,
    suppressed_at: float | None = None,
    max_detections: int | None = None,
    multi_label: bool = False,
    queries: int | None = None,
    selections: tuple[SelectionScores, ...] = (),
) -> Evaluation:
    """Everything we measure, on one split.

    detections: by image id, boxes in pixels of the original image, labels as indices of `data.labels`; an
    image without an entry has none. candidates: by image id, what `duplicates_per_object` counted on the raw
    predictions. deduplicated: by image id, of the raw predictions those of `perfectly_deduplicated`.
    suppressed_at: the IoU at which the detections were suppressed. max_detections: how many an image can have.
    multi_label: whether a suppressed prediction answers with every class, not its best. queries: of a detector whose
    dense head answers beside them. selections: of its learned token selectors.
    Average precision equals pycocotools'. 500 images with 80 objects and 300 detections each take about 8 s.

    Raises DataError for an empty split, an image or a class that the data set does not have; NonFiniteError
    for NaN or infinite scores or boxes, naming the image.
    """
    pairs = pair_up(data, detections)
    count = len(data.labels)
    coco = coco_scores(pairs, count)
    matches = [match_within_class(pair) for pair in pairs]
    recalled = recalls(pairs, matches)
    operated = operating(pairs, matches, count)
    objects = np.stack([np.bincount(labels, minlength=count) for _, labels in map(_objects, pairs)])
    overlaps = sorted({*OVERLAPS} if suppressed_at is None else {*OVERLAPS, suppressed_at})
    return Evaluation(
        images=len(pairs),
        objects=int(objects.sum()),
        detections=sum(len(pair.scores) for pair in pairs),
        stats=coco.stats,
        classes=tuple(
            ClassScores(*row)
            for row in zip(
                data.labels,
                objects.sum(0).tolist(),
                *(column.tolist() for column in (coco.class_ap, coco.class_ap50, coco.class_ar100)),
                [point.f1 for point in operated.by_class],
                [point.score for point in operated.by_class],
                strict=True,
            )
        ),
        precision=coco.precision,
        operating=operated,
        worst=worst_images(
            [record.id for record in in_order(data.records)], pairs, matches, operated.best.score
        ),
        confusion=confusion_matrix(pairs, matches, count),
        recalls=recalled,
        occlusion=occlusion_bins(pairs, count, recalled),
        deduplicated=None if deduplicated is None else _recalls(pair_up(data, deduplicated)),
        duplicates_before=None if candidates is None else summarise_duplicates(candidates.values()),
        duplicates_after=summarise_duplicates(duplicates_in(pair, count) for pair in pairs),
        duplicates_of_truth=summarise_duplicates(duplicates_in(_perfect(pair), count) for pair in pairs),
        nms_ceiling=nms_ceiling(data.records, overlaps),
        suppressed_at=suppressed_at,
        max_detections=max_detections,
        multi_label=multi_label,
        beyond_max_detections=_beyond(objects.sum(1, keepdims=True), max_detections),
        queries=queries,
        selections=selections,
        beyond_queries=_beyond(objects.sum(1, keepdims=True), queries),
        beyond_coco=_beyond(objects, COCO_DETECTIONS),
    )


def merge_by_image(parts: Iterable[Mapping[int | str, Item]]) -> dict[int | str, Item]:
    """One mapping by image id from those of several processes; the first of a repeated id stays.

    A distributed sampler repeats images so that all processes have equally many; counted twice, they would
    change the result. Gather the mappings of all processes first (`all_gather_object` takes unequal lengths).
    """
    merged: dict[int | str, Item] = {}
    for part in parts:
        for image_id, item in part.items():
            merged.setdefault(image_id, item)
    return merged


def _recalls(pairs: Sequence[Pair]) -> Recalls:
    return recalls(pairs, [match_within_class(pair) for pair in pairs])


def _objects(pair: Pair) -> tuple[np.ndarray, np.ndarray]:
    """Boxes and labels, without crowd regions."""
    return pair.truth[~pair.crowd], pair.truth_labels[~pair.crowd]


def _perfect(pair: Pair) -> Pair:
    """The same image with its objects as the detections."""
    boxes, labels = _objects(pair)
    return pair._replace(boxes=boxes, labels=labels, scores=np.ones(len(labels)))


def duplicates_in(pair: Pair, classes: int) -> Tensor:
    """What `duplicates_per_object` counts, of detections. They have one class each: in every other class their score is
    0."""
    labels = torch.from_numpy(pair.labels)
    scores = torch.zeros(len(labels), classes, dtype=torch.float64)
    scores[torch.arange(len(labels)), labels] = torch.from_numpy(pair.scores)
    return duplicates_per_object(
        torch.from_numpy(pair.boxes), scores, *(torch.from_numpy(part) for part in _objects(pair))
    )


def _beyond(counts: np.ndarray, most: int | None) -> Beyond:
    """counts: [images, kinds] of objects, of each of which `most` can be found in an image, None for any."""
    over = (counts - (counts.max() if most is None else most)).clip(min=0).sum(1)
    return Beyond(int((over > 0).sum()), int(over.sum()))
