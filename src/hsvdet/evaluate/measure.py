"""Detections of a whole data set in, one Evaluation out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from ..data.dataset import DetectionData
from ..structures import Detections
from .average_precision import coco_scores
from .confusion import confusion_matrix
from .duplicates import duplicates_per_object, summarise_duplicates
from .evaluation import ClassScores, Evaluation
from .occlusion import occlusion_bins
from .pairing import Pair, match_within_class, pair_up
from .recall import recalls

Item = TypeVar("Item")


def evaluate_detections(
    data: DetectionData,
    detections: Mapping[int | str, Detections],
    *,
    candidates: Mapping[int | str, Tensor] | None = None,
) -> Evaluation:
    """Everything we measure, on one split.

    detections: by image id, boxes in pixels of the original image, labels as indices of `data.labels`; an
    image without an entry has none. candidates: by image id, what `duplicates_per_object` counted on the raw
    predictions. Average precision equals pycocotools'. 5000 images with 90 detections each take about 20 s.

    Raises DataError for an empty split, an image or a class that the data set does not have; NonFiniteError
    for NaN or infinite scores or boxes, naming the image.
    """
    pairs = pair_up(data, detections)
    count = len(data.labels)
    coco = coco_scores(pairs, count)
    matches = [match_within_class(pair) for pair in pairs]
    recalled = recalls(pairs, matches)
    objects = np.bincount(
        np.concatenate([pair.truth_labels[~pair.crowd] for pair in pairs]), minlength=count
    ).tolist()
    return Evaluation(
        images=len(pairs),
        objects=sum(objects),
        detections=sum(len(pair.scores) for pair in pairs),
        stats=coco.stats,
        classes=tuple(
            ClassScores(*row)
            for row in zip(
                data.labels,
                objects,
                *(column.tolist() for column in (coco.class_ap, coco.class_ap50, coco.class_ar100)),
                strict=True,
            )
        ),
        precision=coco.precision,
        confusion=confusion_matrix(pairs, matches, count),
        recalls=recalled,
        occlusion=occlusion_bins(pairs, count, recalled),
        duplicates_before=None if candidates is None else summarise_duplicates(candidates.values()),
        duplicates_after=summarise_duplicates(_duplicates(pair, count) for pair in pairs),
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


def _duplicates(pair: Pair, classes: int) -> Tensor:
    """Detections have one class each: in every other class their score is 0."""
    labels = torch.from_numpy(pair.labels)
    scores = torch.zeros(len(labels), classes, dtype=torch.float64)
    scores[torch.arange(len(labels)), labels] = torch.from_numpy(pair.scores)
    real = ~pair.crowd
    return duplicates_per_object(
        torch.from_numpy(pair.boxes),
        scores,
        torch.from_numpy(pair.truth[real]),
        torch.from_numpy(pair.truth_labels[real]),
    )
