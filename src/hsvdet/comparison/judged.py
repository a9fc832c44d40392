"""One run's detections of a data set, judged once, and every measure of any resample of its images."""

# pyright: strict

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from ..data.dataset import DetectionData
from ..evaluate.operating import operating
from ..evaluate.pairing import Pair, match_within_class, pair_up
from ..structures import Detections
from .groups import Group, Groups, groups_of
from .mistakes import KINDS
from .tallies import Tallies, tallies_of
from .weighted_precision import AREAS, Matched, average_precision, match_all
from .weighted_recall import Alarms, alarms_of, weighted_recall

_AT_ONCE = 4_000_000  # numbers of detections times resamples, in memory


class Measure(NamedTuple):
    """rate: whether it lies in [0, 1] and its differences are told in points, hundredths. higher_is_better: else lower.
    members: [I] bool, the images that have any object it is about."""

    key: str
    title: str
    rate: bool
    higher_is_better: bool
    members: np.ndarray


class Judged(NamedTuple):
    """best_score: the one of the highest F1 on all images; errors are counted at it."""

    groups: Groups
    matched: list[Matched]
    alarms: Alarms
    tallies: Tallies
    best_score: float

    def values(self, weights: np.ndarray) -> np.ndarray:
        """[M, R], as `measures_of` lists them. weights: [I, R], how often each resample has each image."""
        size = 1 + sum(len(one.image) for one in self.matched) + len(self.alarms.image)
        step = max(1, _AT_ONCE // size)
        parts = [self._values(weights[:, i : i + step]) for i in range(0, weights.shape[1], step)]
        return np.concatenate(parts, 1)

    def _values(self, weights: np.ndarray) -> np.ndarray:
        precision = average_precision(self.matched, weights)
        recall = weighted_recall(self.alarms, self.groups, weights)
        mean = precision.mean(1)
        return np.concatenate(
            [
                [mean[0], precision[0, 0], precision[0, 5]],
                mean[1:],
                recall.at_fppi1,
                recall.at_any_score,
                [recall.miss_rate, self.tallies.jaccard_index(weights)],
                [self.tallies.duplicates_per_object(weights), self.tallies.calibration_error(weights)],
                self.tallies.mistakes_per_image(weights),
            ]
        )


def judge(data: DetectionData, detections: Mapping[int | str, Detections]) -> Judged:
    """detections: as of `evaluate_detections`, which is what the values of equal weights equal. Raises as it does."""
    pairs, classes = pair_up(data, detections), len(data.labels)
    groups = groups_of(pairs)
    matches = [match_within_class(pair) for pair in pairs]
    best = operating(pairs, matches, classes).best.score
    best = 0.0 if np.isnan(best) else best
    return Judged(
        groups,
        match_all(pairs, classes, groups.edges),
        alarms_of(pairs, matches),
        tallies_of(pairs, matches, classes, best),
        best,
    )


def measures_of(pairs: Sequence[Pair]) -> tuple[Measure, ...]:
    """What is measured on these objects, in the order of `Judged.values`."""
    groups = groups_of(pairs)
    bins = [group for group in groups.rows[2:] if group.kind == "occlusion"]
    every = np.ones(len(pairs), dtype=bool)

    def images(group: Group) -> np.ndarray:
        return np.bincount(groups.image[group.members], minlength=len(pairs)) > 0

    everything = images(groups.rows[0])
    rows = [Measure(name, name.upper(), True, True, everything) for name in ("ap", "ap50", "ap75")]
    for size, (low, high) in list(AREAS.items())[1:]:
        own = [((p.area >= low) & (p.area <= high) & ~p.crowd).any() for p in pairs]
        rows.append(Measure(f"ap_{size}", f"AP {size}", True, True, np.array(own)))
    rows += [Measure(f"ap{group.key}", f"AP{group.title}", True, True, images(group)) for group in bins]
    for key, title in (("recall_at_fppi1", "recall at 1 FP/image"), ("recall", "recall")):
        for group in groups.rows:
            rows.append(Measure(key + group.key, title + group.title, True, True, images(group)))
    rows += [
        Measure("miss_rate", "MR-2", True, False, everything),
        Measure("jaccard_index", "JI", True, True, every),
        Measure("duplicates", "detections per object found", False, False, everything),
        Measure("calibration_error", "D-ECE", True, False, every),
    ]
    for kind in KINDS:
        rows.append(Measure(f"errors_{kind}", f"errors an image: {kind}", False, False, every))
    return tuple(rows)
