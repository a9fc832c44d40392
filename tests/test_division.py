"""Data without a validation split: never validated on what was learned, and divided on request."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import hsvdet
import tiny_data
from hsvdet.cli import main
from hsvdet.data.dataset import DetectionData, Record
from hsvdet.data.division import divide
from hsvdet.data.read import available_splits, read_data
from hsvdet.errors import ConfigError, DataError
from tiny_runs import squares

pytestmark = pytest.mark.usefixtures("no_pictures")


def data_of(names, labels=None, groups=None):
    """An image of each name, with one object each, of label 0 if nothing else is said."""
    records = []
    for number, name in enumerate(names):
        label = np.array([labels[number] if labels else 0])
        box, area = np.array([[0, 0, 9, 9]], np.float32), np.array([81], np.float32)
        group = groups[number] if groups else None
        records.append(
            Record(number, f"/data/{name}", (10, 10), box, label, np.array([False]), area, group=group)
        )
    return DetectionData(records, ("a", "b", "c"), (1, 2, 3), Path("/data"), "all", "coco")


def held(division):
    return [record.path.removeprefix("/data/") for record in division.validation.records]


def test_single_images_are_drawn_by_seed_and_each_is_in_one_part():
    data = data_of([f"{n:05}.jpg" for n in range(50)])
    first, again, other = divide(data, 0.2, 0), divide(data, 0.2, 0), divide(data, 0.2, 1)
    assert (first.by, len(first.training), len(first.validation)) == ("image", 40, 10)
    assert held(first) == held(again) != held(other)
    ids = [record.id for part in first[:2] for record in part.records]
    assert sorted(ids) == list(range(50))
    shuffled = replace(data, records=data.records[::-1])
    assert set(held(divide(shuffled, 0.2, 0))) == set(held(first))
    assert "40 to train on, 10 to validate (seed 0)" in str(first)


@pytest.mark.parametrize("names", ["{0:02}/{1:06}_r.jpg", "ride{0:02}_frame{1}.png", "x/{0:02} ({1}).jpg"])
def test_images_of_a_sequence_stay_together(names):
    sequence = {names.format(s, f): s for s in range(20) for f in range(12)}
    division = divide(data_of(sequence), 0.2, 3)
    assert division.by == "sequence" and len(division.validation) == 48
    assert len({sequence[name] for name in held(division)}) == 4


def test_frames_of_a_video_and_copies_of_an_image_stay_together():
    videos = [f"video {n % 10}" for n in range(60)]
    division = divide(data_of([f"{n}.jpg" for n in range(60)], groups=videos), 0.2, 0)
    assert len(division.validation) == 12 and len({int(name[:-4]) % 10 for name in held(division)}) == 2
    names = [f"photo{n}_jpg.rf.{copy}{n:05x}.jpg" for n in range(40) for copy in "abc"]
    division = divide(data_of(names), 0.25, 0)
    assert len({name.split("_")[0] for name in held(division)}) == 10 and len(division.validation) == 30


def test_names_that_are_classes_make_no_sequences_and_no_class_is_lost_to_validation():
    names = [f"{breed}_{n}.jpg" for breed in "abc" for n in range(20)]
    division = divide(data_of(names, [label for label in range(3) for _ in range(20)]), 0.3, 0)
    assert division.by == "image" and len({name[0] for name in held(division)}) == 3
    for seed in range(20):
        rare = divide(data_of([f"{n}.jpg" for n in range(10)], [1, *[0] * 9]), 0.5, seed)
        assert "0.jpg" not in held(rare) and len(rare.validation) == 5
    with pytest.raises(ConfigError, match="too few images"):
        divide(data_of(["a.jpg"]), 0.5)
    with pytest.raises(ConfigError, match="above 0 and below 1"):
        divide(data_of(["a.jpg", "b.jpg"]), 1.0)


@pytest.fixture
def undivided(tmp_path):
    """One COCO file of twelve pictures that names no split."""
    folder = tmp_path / "street"
    (folder / "images").mkdir(parents=True)
    data = squares(folder / "images")
    annotations = [
        (record.id + 1, 3 + 4 * int(label), [*map(float, box[:2]), *map(float, box[2:] - box[:2])])
        for record in data.records
        for box, label in zip(record.boxes, record.labels, strict=True)
    ]
    images = [{"id": r.id + 1, "file_name": f"squares {r.id}.png", "absent": True} for r in data.records]
    return tiny_data.coco(folder, annotations, images, split="boxes")


@pytest.fixture
def run(capfd):
    def run(*arguments):
        capfd.readouterr()
        code = main([str(argument) for argument in arguments])
        return code, *capfd.readouterr()

    return run


FEW = ("--epochs", 1, "--batch", 4, "--workers", 0, "--size", 64, "--set", "width=0.0625", "--device", "cpu")


def test_the_command_line_does_not_validate_on_what_it_trains_on(undivided, tmp_path, run):
    code, out, err = run("train", "yolov8-n", "--data", undivided, "--out", tmp_path / "a", *FEW, "--json")
    assert code == 0 and json.loads(out)["metrics"] == {}
    assert "boxes.json is not divided into splits" in err and "--val-fraction, such as 0.2" in err
    assert json.loads((tmp_path / "a/run.json").read_text())["images"] == {"train": 12, "val": 0}

    one = undivided.rename(undivided.with_name("train.json"))
    code, out, err = run("train", "yolov8-n", "--data", one, "--out", tmp_path / "b", *FEW)
    assert code == 2 and "has no split 'val' to validate on" in err and "--val-fraction (such as 0.2)" in err


def test_data_are_split_on_request_and_the_file_may_lie_beside_the_annotations(undivided, run):
    out = undivided.parent / "split.json"
    code, said, err = run("data", "split", undivided.parent, "--out", out, "--json")
    assert code == 0, err
    assert json.loads(said) | {"out": ""} == {
        "out": "", "by": "image", "fraction": 0.2, "seed": 0, "images": {"train": 10, "val": 2},
    }  # fmt: skip
    parts = [read_data(out, split).records for split in ("train", "val")]
    assert sorted(r.id for part in parts for r in part) == [r.id for r in read_data(undivided.parent).records]
    for path, target, words in (
        (undivided, out, "exists already"),
        (undivided, out.with_suffix(".txt"), "expects a .json file"),
        (out, out.with_stem("again"), "has the split 'val' already"),
        (undivided, undivided / "split.json", "cannot be written"),
    ):
        code, _, err = run("data", "split", path, "--out", target)
        assert code == 2 and words in err and err.count("\n") == 1 + ("(coco" in err), err


def test_a_part_set_aside_validates_is_written_down_and_is_the_same_when_resumed(undivided, tmp_path, run):
    out = tmp_path / "run"
    asked = ("train", "yolov8-n", "--data", undivided, "--out", out, *FEW, "--val-fraction", 0.25)
    code, said, err = run(*asked)
    assert code == 0 and "9 to train on, 3 to validate" in err and str(out / "split.json") in said
    assert available_splits(out / "split.json") == ("train", "val")
    training, validation = (read_data(out / "split.json", split) for split in ("train", "val"))
    assert not {r.path for r in training.records} & {r.path for r in validation.records}
    assert len(training) == 9 and training.labels == ("car", "person")
    code, found, _ = run(
        "val", out / "best.safetensors", "--data", out / "split.json", "--workers", 0, "--json"
    )
    assert code == 0
    last = (out / "results.csv").read_text().splitlines()
    ap = float(last[1].split(",")[last[0].split(",").index("ap")])
    assert json.loads(found)["ap"] == pytest.approx(ap, abs=1e-5)

    code, _, err = run(*asked[:-1], 0.5, "--resume")
    assert code == 2 and "--val-fraction (was 0.25, now 0.5)" in err
    code, _, err = run(*asked, "--resume")
    assert code == 0 and "Resuming" in err
    detector = hsvdet.create("yolov8-n", training.labels, size=(64, 64), options={"width": 0.0625})
    plain = dict(epochs=1, batch=4, workers=0, device="cpu", progress=False, val_fraction=0.25)
    hsvdet.train(detector, undivided, tmp_path / "python", **plain)
    assert (tmp_path / "python/split.json").read_text() == (out / "split.json").read_text()
    code, said, err = run(
        "data", "split", undivided, "--out", undivided.parent / "split.json", "--val-fraction", 0.25
    )
    assert code == 0 and "9 to train on, 3 to validate" in said
    assert (undivided.parent / "split.json").read_text() == (out / "split.json").read_text()
    with pytest.raises(ConfigError, match="has 'val'"):
        hsvdet.train(detector, out / "split.json", tmp_path / "again", **plain)

    undivided.write_text(undivided.read_text().replace("squares 0.png", "squares gone.png"))
    gone = "train" if any("squares 0." in record.path for record in training.records) else "val"
    with pytest.raises(DataError, match=f"has lost 1 image of {gone}"):
        read_data(out / "split.json", gone)
