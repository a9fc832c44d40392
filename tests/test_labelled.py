"""Data in which not every class is labelled in every image: how it is read, merged, written and evaluated."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

import hsvdet
from hsvdet.cli import main
from hsvdet.data.convert import convert_data
from hsvdet.data.dataset import DetectionData, Record
from hsvdet.data.merge import merge_data
from hsvdet.data.read import available_splits, read_data
from hsvdet.errors import ConfigError, DataError
from hsvdet.evaluate import evaluate_detections
from hsvdet.structures import Detections
from tiny_data import coco, text, voc, voc_object, voc_xml, yolo


def labelled(data):
    """By file name: the names of the classes that are labelled, None for all."""
    return {
        record.path.rpartition("/")[2]: None
        if record.labelled is None
        else [label for label, known in zip(data.labels, record.labelled, strict=True) if known]
        for record in data.records
    }


def of_coco(tmp_path, images=(None, ["car"]), everywhere=None, boxes=((1, 3, [1, 2, 30, 40]),)):
    """images: `labelled_classes` of each, None for none."""
    rows = [
        {"id": i, "file_name": f"{i}.png", "width": 100, "height": 80}
        | ({} if names is None else {"labelled_classes": names})
        for i, names in enumerate(images, 1)
    ]
    file = coco(tmp_path, list(boxes), rows)
    if everywhere is not None:
        file.write_text(json.dumps(json.loads(file.read_text()) | {"info": {"labelled_classes": everywhere}}))
    return file


# Reading


def test_a_coco_image_says_which_classes_are_labelled_else_the_file_does(tmp_path):
    assert labelled(read_data(of_coco(tmp_path))) == {"1.png": None, "2.png": ["car"]}
    images = None, ["car", "person"], []
    data = read_data(of_coco(tmp_path, images, ["person"]))
    assert labelled(data) == {"1.png": ["person"], "2.png": None, "3.png": []}


def test_labelled_classes_follow_the_order_asked_for(tmp_path):
    data = read_data(of_coco(tmp_path), labels=["bus", "person", "car"])
    assert data.records[0].labelled is None and data.records[1].labelled.tolist() == [False, False, True]


def test_a_coco_image_listed_twice_knows_the_classes_of_both(tmp_path):
    file = of_coco(tmp_path, (["person"], ["car"]))
    content = json.loads(file.read_text())
    content["images"][1]["file_name"] = "1.png"
    file.write_text(json.dumps(content))
    assert labelled(read_data(file)) == {"1.png": None}


def test_yolo_has_one_list_for_all_images(tmp_path):
    root = yolo(tmp_path, {"a": "0 .5 .5 .2 .2\n", "b": None})
    with open(root / "data.yaml", "a") as file:
        file.write("labelled_classes: [car]\n")
    assert labelled(read_data(root)) == {"a.png": ["car"], "b.png": ["car"]}


def test_voc_has_a_list_in_every_file_else_one_for_all(tmp_path):
    own = "<labelled_classes><name>person</name></labelled_classes>"
    root = voc(tmp_path, {"a": voc_xml(voc_object("car", 1, 1, 9, 9)), "b": voc_xml(own), "c": None})
    text(root / "labels.yaml", "names: {3: car, 7: person}\n")
    assert labelled(read_data(root)) == {"a.png": None, "b.png": ["person"], "c.png": None}
    text(root / "labels.yaml", "names: {3: car, 7: person}\nlabelled_classes: [car]\n")
    assert labelled(read_data(root)) == {"a.png": ["car"], "b.png": ["person"], "c.png": ["car"]}


@pytest.mark.parametrize(
    "names, words", [("car", "expects a list"), (["cra"], "no class.*car"), ([3], "expects a list")]
)
def test_names_that_are_no_classes_are_refused_in_every_format(tmp_path, names, words):
    with pytest.raises(DataError, match=words):
        read_data(of_coco(tmp_path, (names,)))
    with pytest.raises(DataError, match=words):
        read_data(of_coco(tmp_path, (None,), names))
    if names != [3]:  # in YAML and XML all are words
        root = yolo(tmp_path / "yolo", {"a": ""})
        with open(root / "data.yaml", "a") as file:
            file.write(f"labelled_classes: {names}\n")
        with pytest.raises(DataError, match=words):
            read_data(root)


def test_a_box_of_a_class_that_is_not_labelled_is_used_and_warned_of(tmp_path):
    data = read_data(of_coco(tmp_path, (["person"],)))
    assert len(data.records[0].boxes) == 1
    (problem,) = data.problems
    assert problem.severity == "warning" and "labelled_classes" in problem.what


def test_check_says_in_how_many_images_a_class_is_labelled(tmp_path, capfd):
    report = hsvdet.check_data(of_coco(tmp_path, (None, ["car"], ["car"])))
    (split,) = report.splits.values()
    assert split.images_labelled_per_class == {"car": 3, "person": 1}
    assert "labelled           person in 1 of 3 images" in report.summary()
    assert "  labelled  " not in hsvdet.check_data(of_coco(tmp_path, (None,))).summary()


@pytest.mark.parametrize("form", ["coco", "voc"])
def test_converting_keeps_what_is_labelled(tmp_path, form):
    source = of_coco(tmp_path / "source", (None, ["car"], []))
    convert_data(source, tmp_path / form, form)
    assert labelled(read_data(tmp_path / form, "train")) == {"1.png": None, "2.png": ["car"], "3.png": []}


def test_yolo_takes_what_is_alike_in_all_images_and_refuses_the_rest(tmp_path):
    convert_data(of_coco(tmp_path / "one", (["car"], ["car"])), tmp_path / "yolo", "yolo")
    assert labelled(read_data(tmp_path / "yolo", "train")) == {"1.png": ["car"], "2.png": ["car"]}
    with pytest.raises(DataError, match="Convert to coco or voc"):
        convert_data(of_coco(tmp_path / "two", (["car"], None)), tmp_path / "other", "yolo")
    assert not (tmp_path / "other").exists()


# Merging


def picture(path, seed):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (80, 100, 3), dtype=np.uint8)).save(path)


def cars_and_people(tmp_path):
    """COCO: cars in two images, one of them a crowd of cars. YOLO: people and bikes in two, one the same picture."""
    cars = [{"id": 3, "name": "car"}]
    crowd = {"id": 9, "image_id": 2, "category_id": 3, "bbox": [0, 0, 50, 40], "iscrowd": 1}
    coco(tmp_path / "cars", [(1, 3, [10, 20, 30, 40]), crowd], ["a.png", "b.png"], cars)
    root = yolo(tmp_path / "people", {"a": "0 .5 .5 .2 .2\n", "c": "1 .5 .5 .4 .4\n"})
    (root / "data.yaml").write_text("train: images/train\nnames: [person, bike]\n")
    picture(tmp_path / "cars" / "images" / "a.png", 1)
    picture(tmp_path / "cars" / "images" / "b.png", 2)
    picture(root / "images" / "train" / "a.png", 3)
    (root / "images" / "train" / "c.png").write_bytes((tmp_path / "cars" / "images" / "b.png").read_bytes())
    return tmp_path / "cars", root


@pytest.mark.parametrize("entry", ["python", "command line"])
def test_merged_data_have_one_class_table_and_say_what_is_labelled_where(tmp_path, entry, capfd):
    sources, out = cars_and_people(tmp_path), tmp_path / "out"
    if entry == "python":
        report = hsvdet.merge_data(sources, out)
    else:
        assert main(["data", "merge", *map(str, sources), "--out", str(out), "--json"]) == 0
        report = json.loads(capfd.readouterr().out)
    data = read_data(out)
    assert data.labels == tuple(report["labels"]) == ("car", "person", "bike") and not data.problems
    assert report["splits"] == {"train": {"images": 3, "boxes": 3, "joined": 1}}
    assert available_splits(out) == ("train",)
    by_folder = {"/".join(record.path.split("/")[-2:]): record for record in data.records}
    assert set(by_folder) == {"cars/a.png", "cars/b.png", "people/a.png"}
    one, both, other = (by_folder[name] for name in ("cars/a.png", "cars/b.png", "people/a.png"))
    assert one.labelled.tolist() == [True, False, False] and one.labels.tolist() == [0]
    assert other.labelled.tolist() == [False, True, True] and other.labels.tolist() == [1]
    assert both.labelled is None  # the same picture was annotated in both
    assert both.labels.tolist() == [0, 2] and both.crowd.tolist() == [True, False]
    assert np.allclose(both.boxes, [[0, 0, 50, 40], [30, 24, 70, 56]])
    assert hsvdet.check_data(out).ok


def test_of_a_class_that_several_label_in_one_picture_the_boxes_of_the_first_stay(tmp_path):
    first = coco(tmp_path / "first", [(1, 3, [10, 20, 30, 40])])
    second = coco(tmp_path / "second", [(1, 3, [11, 20, 30, 40]), (1, 8, [1, 1, 5, 5])],
                  categories=[{"id": 3, "name": "car"}, {"id": 8, "name": "bus"}])  # fmt: skip
    merge_data([first, second], tmp_path / "out")
    (record,) = read_data(tmp_path / "out").records
    assert record.labels.tolist() == [0, 2] and record.boxes[0].tolist() == [10, 20, 40, 60]
    assert record.labelled is None


def test_what_is_odd_about_sources_is_said(tmp_path):
    one = coco(
        tmp_path / "set", [(1, 3, [10, 20, 30, 40])], ["a.png"], [{"id": 3, "name": "Car"}], split="mine"
    )
    two = coco(
        tmp_path / "deep" / "set", [(1, 3, [1, 2, 3, 4])], ["a.png"], [{"id": 3, "name": "car"}], split="val"
    )
    picture(tmp_path / "set" / "images" / "a.png", 1)
    picture(tmp_path / "deep" / "set" / "images" / "a.png", 1)
    report = merge_data([one, two], tmp_path / "out", copy="link")
    for word, remark in zip(
        ("not divided", "'Car' and 'car'", "look too good"), report["remarks"], strict=True
    ):
        assert word in remark
    assert available_splits(tmp_path / "out") == ("train", "val")
    assert read_data(tmp_path / "out", "val").category_ids == (3, 4)
    with pytest.raises(ConfigError, match="two data sets"):
        merge_data([one], tmp_path / "other")
    with pytest.raises(DataError, match="not an empty folder"):
        merge_data([one, two], tmp_path / "out")


def test_sources_that_label_the_same_classes_need_no_marks(tmp_path):
    for name, seed in (("a", 1), ("b", 2)):
        coco(tmp_path / name, [(1, 7, [10, 20, 30, 40])])
        picture(tmp_path / name / "images" / "a.png", seed)
    merge_data([tmp_path / "a", tmp_path / "b"], tmp_path / "out")
    assert "labelled_classes" not in (tmp_path / "out" / "annotations" / "instances_train.json").read_text()


# Evaluation and training


def test_detections_of_classes_that_are_not_labelled_in_an_image_do_not_count(tmp_path):
    box = np.array([[0, 0, 10, 10]], np.float32)
    records = [
        Record(
            i,
            "",
            (40, 40),
            box,
            np.array([0]),
            np.zeros(1, bool),
            np.array([100.0], np.float32),
            labelled=mask,
        )
        for i, mask in enumerate((None, np.array([True, False])))
    ]
    data = DetectionData(records, ("a", "b"), (1, 2), tmp_path, "val", "coco")
    false_alarm = torch.tensor([[20.0, 20, 30, 30]])
    found = Detections(
        torch.cat([false_alarm, torch.tensor(box)]), torch.tensor([0.9, 0.8]), torch.tensor([1, 0])
    )
    counted = evaluate_detections(data, {0: found, 1: found})
    assert counted.detections == 3 and counted.confusion.sum() == 3
    assert counted.confusion[-1].tolist() == [
        0,
        1,
        0,
    ]  # one false alarm, in the image where it is known to be one
    assert evaluate_detections(data, {1: found}).confusion.tolist() == [[1, 0, 1], [0, 0, 0], [0, 0, 0]]


def test_a_run_trains_on_merged_data(tmp_path):
    sources = cars_and_people(tmp_path)
    merge_data(sources, tmp_path / "out")
    detector = hsvdet.create("yolov8-n", ["car", "person", "bike"], size=(64, 64), options={"width": 0.0625})
    hsvdet.train(detector, tmp_path / "out", tmp_path / "run", epochs=1, batch=2, val_split=None, workers=0)
    assert (tmp_path / "run" / "last.safetensors").exists()
