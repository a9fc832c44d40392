"""COCO's average precision and recall (Lin et al. 2014, arXiv 1405.0312), through faster-coco-eval.

faster-coco-eval gives pycocotools' numbers to the last bit, about eight times as fast, and takes images and
whole data sets without detections. It is used in memory and by its public class alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from .pairing import Pair

RECALL_STEPS = np.linspace(0, 1, 101)
COCO_DETECTIONS = 100  # of an image and class
SIDES = ("small", "medium", "large")
STATS = (
    *("ap", "ap50", "ap75", *(f"ap_{side}" for side in SIDES)),
    *("ar1", "ar10", "ar100", *(f"ar_{side}" for side in SIDES)),
)


class CocoScores(NamedTuple):
    """stats: COCO's twelve numbers by the names of STATS. class_ap, class_ap50, class_ar100: [C].
    precision: [C, 101] at IoU 0.5, over RECALL_STEPS. NaN where there is no object to find."""

    stats: dict[str, float]
    class_ap: np.ndarray
    class_ap50: np.ndarray
    class_ar100: np.ndarray
    precision: np.ndarray


def coco_scores(pairs: Sequence[Pair], classes: int) -> CocoScores:
    """COCO's numbers: IoU 0.5 to 0.95, 101 recall steps, at most 100 detections per image and class."""
    truth_area = np.concatenate([pair.area for pair in pairs])
    sizes = np.concatenate([pair.boxes[:, 2:] - pair.boxes[:, :2] for pair in pairs])
    evaluator = _evaluator(pairs, classes, truth_area, sizes.prod(-1))
    evaluator.run()
    stats = dict(zip(STATS, _known(np.asarray(evaluator.stats)).tolist(), strict=True))
    precision = evaluator.eval["precision"][..., 0, -1]  # [T, R, C] at all areas, 100 detections
    recall = evaluator.eval["recall"][..., 0, -1]  # [T, C]
    return CocoScores(
        stats,
        _known(precision.mean((0, 1))),
        _known(precision[0].mean(0)),
        _known(recall.mean(0)),
        _known(precision[0].T),
    )


def average_precision_in_bins(
    pairs: Sequence[Pair], classes: int, quantity: np.ndarray, edges: Sequence[float]
) -> list[tuple[float, float]]:
    """(AP, AP50) for each bin [low, high) of a quantity of the objects (the last bin closed), where objects
    outside the bin are ignored: neither to be found nor, when found, wrong. quantity: one number per object,
    all images concatenated; edges: ascending. A detection that matches nothing is wrong in every bin.

    COCO ignores objects outside an area range in just this way, so `quantity` takes the place of the area.
    Detections get the area NaN, which lies outside no range: none is excused for its size.
    """
    detections = sum(len(pair.scores) for pair in pairs)
    evaluator = _evaluator(pairs, classes, quantity, np.full(detections, np.nan))
    lows, highs = edges[:-1], [*np.nextafter(edges[1:-1], -np.inf), edges[-1]]
    evaluator.params.areaRng = [[float(low), float(high)] for low, high in zip(lows, highs, strict=True)]
    evaluator.params.areaRngLbl = [str(low) for low in lows]
    evaluator.params.maxDets = [COCO_DETECTIONS]
    evaluator.evaluate()
    evaluator.accumulate()
    precision = _known(evaluator.eval["precision"])[..., 0]
    return [
        (_mean(precision[..., index]), _mean(precision[0, ..., index])) for index in range(len(edges) - 1)
    ]


def _evaluator(pairs: Sequence[Pair], classes: int, truth_area: np.ndarray, detection_area: np.ndarray):
    """faster-coco-eval's evaluator over our arrays. Ids start at 1: it takes 0 for 'unmatched'."""
    from faster_coco_eval.core.coco import COCO
    from faster_coco_eval.core.faster_eval_api import COCOeval_faster

    images = [{"id": i + 1} for i in range(len(pairs))]
    categories = [{"id": c} for c in range(classes)]
    truth = _annotations(
        [(pair.truth, pair.truth_labels, pair.crowd) for pair in pairs], "iscrowd", truth_area
    )
    found = _annotations([(pair.boxes, pair.labels, pair.scores) for pair in pairs], "score", detection_area)
    tables = [
        COCO({"images": images, "categories": categories, "annotations": annotations})
        for annotations in (truth, found)
    ]
    return COCOeval_faster(tables[0], tables[1], "bbox")


def _annotations(columns: list[tuple[np.ndarray, ...]], key: str, area: np.ndarray) -> list[dict]:
    """Per image (xyxy, labels, values of `key`) to COCO's list of annotations."""
    image_ids = np.repeat(np.arange(len(columns)) + 1, [len(labels) for _, labels, _ in columns])
    xyxy, labels, values = (np.concatenate(column) for column in zip(*columns, strict=True))
    xywh = np.concatenate([xyxy[:, :2], xyxy[:, 2:] - xyxy[:, :2]], 1)
    rows = zip(
        image_ids.tolist(), labels.tolist(), xywh.tolist(), area.tolist(), values.tolist(), strict=True
    )
    return [
        {"id": i, "image_id": image_id, "category_id": label, "bbox": box, "area": size, key: value}
        for i, (image_id, label, box, size, value) in enumerate(rows, start=1)
    ]


def _known(values: np.ndarray) -> np.ndarray:
    """COCO writes -1 where there is nothing to find; NaN cannot be mistaken for a score."""
    return np.where(values < 0, np.nan, values)


def _mean(values: np.ndarray) -> float:
    return float(np.nanmean(values)) if np.isfinite(values).any() else float("nan")
