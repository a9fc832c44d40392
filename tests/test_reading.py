"""How an answer is read: each reading, eager and in the fixed shapes of a graph."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from torchvision.ops import batched_nms, box_convert, clip_boxes_to_image, nms

from hsvdet.deploy.suppression import suppress, suppress_in_rounds
from hsvdet.errors import ConfigError
from hsvdet.models import MODELS
from hsvdet.postprocess import (
    BestClass,
    GraphSuppression,
    Suppressed,
    Thresholds,
    TopPairs,
    non_maximum_suppression,
)
from hsvdet.runtime import Runner
from hsvdet.structures import Prediction
from test_seal import HEADER

SIZE = (100, 200)
CLASSES = 3


def answer(predictions=40, columns=CLASSES, seed=0, spread=1.0):
    """Predictions with crowds of overlapping boxes. columns: of the logits."""
    generator = torch.Generator().manual_seed(seed)
    objects = torch.rand(predictions // 8, 4, generator=generator)[torch.arange(predictions) // 8]
    boxes = objects * torch.tensor([1, 1, 0.4, 0.4]) * spread + (1 - spread) / 2
    boxes = (boxes + 0.02 * torch.randn(predictions, 4, generator=generator)).abs()
    return Prediction(2 * torch.randn(1, predictions, columns, generator=generator), boxes[None])


def test_every_row_reads_by_the_number_of_its_paper():
    kept = {name: row.reading.max_detections for name, row in MODELS.items()}
    hundred = {name for name, most in kept.items() if most == 100}
    papers = {"Anchor DETR", "Conditional DETR", "Deformable DETR", "Efficient DETR", "Sparse DETR"}
    assert {MODELS[name].family for name in hundred} == papers
    assert all(kept[name] == 300 for name in MODELS if name not in hundred)
    logits = torch.randn(1, 300, 91)
    (found,) = MODELS["deformable-detr-r50"].reading.detections(
        Prediction(logits, torch.rand(1, 300, 4)), [SIZE], score=0.0
    )
    assert len(found.scores) == 100
    with pytest.raises(ConfigError, match="max_detections expects"):
        Suppressed().detections(answer(), [SIZE], max_detections=0)


def by_hand(given, iou):
    """As `Suppressed` should read it, by torchvision's own suppression; and how many boxes cross an edge."""
    scores, labels = given.logits[0].sigmoid().max(-1)
    boxes = box_convert(given.boxes[0], "cxcywh", "xyxy") * torch.tensor([200.0, 100, 200, 100])
    keep = batched_nms(boxes, scores, labels, iou)
    cut = clip_boxes_to_image(boxes[keep], SIZE)
    real = (cut[:, 2:] - cut[:, :2]).amin(1) > 0.01
    crossing = (cut != boxes[keep]).any(-1)
    return (cut[real], scores[keep][real], labels[keep][real]), int(crossing.sum()), int((~real).sum())


def test_boxes_are_suppressed_whole_and_then_cut_off_at_the_edges():
    crossing = beyond = 0
    for seed in range(40):
        given = answer(predictions=400, seed=seed, spread=1.3)
        expected, cut, outside = by_hand(given, 0.5)
        (found,) = Suppressed().detections(given, [SIZE], score=0.0, iou=0.5, max_detections=400)
        for mine, other in zip(found, expected, strict=True):
            torch.testing.assert_close(mine, other)
        crossing, beyond = crossing + cut, beyond + outside
    assert crossing > 1000 and beyond > 100


def test_two_objects_cut_by_the_edge_stay_two_and_what_lies_beyond_it_is_none():
    # Their visible parts are nearly the same; the objects overlap by a third.
    boxes = torch.tensor(
        [[-90.0, 0, 10, 50], [-40, 0, 10, 50], [-90, 0, -1, 50], [30, -9, 60, -1], [199.9999, 0, 250, 50]]
    )  # the last ends at the edge, but for rounding
    boxes = box_convert(boxes / torch.tensor([200.0, 100, 200, 100]), "xyxy", "cxcywh")[None]
    logits = torch.tensor(
        [[[3.0, -9, -9, -9], [2, -9, -9, -9], [-9, 4, -9, -9], [5, -9, -9, -9], [-9, -9, 6, -9]]]
    )
    sigmoids, softmax = Prediction(logits[..., :3], boxes), Prediction(logits, boxes)
    for reading, given in ((Suppressed(), sigmoids), (TopPairs(), sigmoids), (BestClass(), softmax)):
        (found,) = reading.detections(given, [SIZE], score=0.5)
        torch.testing.assert_close(found.boxes, torch.tensor([[0.0, 0, 10, 50]] * 2))
        assert found.labels.tolist() == [0, 0]
        (first,) = reading.detections(given, [SIZE], score=0.5, max_detections=1)
        assert first.scores.tolist() == found.scores[:1].tolist()


def test_where_scores_are_all_1_the_logits_decide():
    boxes = torch.tensor([[[0.5, 0.5, 0.4, 0.4], [0.5, 0.5, 0.42, 0.4], [0.2, 0.2, 0.1, 0.1]]])
    logits = torch.tensor([[[20.0, 30, -9], [-9, 40, -9], [18, 19, -9]]])
    given = Prediction(logits[0], boxes[0])
    for reading, multi_label, index, labels in (
        (Suppressed(), False, [1, 2], [1, 1]),
        (Suppressed(), True, [1, 0, 2, 2], [1, 0, 1, 0]),
        (TopPairs(), False, [1, 0, 0, 2, 2], [1, 1, 0, 1, 0]),
    ):
        chosen = reading.chosen(given, SIZE, Thresholds(0.5, 0.7, 300, multi_label))
        assert chosen.rows.tolist() == index and chosen.labels.tolist() == labels


def test_classes_do_not_suppress_one_another_however_many_boxes_begin_below_0():
    generator = torch.Generator().manual_seed(0)
    for count in (900, 1100):  # in one call, and class by class
        centre, side = (4000 * torch.rand(count, 2, generator=generator) - 200 for _ in range(2))
        side = side.abs() / 20 + 8
        boxes = torch.cat([centre - side, centre + side], 1)[torch.arange(count) // 2]
        boxes = boxes + torch.rand(count, 4, generator=generator)
        scores, labels = (
            torch.rand(count, generator=generator),
            torch.randint(80, (count,), generator=generator),
        )
        alone = [
            (labels == c)
            .nonzero()
            .squeeze(1)[nms(boxes[labels == c].double(), scores[labels == c].double(), 0.7)]
            for c in range(80)
        ]
        expected = torch.cat(alone)
        found = non_maximum_suppression(boxes, scores, labels, 0.7)
        assert found.tolist() == expected[scores[expected].argsort(descending=True)].tolist()
        assert len(found) < count


@pytest.mark.parametrize(
    "reading, columns",
    [(Suppressed(), CLASSES), (TopPairs(), CLASSES), (TopPairs(30), CLASSES), (BestClass(9), CLASSES + 1)],
)
def test_the_form_in_a_graph_reads_what_the_eager_form_reads(reading, columns):
    given = answer(columns=columns, spread=1.3)
    scale = torch.tensor([200.0, 100, 200, 100])
    boxes = box_convert(given.boxes, "cxcywh", "xyxy") * scale

    def boxes_at(index):
        return boxes.gather(1, index.unsqueeze(-1).expand(-1, -1, 4))

    (found,) = reading.detections(given, [SIZE], score=0.0)
    assert 5 < len(found.scores) <= reading.max_detections
    for kept in (suppress, suppress_in_rounds):
        suppression = GraphSuppression(4096, partial(kept, iou=0.7, floor=0.0))
        rows = reading.rows(given.logits, boxes_at, scale, reading.max_detections, suppression)
        real = rows.scores[0] > 0
        for mine, other in zip(found, rows, strict=True):
            torch.testing.assert_close(mine, other[0][real])
    candidates = reading.candidates(Prediction(*(part[0] for part in given)), SIZE, score=0.0)
    assert len(candidates.scores) == given.logits.shape[1] * CLASSES


def test_an_artifacts_detections_end_at_the_first_that_is_too_weak():
    """Rows are in the order of logits, and ONNX Runtime's sigmoid gives 6e-8 after 0."""
    boxes = np.zeros((1, 3, 4), np.float32) + [0, 0, 5, 5]
    rows = boxes, np.float32([[0.9, 0.0, 6e-8]]), np.int64([[1, -1, -1]]), np.int64([1])
    header = replace(HEADER, floor=0.0, max_detections=3)
    found = Runner(lambda images: rows, header, None, "")(np.zeros((9, 9, 3), np.uint8), score=0.0)
    assert found.labels.tolist() == [1]
