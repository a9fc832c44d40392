import json
import os

import numpy as np
import pytest

from bad_images import QUARTERS, rotated, truncated
from hsvdet.data.check import check_data
from hsvdet.data.class_names import alike_pairs, written_alike
from hsvdet.data.convert import convert_data
from hsvdet.data.overlap import occlusion
from hsvdet.data.read import available_splits, read_data
from hsvdet.errors import ConfigError, DataError
from hsvdet.training.opening import open_data
from tiny_data import CLASSES, coco, image, text, voc, voc_object, voc_xml, yolo


@pytest.fixture
def source(tmp_path):
    """COCO, two splits: sub-folders, odd names and numbers, a crowd, an empty image, an unused class."""
    folder = tmp_path / "source"
    images = ["a.png", "sub dir/Straße.png", "empty.png"]
    crowd = {"id": 5, "image_id": 2, "category_id": 7, "bbox": [0, 0, 99, 79], "iscrowd": 1}
    boxes = [(1, 7, [0, 0, 100, 80]), (1, 3, [12.34, 5.67, 33.33, 44.44]), (2, 3, [98.5, 78.25, 1, 1]), crowd]
    coco(folder, boxes, images, [*CLASSES, {"id": 12, "name": "traffic <light>"}])
    coco(folder, [(1, 7, [1.25, 2.5, 0.5, 0.75])], ["v.png"], CLASSES, "val")
    return folder


def answers(path, split) -> dict:
    """What matters of a split, by image name."""
    data = read_data(path, split)
    assert not data.problems
    ids = dict(enumerate(data.category_ids))
    return {
        os.path.basename(record.path): (
            record.size,
            record.boxes.round(2).tolist(),
            [(ids[label], data.labels[label]) for label in record.labels.tolist()],
            record.crowd.tolist(),
        )
        for record in data.records
    }


# Checking


def test_a_report_says_how_crowded_the_images_are(tmp_path):
    counts = {"few.png": 1, "some.png": 5, "many.png": 101, "most.png": 301}
    boxes = [
        (image, 3, [n % 90, n // 90, 5, 5])
        for image, number in enumerate(counts.values(), 1)
        for n in range(number)
    ]
    coco(tmp_path, boxes, list(counts))
    objects = check_data(tmp_path).splits["train"].objects_per_image
    assert objects["max"] == 301 and objects["densest"].endswith("most.png")
    assert objects["percentiles"] == {"50": 5, "90": 301, "99": 301}
    assert objects["over"] == {"100": 2, "300": 1}
    assert "over 100 in 2, over 300 in 1" in check_data(tmp_path, decode=False).summary()


def test_a_bar_counts_the_images_that_were_opened_on_a_terminal_only(source, monkeypatch, capsys):
    check_data(source, progress=True)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    check_data(source, "train", progress=True)
    assert "opening train" in capsys.readouterr().err


def test_a_report_counts_what_is_there(tmp_path):
    objects = [
        (1, 3, [0, 0, 20, 20]),
        (1, 3, [10, 0, 20, 20]),
        (1, 7, [60, 10, 33, 33]),
        (1, 3, [0, 0, 100, 79]),
    ]
    crowd = {"id": 9, "image_id": 1, "category_id": 7, "bbox": [0, 0, 50, 40], "iscrowd": 1}
    coco(tmp_path, [*objects, crowd], ["a.png", "b.png"])
    report = check_data(tmp_path)
    train = report.splits["train"]
    assert report.ok and report.format == "coco" and report.labels == ("car", "person")
    assert (train.images, train.images_without_objects, train.boxes, train.crowd_regions) == (2, 1, 4, 1)
    assert train.boxes_per_class == {"car": 3, "person": 1}
    assert train.objects_per_image["mean"] == 2 and train.objects_per_image["max"] == 4
    assert {k: v for k, v in train.objects_per_image["histogram"].items() if v} == {"0": 1, "2-5": 1}
    assert train.box_sizes == {"small": 2, "medium": 2, "large": 0}
    assert {k: v for k, v in train.occlusion.items() if v} == {"0.1-0.3": 2, "0.3-0.5": 2}
    assert json.loads(json.dumps(report.to_json()))["splits"]["train"]["boxes"] == 4
    assert "2 images, 1 of them without objects; 4 boxes, 1 crowd region" in report.summary()
    assert "Nothing must be repaired" in report.summary()


def test_the_largest_overlap_is_with_another_box():
    boxes = np.float32([[0, 0, 2, 2], [1, 0, 3, 2], [1, 0, 3, 2], [9, 9, 10, 10]])
    assert np.allclose(occlusion(boxes), [1 / 3, 1, 1, 0])
    assert occlusion(boxes[:1]).tolist() == [0] and occlusion(boxes[:0]).tolist() == []


def test_checking_finds_what_only_opening_the_images_can_show(tmp_path):
    images = [{"id": i, "file_name": name, "width": w, "height": h} for i, name, w, h in (
        (1, "good.png", 100, 80), (2, "cut.png", 64, 64), (3, "small.png", 200, 160), (4, "turned.jpg", 16, 24)
    )]  # fmt: skip
    coco(tmp_path, [(1, 3, [1, 1, 5, 5])], images)
    truncated(tmp_path / "images/cut.png")
    rotated(tmp_path / "images/turned.jpg", 6)
    report = check_data(tmp_path)
    assert not report.ok
    problems = {problem.file: problem.what for problem in report.splits["train"].problems}
    assert sorted(problems) == ["images/cut.png", "images/small.png", "images/turned.jpg"]
    assert "100x80 pixels, annotated are 200x160" in problems["images/small.png"]
    assert "EXIF" in problems["images/turned.jpg"] and QUARTERS.shape[:2] == (16, 24)
    assert check_data(tmp_path, decode=False).ok


def test_a_warning_alone_leaves_nothing_to_repair(tmp_path):
    coco(tmp_path, [(1, 3, [90, 70, 50, 50])])
    report = check_data(tmp_path)
    assert report.ok and len(report.splits["train"].problems) == 1


def test_a_split_that_cannot_be_read_spares_the_others(tmp_path):
    coco(tmp_path, [(1, 3, [1, 1, 5, 5])])
    text(tmp_path / "val.json", "")
    report = check_data(tmp_path)
    assert report.splits["train"].images == 1 and not report.ok
    assert "it is empty" in report.splits["val"].problems[0].what
    with pytest.raises(DataError, match="no split 'test'"):
        check_data(tmp_path, "test")


def test_a_data_set_of_which_nothing_can_be_read_is_one_error(tmp_path):
    text(tmp_path / "a.json", json.dumps({"version": "5", "shapes": [], "imagePath": "a.jpg"}))
    with pytest.raises(DataError, match="a.json is LabelMe's. Convert"):
        check_data(tmp_path)


def test_an_image_in_two_splits_is_mentioned(tmp_path):
    coco(tmp_path, [(1, 3, [1, 1, 5, 5])])
    coco(tmp_path, [(1, 3, [1, 1, 5, 5])], split="val")
    (problem,) = check_data(tmp_path).splits["val"].problems
    assert problem.severity == "warning" and "In train as well, as 1 image of val:" in problem.what


def test_a_picture_under_another_name_in_another_split_is_found_by_its_content(tmp_path):
    coco(tmp_path, [(1, 3, [1, 1, 5, 5])], ["a.png", "other.png"])
    image(tmp_path / "images/other.png").write_bytes(b"")  # no picture at all
    coco(tmp_path, [(1, 3, [1, 1, 5, 5])], ["b.png"], split="val")
    (problem,) = check_data(tmp_path).splits["val"].problems
    assert problem == ("warning", "images/b.png", problem.what)
    assert problem.what.startswith("In train as well (there: images/a.png), as 1 image of val:")
    assert not check_data(tmp_path, decode=False).splits["val"].problems


def test_what_is_most_likely_not_meant_is_named(tmp_path):
    categories = [
        {"id": 0, "name": "street", "supercategory": "none"},
        *(
            {"id": i, "name": name, "supercategory": "street"}
            for i, name in ((1, "Truck"), (2, "truck"), (3, "bus"))
        ),
    ]
    rows = [(1, 1, [10 * (n % 9), n // 9, 5, 1]) for n in range(102)]
    twice = [
        (1, 2, [0, 40, 50, 39]),
        (1, 2, [0, 40, 50, 38.5]),
        (2, 3, [0, 0, 50, 39]),
        (2, 2, [0, 3, 50, 39]),
    ]
    coco(tmp_path, [*rows, *twice], ["a.png", "b.png"], categories)
    report = check_data(tmp_path)
    assert report.ok
    told = {(problem.file, problem.what.partition(":")[0]) for problem in report.splits["train"].problems}
    supercategory = "The class 'street' is the super-category of others (Truck, truck, bus) and has no box."
    (parent,) = [what for file, what in told if file == "train.json"]
    assert parent.startswith(supercategory)
    assert told - {("train.json", parent)} == {
        ("images/a.png", "1 box lies almost exactly on another (the first"),
        (str(tmp_path), "Classes are written almost alike"),
        (str(tmp_path), "Imbalance"),
    }
    assert "Truck has 102 boxes, more than 50 times as many as bus 1." in report.summary()


@pytest.mark.parametrize("form", ["coco", "voc", "shared list"])
def test_a_class_misspelt_in_one_split_is_an_error_of_checking_and_of_training(tmp_path, form):
    if form == "voc":  # where the classes of all splits are collected from the objects
        voc(tmp_path, {"a": voc_xml(voc_object("person", 1, 1, 9, 9))})
        train = (tmp_path / "ImageSets/Main/train.txt").read_text()
        voc(tmp_path, {"b": voc_xml(voc_object("persn", 1, 1, 9, 9))})
        (tmp_path / "ImageSets/Main/train.txt").rename(tmp_path / "ImageSets/Main/val.txt")
        text(tmp_path / "ImageSets/Main/train.txt", train)
    else:
        misspelt = [CLASSES[0], {"id": 7, "name": "Persn"}]
        both = [*CLASSES, {"id": 8, "name": "Persn"}]
        coco(tmp_path, [(1, 7, [1, 1, 5, 5])], categories=both if form == "shared list" else CLASSES)
        own = (8, both) if form == "shared list" else (7, misspelt)
        coco(tmp_path, [(1, own[0], [1, 1, 5, 5])], ["b.png"], own[1], split="val")
    report = check_data(tmp_path)
    assert not report.ok
    (found,) = [problem for problem in report.splits["val"].problems if problem.severity == "error"]
    assert found.file.endswith("b.png") and "Did you mean person?" in found.what
    options = dict(split="train", val_fraction=0, seed=0, labels=None)
    with pytest.raises(DataError, match="(?i)box(es)? of 'persn'.* Did you mean person?"):
        open_data(str(tmp_path), val_split="val", **options)
    assert open_data(str(tmp_path), val_split=None, **options).validation is None


def test_names_are_alike_that_one_slip_tells_apart():
    pairs = [("Traffic light", "traffic_light"), ("person", "persn"), ("truck", "turck"), ("car", "cars")]
    apart = [
        ("car", "cat"),
        ("bear", "pear"),
        ("lane 1", "lane 2"),
        ("class10", "class1"),
        ("bus", "minibus"),
    ]
    names = [name for pair in [*pairs, *apart] for name in pair]
    assert alike_pairs(names) == pairs
    assert all(written_alike(*pair[::-1]) for pair in pairs)
    assert not any(written_alike(*pair) for pair in [*apart, ("?", "!")])


def test_the_summary_stays_short_when_everything_is_wrong(tmp_path):
    coco(tmp_path, [(i, 3, [200, 1, 5, 5]) for i in range(1, 101)], [f"{i}.png" for i in range(1, 101)])
    report = check_data(tmp_path, decode=False)
    assert len(report.splits["train"].problems) == 100
    assert len(report.summary().splitlines()) < 35 and "and 80 more errors" in report.summary()


# Converting


@pytest.mark.parametrize("form", ["coco", "yolo", "voc"])
def test_there_and_back_again_changes_nothing(tmp_path, source, form):
    result = convert_data(source, tmp_path / form, form)
    convert_data(tmp_path / form, tmp_path / "back", "coco")
    assert available_splits(tmp_path / form) == ("train", "val")
    assert result["splits"]["val"] == {"images": 1, "boxes": 1, "crowd_left_out": 0, "problems": 0}
    for split in ("train", "val"):
        before, there, back = (answers(path, split) for path in (source, tmp_path / form, tmp_path / "back"))
        if form == "yolo":  # which has no crowd regions
            assert result["splits"]["train"]["crowd_left_out"] == 1
            size, boxes, labels, crowd = before.get("Straße.png", (None, [], [], []))
            before["Straße.png"] = (size, boxes[:-1], labels[:-1], crowd[:-1])
            before = {name: answer for name, answer in before.items() if answer[0]}
        assert before == there == back
    assert read_data(tmp_path / form, "val").labels == ("car", "person", "traffic <light>")
    assert not list(tmp_path.glob(".*partial*"))


def test_other_tools_find_what_they_expect(tmp_path, source):
    convert_data(source, tmp_path / "yolo", "yolo")
    assert (tmp_path / "yolo/labels/train/empty.txt").read_text() == ""
    assert (
        tmp_path / "yolo/labels/train/sub dir/Straße.txt"
    ).read_text() == "0 0.99000000 0.98437500 0.01000000 0.01250000\n"
    convert_data(source, tmp_path / "coco", "coco")
    content = json.loads((tmp_path / "coco/annotations/instances_train.json").read_text())
    assert [(item["id"], item["file_name"]) for item in content["images"]][1] == (2, "sub dir/Straße.png")
    assert content["annotations"][1]["bbox"] == [12.34, 5.67, 33.33, 44.44]
    assert content["categories"][0] == {"id": 3, "name": "car"}
    convert_data(source, tmp_path / "voc", "voc")
    xml = (tmp_path / "voc/Annotations/a.xml").read_text()
    assert "<xmin>1</xmin><ymin>1</ymin><xmax>100</xmax><ymax>80</ymax>" in xml
    assert (tmp_path / "voc/ImageSets/Main/train.txt").read_text().splitlines()[1] == "sub dir/Straße"


def test_images_that_would_share_a_name_are_kept_apart(tmp_path):
    root = yolo(tmp_path / "set", {"a": "0 .5 .5 .2 .25", "b/a": "1 .5 .5 .2 .25"})
    image(root / "images/train/A.jpg")
    yolo(root, {"a": "0 .5 .5 .2 .25"}, "val")
    text(root / "data.yaml", "train: images/train\nval: images/val\nnames: [car, person]\n")
    for form in ("coco", "yolo", "voc"):
        result = convert_data(root, tmp_path / form, form)
        assert {split: counts["images"] for split, counts in result["splits"].items()} == {
            "train": 3,
            "val": 1,
        }
        train = read_data(tmp_path / form, "train")
        assert len({record.path.lower() for record in train.records}) == 3
        assert sorted(record.labels.tolist() for record in train.records) == [[], [0], [1]]
        assert [record.labels.tolist() for record in read_data(tmp_path / form, "val").records] == [[0]]


def test_a_folder_called_images_does_not_mislead_yolo_readers(tmp_path):
    coco(tmp_path / "set", [(1, 7, [1, 1, 5, 5])], ["x/images/a.png"])
    convert_data(tmp_path / "set", tmp_path / "yolo", "yolo")
    assert read_data(tmp_path / "yolo", "train").records[0].labels.tolist() == [1]


def test_links_save_the_space(tmp_path, source):
    convert_data(source, tmp_path / "out", "yolo", copy="link")
    record = read_data(tmp_path / "out", "val").records[0]
    assert os.path.islink(record.path) and os.path.samefile(record.path, source / "images/v.png")


def test_voc_and_undivided_sets_keep_their_names(tmp_path):
    root = voc(tmp_path / "voc", {"x/a": voc_xml(voc_object("car", 1, 1, 9, 9))}, lists="")
    (root / "train.txt").unlink()
    convert_data(root, tmp_path / "yolo", "yolo")
    assert available_splits(tmp_path / "yolo") == ("all",)
    assert (tmp_path / "yolo/images/all/x/a.png").is_file()


def test_a_folder_in_use_is_never_written_to(tmp_path, source):
    text(tmp_path / "out/keep.txt", "mine")
    with pytest.raises(DataError, match="not an empty folder"):
        convert_data(source, tmp_path / "out", "yolo")
    with pytest.raises(ConfigError, match="coco, yolo or voc"):
        convert_data(source, tmp_path / "new", "pascal")
    assert not (tmp_path / "new").exists()


def test_a_conversion_that_fails_leaves_nothing_behind(tmp_path, source, monkeypatch):
    def full_disk(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("hsvdet.data.convert.shutil.copyfile", full_disk)
    with pytest.raises(DataError, match="cannot be written: No space left"):
        convert_data(source, tmp_path / "out", "voc")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["source"]


def test_cells_that_were_annotated_twice_are_found_in_published_data(shared):
    report = check_data(shared / "data/bccd", decode=False)
    twice = [
        p.file for split in report.splits.values() for p in split.problems if "annotated twice?" in p.what
    ]
    assert report.ok and len(twice) == 7 and "images/BloodImage_00020.jpg" in twice


def test_published_photographs_survive_both_ways(tmp_path, shared):
    for form in ("yolo", "voc"):
        convert_data(shared / "data/bccd", tmp_path / form, form, split="val", copy="link")
        assert answers(tmp_path / form, "val") == answers(shared / "data/bccd", "val")
