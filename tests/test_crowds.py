"""What is measured of crowds, against counts in plain Python that share no code with it."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.ops import batched_nms, nms

from hsvdet.boxes import xyxy_to_cxcywh
from hsvdet.data.check import check_data
from hsvdet.data.dataset import DetectionData, Record
from hsvdet.data.nms_ceiling import nms_ceiling
from hsvdet.data.scenes import write_scenes
from hsvdet.detector import create
from hsvdet.evaluate import evaluate_detections
from hsvdet.evaluate.deduplicate import perfectly_deduplicated
from hsvdet.evaluate.report import occlusion_figure
from hsvdet.structures import DenseOutput, Detections, Prediction
from hsvdet.validation import val

CLASSES = ("a", "b", "c")


def crowded_images(
    seed: int, images: int = 12, classes: int = 3
) -> tuple[DetectionData, dict[int, Detections]]:
    """Objects in heaps, some of them crowd regions; detections around them and elsewhere, with tied scores; an
    image without objects, one without detections."""
    random = np.random.default_rng(seed)
    records, found = [], {}
    for image in range(images):
        count = int(random.integers(1, 30)) if image else 0
        centre = random.uniform(20, 180, (max(1, count // 4), 2))[
            random.integers(0, max(1, count // 4), count)
        ]
        corner, side = centre + random.normal(0, 8, (count, 2)), random.uniform(15, 40, (count, 2))
        boxes = np.concatenate([corner, corner + side], 1).astype(np.float32)
        labels, crowd = random.integers(0, classes, count), random.random(count) < 0.1
        records.append(Record(image, "", (240, 240), boxes, labels, crowd, side.prod(1).astype(np.float32)))
        if image == 1:
            continue
        around = np.repeat(boxes, 2, 0) + random.normal(0, 3, (2 * count, 4))
        noise = random.uniform(0, 150, (8, 2))
        guess = np.concatenate([around, np.concatenate([noise, noise + random.uniform(10, 60, (8, 2))], 1)])
        guess[:, 2:] = np.maximum(guess[:, 2:], guess[:, :2] + 1)
        classes_of = np.concatenate([np.repeat(labels, 2), random.integers(0, classes, 8)])
        scores = np.sort(random.integers(1, 40, len(guess)) / 40)[::-1].copy()
        order = random.permutation(len(guess))
        found[image] = Detections(
            torch.from_numpy(guess[order]).float(),
            torch.from_numpy(scores),
            torch.from_numpy(classes_of[order]),
        )
    return DetectionData(records, CLASSES[:classes], tuple(range(classes)), Path(), "val", "coco"), found


def iou(a, b) -> float:
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - width * height
    return width * height / union if union > 0 else 0.0


def inside(a, b) -> float:
    """The share of a in b."""
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    return width * height / ((a[2] - a[0]) * (a[3] - a[1]))


def found_and_wrong(data: DetectionData, found: dict[int, Detections], over: float):
    """Of the detections that score over `over`: the (image, object) found, and the number of false positives."""
    hits, alarms = set(), 0
    for record in data.records:
        if record.id not in found:
            continue
        boxes, scores, labels = (part.tolist() for part in found[record.id])
        truth = record.boxes.tolist()
        for box, score, label in sorted(zip(boxes, scores, labels, strict=True), key=lambda row: -row[1]):
            if score <= over:
                continue
            own = [n for n in range(len(truth)) if record.labels[n] == label]
            best, best_iou = None, 0.5
            for n in own:
                if record.crowd[n] or (record.id, n) in hits or iou(box, truth[n]) < best_iou:
                    continue
                best, best_iou = n, iou(box, truth[n])
            if best is not None:
                hits.add((record.id, best))
            elif not any(record.crowd[n] and inside(box, truth[n]) >= 0.5 for n in own):
                alarms += 1
    return hits, alarms


def recall_of(hits: set, members: list) -> float:
    return sum(member in hits for member in members) / len(members) if members else math.nan


@pytest.mark.parametrize("seed", range(6))
def test_recall_at_one_false_positive_an_image_equals_a_count_in_plain_python(seed):
    data, found = crowded_images(seed)
    scores = sorted({score for answer in found.values() for score in answer.scores.tolist()})
    # The lowest threshold with at most one false positive an image, by trying all of them.
    over = next(s for s in [-1.0, *scores] if found_and_wrong(data, found, s)[1] <= len(data.records))
    hits, alarms = found_and_wrong(data, found, over)
    every = found_and_wrong(data, found, -1.0)[0]
    recalls = evaluate_detections(data, found).recalls
    assert recalls.score_at_fppi1 == over and recalls.fppi == alarms / len(data.records)

    objects = [(r.id, n) for r in data.records for n in range(len(r.labels)) if not r.crowd[n]]
    assert (recalls.recall, recalls.recall_at_fppi1) == pytest.approx(
        (recall_of(every, objects), recall_of(hits, objects))
    )
    boxes = {(r.id, n): r.boxes[n].tolist() for r in data.records for n in range(len(r.labels))}
    nearest = {
        one: max((iou(boxes[one], boxes[o]) for o in objects if o[0] == one[0] and o != one), default=0)
        for one in objects
    }
    for bin in [*recalls.occlusion, recalls.occluded]:
        members = [one for one in objects if bin.low <= nearest[one] < bin.high]
        assert bin.objects == len(members)
        assert (bin.recall, bin.recall_at_fppi1) == pytest.approx(
            (recall_of(every, members), recall_of(hits, members)), nan_ok=True
        )
    assert sum(bin.objects for bin in recalls.occlusion) == len(objects)
    count = {r.id: sum(one[0] == r.id for one in objects) for r in data.records}
    for bin in recalls.by_count:
        images = [id for id, number in count.items() if bin.fewest <= number <= bin.most]
        members = [one for one in objects if one[0] in images]
        assert (bin.images, bin.objects) == (len(images), len(members))
        assert (bin.recall, bin.recall_at_fppi1) == pytest.approx(
            (recall_of(every, members), recall_of(hits, members))
        )
    assert sum(bin.objects for bin in recalls.by_count) == len(objects)


def test_where_false_positives_are_fewer_than_images_every_detection_counts():
    data, found = crowded_images(0)
    few = {image: Detections(*(part[:1] for part in answer)) for image, answer in found.items()}
    recalls = evaluate_detections(data, few).recalls
    hits, alarms = found_and_wrong(data, few, -1.0)
    assert 0 < alarms <= len(data.records) and math.isnan(recalls.score_at_fppi1)
    assert recalls.recall_at_fppi1 == recalls.recall > 0 and recalls.fppi == alarms / len(data.records)


def heaps(images: int, objects: int) -> list[Record]:
    """Objects of three classes around the middle of each image, some crowd regions."""
    random = np.random.default_rng(0)
    records = []
    for image in range(images):
        corner = random.normal(100, 10, (objects, 2))
        boxes = np.concatenate([corner, corner + random.uniform(30, 40, (objects, 2))], 1).astype(np.float32)
        labels, crowd = random.integers(0, 3, objects), random.random(objects) < 0.1
        records.append(Record(image, "", (240, 240), boxes, labels, crowd, np.ones(objects, np.float32)))
    return records


def test_the_nms_ceiling_is_what_torchvision_deletes_of_the_true_boxes():
    records, ious = heaps(images=40, objects=30), (0.5, 0.6, 0.7, 0.8)
    random = torch.Generator().manual_seed(0)
    deleted, total = np.zeros((4, 2)), 0
    for _ in range(5):
        for record in records:
            boxes = torch.from_numpy(record.boxes[~record.crowd])
            labels = torch.from_numpy(record.labels[~record.crowd])
            scores = torch.rand(len(boxes), generator=random)
            total += len(boxes)
            for row, iou in enumerate(ious):
                kept = len(batched_nms(boxes, scores, labels, iou)), len(nms(boxes, scores, iou))
                deleted[row] += len(boxes) - np.array(kept)
    found = nms_ceiling(records)
    assert [row.iou for row in found] == list(ious) and found == nms_ceiling(records)
    assert (deleted / total).min() > 0.02
    np.testing.assert_allclose([row[1:] for row in found], deleted / total, atol=0.015)


def test_the_nms_ceiling_of_pairs_is_half_of_them_whatever_the_order():
    pair = np.float32(
        [[0, 0, 10, 10], [0, 0, 10, 7.5], [50, 50, 60, 60], [50, 50, 60, 57.5], [90, 90, 99, 99]]
    )
    record = Record(0, "", (100, 100), pair, np.array([0, 0, 0, 1, 0]), np.zeros(5, bool), pair[:, 2])
    assert nms_ceiling([record], (0.7, 0.75)) == (
        (0.7, 0.2, 0.4),
        (0.75, 0, 0),
    )  # an IoU equal to it may stay
    crowd = record._replace(crowd=np.array([0, 1, 0, 1, 0], bool))
    assert nms_ceiling([crowd], (0.7,)) == ((0.7, 0, 0),)
    assert all(math.isnan(share) for share in nms_ceiling([], (0.7,))[0][1:])


def test_data_check_says_what_suppression_would_delete(tmp_path):
    folder = write_scenes(tmp_path / "scenes", train=4, val=1, test=0, size=(128, 128), objects=(6, 12))
    report = check_data(folder, "train")
    shares = report.to_json()["splits"]["train"]["nms_ceiling"]
    assert [row["iou"] for row in shares] == [0.5, 0.6, 0.7, 0.8] and 0 < shares[0]["class_wise"] < 0.5
    assert f"NMS would delete   {100 * shares[0]['class_wise']:.1f}, " in report.summary()


def test_in_a_crowd_the_true_boxes_are_duplicates_too():
    data, found = crowded_images(3)
    evaluation = evaluate_detections(data, found)
    counts = [
        sum(
            record.labels[m] == record.labels[n]
            and iou(record.boxes[m].tolist(), record.boxes[n].tolist()) >= 0.5
            for m in np.flatnonzero(~record.crowd)
        )
        for record in data.records
        for n in np.flatnonzero(~record.crowd)
    ]
    assert max(counts) > 1 and evaluation.duplicates_of_truth == (len(counts), np.mean(counts), max(counts))
    as_found = {
        r.id: Detections(torch.from_numpy(r.boxes), torch.ones(len(r.labels)), torch.from_numpy(r.labels))
        for r in (
            record._replace(boxes=record.boxes[~record.crowd], labels=record.labels[~record.crowd])
            for record in data.records
        )
    }
    assert evaluate_detections(data, as_found).duplicates_after == evaluation.duplicates_of_truth


def deduplicated_by_loops(boxes, scores, labels, truth, truth_labels) -> list[int]:
    strongest, alarms = {}, []
    for n in sorted(range(len(boxes)), key=lambda n: -scores[n]):
        own = [iou(boxes[n], truth[m]) if labels[n] == truth_labels[m] else 0 for m in range(len(truth))]
        if max(own, default=0) >= 0.5:
            strongest.setdefault(own.index(max(own)), n)
        elif all(labels[n] != labels[m] or iou(boxes[n], boxes[m]) <= 0.5 for m in alarms):
            alarms.append(n)
    return sorted([*strongest.values(), *alarms], key=lambda n: -scores[n])


@pytest.mark.parametrize("seed", range(3))
def test_perfect_deduplication_keeps_the_strongest_of_each_object_and_suppresses_the_rest(seed):
    data, found = crowded_images(seed)
    kept, random = {}, torch.Generator().manual_seed(seed)
    for record in data.records:
        if record.id not in found:
            continue
        boxes, _, labels = found[record.id]
        scores = torch.rand(len(labels), generator=random, dtype=torch.float64)
        objects = (
            torch.from_numpy(record.boxes[~record.crowd]),
            torch.from_numpy(record.labels[~record.crowd]),
        )
        stays = perfectly_deduplicated(boxes, scores, labels, *objects)
        assert stays.tolist() == deduplicated_by_loops(
            *(part.tolist() for part in (boxes, scores, labels, *objects))
        )
        kept[record.id] = Detections(boxes[stays], scores[stays], labels[stays])
    evaluation = evaluate_detections(data, found, deduplicated=kept)
    assert sum(len(answer.scores) for answer in kept.values()) < evaluation.detections
    assert repr(evaluation.deduplicated) == repr(evaluate_detections(data, kept).recalls)


def test_objects_that_no_detection_is_left_for_are_counted_and_said():
    corners = np.array([(x, y) for x in range(0, 300, 20) for y in range(0, 200, 20)], dtype=np.float32)
    boxes = np.concatenate([corners, corners + 10], 1)  # 150
    labels = np.array([0] * 120 + [1] * 30)
    crowd = np.arange(150) >= 140
    records = [
        Record(1, "", (300, 300), boxes, labels, crowd, boxes[:, 2]),
        Record(2, "", (9, 9), boxes[:3], labels[:3], crowd[:3], boxes[:3, 2]),
    ]
    data = DetectionData(records, CLASSES, (0, 1, 2), Path(), "val", "coco")
    evaluation = evaluate_detections(data, {}, max_detections=130)
    assert (evaluation.beyond_max_detections, evaluation.beyond_coco) == ((1, 10), (1, 20))
    assert "1 image has 10 (7.0% of all) objects more than the 130 detections" in evaluation.table()
    assert (
        "1 image has 20 (14.0% of all) objects more than the 100 detections of a class" in evaluation.table()
    )
    quiet = evaluate_detections(data, {}, max_detections=140)
    assert quiet.beyond_max_detections == (0, 0) and "an image can have" not in quiet.table()
    assert evaluate_detections(data, {}).max_detections is None


def test_every_key_of_metrics_json_is_documented():
    text = Path(__file__).parents[1].joinpath("docs/evaluation.md").read_text()
    documented = set(re.findall(r"`(\w+)`", text.split("## metrics.json")[1].split("\n## ")[0]))
    data, found = crowded_images(0)
    evaluation = evaluate_detections(data, found, deduplicated=found, suppressed_at=0.7)
    sides = {f"{what}_{side}" for what in ("ap", "ar") for side in ("small", "medium", "large")}
    keys = (
        set(evaluation.to_json()) - sides - {"ar1", "ar10", "ar100"}
    )  # COCO's twelve, by their first and last
    assert keys <= documented
    for rows in ("occlusion", "by_count", "nms_ceiling", "classes"):
        assert set(evaluation.to_json()[rows][0]) <= documented


class Repeating(torch.nn.Module):
    """Answers each image in turn with the predictions given: boxes [Q, 4] in fractions, logits [Q, C]."""

    def __init__(self, answers: list[Prediction]):
        super().__init__()
        self.nothing = torch.nn.Parameter(torch.zeros(1))
        self.answers = iter(answers)

    def forward(self, images, padding=None, targets=None):
        return DenseOutput(next(self.answers), *[torch.zeros(0)] * 4)


def test_val_says_what_suppression_costs_and_what_perfect_deduplication_would_find(tmp_path):
    """Two images: at the edge of each a pair at IoU 0.78 of one class, each found, beyond the edge as well, and each
    with a duplicate."""
    pair = np.float32([[0, 8, 32, 40], [0, 8, 32, 33]])
    records = [
        Record(i, str(tmp_path / f"{i}.png"), (64, 64), pair, np.array([1, 1]), np.zeros(2, bool), pair[:, 2])
        for i in range(2)
    ]
    for record in records:
        Image.new("RGB", (64, 64)).save(record.path)
    data = DetectionData(records, ("dark", "light"), (1, 2), tmp_path, "val", "coco")
    beyond = pair - np.float32([40, 0, 0, 0])
    boxes = xyxy_to_cxcywh(torch.from_numpy(np.concatenate([beyond, beyond + 1, [[50, 50, 60, 60]]]))) / 64
    scores = torch.tensor([[0.05, 0.9], [0.05, 0.8], [0.05, 0.7], [0.05, 0.6], [0.3, 0.05]])
    answers = [Prediction(scores.logit()[None], boxes.float()[None])] * 2
    found = {}
    for name in ("yolov8-n", "rt-detr-r18"):
        detector = create("yolov8-n", data.labels, size=(64, 64), options={"width": 0.0625})
        detector = replace(detector, name=name, net=Repeating(answers))
        found[name] = val(detector, data, batch=1, workers=0, device="cpu", score=0.2, diagnose=True)
        assert found[name].max_detections == 5  # there are no more predictions
    dense, query = found["yolov8-n"], found["rt-detr-r18"]
    assert (dense.suppressed_at, query.suppressed_at) == (0.7, None)
    assert dense.recalls.recall == 0.5 and query.recalls.recall == 1
    ceiling = "NMS at IoU 0.7 would delete 50.0% (50.0% at 0.5, 50.0% at 0.6, 0.0% at 0.8) of the true boxes"
    for evaluation, end in ((dense, ""), (query, "; this detector has no NMS")):
        assert ceiling + end in evaluation.table().splitlines()
        titles = [axes.get_title() for axes in occlusion_figure(evaluation).axes]
        assert "NMS at 0.7" in titles[0] and "delete" in titles[0] and "50.0% of the true boxes" in titles[0]
    for evaluation in found.values():
        assert evaluation.duplicates_before == (4, 4, 4) and evaluation.duplicates_of_truth == (4, 2, 2)
        ideal = evaluation.deduplicated
        assert ideal is not None and (ideal.recall, ideal.recall_at_fppi1, ideal.fppi) == (1, 1, 1)
