"""What makes the scores of two heads mean the same: fitted on validation, saved with the best weights."""

from pathlib import Path

import numpy as np
import pytest
import torch

import hsvdet
from hsvdet.data.dataset import DetectionData, Record
from hsvdet.evaluate.pairing import UNMATCHED
from hsvdet.structures import Detections
from hsvdet.training import train
from hsvdet.training.temperatures import Answers, fit_temperatures
from tiny_runs import LABELS, digest, squares

HYBRID = dict(
    width=0.0625, dim=16, heads=2, fusion_layers=1, decoder_layers=1, tokens=4, context=1, queries=12,
    balanced_queries=4,
)  # fmt: skip
OBJECT, ELSEWHERE = [10.0, 10, 30, 30], [60.0, 60, 80, 80]


def answers(logits, right, crowd=False):
    """An image for each answer, of logits [heads], which lies on the one object of its class or beside it. crowd: one
    more answer in each image, sure and wrong, in a region to ignore."""
    records, found = [], {}
    for i, (of_heads, is_right) in enumerate(zip(logits, right, strict=True)):
        truth = np.array([OBJECT, [60, 10, 100, 50]] if crowd else [OBJECT], np.float32)
        of_crowd = np.array([False, True][: len(truth)])
        area = np.full(len(truth), 400, np.float32)
        records.append(
            Record(i, f"{i}.png", (100, 100), truth, np.zeros(len(truth), np.int64), of_crowd, area)
        )
        boxes = ([[62.0, 12, 80, 30]] if crowd else []) + [OBJECT if is_right else ELSEWHERE]
        scores, said = torch.linspace(0.9, 0.5, len(boxes)), np.array([[8.0] * len(of_heads)] * len(boxes))
        said[-1] = of_heads
        found[i] = Answers(Detections(torch.tensor(boxes), scores, torch.zeros(len(boxes)).long()), said)
    return DetectionData(records, LABELS, (1, 2), Path(), "val", "coco"), found


@pytest.mark.parametrize("stretch", [0.6, 1.0, 2.5])
@pytest.mark.parametrize("crowd", [False, True])
def test_scores_that_are_too_sure_or_not_sure_enough_are_brought_back(stretch, crowd):
    rng = np.random.default_rng(0)
    logits = rng.normal(-1, 2, 3000)
    right = rng.random(3000) < 1 / (1 + np.exp(-logits))
    found = fit_temperatures(*answers(stretch * logits[:, None], right, crowd), [1.0])
    assert found == pytest.approx([stretch], rel=0.08)


def test_two_heads_are_brought_to_one_meaning_by_what_both_answer():
    """Right by the product of both; where the second says nothing, nothing is learned."""
    rng = np.random.default_rng(1)
    logits = rng.normal(0, 2, (4000, 2))
    sure = 1 / (1 + np.exp(-logits))
    silent = rng.random(4000) < 0.5
    right = rng.random(4000) < np.where(silent, 0.5, sure[:, 0] ** 0.3 * sure[:, 1] ** 0.7)
    logits = logits * [2.0, 0.5]
    logits[silent, 1] = np.nan
    assert fit_temperatures(*answers(logits, right), [0.3, 0.7]) == pytest.approx([2.0, 0.5], rel=0.25)


@pytest.mark.parametrize("right", [True, False])
def test_where_all_answers_are_right_or_none_nothing_is_fitted(right):
    assert fit_temperatures(*answers([[2.0, 1.0], [-1.0, 1.0]], [right, right]), [0.3, 0.7]) == [1.0, 1.0]


def test_the_heads_are_those_that_the_answer_is_made_of():
    net = tiny(mode="edge").net.eval()
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        answer, logits = net.heads(images)
        net.answer_by("full")
        output = net(images)
    assert torch.equal(answer.logits, output.answer.logits)
    assert torch.equal(logits[..., 0], output.dense.prediction.logits)
    for image in range(2):
        asked = ~logits[image, ..., 1].isnan().any(-1)
        assert asked.nonzero()[:, 0].tolist() == sorted(output.parents[image].tolist())
        assert torch.equal(logits[image, output.parents[image], :, 1], output.query.answer.logits[image])


def tiny(**options):
    torch.manual_seed(0)
    return hsvdet.create("hsg-det-n+", LABELS, size=(64, 64), options=HYBRID | options)


def run(detector, data, out, **options):
    return train(detector, data, out, epochs=1, batch=6, workers=0, device="cpu", progress=False, **options)


@pytest.mark.parametrize("mode", ["edge", "full"])
def test_a_run_ends_with_temperatures_in_its_best_checkpoint(tmp_path, no_pictures, mode, capfd, monkeypatch):
    data = squares(tmp_path)
    # After one step nothing is right: of each image every third answer is called so.
    monkeypatch.setattr(
        "hsvdet.training.temperatures.match_within_class",
        lambda pair: np.where(np.arange(len(pair.scores)) % 3, UNMATCHED, 0),
    )
    detector = tiny(mode=mode)
    result = train(
        detector, (data, data), tmp_path / "run", epochs=1, batch=6, workers=0, device="cpu", progress=True
    )
    fitted = detector.net.temperatures
    assert (fitted != 1).any() and not detector.net.training and detector.net.mode == mode
    assert f"validation images: {fitted[0]:.3f}, {fitted[1]:.3f}" in capfd.readouterr().err
    best, last = (hsvdet.load(tmp_path / "run" / f"{name}.safetensors").net for name in ("best", "last"))
    assert torch.equal(best.temperatures, fitted) and torch.equal(last.temperatures, torch.ones(2))
    evaluated = hsvdet.val(result.best, data, progress=False)
    assert evaluated.ap == pytest.approx(result.metrics["ap"], abs=1e-9)

    # A run that was killed after its last epoch fits the same again, whatever its best checkpoint had.
    before = digest(result.best)
    run(tiny(mode=mode), (data, data), tmp_path / "run", resume=True)
    assert digest(result.best) == before


def test_without_validation_images_temperatures_stay(tmp_path, no_pictures):
    detector = tiny()
    run(detector, (squares(tmp_path), None), tmp_path / "run")
    assert torch.equal(detector.net.temperatures, torch.ones(2))
