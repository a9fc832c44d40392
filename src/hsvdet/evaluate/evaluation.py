"""Detections of a whole data set in, one Evaluation out."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from ..data.dataset import DetectionData
from ..structures import Detections
from .average_precision import STATS, coco_scores
from .confusion import confusion_matrix
from .duplicates import Duplicates, duplicates_per_object, summarise_duplicates
from .occlusion import OcclusionBin, VisibilityBin, crowding
from .pairing import Pair, pair_up

Item = TypeVar("Item")


class ClassScores(NamedTuple):
    """One class. objects: annotated, crowd regions left out. The rest in [0, 1], NaN without objects."""

    name: str
    objects: int
    ap: float
    ap50: float
    ar100: float


@dataclass(frozen=True, kw_only=True, eq=False)
class Evaluation:
    """Everything measured on one split. Scores lie in [0, 1]; NaN = no object to find (null in JSON, "-" in
    print; pycocotools writes -1).

    images, objects, detections: counts, crowd regions not among the objects.
    stats: COCO's twelve numbers: ap (IoU .5 to .95), ap50, ap75, ap_small (area < 32²), ap_medium, ap_large
    (> 96²), ar1, ar10, ar100 (detections per image and class), ar_small, ar_medium, ar_large.
    classes: per class, in the order of the data set's labels. precision: [C, 101] at IoU 0.5 for recall 0,
    0.01, ... 1. confusion: see `confusion_matrix`. occlusion, visibility, score_at_fppi1: see `Crowding`.
    duplicates_before: of raw predictions, None where not given; duplicates_after: of the detections.
    """

    images: int
    objects: int
    detections: int
    stats: dict[str, float]
    classes: tuple[ClassScores, ...]
    precision: np.ndarray
    confusion: np.ndarray
    occlusion: tuple[OcclusionBin, ...]
    visibility: tuple[VisibilityBin, ...] | None
    score_at_fppi1: float
    duplicates_before: Duplicates | None
    duplicates_after: Duplicates

    @property
    def ap(self) -> float:
        return self.stats["ap"]

    @property
    def ap50(self) -> float:
        return self.stats["ap50"]

    def to_json(self) -> dict:
        """Plain numbers, lists and dicts, NaN as None. The precision-recall curves are left out."""
        return _plain(
            {
                "images": self.images,
                "objects": self.objects,
                "detections": self.detections,
                **self.stats,
                "classes": [scores._asdict() for scores in self.classes],
                "occlusion": [scores._asdict() for scores in self.occlusion],
                "visibility": self.visibility and [scores._asdict() for scores in self.visibility],
                "score_at_fppi1": self.score_at_fppi1,
                "duplicates_before": self.duplicates_before and self.duplicates_before._asdict(),
                "duplicates_after": self.duplicates_after._asdict(),
                "confusion": self.confusion.tolist(),
            }
        )

    def table(self) -> str:
        """For people: the twelve numbers, classes (worst last), occlusion bins and duplicates."""
        parts = [f"{self.images} images, {self.objects} objects, {self.detections} detections"]
        parts.append(_columns([[name.upper().replace("_", " ") for name in STATS[:6]], self._row(STATS[:6])]))
        parts.append(_columns([[name.upper().replace("_", " ") for name in STATS[6:]], self._row(STATS[6:])]))
        ranked = sorted(self.classes, key=lambda scores: (math.isnan(scores.ap), -_or_zero(scores.ap)))
        parts.append(_columns([["class", "objects", "AP", "AP50", "AR100"], *map(_texts, ranked)]))
        header = ["occlusion", "objects", "AP", "AP50", "recall", "recall at 1 FP/image"]
        parts.append(_columns([header, *map(_bin_texts, self.occlusion)]))
        if self.visibility:
            header = ["visible", "objects", "recall", "recall at 1 FP/image"]
            parts.append(_columns([header, *map(_bin_texts, self.visibility)]))
        if self.duplicates_before:
            parts.append(_duplicate_text("before suppression", self.duplicates_before))
        parts.append(_duplicate_text("detections", self.duplicates_after))
        return "\n\n".join(parts)

    def _row(self, names: Sequence[str]) -> list[str]:
        return [_text(self.stats[name]) for name in names]


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
    crowded = crowding(pairs, count)
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
        confusion=confusion_matrix(pairs, count),
        occlusion=crowded.occlusion,
        visibility=crowded.visibility,
        score_at_fppi1=crowded.score_at_fppi1,
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


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _or_zero(value: float) -> float:
    return 0.0 if math.isnan(value) else value


def _text(value: str | int | float) -> str:
    if isinstance(value, float):
        return "-" if math.isnan(value) else f"{value:.3f}"
    return str(value)


def _texts(row: Iterable) -> list[str]:
    return [_text(value) for value in row]


def _bin_texts(scores: OcclusionBin | VisibilityBin) -> list[str]:
    return [f"{scores.low:g} to {scores.high:g}", *_texts(scores[2:])]


def _duplicate_text(what: str, duplicates: Duplicates) -> str:
    return f"Per object found, {what}: mean {_text(duplicates.mean)}, largest {duplicates.largest}"


def _columns(rows: list[list[str]]) -> str:
    """The first column to the left, numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    first = str.ljust if rows[0][0] in ("class", "occlusion", "visible") else str.rjust
    return "\n".join(
        "  ".join(
            [
                first(row[0], widths[0]),
                *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)),
            ]
        ).rstrip()
        for row in rows
    )
