"""What was measured on a data set: as an object, as JSON, and as a table for people."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from .average_precision import STATS
from .duplicates import Duplicates
from .occlusion import OcclusionBin
from .recall import CountBin, Recalls


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
    0.01, ... 1. confusion: see `confusion_matrix`. recalls: over all objects and by crowding. occlusion: its
    bins of occlusion, with AP.
    duplicates_before: of raw predictions, None where not given; duplicates_after: of the detections.
    """

    images: int
    objects: int
    detections: int
    stats: dict[str, float]
    classes: tuple[ClassScores, ...]
    precision: np.ndarray
    confusion: np.ndarray
    recalls: Recalls
    occlusion: tuple[OcclusionBin, ...]
    duplicates_before: Duplicates | None
    duplicates_after: Duplicates

    @property
    def ap(self) -> float:
        return self.stats["ap"]

    @property
    def ap50(self) -> float:
        return self.stats["ap50"]

    @property
    def recall_at_fppi1(self) -> float:
        return self.recalls.recall_at_fppi1

    def table(self) -> str:
        """For people: the twelve numbers, classes (worst last), recall by crowding, duplicates."""
        recalls = self.recalls
        parts = [f"{self.images} images, {self.objects} objects, {self.detections} detections"]
        for names in (STATS[:6], STATS[6:]):
            titles = [name.upper().replace("_", " ") for name in names]
            parts.append(_columns([titles, [_text(self.stats[name]) for name in names]]))
        ranked = sorted(self.classes, key=lambda scores: (math.isnan(scores.ap), -_or_zero(scores.ap)))
        parts.append(_rows(["class", "objects", "AP", "AP50", "AR100"], ranked))
        found = ["objects", "recall", "recall at 1 FP/image"]
        parts.append(_rows(["occlusion", "objects", "AP", "AP50", *found[1:]], self._occlusion_rows()))
        if recalls.visibility:
            parts.append(
                _rows(["visible", *found], [[_span(*row[:2]), *row[2:]] for row in recalls.visibility])
            )
        if len(recalls.by_count) > 1:
            counts = [[_counted(row), *row[2:]] for row in recalls.by_count]
            parts.append(_rows(["objects in image", "images", *found], counts))
        parts.append("\n".join(self._remarks()))
        return "\n\n".join(parts)

    def _occlusion_rows(self) -> list[Sequence]:
        """The bins, the occluded ones together, and all."""
        recalls, occluded = self.recalls, self.recalls.occluded
        return [
            *([_span(*row[:2]), *row[2:]] for row in self.occlusion),
            [_span(*occluded[:2]), occluded.objects, "", "", *occluded[3:]],
            ["all", self.objects, self.ap, self.ap50, recalls.recall, recalls.recall_at_fppi1],
        ]

    def _remarks(self) -> list[str]:
        recalls = self.recalls
        score = recalls.score_at_fppi1
        which = "all detections" if math.isnan(score) else f"detections scoring over {score:.3f}"
        remarks = [f"1 FP/image: {which}, {recalls.false_positives:.2f} false positives an image"]
        if self.duplicates_before:
            remarks.append(_duplicate_text("before suppression", self.duplicates_before))
        remarks.append(_duplicate_text("detections", self.duplicates_after))
        return remarks

    def to_json(self) -> dict:
        """Plain numbers, lists and dicts, NaN as None. The precision-recall curves are left out."""
        return _plain(
            {
                "images": self.images,
                "objects": self.objects,
                "detections": self.detections,
                **self.stats,
                "classes": self.classes,
                **self.recalls._asdict(),
                "occlusion": self.occlusion,
                "duplicates_before": self.duplicates_before,
                "duplicates_after": self.duplicates_after,
                "confusion": self.confusion.tolist(),
            }
        )


def _plain(value: Any) -> Any:
    if hasattr(value, "_asdict"):
        return _plain(value._asdict())
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _or_zero(value: float) -> float:
    return 0.0 if math.isnan(value) else value


def _text(value: str | int | float) -> str:
    if isinstance(value, float):
        return "-" if math.isnan(value) else f"{value:.3f}"
    return str(value)


def _span(low: float, high: float) -> str:
    return f"{low:g} to {high:g}"


def _counted(row: CountBin) -> str:
    return f"over {row.fewest - 1}" if row.most is None else _span(row.fewest, row.most)


def _duplicate_text(what: str, duplicates: Duplicates) -> str:
    return f"Per object found, {what}: mean {_text(duplicates.mean)}, largest {duplicates.largest}"


def _rows(header: list[str], rows: Iterable[Iterable]) -> str:
    return _columns([header, *([_text(value) for value in row] for row in rows)], first=str.ljust)


def _columns(rows: list[list[str]], first=str.rjust) -> str:
    """Numbers to the right; first: where the first column goes."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    sides = [first, *[str.rjust] * (len(widths) - 1)]
    return "\n".join(
        "  ".join(side(cell, width) for side, cell, width in zip(sides, row, widths, strict=True)).rstrip()
        for row in rows
    )
