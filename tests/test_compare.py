"""What `hsvdet compare` claims: equal to the evaluator on the data set itself, to replicas on a resample, never more
than its intervals say; by every way in."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

import hsvdet
import tiny_data
from hsvdet.cli import main
from hsvdet.comparison import procedure
from hsvdet.comparison.bootstrap import FEWEST, intervals, resamples
from hsvdet.comparison.judged import judge, measures_of
from hsvdet.comparison.mistakes import KINDS, mistakes
from hsvdet.errors import ConfigError
from hsvdet.evaluate import evaluate_detections
from hsvdet.evaluate.pairing import match_within_class, pair_up
from hsvdet.structures import Detections
from test_evaluate import crowded_scenes, detections, record, split

LABELS = ("a", "b", "c", "d")


def measured(data, found, weights=None) -> dict[str, float]:
    """By key; of one resample."""
    weights = np.ones(len(data)) if weights is None else weights
    values = judge(data, found).values(weights[:, None].astype(float))[:, 0]
    return dict(zip([m.key for m in measures_of(pair_up(data, {}))], values, strict=True))


def expected(evaluation) -> dict[str, float]:
    """The same of an Evaluation, as far as it has them."""
    recalls = evaluation.recalls
    rows = {
        name: evaluation.stats[name] for name in ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large")
    }
    rows |= {"recall": recalls.recall, "recall_at_fppi1": recalls.recall_at_fppi1}
    rows["recall_at_fppi1_occlusion_0.5_to_0.9"] = recalls.occluded.recall_at_fppi1
    for bin in evaluation.occlusion:
        name = f"occlusion_{bin.low:g}_to_{bin.high:g}"
        rows |= {
            f"ap_{name}": bin.ap,
            f"recall_{name}": bin.recall,
            f"recall_at_fppi1_{name}": bin.recall_at_fppi1,
        }
    for bin in recalls.by_count:
        rows[f"recall_at_fppi1_objects_{bin.fewest}_to_{bin.most}"] = bin.recall_at_fppi1
    return rows | {"duplicates": evaluation.duplicates_after.mean}


@pytest.mark.parametrize("seed", range(3))
def test_on_the_data_set_itself_every_number_is_the_evaluators(seed, tmp_path):
    records, found = crowded_scenes(seed)
    data = split(records, tmp_path)
    own, theirs = measured(data, found), expected(evaluate_detections(data, found))
    assert len(theirs) > 25
    for key, value in theirs.items():
        np.testing.assert_allclose(own[key], value, rtol=0, atol=1e-12, err_msg=key)


def test_a_resample_is_the_data_set_with_images_several_times_and_without_others(tmp_path):
    records, found = crowded_scenes(1)
    random = np.random.default_rng(0)
    # Without equal scores, of which the order would matter.
    found = {
        i: one._replace(scores=one.scores.double() - 1e-3 * torch.rand(len(one.scores)))
        for i, one in found.items()
    }
    data = split(sorted(records, key=lambda one: one.id), tmp_path)
    weights = random.multinomial(len(data), np.full(len(data), 1 / len(data)))
    assert 0 in weights and weights.max() > 2
    copies = [(one, copy) for one, often in zip(data.records, weights, strict=True) for copy in range(often)]
    again = split([one._replace(id=1000 * one.id + copy) for one, copy in copies], tmp_path)
    their_found = {1000 * one.id + copy: found[one.id] for one, copy in copies if one.id in found}
    own, theirs = measured(data, found, weights), expected(evaluate_detections(again, their_found))
    for key in own.keys() & theirs.keys():
        np.testing.assert_allclose(own[key], theirs[key], atol=1e-9, err_msg=key)
    replicas = measured(again, their_found)
    for key in ("miss_rate", "jaccard_index", "calibration_error"):
        np.testing.assert_allclose(own[key], replicas[key], atol=1e-12, err_msg=key)


def test_errors_are_told_apart_by_kind(tmp_path):
    objects = [[0, 0, 20, 20], [50, 50, 70, 70], [100, 0, 120, 20], [150, 150, 170, 170], [200, 0, 220, 20]]
    data = split([record(1, objects, [0, 1, 2, 0, 3])], tmp_path)
    found = {
        1: detections(
            [
                (0, 0, 20, 20, 0.99, 0),  # right
                (0, 0, 20, 18, 0.9, 0),  # duplicate
                (50, 50, 70, 70, 0.9, 0),  # class: covers the second object
                (110, 0, 130, 20, 0.9, 2),  # place: IoU 1/3, covers the third
                (160, 150, 180, 170, 0.9, 1),  # both: covers nothing
                (300, 300, 320, 320, 0.9, 0),  # background
                (201, 0, 221, 20, 0.8, 3),  # right
                (201, 0, 221, 20, 0.1, 2),  # too weak
            ]
        )
    }
    (pair,) = pair_up(data, found)
    assert mistakes(pair, match_within_class(pair), over=0.5).tolist() == [1] * len(KINDS)


def test_miss_rate_jaccard_index_and_calibration_error_by_hand(tmp_path):
    first = record(1, [[0, 0, 20, 20], [50, 50, 70, 70]], [0, 0])
    data = split([first, record(2, [], [])], tmp_path)
    # Of two images one false positive is FPPI 0.5: at the rates below it only what scores higher counts.
    found = {1: detections([(0, 0, 20, 20, 0.95, 0), (300, 0, 320, 20, 0.85, 0), (50, 50, 70, 70, 0.75, 0)])}
    own = measured(data, found)
    below = (np.logspace(-2, 0, 9) < 0.5).sum()
    assert own["miss_rate"] == pytest.approx((0.5**below * 1e-10 ** (9 - below)) ** (1 / 9))
    # The second image has neither objects nor detections; over any score below 0.75: 2 matched of 3.
    assert own["jaccard_index"] == pytest.approx(2 / 3)
    assert own["calibration_error"] == pytest.approx((0.05 + 0.85 + 0.25) / 3, abs=1e-6)


def normal(difference, spread, random, count=2000):
    return difference + np.concatenate([[0.0], random.normal(0, spread, count)])[None]


def test_holm_holds_each_arm_to_its_rank_and_what_follows_a_miss_to_the_same():
    random = np.random.default_rng(0)
    # Alone, each of the last two would just be shown.
    arms = [normal(2.1, 1, random), normal(5, 1, random), normal(2.2, 1, random)]
    found = intervals(arms, units=1000, seed=0)
    assert [one.low > 0 for one in found] == [True, True, True]
    assert [one.shown for one in found] == [False, True, False]
    assert found[1].corrected_low < found[1].low and found[1].p < 0.01
    (alone,) = intervals([arms[0]], units=1000, seed=0)
    assert alone.shown and alone.corrected_low == alone.low


def test_seeds_that_differ_widen_the_interval_as_students_t_does():
    random = np.random.default_rng(0)
    of_images = normal(2, 0.1, random)
    one = intervals([of_images], units=100, seed=0)[0]
    three = intervals([of_images + np.array([[-1], [0], [1]])], units=100, seed=0)[0]
    assert one.value == three.value == 2 and one.shown and not three.shown
    assert (three.high - three.low) / 2 == pytest.approx(4.30 / math.sqrt(3), rel=0.05)
    back = intervals([-of_images - np.array([[-1], [0], [1]])], units=100, seed=0)[0]
    np.testing.assert_allclose([back.low, back.high], [-three.high, -three.low], atol=1e-12)


def test_the_images_of_a_sequence_are_drawn_together():
    weights = resamples(np.array([0, 0, 1, 2, 2, 2]), 50, seed=3)
    assert (
        (weights[:, 0] == 1).all() and (weights[0] == weights[1]).all() and (weights[3] == weights[5]).all()
    )
    assert (weights[[0, 2, 3]].sum(0) == 3).all() and len(np.unique(weights[2])) > 2


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """Copied wherever a run is wanted; what it finds, a test says itself."""
    path = tmp_path_factory.mktemp("checkpoint") / "x.safetensors"
    hsvdet.create("yolov8-n", LABELS, size=(64, 64), options={"width": 0.0625}).save(path)
    return path


@pytest.fixture
def run_of(checkpoint, tmp_path):
    """A run's folder, with what its run.json says of the seed."""

    def run_of(name, seed=None):
        folder = tmp_path / name
        folder.mkdir(parents=True)
        shutil.copy(checkpoint, folder / "best.safetensors")
        if seed is not None:
            (folder / "run.json").write_text(json.dumps({"settings": {"seed": seed}}))
        return folder

    return run_of


@pytest.fixture
def finding(monkeypatch):
    """Detections in the place of networks: `finding[part of the path]`."""
    answers = {}

    def detect_on(detector, data, **_):
        part = next(part for part in answers if f"/{part}/" in str(detector))
        return data, SimpleNamespace(detections=answers[part], suppressed_at=0.7)

    monkeypatch.setattr(procedure, "detect_on", detect_on)
    return answers


def half(found: dict[int, Detections]) -> dict[int, Detections]:
    """Every second detection."""
    return {i: Detections(*(part[::2] for part in one)) for i, one in found.items()}


def compare(*arms, data, **options):
    return hsvdet.compare(*arms, data=data, resampled=200, progress=False, **options)


def test_swapped_arms_negate_and_an_arm_against_itself_is_nothing(run_of, finding, tmp_path):
    records, found = crowded_scenes(0, images=30)
    data = split(records, tmp_path)
    a, b = run_of("a"), run_of("b")
    finding |= {"a": half(found), "b": found}
    ahead, back, again = compare(a, b, data=data), compare(b, a, data=data), compare(a, b, data=data)
    keys = [measure.key for measure in ahead.measures]
    assert ahead.difference("recall").shown and not math.isnan(ahead.difference("ap").low)
    for key in keys:
        one, other = ahead.difference(key), back.difference(key)
        np.testing.assert_allclose(
            [one.value, one.low, one.high], [-other.value, -other.high, -other.low], atol=1e-12
        )
        assert str(one) == str(again.difference(key))
    other_draws = compare(a, b, data=data, seed=1).difference("ap")
    assert other_draws.value == ahead.difference("ap").value and other_draws.low != ahead.difference("ap").low
    same = compare(a, a, data=data)
    for key in keys:
        one = same.difference(key)
        assert one.value == 0 or math.isnan(one.value)
        assert one.low == one.high == 0 or math.isnan(one.low)
        assert not one.shown
    assert "AP: no difference shown" in same.conclusion and "points" not in same.conclusion


def test_the_sentence_says_what_the_interval_says_and_of_which_seeds(run_of, finding, tmp_path):
    records, found = crowded_scenes(0, images=30)
    data = split(records, tmp_path)
    few, many = tmp_path / "few", tmp_path / "many"
    for seed in (0, 1, 4):
        run_of(f"few/{seed}", seed)
    for seed in (0, 1, 2):
        run_of(f"many/{seed}", seed)
    finding |= {"few": half(found), "many": found}
    comparison = compare(few, many, data=data)
    assert comparison.arms[0].seeds == comparison.arms[1].seeds == (0, 1)
    assert comparison.notes == (
        "few: seeds 0, 1 are paired, 4 left out.",
        "many: seeds 0, 1 are paired, 2 left out.",
    )
    assert "few: seeds 0, 1 are paired, 4 left out." in comparison.table()
    assert "2 paired seeds, 30 images" in comparison.conclusion
    occluded = comparison.difference("recall_at_fppi1_occlusion_0.5_to_0.9")
    claimed = "many finds" in comparison.conclusion
    assert claimed == occluded.shown
    single = compare(few / "0", many / "0", data=data)
    assert "one run each, so of these weights, not of training again" in single.conclusion


@pytest.mark.parametrize("images", [1, FEWEST - 1])
def test_with_too_few_images_nothing_is_claimed(images, run_of, finding, tmp_path):
    boxes = [[0, 0, 20, 20], [0, 0, 20, 12]]
    data = split([record(i, boxes, [0, 0]) for i in range(images)], tmp_path)
    right = {i: detections([(*box, 0.9, 0) for box in boxes]) for i in range(images)}
    finding |= {"a": {}, "b": right}
    comparison = compare(run_of("a"), run_of("b"), data=data, out=tmp_path / "out")
    assert comparison.difference("ap").value == pytest.approx(1) and not comparison.difference("ap").shown
    assert "too few" in comparison.conclusion and "points" not in comparison.conclusion


def test_a_data_set_without_objects_is_compared_without_a_claim(run_of, finding, tmp_path):
    data = split([record(i, [], []) for i in range(12)], tmp_path)
    finding |= {"a": {}, "b": {3: detections([(0, 0, 9, 9, 0.5, 0)])}}
    comparison = compare(run_of("a"), run_of("b"), data=data, out=tmp_path / "out")
    assert "AP: too few images with objects to tell" in comparison.conclusion
    assert json.loads((tmp_path / "out/comparison.json").read_text())["arms"][1]["values"]["ap"] is None


def test_what_cannot_be_compared_is_refused_in_one_line(run_of, tmp_path):
    data = split([record(1, [], [])], tmp_path)
    a, b, c = run_of("a", 0), run_of("b/0", 1).parent, run_of("c")
    run_of("b/1", 2)
    (tmp_path / "empty").mkdir()
    other = tmp_path / "other.safetensors"
    hsvdet.create("yolov8-n", ["cat"], size=(64, 64), options={"width": 0.0625}).save(other)
    run_of("twice/0", 1), run_of("twice/1", 1), run_of("unknown/0"), run_of("unknown/1", 1)
    for arms, words in {
        (a,): "two or more detectors, the first of them the reference; got 1",
        (a, other): "other.safetensors has cat; ",
        (a, b): "no seed is common to all arms: a: 0; b: 1, 2",
        (b, c): "no seed is common to all arms: b: 1, 2; c: no seed",
        (a, tmp_path / "empty"): "holds no run",
        (a, tmp_path / "twice"): "two runs of the same seed: 1, 1",
        (a, tmp_path / "unknown"): "no run.json beside it",
    }.items():
        with pytest.raises(ConfigError, match="^[^\n]*$") as refused:
            compare(*arms, data=data)
        assert words in str(refused.value)
    with pytest.raises(ConfigError, match="The classes of the data set and of the detector differ"):
        compare(a, c, data=split([record(1, [], [])], tmp_path, LABELS[::-1]))


def test_a_checkpoint_beside_an_artifact_from_the_command_line(tiny_checkpoint, tmp_path, capfd):
    """The artifact finds the one object of every image, the checkpoint has random weights."""
    onnx = pytest.importorskip("onnx")
    from test_seal import HEADER, constant_model

    model, header = constant_model(), replace(HEADER, labels=("car", "person"))
    onnx.helper.set_model_props(model, {"hsvdet": json.dumps(header.to_json()), "names": "{}"})
    artifact = tmp_path / "tiny.onnx"
    onnx.save(model, artifact)
    boxes = [(i, 7, [2, 3, 10, 10]) for i in range(1, 13)]
    tiny_data.coco(tmp_path, boxes, [f"{i}.png" for i in range(12)], split="val")
    out = tmp_path / "out"
    arguments = [
        str(tiny_checkpoint),
        str(artifact),
        "--data",
        str(tmp_path),
        "--batch",
        "1",
        "--out",
        str(out),
    ]
    capfd.readouterr()
    assert main(["compare", *arguments, "--workers", "0", "--resampled", "100", "--latency", "--json"]) == 0
    answer = json.loads(capfd.readouterr().out)
    assert answer == json.loads((out / "comparison.json").read_text())
    assert [arm["name"] for arm in answer["arms"]] == ["tiny", "tiny.onnx"]
    assert answer["arms"][1]["latency"]["p95"] >= answer["arms"][1]["latency"]["p50"] > 0
    ap = answer["arms"][1]["differences"]["ap"]
    assert ap["shown"] and ap["low"] > 0.9 and "AP is " in answer["conclusion"]
    assert answer["conclusion"] in (out / "comparison.txt").read_text()
    with Image.open(out / "comparison.png") as picture:
        assert min(picture.size) > 800 and len(np.unique(np.asarray(picture))) > 20
    assert main(["compare", *arguments[:2], "--data", str(tmp_path / "nowhere")]) == 2
    assert "does not exist" in capfd.readouterr().err.splitlines()[-1]
