"""Whether the intervals of `hsvdet compare` cover: synthetic detectors whose true difference is known.

    python benchmarks/coverage.py [--repetitions 200] [--images 100] [--seeds 1 3] [--null]

Every image has objects that are hard or easy for both detectors alike, some of them heavily occluded; B finds more than
A, its boxes lie better, and each of several seeds differs from the mean of its kind. The truth, in points, is measured
on many images. Each repetition draws new images and new runs, and asks whether the 95 % interval holds the truth, of
one run each (seeds: 1) and of several. With `--null` B is as A: how often is a difference called shown that is none?
Exit code 1 where coverage lies further below 95 % than chance and 3 points allow.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from hsvdet.comparison.bootstrap import Interval, intervals, resamples
from hsvdet.comparison.judged import Judged, judge, measures_of
from hsvdet.comparison.weighted_precision import average_precision
from hsvdet.comparison.weighted_recall import weighted_recall
from hsvdet.data.dataset import DetectionData, Record
from hsvdet.evaluate.pairing import pair_up
from hsvdet.structures import Detections

MEASURES = ("ap", "ap50", "recall_at_fppi1", "recall_at_fppi1_occlusion_0.5_to_0.9", "calibration_error")
SIDE, LABELS = 400, ("a", "b")
TRUE_IMAGES = 10_000


def scenes(random: np.random.Generator, images: int) -> tuple[DetectionData, list[np.ndarray]]:
    """Records, and how hard each object is, by image."""
    records, hardness = [], []
    for number in range(images):
        count = 1 + int(random.poisson(4))
        corner, side = random.uniform(0, SIDE - 80, (count, 2)), random.uniform(25, 80, (count, 1))
        boxes = np.concatenate([corner, corner + side * random.uniform(0.8, 1.25, (count, 2))], 1)
        copies = boxes[random.random(count) < 0.3]
        copies = copies + random.uniform(0.12, 0.22, (len(copies), 1)) * (copies[:, 2:3] - copies[:, :1])
        boxes = np.concatenate([boxes, copies]).astype(np.float32)
        labels = random.integers(0, len(LABELS), len(boxes))
        area = (boxes[:, 2:] - boxes[:, :2]).prod(1)
        records.append(Record(number, "", (SIDE, SIDE), boxes, labels, np.zeros(len(boxes), bool), area))
        image = random.normal(0, 0.7)  # what makes objects of one image alike
        hardness.append(image + random.normal(0, 1, len(boxes)))
    return DetectionData(records, LABELS, (0, 1), Path("."), "val", "coco"), hardness


def detections(
    random: np.random.Generator, data: DetectionData, hardness: list[np.ndarray], skill: float
) -> Mapping[int | str, Detections]:
    """skill: the higher, the more objects are found, the better they are placed, and the surer they are."""
    found: dict[int | str, Detections] = {}
    for record, hard in zip(data.records, hardness, strict=True):
        logit = skill - hard + random.normal(0, 0.5, len(hard))
        seen = logit > 0
        noise = random.normal(0, 1, (seen.sum(), 4)) * (5 - skill)
        alarms = int(random.poisson(2))
        corner = random.uniform(0, SIDE - 80, (alarms, 2))
        boxes = np.concatenate([record.boxes[seen] + noise, np.concatenate([corner, corner + 50], 1)])
        scores = np.concatenate([logit[seen], random.normal(-0.5, 1, alarms)])
        labels = np.concatenate([record.labels[seen], random.integers(0, len(LABELS), alarms)])
        found[record.id] = Detections(
            torch.from_numpy(boxes), torch.from_numpy(1 / (1 + np.exp(-scores))), torch.from_numpy(labels)
        )
    return found


def measured(judged: Judged, weights: np.ndarray) -> dict[str, np.ndarray]:
    """Of MEASURES, [R] each: as `Judged.values`, which takes longer for measuring all."""
    every = [one._replace(taken=one.taken[:1], objects=one.objects[:1]) for one in judged.matched]
    precision = average_precision(every, weights)[0]
    recall = weighted_recall(judged.alarms, judged.groups, weights)
    rows = (precision.mean(0), precision[0], recall.at_fppi1[0], recall.at_fppi1[1])
    return dict(zip(MEASURES, (*rows, judged.tallies.calibration_error(weights)), strict=True))


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repetitions", type=int, default=200)
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--resamples", type=int, default=400)
    parser.add_argument("--seeds", type=int, nargs="+", default=(1, 3))
    parser.add_argument("--spread", type=float, default=0.08, help="Of the runs' skill.")
    parser.add_argument("--null", action="store_true", help="B is as A.")
    options = parser.parse_args()
    skills = (1.0, 1.0 if options.null else 1.3)
    nothing = dict.fromkeys(MEASURES, 0.0)
    truth = nothing if options.null else true_differences(np.random.default_rng(0), skills)
    least = 0.95 - 0.03 - 2 * math.sqrt(0.95 * 0.05 / options.repetitions)
    failed = False
    for seeds in options.seeds:
        random = np.random.default_rng(seeds)
        found = [repetition(random, skills, seeds, options) for _ in range(options.repetitions)]
        print(f"seeds: {seeds}; {options.images} images, {options.repetitions} repetitions")
        for name in MEASURES:
            rows = [one[name] for one in found]
            covered = float(np.mean([row.low <= truth[name] <= row.high for row in rows]))
            width = 100 * float(np.mean([row.high - row.low for row in rows]))
            shown = float(np.mean([row.shown for row in rows]))
            failed = failed or covered < least
            print(
                f"  {name:36} truth {100 * truth[name]:+5.2f}  covered {covered:6.1%}  width {width:4.1f}"
                f"  shown {shown:6.1%}",
                flush=True,
            )
    return int(failed)


def true_differences(random: np.random.Generator, skills: tuple[float, float]) -> dict[str, float]:
    data, hardness = scenes(random, TRUE_IMAGES)
    once = np.ones((len(data), 1))
    first, second = (
        measured(judge(data, detections(random, data, hardness, skill)), once) for skill in skills
    )
    return {name: float((second[name] - first[name])[0]) for name in MEASURES}


def repetition(
    random: np.random.Generator, skills: tuple[float, float], seeds: int, options: argparse.Namespace
) -> dict[str, Interval]:
    """One run is of the mean skill: its difference is that of these weights. Of several each has its own."""
    data, hardness = scenes(random, options.images)
    members = {measure.key: measure.members for measure in measures_of(pair_up(data, {}))}
    weights = resamples(np.arange(options.images), options.resamples, seed=0)
    arms = []
    for skill in skills:
        own = skill + random.normal(0, options.spread if seeds > 1 else 0, seeds)
        arms.append([measured(judge(data, detections(random, data, hardness, one)), weights) for one in own])
    differences = {
        name: np.stack([b[name] - a[name] for a, b in zip(*arms, strict=True)]) for name in MEASURES
    }
    return {
        name: intervals([difference], int(members[name].sum()), seed=0)[0]
        for name, difference in differences.items()
    }


if __name__ == "__main__":
    sys.exit(main())
