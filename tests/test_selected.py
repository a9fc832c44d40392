"""What token selectors choose, as numbers: against a count cell by cell, in a run's table, in val and in pictures."""

import csv
import json
import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import hsvdet
from hsvdet.evaluate.selections import count_selections, summarise_selections
from hsvdet.explainer.queries import candidates_of, groups_of
from hsvdet.structures import DenseOutput, Detections, DualOutput, Prediction, QueryOutput, Selection
from hsvdet.training import train
from tiny_runs import LABELS, squares, tiny

HYBRID = dict(
    width=0.0625, dim=16, heads=2, fusion_layers=1, decoder_layers=1, tokens=4, context=1, queries=12,
    balanced_queries=4,
)  # fmt: skip


def hybrid():
    torch.manual_seed(0)
    return hsvdet.create("hsg-det-n+", LABELS, size=(64, 64), options=HYBRID)


def counted(kept, stride, extent, boxes, size):
    """(kept, on objects, on the border, cells, cells on objects, covered), in plain Python."""
    left, top, width, height = extent
    there = [
        (left + x0 * width, top + y0 * height, left + x1 * width, top + y1 * height)
        for x0, y0, x1, y1 in boxes
    ]
    rows = [r for r in range(kept.shape[0]) if (r + 1) * stride > top and r * stride < top + height]
    columns = [c for c in range(kept.shape[1]) if (c + 1) * stride > left and c * stride < left + width]
    found, covered = [0] * 5, [False] * len(boxes)
    for r in rows:
        for c in columns:
            x, y = (c + 0.5) * stride, (r + 0.5) * stride
            owners = [i for i, (x0, y0, x1, y1) in enumerate(there) if x0 < x < x1 and y0 < y < y1]
            found[3] += 1
            found[4] += bool(owners)
            if not kept[r, c]:
                continue
            found[0] += 1
            found[1] += bool(owners)
            found[2] += r in (rows[0], rows[-1]) or c in (columns[0], columns[-1])
            for i, (x0, y0, x1, y1) in enumerate(there):
                mine = (
                    c * stride <= (x0 + x1) / 2 < (c + 1) * stride
                    and r * stride <= (y0 + y1) / 2 < (r + 1) * stride
                )
                covered[i] |= i in owners or mine
    return found, covered


@pytest.mark.parametrize("seed", range(5))
def test_the_counts_are_those_of_a_walk_over_all_cells(seed):
    rng = np.random.default_rng(seed)
    corners = np.sort(rng.random((6, 2, 2)), 1)
    boxes = corners.reshape(6, 4)
    boxes[1] = boxes[0] + [0.01, 0, 0, 0]  # one that is occluded
    boxes[2, 2:] = boxes[2, :2] + 0.02  # one between the middles of cells
    extent, size = np.array([8.0, 16, 96, 72]), (300, 400)
    maps = [rng.random((2, 16, 20)) < 0.2, rng.random((2, 4, 5)) < 0.4]
    said = [Selection(torch.zeros(1), s, torch.from_numpy(m)) for s, m in zip((8, 32), maps, strict=True)]
    image = count_selections([*said, Selection(torch.zeros(1), 64)], 1, extent, boxes, size)
    assert len(image.maps) == 2  # of the third it is not known
    every = []
    for one, kept, stride in zip(image.maps, maps, (8, 32), strict=True):
        expected, covered = counted(kept[1], stride, extent, boxes, size)
        every.append(covered)
        assert [one.kept, one.on_objects, one.on_border, one.cells, one.cells_on_objects] == expected
        assert one.covered.tolist() == covered
    pixels = boxes * [400, 300, 400, 300]
    assert image.small.tolist() == [(b[2] - b[0]) * (b[3] - b[1]) < 1024 for b in pixels]
    assert image.occluded[:2].all() and image.small[2]
    *_, together = summarise_selections([image, image])
    kept, inside = (sum(getattr(one, field) for one in image.maps) for field in ("kept", "on_objects"))
    cells, of_them = (
        sum(getattr(one, field) for one in image.maps) for field in ("cells", "cells_on_objects")
    )
    assert together.stride is None and together.tokens == kept
    assert together.precision == inside / kept
    assert together.lift == pytest.approx(inside / kept / (of_them / cells))
    either = np.any(every, 0)
    assert together.coverage == either.mean() and together.coverage_small == either[image.small].mean()
    assert together.coverage_occluded == either[image.occluded].mean()


@pytest.mark.parametrize(
    "make, maps", [(lambda: tiny("hsv-det-n+", k=1), ("16", "32", "all")), (hybrid, ("8", "16", "32", "all"))]
)
def test_a_run_and_val_say_what_was_selected(make, maps, tmp_path, no_pictures, capfd):
    data = squares(tmp_path, count=6)
    detector = make()
    result = train(
        detector, (data, data), tmp_path / "run", epochs=1, batch=6, workers=0, device="cpu", progress=False
    )
    (row,) = csv.DictReader((tmp_path / "run" / "results.csv").read_text().splitlines())
    evaluation = hsvdet.val(result.best, data, progress=False)
    assert tuple(str(one.stride or "all") for one in evaluation.selections) == maps
    for one in evaluation.selections:
        for what in ("precision", "lift", "coverage", "border"):
            assert float(row[f"selected_{what}/{one.stride or 'all'}"]) == pytest.approx(
                getattr(one, what), rel=1e-4
            )
    assert re.search("selected tokens +an image +on objects +lift +covered", evaluation.table())
    told = json.loads(json.dumps(evaluation.to_json()))["selections"]
    assert [one["stride"] for one in told] == [None if name == "all" else int(name) for name in maps]
    # The net says what it took: of each map as many as it may, the best by its score.
    images = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        output = detector.net.eval()(images)
    for one in output.selections:
        strongest = one.logits.flatten().topk(int(one.kept.sum())).values.min()
        assert one.kept.any() and one.logits[one.kept].min() == strongest


def test_explain_draws_the_tokens_of_every_map(tmp_path):
    detector = hybrid()
    photograph = squares(tmp_path, count=1).records[0].path
    explanation = hsvdet.explain(detector, photograph, tmp_path / "out", top=2)
    (image,) = explanation.images
    assert [one["stride"] for one in image["facts"]["kept"]["maps"]] == [8, 16, 32]
    assert [one["kept"] for one in image["facts"]["kept"]["maps"]] == [4, 4, 4]


def test_what_a_kept_box_suppressed_is_drawn_with_its_scores(tmp_path):
    """Of yolov8-n-dedup: three boxes of one object, of which deduplication lets one fall; one of another class, one
    elsewhere. And of HSG-Det, the layer before the last is what comes before."""
    boxes = torch.tensor(
        [[0.3, 0.3, 0.2, 0.2], [0.31, 0.3, 0.2, 0.2], [0.3, 0.31, 0.2, 0.2], [0.8, 0.8, 0.2, 0.2]]
    )
    before = torch.tensor([[0.9, 0.01], [0.8, 0.01], [0.5, 0.6], [0.7, 0.01]]).logit()
    after = torch.tensor([[0.9, 0.01], [0.02, 0.01], [0.4, 0.6], [0.7, 0.01]]).logit()
    cells = torch.tensor([[5, 3, 9, 11]])
    logits, anchors = torch.full((1, 16, 2), -9.0), torch.zeros(1, 16, 4)
    logits[0, cells[0]], anchors[0, cells[0]] = before, boxes
    dense = DenseOutput(Prediction(logits, anchors), *[torch.zeros(0)] * 4)
    last = Prediction(after[None], boxes[None])
    one_layer = DualOutput(last, dense, QueryOutput((last,)), cells, cells)
    two_layers = one_layer._replace(
        dense=DenseOutput(Prediction(logits - 3, anchors), *[torch.zeros(0)] * 4),
        query=QueryOutput((Prediction(before[None], boxes[None]), last)),
    )
    for output in (one_layer, two_layers):
        found = candidates_of(output, (100, 100))
        seen = SimpleNamespace(output=output, detections=Detections(None, None, torch.tensor([0, 0])))
        subjects = [SimpleNamespace(number=1, prediction=0), SimpleNamespace(number=2, prediction=3)]
        first, second = groups_of(SimpleNamespace(seen=seen, objects=subjects), found).values()
        assert (first.own, first.suppressed.tolist(), first.left.tolist()) == (0, [1], [2])
        assert (second.own, second.suppressed.tolist(), second.left.tolist()) == (3, [], [])
