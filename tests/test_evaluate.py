"""Evaluation against pycocotools, a second implementation by others, and against cases counted by hand."""

from __future__ import annotations

import contextlib
import io
import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from hsvdet.data.dataset import DetectionData, Record
from hsvdet.errors import DataError, NonFiniteError
from hsvdet.evaluate import duplicates_per_object, evaluate_detections, merge_by_image, write_report
from hsvdet.evaluate.average_precision import STATS
from hsvdet.evaluate.pairing import IGNORED, UNMATCHED, match, match_within_class, pair_up
from hsvdet.structures import Detections

CLASSES = 4


def detections(rows: list[tuple]) -> Detections:
    """Rows of (x, y, x, y, score, class)."""
    table = torch.tensor(rows, dtype=torch.float64).reshape(-1, 6)
    table = table[table[:, 4].argsort(descending=True, stable=True)]
    return Detections(table[:, :4].float(), table[:, 4].float(), table[:, 5].long())


def record(image_id, boxes, labels, crowd=None, area=None, visibility=None) -> Record:
    boxes = np.array(boxes, dtype=np.float32).reshape(-1, 4)
    sides = boxes[:, 2:] - boxes[:, :2]
    crowd = np.zeros(len(boxes), dtype=bool) if crowd is None else np.array(crowd, dtype=bool)
    area = sides.prod(1) if area is None else np.array(area, dtype=np.float32)
    return Record(image_id, "", (400, 400), boxes, np.array(labels, dtype=np.int64), crowd, area, visibility)


def split(records, tmp_path, labels=("a", "b", "c", "d")) -> DetectionData:
    return DetectionData(records, labels, tuple(range(len(labels))), tmp_path, "val", "coco")


def crowded_scenes(seed: int, images: int = 24) -> tuple[list[Record], dict[int, Detections]]:
    """Overlapping objects of all sizes with crowd regions and areas of their own, tied scores, an image
    without objects, one without detections, one with over 100 detections of a class. Class 3 has none."""
    random = np.random.default_rng(seed)
    records, found = [], {}
    for image_id in random.permutation(images * 3)[:images].tolist():
        count = int(random.integers(1, 12)) if len(records) else 0
        corner = random.uniform(0, 250, (count, 2))
        if count > 3:
            corner[1::2] = corner[: count // 2 * 2 : 2] + random.uniform(-25, 25, (count // 2, 2))
        boxes = np.concatenate([corner, corner + np.exp(random.uniform(1.5, 5, (count, 2)))], 1)
        boxes[1::3] = boxes[: len(boxes[1::3]) * 3 : 3] + random.uniform(-9, 9, (len(boxes[1::3]), 4))
        boxes[:, 2:] = np.maximum(boxes[:, 2:], boxes[:, :2] + 2)
        labels = random.integers(0, CLASSES - 1, count)
        area = (boxes[:, 2:] - boxes[:, :2]).prod(1) * random.uniform(0.4, 1, count)
        seen = random.random(count).astype(np.float32)
        records.append(record(image_id, boxes, labels, random.random(count) < 0.1, area, seen))
        if len(records) == 2:
            continue
        copies = 40 if len(records) == 3 else 3
        guess = np.repeat(boxes, copies, 0) + random.normal(0, 6, (count * copies, 4))
        guess[:, 2:] = np.maximum(guess[:, 2:], guess[:, :2] + 1)
        noise = random.uniform(0, 300, (10, 2))
        guess = np.concatenate([guess, np.concatenate([noise, noise + random.uniform(5, 90, (10, 2))], 1)])
        classes = np.concatenate([np.repeat(labels, copies), random.integers(0, CLASSES, 10)])
        if len(records) == 3:
            classes[:] = 0
        scores = random.integers(1, 20, len(guess)) / 20
        found[image_id] = detections(np.column_stack([guess, scores, classes]).tolist())
    return records, found


def pycocotools_run(records, found, ignored=None, most=100):
    """COCOeval after evaluate and accumulate. ignored: {image id: [N] bool}, objects to set aside. most: how many
    detections of an image and class may count."""
    coco = pytest.importorskip("pycocotools.coco")
    cocoeval = pytest.importorskip("pycocotools.cocoeval")

    class Evaluator(cocoeval.COCOeval):
        def _prepare(self):
            super()._prepare()
            for objects in self._gts.values():
                for item in objects:
                    item["ignore"] = item["iscrowd"] or (ignored and ignored[item["image_id"]][item["place"]])

    def index(annotations):
        tables = coco.COCO()
        images = [{"id": item.id} for item in records]
        categories = [{"id": c} for c in range(CLASSES)]
        tables.dataset = {"images": images, "categories": categories, "annotations": annotations}
        tables.createIndex()
        return tables

    def annotation(image_id, xyxy, label, **more):
        x, y, right, bottom = (float(value) for value in xyxy)
        box = [x, y, right - x, bottom - y]
        return {"image_id": image_id, "category_id": int(label), "bbox": box, **more}

    truth = [
        annotation(
            r.id, r.boxes[i], r.labels[i], iscrowd=int(r.crowd[i]), area=float(r.area[i]), place=i, id=0
        )
        for r in records
        for i in range(len(r.labels))
    ]
    guesses = [
        annotation(image_id, box, label, score=float(score), id=0)
        for image_id, answer in found.items()
        for box, score, label in zip(answer.boxes, answer.scores, answer.labels, strict=True)
    ]
    for i, item in enumerate(truth, start=1):
        item["id"] = i
    for i, item in enumerate(guesses, start=1):
        item.update(id=i, area=item["bbox"][2] * item["bbox"][3])
    with contextlib.redirect_stdout(io.StringIO()):
        evaluator = Evaluator(index(truth), index(guesses), "bbox")
        evaluator.params.maxDets = [1, 10, most]
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    return evaluator


def mean_known(values: np.ndarray) -> float:
    return values[values > -1].mean() if (values > -1).any() else float("nan")


@pytest.mark.parametrize("seed", range(4))
def test_average_precision_equals_pycocotools(seed, tmp_path):
    records, found = crowded_scenes(seed)
    assert max(torch.bincount(answer.labels).max() for answer in found.values()) > 100
    evaluation = evaluate_detections(split(records, tmp_path), found)
    reference = pycocotools_run(records, found)
    stats = [evaluation.stats[name] for name in STATS]
    np.testing.assert_allclose(stats, np.where(reference.stats < 0, np.nan, reference.stats), atol=1e-9)
    precision = reference.eval["precision"][..., 0, -1]
    for c, scores in enumerate(evaluation.classes):
        expected = [mean_known(precision[:, :, c]), mean_known(precision[0, :, c])]
        expected.append(mean_known(reference.eval["recall"][:, c, 0, -1]))
        np.testing.assert_allclose([scores.ap, scores.ap50, scores.ar100], expected, atol=1e-9)
    assert math.isnan(evaluation.classes[3].ap)
    np.testing.assert_allclose(evaluation.precision[:3], precision[0, :, :3].T, atol=1e-9)


def largest_iou_by_loops(item: Record) -> list[float]:
    def iou(a, b):
        a, b = [float(v) for v in a], [float(v) for v in b]
        width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
        height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
        union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - width * height
        return width * height / union

    real = [i for i in range(len(item.labels)) if not item.crowd[i]]
    return [
        max((iou(item.boxes[i], item.boxes[j]) for j in real if j != i), default=0.0) if i in real else 0.0
        for i in range(len(item.labels))
    ]


@pytest.mark.parametrize("seed", range(2))
def test_occlusion_bins_equal_pycocotools_with_the_other_objects_ignored(seed, tmp_path):
    records, found = crowded_scenes(seed, images=40)
    evaluation = evaluate_detections(split(records, tmp_path), found)
    occlusion = {item.id: np.array(largest_iou_by_loops(item)) for item in records}

    # Who was found, with which score, by pycocotools' matching at IoU 0.5 among all objects.
    plain = pycocotools_run(records, found, most=1000)
    truth, guesses = plain.cocoGt.anns, plain.cocoDt.anns
    found_score, false_positives = {}, []
    for image in (image for image in plain.evalImgs if image and image["aRng"] == [0, 1e10]):
        for guess, taken, ignore in zip(
            image["dtIds"], image["dtMatches"][0], image["dtIgnore"][0], strict=True
        ):
            if taken and not ignore:
                found_score[int(taken)] = guesses[guess]["score"]
            elif not ignore:
                false_positives.append(guesses[guess]["score"])
    threshold = sorted(false_positives, reverse=True)[len(records)]
    assert evaluation.recalls.score_at_fppi1 == threshold

    assert sum(bin.objects for bin in evaluation.occlusion) == evaluation.objects
    assert all(bin.objects for bin in evaluation.occlusion[:5])
    for bin in evaluation.occlusion:
        outside = {
            image_id: (values < bin.low) | ((values >= bin.high) if bin.high < 1 else False)
            for image_id, values in occlusion.items()
        }
        precision = pycocotools_run(records, found, outside).eval["precision"][..., 0, -1]
        np.testing.assert_allclose(
            [bin.ap, bin.ap50], [mean_known(precision), mean_known(precision[0])], atol=1e-9
        )
        members = [
            item["id"]
            for item in truth.values()
            if not item["iscrowd"] and not outside[item["image_id"]][item["place"]]
        ]
        assert bin.objects == len(members)
        if members:
            assert bin.recall == pytest.approx(np.mean([i in found_score for i in members]))
            strong = [found_score.get(i, 0) > threshold for i in members]
            assert bin.recall_at_fppi1 == pytest.approx(np.mean(strong))

    for bin, low, high in zip(
        evaluation.recalls.by_size, (0, 32**2, 96**2), (32**2, 96**2, 1e9), strict=True
    ):
        members = [
            item["id"] for item in truth.values() if not item["iscrowd"] and low <= item["area"] < high
        ]
        assert bin.objects == len(members) > 0
        assert bin.recall == pytest.approx(np.mean([i in found_score for i in members]))
        assert bin.recall_at_fppi1 == pytest.approx(
            np.mean([found_score.get(i, 0) > threshold for i in members])
        )

    visibility = evaluation.recalls.visibility
    assert visibility is not None and sum(bin.objects for bin in visibility) == evaluation.objects


def test_only_boxes_that_occur_twice_open_the_last_occlusion_bin(tmp_path):
    alone = record(1, [[0, 0, 10, 10]], [0])
    twice = record(2, [[0, 0, 10, 10], [0, 0, 10, 10], [0, 0, 10, 10]], [0, 1, 2], crowd=[0, 0, 1])
    bins = evaluate_detections(split([alone], tmp_path), {}).occlusion
    assert [bin.objects for bin in bins] == [1, 0, 0, 0, 0] and math.isnan(bins[1].recall)
    bins = evaluate_detections(split([alone, twice], tmp_path), {}).occlusion
    assert (bins[-1].low, bins[-1].objects) == (0.9, 2)


def test_an_object_on_the_edge_of_two_occlusion_bins_is_in_the_upper_one(tmp_path):
    half = record(1, [[0, 0, 10, 10], [0, 0, 10, 5]], [0, 1])
    bins = evaluate_detections(split([half], tmp_path), {}).occlusion
    assert [bin.objects for bin in bins] == [0, 0, 0, 2, 0]
    assert math.isnan(bins[2].ap) and bins[3].ap == 0


def test_average_precision_counts_a_hundred_detections_of_a_class_and_recall_all_of_them(tmp_path):
    corners = np.array([(x, y) for x in range(0, 300, 20) for y in range(0, 200, 20)], dtype=float)
    boxes = np.concatenate([corners, corners + 10], 1)  # 150
    answer = detections([(*box, 0.5, 0) for box in boxes])
    evaluation = evaluate_detections(split([record(1, boxes, [0] * 150)], tmp_path), {1: answer})
    assert evaluation.stats["ar100"] == pytest.approx(2 / 3) and evaluation.recalls.recall == 1
    assert [(bin.fewest, bin.most, bin.recall_at_fppi1) for bin in evaluation.recalls.by_count] == [
        (101, 200, 1)
    ]


@pytest.mark.parametrize(("score", "recall"), [(0.75, 1.0), (0.65, 0.0)])
def test_recall_at_one_false_positive_per_image_counts_scores_above_the_next_one(score, recall, tmp_path):
    data = split([record(1, [[0, 0, 10, 10]], [0]), record(2, [], [])], tmp_path)
    alarms = [(200, 200, 220, 220, alarm, 1) for alarm in (0.9, 0.8, 0.7, 0.6)]
    evaluation = evaluate_detections(data, {1: detections([*alarms, (0, 0, 10, 10, score, 0)])})
    assert evaluation.recalls.score_at_fppi1 == pytest.approx(0.7)
    assert evaluation.occlusion[0].recall == 1 and evaluation.occlusion[0].recall_at_fppi1 == recall


def test_a_detection_takes_the_free_object_it_overlaps_most_and_the_later_of_equals():
    overlap = np.array([[0.6, 0.6, 0.9], [0.6, 0.7, 0.9], [0.5, 0.9, 0.9], [0.4, 0.4, 0.49]])
    crowd = np.array([False, False, True])
    assert match(overlap, crowd, 0.5).tolist() == [1, 0, IGNORED, UNMATCHED]


def test_no_detections_score_zero_and_no_objects_score_nothing(tmp_path):
    data = split([record(1, [[0, 0, 50, 50]], [0]), record(2, [], [])], tmp_path, labels=("only",))
    evaluation = evaluate_detections(data, {})
    assert evaluation.ap == evaluation.ap50 == 0 and evaluation.duplicates_after.objects == 0
    empty = evaluate_detections(split([record(1, [], [])], tmp_path), {1: detections([(0, 0, 9, 9, 0.5, 0)])})
    assert math.isnan(empty.ap) and empty.to_json()["ap"] is None
    assert "-" in empty.table()


def test_text_ids_and_perfect_detections(tmp_path):
    data = split(
        [record("b.jpg", [[0, 0, 50, 50]], [0]), record("a.jpg", [[5, 5, 9, 9]], [2], crowd=[1])], tmp_path
    )
    evaluation = evaluate_detections(data, {"b.jpg": detections([(0, 0, 50, 50, 0.9, 0)])})
    assert evaluation.ap == pytest.approx(1) and evaluation.objects == 1


@pytest.mark.parametrize(
    ("image_id", "row", "error", "what"),
    [
        (7, (0, 0, 9, 9, math.nan, 0), NonFiniteError, "image 7"),
        (7, (0, 0, math.inf, 9, 0.5, 0), NonFiniteError, "image 7"),
        (7, (0, 0, 9, 9, 0.5, 4), DataError, "class 4"),
        (8, (0, 0, 9, 9, 0.5, 0), DataError, "image 8"),
    ],
)
def test_detections_that_cannot_be_judged_are_refused_by_name(image_id, row, error, what, tmp_path):
    with pytest.raises(error, match=what):
        evaluate_detections(split([record(7, [], [])], tmp_path), {image_id: detections([row])})


def test_duplicates_are_close_boxes_of_the_right_class_with_a_score_that_matters():
    truth = torch.tensor([[0, 0, 10, 10], [100, 100, 120, 120], [50, 50, 60, 60]], dtype=torch.float32)
    labels = torch.tensor([0, 1, 0])
    boxes = torch.tensor(
        [
            [0, 0, 10, 10],  # the best of object 0
            [0, 0, 10, 9],  # a duplicate
            [0, 0, 10, 8],  # too weak
            [0, 0, 10, 4.9],  # too far
            [0, 1, 10, 10],  # of the other class
            [100, 100, 120, 120],  # of object 1, weak but its best
        ]
    )
    scores = torch.tensor([[0.8, 0], [0.25, 0], [0.23, 0], [0.9, 0], [0, 0.9], [0, 0.1]])
    assert duplicates_per_object(boxes, scores, truth, labels).tolist() == [2, 1, 0]
    assert duplicates_per_object(boxes[:0], scores[:0], truth, labels).tolist() == [0, 0, 0]
    assert duplicates_per_object(boxes, scores, truth[:0], labels[:0]).tolist() == []


def test_duplicates_before_and_after_suppression_are_both_reported(tmp_path):
    data = split([record(1, [[0, 0, 50, 50], [100, 100, 150, 150]], [0, 1])], tmp_path)
    answer = detections([(0, 0, 50, 50, 0.9, 0), (0, 0, 50, 48, 0.5, 0), (0, 0, 50, 50, 0.9, 1)])
    evaluation = evaluate_detections(data, {1: answer}, candidates={1: torch.tensor([7, 2])})
    assert evaluation.duplicates_after == (1, 2.0, 2)
    assert evaluation.duplicates_before == (2, 4.5, 7)


def test_the_best_score_is_that_of_the_highest_f1_by_trying_all(tmp_path):
    records, found = crowded_scenes(3)
    data = split(records, tmp_path)
    evaluation = evaluate_detections(data, found)
    pairs = pair_up(data, found)
    matches = [match_within_class(pair) for pair in pairs]

    def tried(over, label=None):
        right = wrong = objects = 0
        for pair, taken in zip(pairs, matches, strict=True):
            for score, own, matched in zip(pair.scores, pair.labels, taken, strict=True):
                if score > over and label in (None, own):
                    right, wrong = right + (matched >= 0), wrong + (matched == UNMATCHED)
            objects += sum(label in (None, own) for own in pair.truth_labels[~pair.crowd])
        precision = right / (right + wrong) if right + wrong else math.nan
        return precision, right / objects, 2 * right / (right + wrong + objects)

    every = sorted({0.0, *np.concatenate([pair.scores for pair in pairs])})
    known = [label for label, scores in enumerate(evaluation.classes) if scores.objects]
    assert 1 < len(known) < CLASSES  # one class has nothing to find, and no score to take
    assert all(math.isnan(scores.score) for scores in evaluation.classes if not scores.objects)
    for label in (None, *known):
        point = evaluation.operating.best if label is None else evaluation.operating.by_class[label]
        assert point[1:] == pytest.approx(tried(point.score, label))
        assert point.f1 == pytest.approx(max(tried(over, label)[2] for over in every))
        assert point.score not in every  # between two of them
    for point in evaluation.operating.curve[::9]:
        assert point[1:] == pytest.approx(tried(point.score), nan_ok=True)
    assert f"best F1 {evaluation.operating.best.f1:.3f} at --score" in evaluation.table()
    assert len(evaluation.to_json()["operating"]["curve"]) == 100


def test_the_worst_images_come_first_and_are_drawn_beside_their_truth(tmp_path):
    records, found = crowded_scenes(3)
    for number, item in enumerate(records):
        Image.new("RGB", (640, 480), (number, 90, 90)).save(tmp_path / f"{number}.png")
        records[number] = item._replace(path=str(tmp_path / f"{number}.png"))
    data = split(records, tmp_path)
    evaluation = evaluate_detections(data, found)
    over = evaluation.operating.best.score
    counted = {}
    for item in records:
        one = replace(data, records=[item])
        pair = pair_up(one, {item.id: found[item.id]} if item.id in found else {})[0]
        taken = match_within_class(pair)[pair.scores > over]
        counted[item.id] = (int((~pair.crowd).sum() - (taken >= 0).sum()), int((taken == UNMATCHED).sum()))
    shown = [(one.id, (one.missed, one.wrong)) for one in evaluation.worst]
    assert len(shown) == 12 and all(counted[id_] == both for id_, both in shown)
    totals = [sum(both) for _, both in shown]
    assert totals == sorted(map(sum, counted.values()), reverse=True)[:12]
    assert all((one.found.scores > over).all() for one in evaluation.worst)
    (tmp_path / f"{[item.id for item in records].index(shown[0][0])}.png").unlink()  # gone since: left out
    files = write_report(evaluation, tmp_path / "out", data)
    with Image.open(files["worst.jpg"]) as picture:
        assert picture.width == 2 * 484 + 4 and picture.height == 11 * 364 + 4
    assert "worst.jpg" not in write_report(evaluation, tmp_path / "other")
    assert json.loads(files["metrics.json"].read_text())["worst"][0] == {
        "id": shown[0][0], "missed": shown[0][1][0], "wrong": shown[0][1][1],
    }  # fmt: skip


def test_confusion_matrix_counts_every_object_and_every_detection_once(tmp_path):
    first = record(1, [[0, 0, 20, 20], [2, 0, 22, 20], [60, 60, 80, 80]], [0, 1, 2])
    second = record(2, [[0, 0, 40, 40]], [1], crowd=[1])
    found = {
        1: detections(
            [
                (
                    2,
                    0,
                    22,
                    20,
                    0.9,
                    0,
                ),  # lies best on the object of class 1, but is of class 0 and finds that
                (60, 60, 80, 78, 0.8, 1),  # class 2 taken for class 1
                (200, 200, 220, 220, 0.7, 2),  # nothing there
                (0, 0, 20, 20, 0.2, 0),  # below the score
            ]
        ),
        2: detections([(5, 5, 15, 15, 0.9, 1), (5, 5, 15, 15, 0.9, 0)]),  # in a crowd of class 1
    }
    matrix = evaluate_detections(split([first, second], tmp_path, ("a", "b", "c")), found).confusion
    assert matrix.tolist() == [
        [1, 0, 0, 0],
        [0, 0, 0, 1],
        [0, 1, 0, 0],
        [1, 0, 1, 0],
    ]


def test_repeated_images_of_a_distributed_sampler_count_once():
    assert merge_by_image([{1: "a", 2: "b"}, {3: "c", 1: "again"}]) == {1: "a", 2: "b", 3: "c"}


def test_report_has_numbers_and_readable_pictures_for_any_class_names(tmp_path):
    records, found = crowded_scenes(0, images=6)
    names = ("_private", "$x^2$", "红细胞 cell", "a very long name that would push the picture away")
    evaluation = evaluate_detections(split(records, tmp_path, names), found)
    files = write_report(evaluation, tmp_path / "out" / "deep")
    metrics = json.loads(files["metrics.json"].read_text())
    assert metrics["ap"] == evaluation.ap and [row["name"] for row in metrics["classes"]] == list(names)
    assert metrics["classes"][3]["ap"] is None
    rows = files["per_class.csv"].read_text().splitlines()
    assert len(rows) == 5 and rows[4].endswith("away,0,,,,,")
    for name in ("confusion.png", "pr.png", "score.png", "occlusion.png"):
        with Image.open(files[name]) as picture:
            assert min(picture.size) > 400 and len(np.unique(np.asarray(picture))) > 20
    assert sorted(path.name for path in (tmp_path / "out" / "deep").iterdir()) == sorted(files)


def test_report_of_many_classes_without_any_object(tmp_path):
    labels = tuple(f"class {i}" for i in range(80))
    files = write_report(evaluate_detections(split([record(1, [], [])], tmp_path, labels), {}), tmp_path)
    assert all(path.stat().st_size for path in files.values())
