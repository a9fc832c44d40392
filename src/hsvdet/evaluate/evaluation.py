"""What was measured on a data set: as an object, as JSON, and as a table for people."""

# pyright: strict

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any, NamedTuple, cast

import numpy as np

from ..data.nms_ceiling import Deleted
from ..errors import counted
from .average_precision import COCO_DETECTIONS, SIDES, STATS
from .columns import columns, labelled, span, text
from .duplicates import Duplicates
from .occlusion import OcclusionBin
from .operating import Operating
from .recall import Recalls
from .selections import SelectionScores
from .worst import Mistakes

USUAL_IOU = 0.7
_SELECTED = ("selected tokens", "an image", "on objects", "lift", "covered", "small", "occluded", "border")
_RECALLS = ("recall", "recall at 1 FP/image")


class ClassScores(NamedTuple):
    """One class. objects: annotated, crowd regions left out. f1: the highest, of detections that score over `score`.
    The rest in [0, 1], NaN without objects."""

    name: str
    objects: int
    ap: float
    ap50: float
    ar100: float
    f1: float
    score: float


class Beyond(NamedTuple):
    """Objects that are more than a number allows for: in so many images, so many."""

    images: int
    objects: int


@dataclass(frozen=True, kw_only=True, eq=False)
class Evaluation:
    """Everything measured on one split. Scores lie in [0, 1]; NaN = no object to find (null in JSON, "-" in
    print; pycocotools writes -1).

    images, objects, detections: counts, crowd regions not among the objects.
    stats: COCO's twelve numbers: ap (IoU .5 to .95), ap50, ap75, ap_small (area < 32²), ap_medium, ap_large
    (> 96²), ar1, ar10, ar100 (detections per image and class), ar_small, ar_medium, ar_large.
    classes: per class, in the order of the data set's labels. precision: [C, 101] at IoU 0.5 for recall 0,
    0.01, ... 1. operating: precision, recall and F1 by the score. worst: the images with most mistakes. confusion: see
    `confusion_matrix`. recalls: over all objects and by crowding. occlusion: its bins of occlusion, with AP.
    duplicates_before: of raw predictions, None where not given; duplicates_after: of the detections;
    duplicates_of_truth: of the true boxes, for in a crowd the box of a neighbour counts as well.
    nms_ceiling: of this data set; suppressed_at: the IoU of the suppression, None where there was none. multi_label:
    whether each prediction came to it with all its classes.
    max_detections: of an image, None where not known. beyond_max_detections: objects that are more than those;
    queries: of a detector whose dense head answers beside them, else None; beyond_queries: objects that are more, for
    which the dense head alone answers. beyond_coco: more than the 100 of a class that COCO's numbers count.
    deduplicated: recalls of the raw predictions, perfectly deduplicated; None where not asked for. selections: what
    learned token selectors chose, map by map; nothing of other detectors and of artifacts.
    """

    images: int
    objects: int
    detections: int
    stats: dict[str, float]
    classes: tuple[ClassScores, ...]
    precision: np.ndarray
    operating: Operating
    worst: tuple[Mistakes, ...]
    confusion: np.ndarray
    recalls: Recalls
    occlusion: tuple[OcclusionBin, ...]
    duplicates_before: Duplicates | None
    duplicates_after: Duplicates
    duplicates_of_truth: Duplicates
    nms_ceiling: tuple[Deleted, ...]
    suppressed_at: float | None
    multi_label: bool
    max_detections: int | None
    beyond_max_detections: Beyond
    queries: int | None
    beyond_queries: Beyond
    beyond_coco: Beyond
    deduplicated: Recalls | None
    selections: tuple[SelectionScores, ...]

    @property
    def ap(self) -> float:
        return self.stats["ap"]

    @property
    def ap50(self) -> float:
        return self.stats["ap50"]

    @property
    def nms_at(self) -> float:
        """The IoU at which `nms_ceiling` is told first: of its own suppression, or else the usual one."""
        return USUAL_IOU if self.suppressed_at is None else self.suppressed_at

    @property
    def recall_at_fppi1(self) -> float:
        return self.recalls.recall_at_fppi1

    def __str__(self) -> str:
        return self.table()

    def __repr__(self) -> str:  # what a notebook shows
        return str(self)

    def table(self) -> str:
        """For people: the twelve numbers, classes (worst last), recall by crowding, and remarks."""
        counts = (
            counted(self.images, "image"),
            counted(self.objects, "object"),
            counted(self.detections, "detection"),
        )
        parts = [", ".join(counts)]
        for names in (STATS[:6], STATS[6:]):
            titles = [name.upper().replace("_", " ") for name in names]
            parts.append(columns([titles, [text(self.stats[name]) for name in names]]))
        ranked = sorted(self.classes, key=lambda scores: (math.isnan(scores.ap), -_or_zero(scores.ap)))
        parts.append(labelled(["class", "objects", "AP", "AP50", "AR100", "best F1", "at score"], ranked))
        header = ["occlusion", "objects", "AP", "AP50", *_RECALLS]
        if self.deduplicated is not None:
            header.append("deduplicated")
        parts.append(labelled(header, self._by_occlusion()))
        visible = [[span(*row[:2]), *row[2:]] for row in self.recalls.visibility or ()]
        if visible:
            parts.append(labelled(["visible", "objects", *_RECALLS], visible))
        sized = [[name, *row[2:]] for name, row in zip(SIDES, self.recalls.by_size, strict=True)]
        parts.append(labelled(["size", "objects", *_RECALLS], sized))
        by_count = [[span(*row[:2]), *row[2:]] for row in self.recalls.by_count]
        if len(by_count) > 1:
            parts.append(labelled(["objects in image", "images", "objects", *_RECALLS], by_count))
        if self.selections:
            parts.append(labelled(_SELECTED, self._by_map()))
        parts.append("\n".join(self._remarks()))
        return "\n\n".join(parts)

    def _by_map(self) -> list[list[str | int | float]]:
        """What selectors chose: a row for each map, and all."""
        return [
            ["all" if row.stride is None else f"stride {row.stride}", f"{row.tokens:.0f}", *row[2:]]
            for row in self.selections
        ]

    def _by_occlusion(self) -> list[list[str | int | float]]:
        """The bins, the occluded ones together, and all; with the recall at 1 FP/image if perfectly deduplicated."""
        recalls, ideal = self.recalls, self.deduplicated
        rows: list[list[str | int | float]] = [
            *([span(*row[:2]), *row[2:]] for row in self.occlusion),
            [span(*recalls.occluded[:2]), recalls.occluded.objects, "", "", *recalls.occluded[3:]],
            ["all", self.objects, self.ap, self.ap50, recalls.recall, recalls.recall_at_fppi1],
        ]
        if ideal is None:
            return rows
        best = *ideal.occlusion, ideal.occluded, ideal
        return [[*row, bin.recall_at_fppi1] for row, bin in zip(rows, best, strict=True)]

    def _remarks(self) -> list[str]:
        """A line each, of what there is to say."""
        score = self.recalls.score_at_fppi1
        which = "all detections" if math.isnan(score) else f"detections scoring over {score:.3f}"
        counts = {
            "raw": self.duplicates_before,
            "detections": self.duplicates_after,
            "true boxes": self.duplicates_of_truth,
        }
        duplicates = [f"{what} {text(of.mean)} (at most {of.largest})" for what, of in counts.items() if of]
        best = self.operating.best
        remarks: list[str] = []
        if self.objects:
            remarks.append(
                f"best F1 {best.f1:.3f} at --score {best.score:.3g}: precision {text(best.precision)}, recall"
                f" {best.recall:.3f} (IoU 0.5, all classes; chosen on these images)"
            )
        remarks += [
            f"1 FP/image: {which}, {self.recalls.fppi:.2f} false positives an image",
            f"predictions per object: {', '.join(duplicates)}",
        ]
        if self.suppressed_at is not None:
            remarks.append(
                "every class of a box counts, as in most published tables; predict and artifacts answer with one"
                if self.multi_label
                else "one class a box, as predict and artifacts answer; most published tables count all (--multi-label)"
            )
        if self.objects:
            spared = "" if self.suppressed_at is not None else "; this detector has no NMS"
            remarks.append(
                f"NMS at IoU {self.nms_at:g} would delete {self._deleted(self.nms_at)} of the true boxes{spared}"
            )
        if self.beyond_max_detections.images:
            remarks.append(
                f"{self._more(self.beyond_max_detections)} than the {self.max_detections} detections an image can have:"
                " they cannot be found"
            )
        if self.beyond_queries.images:
            remarks.append(
                f"{self._more(self.beyond_queries)} than the {self.queries} queries: for these the dense head's own"
                " answers stand"
            )
        if self.beyond_coco.images:
            remarks.append(
                f"{self._more(self.beyond_coco)} than the {COCO_DETECTIONS} detections of a class that AP and AR count;"
                " recall counts all"
            )
        return remarks

    def _deleted(self, at: float) -> str:
        shares = {row.iou: f"{row.class_wise:.1%}" for row in self.nms_ceiling}
        return f"{shares.pop(at)} ({', '.join(f'{share} at {iou:g}' for iou, share in shares.items())})"

    def _more(self, beyond: Beyond) -> str:
        have = "has" if beyond.images == 1 else "have"
        share = beyond.objects / self.objects
        return f"{counted(beyond.images, 'image')} {have} {beyond.objects} ({share:.1%} of all) objects more"

    def to_json(self) -> dict[str, Any]:
        """Plain numbers, lists and dicts, NaN as None; the keys are in docs/evaluation.md. The precision-recall
        curves are left out."""
        rest = {item.name: getattr(self, item.name) for item in fields(self)}
        counts = {name: rest.pop(name) for name in ("images", "objects", "detections")}
        stats, recalls = rest.pop("stats"), rest.pop("recalls")._asdict()
        rest["operating"] = {
            "best": self.operating.best,
            "curve": self.operating.curve,
        }  # of classes: in theirs
        rest["worst"] = [one.to_json() for one in self.worst]
        del rest["precision"]
        return _plain(counts | stats | recalls | rest)


def _plain(value: Any) -> Any:
    if hasattr(value, "_asdict"):
        return _plain(value._asdict())
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in cast("dict[Any, Any]", value).items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in cast("list[Any]", value)]
    if isinstance(value, np.ndarray):
        return value.tolist()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _or_zero(value: float) -> float:
    return 0.0 if math.isnan(value) else value
