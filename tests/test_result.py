"""What a detector gives to people: one object for an image, made from any kind of image."""

import io
import json
import sys
import types

import numpy as np
import pytest
import torch
from PIL import Image

import hsvdet
from hsvdet import Detections, Result
from hsvdet.errors import ConfigError, DataError

FOUND = Detections(
    torch.tensor([[10.0, 10, 50, 40], [60, 5, 90, 55], [0, 0, 20, 20]]),
    torch.tensor([0.9, 0.6, 0.3]),
    torch.tensor([1, 0, 1]),
)


@pytest.fixture
def street(tmp_path):
    path = tmp_path / "street.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (60, 100, 3), dtype=np.uint8)).save(path)
    return path


@pytest.fixture
def result(street):
    return Result(FOUND, ("car", "person"), (3, 7), street)


@pytest.fixture(scope="module")
def detector():
    torch.manual_seed(0)
    return hsvdet.create("detr-tiny", ["car", "person"], size=96)


def test_a_result_is_a_sequence_of_named_detections(result):
    assert len(result) == 3 and result.names == ["person", "car", "person"]
    first = result[0]
    assert first.name == "person" and first.box == (10, 10, 50, 40) and first.score == pytest.approx(0.9)
    assert [one.label for one in result] == [1, 0, 1] and result[-1].box == (0, 0, 20, 20)
    assert result[result.scores.argmin()] == result[-1]
    with pytest.raises(IndexError):
        result[3]
    for which in (result.scores > 0.5, slice(2), [0, 1], np.array([True, True, False])):
        assert result[which].names == ["person", "car"] and torch.equal(result[which].boxes, FOUND.boxes[:2])
    assert len(result[[]]) == 0 and len(result[result.scores > 1]) == 0
    leaves, _ = torch.utils._pytree.tree_flatten(result.detections)
    assert len(leaves) == 3


def test_a_result_is_printed_drawn_saved_and_written_as_coco_has_it(result, street, tmp_path):
    assert str(result).splitlines()[:2] == [
        f"3 detections in {street}:",
        "  person 0.90  10.0, 10.0 to 50.0, 40.0",
    ]
    picture = np.asarray(result.plot())
    assert picture.shape == (60, 100, 3) and (picture != np.asarray(Image.open(street))).any()
    for name, kind in (("a.png", "PNG"), ("ü.JPG", "JPEG"), ("c.webp", "WEBP")):
        with Image.open(result.save(tmp_path / name)) as saved:
            assert saved.format == kind and saved.size == (100, 60)
    with pytest.raises(ConfigError, match=r"d.gif: a picture expects a name that ends in .png"):
        result.save(tmp_path / "d.gif")
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(result._repr_png_()))), picture)
    rows = json.loads(json.dumps(result.to_json()))
    assert rows[0] == {"category_id": 7, "name": "person", "bbox": [10, 10, 40, 30], "score": 0.9}


def test_supervision_gets_boxes_scores_classes_and_names(result, monkeypatch):
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(ConfigError, match=r"not installed here .*: pip install supervision"):
        result.to_supervision()
    stand_in = types.SimpleNamespace(Detections=lambda **given: given)
    monkeypatch.setitem(sys.modules, "supervision", stand_in)
    given = result.to_supervision()
    assert given["xyxy"].shape == (3, 4) and given["class_id"].tolist() == [1, 0, 1]
    assert given["data"]["class_name"].tolist() == ["person", "car", "person"]


def test_every_kind_of_image_gives_the_same_result(detector, street):
    expected = detector(street, score=0.0)
    assert len(expected) > 10
    with Image.open(street) as opened:
        pixels = np.asarray(opened)
    with street.open("rb") as file:
        same = detector(
            iter(
                [street.read_bytes(), file, pixels, torch.tensor(pixels).permute(2, 0, 1), Image.open(street)]
            ),
            score=0.0,
        )
    alone = [
        detector(image, score=0.0, bgr=True)
        for image in (pixels[..., ::-1], torch.tensor(pixels[..., ::-1].copy()).permute(2, 0, 1))
    ]
    for one in [*same, *alone]:
        torch.testing.assert_close(one.boxes, expected.boxes, atol=1e-3, rtol=0)
    other = detector(pixels[..., ::-1], score=0.0)
    assert other.boxes.shape != expected.boxes.shape or (other.boxes - expected.boxes).abs().max() > 0.01
    assert np.asarray(same[1].plot()).shape == (60, 100, 3)  # also of a file that was read to its end
    assert detector([], score=0.0) == []


@pytest.mark.parametrize("wrong", [None, 3.5, object()])
def test_what_is_no_image_is_said_in_one_line(detector, wrong):
    with pytest.raises(DataError, match="An image is expected as a path.* got"):
        detector(wrong)


def test_blue_first_is_for_arrays_and_tensors(detector, street):
    with pytest.raises(ConfigError, match="street.png: bgr expects arrays"):
        detector(street, bgr=True)


def test_one_class_and_one_side_are_taken_as_what_they_mean():
    detector = hsvdet.create("yolov8-n", "car", size=320)
    assert detector.labels == ("car",) and detector.preprocess.size == (320, 320)
    text = repr(detector)
    assert text.startswith("yolov8-n: 1 class (car), 320x320 letterbox, 3,") and "\n" not in text
    with pytest.raises(ConfigError, match="multiples of 32, got 650x650. Nearest: 640x640"):
        hsvdet.create("yolov8-n", "car", size=650)
