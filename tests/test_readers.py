import json
import logging
import os
import unicodedata

import numpy as np
import pytest

from hsvdet.data.read import available_splits, read_data
from hsvdet.errors import DataError
from tiny_data import CLASSES, coco, image, text, voc, voc_object, voc_xml, yolo


def boxes(data, place=0) -> list[list[float]]:
    return data.records[place].boxes.round(3).tolist()


def only_problem(data, severity, *words) -> None:
    assert len(data.problems) == 1, data.problems
    problem = data.problems[0]
    assert problem.severity == severity
    for word in words:
        assert word in f"{problem.file}: {problem.what}", problem


# Each format, as its users have it


def test_coco_gives_corners_own_ids_crowds_and_areas(tmp_path):
    crowd = {"id": 9, "image_id": 2, "category_id": 7, "bbox": [0, 0, 50, 40], "iscrowd": 1, "area": 77.5}
    coco(tmp_path, [(2, 7, [10, 20, 30, 40.5]), crowd, (1, 3, [1, 2, 3, 4])], ["a.png", "b.png"])
    data = read_data(tmp_path)
    assert (data.labels, data.category_ids, data.split, data.format) == (
        ("car", "person"),
        (3, 7),
        "train",
        "coco",
    )
    first, second = data.records
    assert (first.id, first.size, first.path) == (1, (80, 100), str(tmp_path / "images" / "a.png"))
    assert boxes(data, 0) == [[1, 2, 4, 6]] and first.labels.tolist() == [0]
    assert boxes(data, 1) == [[10, 20, 40, 60.5], [0, 0, 50, 40]] and second.labels.tolist() == [1, 1]
    assert second.crowd.tolist() == [False, True] and second.area.tolist() == [30 * 40.5, 77.5]
    assert not data.problems


def test_the_standard_coco_layout_has_its_splits_and_folders(tmp_path):
    for split in ("train", "val"):
        file = coco(tmp_path, [(1, 3, [1, 1, 5, 5])], split=split)
        target = tmp_path / "annotations" / f"instances_{split}2017.json"
        target.parent.mkdir(exist_ok=True)
        file.rename(target)
        text(tmp_path / "annotations" / f"captions_{split}2017.json", "{}")
        image(tmp_path / f"{split}2017" / "a.png")
    (tmp_path / "images" / "a.png").unlink()
    assert available_splits(tmp_path) == ("train", "val")
    assert read_data(tmp_path, "val").records[0].path == str(tmp_path / "val2017" / "a.png")
    assert read_data(tmp_path / "annotations" / "instances_train2017.json").split == "train"


def test_a_data_set_without_splits_answers_to_any_name(tmp_path):
    file = coco(tmp_path, [(1, 3, [1, 1, 5, 5])], split="mine")
    assert available_splits(file) == ("all",)
    assert len(read_data(file)) == len(read_data(file, "val")) == len(read_data(tmp_path, "train")) == 1


@pytest.mark.parametrize(
    "yaml, train",
    [
        ("path: {root}\ntrain: images/train\n", None),
        ("path: .\ntrain: images/train\n", None),
        ("path: ../{name}\ntrain: images/train\n", None),
        ("path: from/here\ntrain: images/train\n", None),
        ("train: ../images/train\n", None),
        ("train: {root}/images/train\n", None),
        ("path: /moved/away\ntrain: [images/train]\n", None),
        ("train: train.txt\n", "./images/train/a.png\n"),
        ("train: train.txt\n", "images/train/a.png\r\n\r\n"),
        ("train: train.txt\n", "{root}/images/train/a.png\n"),
        ("path: lists\ntrain: train.txt\n", "../images/train/a.png"),
    ],
)
def test_every_way_to_write_a_path_in_data_yaml_is_understood(tmp_path, monkeypatch, yaml, train):
    root = yolo(tmp_path / "set", {"a": "1 0.5 0.5 0.2 0.25\n"})
    known = {"root": root, "name": root.name}
    (tmp_path / "from").mkdir()
    (tmp_path / "from" / "here").symlink_to(root)
    monkeypatch.chdir(tmp_path)
    text(root / "data.yaml", yaml.format(**known) + "names: {0: car, 1: person}\n")
    if train:
        text(root / ("lists" if "lists" in yaml else "") / "train.txt", train.format(**known))
    for path in (root / "data.yaml", "set"):
        data = read_data(path, "train")
        assert boxes(data) == [[40, 30, 60, 50]] and data.records[0].labels.tolist() == [1]
        assert os.path.realpath(data.records[0].path) == str(root / "images" / "train" / "a.png")


def test_yolo_labels_replace_the_last_folder_called_images(tmp_path):
    root = yolo(tmp_path / "images" / "set", {"a": "0 .5 .5 .5 .5"})
    assert len(boxes(read_data(root))) == 1


def test_yolo_names_are_a_list_or_any_ids_and_never_booleans(tmp_path):
    root = yolo(tmp_path, {"a": "5 .5 .5 .5 .5"})
    text(root / "data.yaml", "train: images/train\nnames: {5: no, 2: 1e3}\n")
    data = read_data(root)
    assert (data.labels, data.category_ids, data.records[0].labels.tolist()) == (("no", "1e3"), (5, 2), [0])


def test_bare_yolo_folders_need_only_class_names(tmp_path):
    root = yolo(tmp_path, {"a": "1 .5 .5 .5 .5", "b": None})
    (root / "data.yaml").unlink()
    with pytest.raises(DataError, match="classes.txt"):
        read_data(root)
    assert read_data(root, labels=["x", "y"]).records[0].labels.tolist() == [1]
    text(root / "classes.txt", "car\nperson\n")
    assert available_splits(root) == ("train",)
    data = read_data(root)
    assert data.labels == ("car", "person") and [r.id for r in data.records] == [
        "images/train/a.png",
        "images/train/b.png",
    ]
    assert not data.problems  # an image without labels is an ordinary one


def test_voc_counts_pixels_from_one_and_includes_the_last(tmp_path):
    xml = voc_xml(
        voc_object("zebra", 11, 21, 40, 60), voc_object("ant", 1, 1, 100, 80), voc_object("ant", 1.5, 2, 9, 9)
    )
    data = read_data(voc(tmp_path, {"a": xml}))
    assert data.labels == ("ant", "zebra") and data.category_ids == (1, 2) and data.format == "voc"
    assert boxes(data) == [[10, 20, 40, 60], [0, 0, 100, 80], [0.5, 1, 9, 9]]
    assert data.records[0].labels.tolist() == [1, 0, 0] and not data.problems


def test_voc_splits_number_their_classes_alike_and_class_lists_are_no_splits(tmp_path):
    root = voc(
        tmp_path,
        {"a": voc_xml(voc_object("b", 1, 1, 9, 9)), "my image": voc_xml(voc_object("a", 1, 1, 9, 9))},
    )
    text(root / "ImageSets/Main/train.txt", "a  1\n")
    text(root / "ImageSets/Main/val.txt", "my image\n")
    text(root / "ImageSets/Main/dog_val.txt", "my image -1\n")
    assert available_splits(root) == ("train", "val")
    assert read_data(root, "train").labels == read_data(root, "val").labels == ("a", "b")
    assert read_data(root.parent / root.name, "val").records[0].id == "JPEGImages/my image.png"


def test_idd_has_nested_folders_and_its_lists_at_the_root(tmp_path):
    name = "frontFar/BLR-2018-03-22_17-39-26_2_frontFar/000123_r"
    root = voc(tmp_path, {name: voc_xml(voc_object("rider", 5, 5, 20, 20))}, lists="")
    data = read_data(root, "train")
    assert data.format == "idd" and data.records[0].id == f"JPEGImages/{name}.png"
    assert boxes(data) == [[4, 4, 20, 20]]
    text(root / "train.txt", f"{name}.jpg\r\n")
    assert len(read_data(root, "train")) == 1


def test_xml_files_may_lie_beside_their_images(tmp_path):
    for split in ("train", "valid"):
        image(tmp_path / split / "a.png")
        text(tmp_path / split / "a.xml", voc_xml(voc_object("car", 1, 1, 9, 9)))
    assert available_splits(tmp_path) == ("train", "val")
    assert len(boxes(read_data(tmp_path, "val"))) == 1


def test_a_folder_link_that_git_stored_as_text_is_followed(tmp_path):
    root = voc(tmp_path / "voc", {"a": voc_xml(voc_object("car", 1, 1, 9, 9))})
    (root / "JPEGImages").rename(tmp_path / "pictures")
    text(root / "JPEGImages", "../pictures")
    assert read_data(root).records[0].path == str(tmp_path / "pictures" / "a.png")


# Names are the key


def test_asked_labels_give_the_order_and_own_ids_come_back(tmp_path):
    coco(tmp_path, [(1, 3, [1, 1, 5, 5]), (1, 7, [2, 2, 5, 5])])
    data = read_data(tmp_path, labels=["person", "bus", "car"])
    assert data.labels == ("person", "bus", "car") and data.category_ids == (7, 8, 3)
    assert data.records[0].labels.tolist() == [2, 0]


@pytest.mark.parametrize("form", ["coco", "yolo", "voc"])
def test_boxes_of_a_class_not_asked_for_are_never_dropped_in_silence(tmp_path, form):
    if form == "coco":
        coco(tmp_path, [(1, 7, [1, 1, 5, 5])])
    elif form == "yolo":
        yolo(tmp_path, {"a": "1 .5 .5 .5 .5"})
    else:
        voc(tmp_path, {"a": voc_xml(voc_object("person", 1, 1, 9, 9))})
    with pytest.raises(DataError, match="1 box of 'person', not among .*Did you mean persons?"):
        read_data(tmp_path, labels=["car", "persons"])


def test_two_ids_with_one_name_are_one_class(tmp_path):
    categories = [*CLASSES, {"id": 9, "name": "car"}]
    coco(tmp_path, [(1, 9, [1, 1, 5, 5]), (1, 3, [2, 2, 5, 5])], categories=categories)
    data = read_data(tmp_path)
    assert data.category_ids == (3, 7) and data.records[0].labels.tolist() == [0, 0]
    only_problem(data, "warning", "3 and 9", "car")


@pytest.mark.parametrize("first", [0, 1])
def test_ids_from_zero_or_one_and_with_gaps_are_fine(tmp_path, first):
    categories = [{"id": first, "name": "a"}, {"id": first + 50, "name": "b"}]
    images = [{"id": first, "file_name": "a.png", "width": 100, "height": 80}]
    coco(tmp_path, [(first, first + 50, [1, 1, 5, 5])], images, categories)
    data = read_data(tmp_path)
    assert data.records[0].id == first and data.records[0].labels.tolist() == [1] and not data.problems


# Bad boxes: one treatment for all formats

BOXES = {  # xywh as annotated, xyxy as used, severity, words
    "beyond an edge": ([80, 60, 40, 40], [80, 60, 100, 80], "warning", "partly outside"),
    "half a pixel over": ([90, 70, 10.5, 10.5], [90, 70, 100, 80], None, ""),
    "wholly outside": ([200, 10, 20, 20], None, "error", "wholly outside"),
    "negative size": ([40, 50, -20, -30], [20, 20, 40, 50], "warning", "corners put in order"),
    "no width": ([10, 10, 0, 20], None, "error", "without area"),
    "not a number": ([10, float("nan"), 5, 5], None, "error", "NaN"),
    "infinite": ([10, 10, float("inf"), 5], None, "error", "NaN or infinite"),
}


@pytest.mark.parametrize("form", ["coco", "yolo", "voc"])
@pytest.mark.parametrize("case", BOXES)
def test_a_bad_box_is_repaired_or_left_out_and_reported_by_file(tmp_path, form, case):
    (x, y, w, h), used, severity, words = BOXES[case]
    if form == "coco":
        coco(tmp_path, [(1, 3, [x, y, w, h]), (1, 3, [1, 1, 5, 5])])
    elif form == "yolo":
        bad = f"0 {(x + w / 2) / 100} {(y + h / 2) / 80} {w / 100} {h / 80}"
        yolo(tmp_path, {"a": f"{bad}\n0 0.035 0.04375 0.05 0.0625\n"})
    else:
        corners = (x, y, x + w + 1, y + h + 1) if w < 0 else (x + 1, y + 1, x + max(w, 1), y + h)
        voc(tmp_path, {"a": voc_xml(voc_object("car", *corners), voc_object("car", 2, 2, 6, 6))})
    data = read_data(tmp_path)
    expected = [box for box in (used, [1, 1, 6, 6]) if box]
    assert np.allclose(boxes(data), expected, atol=1e-3)
    if severity is None:
        assert not data.problems
    else:
        file = {"coco": "a.png", "yolo": "labels/train/a.txt", "voc": "Annotations/a.xml"}[form]
        only_problem(data, severity, words, file, "1 box ")


def test_exact_duplicates_are_kept_once_and_counted_in_one_line(tmp_path):
    same = [(1, 3, [1, 1, 5, 5])] * 3
    coco(tmp_path, [*same, (1, 7, [1, 1, 5, 5]), (1, 3, [1, 1, 5, 6])])
    data = read_data(tmp_path)
    assert len(boxes(data)) == 3
    only_problem(data, "warning", "2 boxes annotated twice", "a.png")


def test_many_bad_boxes_of_a_file_are_one_problem(tmp_path):
    coco(tmp_path, [(1, 3, [200 + i, 1, 5, 5]) for i in range(500)] + [(1, 3, [1, 1, 5, 5])])
    only_problem(read_data(tmp_path), "error", "500 boxes wholly outside", "the first: annotation 1")


@pytest.mark.parametrize(
    "annotation, words",
    [
        ({"image_id": 1, "bbox": [1, 1, 5, 5]}, "no 'category_id'"),
        ({"image_id": 1, "category_id": 3}, "no 'bbox'"),
        ({"image_id": 1, "category_id": 3, "bbox": [1, 1, 5]}, "4 numbers"),
        ({"image_id": 1, "category_id": 3, "bbox": ["a", 1, 5, 5]}, "4 numbers"),
        ({"image_id": 1, "category_id": 3, "bbox": {"x": 1}}, "4 numbers"),
        ({"image_id": 1, "category_id": [3], "bbox": [1, 1, 5, 5]}, "category_id is [3]"),
        ("nonsense", "not an object"),
    ],
)
def test_a_coco_annotation_that_cannot_be_read_spares_the_others(tmp_path, annotation, words):
    coco(tmp_path, [(1, 3, [1, 1, 5, 5]), annotation, (1, 7, [2, 2, 5, 5])])
    data = read_data(tmp_path)
    assert data.records[0].labels.tolist() == [0, 1]
    only_problem(data, "error", "1 box that cannot be read", words)


def test_numbers_written_as_strings_are_numbers(tmp_path):
    odd = {"image_id": "1", "category_id": "3", "bbox": ["1", "2.5", "5", 5], "iscrowd": "1", "area": "20"}
    coco(tmp_path, [odd])
    data = read_data(tmp_path)
    assert boxes(data) == [[1, 2.5, 6, 7.5]] and data.records[0].crowd.tolist() == [True]
    assert data.records[0].area.tolist() == [20] and not data.problems


@pytest.mark.parametrize("form", ["coco", "yolo", "voc"])
def test_an_unknown_class_is_an_error_by_file(tmp_path, form):
    if form == "coco":
        coco(tmp_path, [(1, 99, [1, 1, 5, 5])])
        words = "category_id 99", "a.png"
    elif form == "yolo":
        yolo(tmp_path, {"a": "2 .5 .5 .5 .5\n-1 .5 .5 .5 .5\n0.5 .5 .5 .5 .5\n1.0 .5 .5 .5 .5"})
        words = "3 boxes of an unknown class", "line 1: class 2", "a.txt"
    else:
        text(tmp_path / "labels.txt", "car\nperson")
        voc(tmp_path, {"a": voc_xml(voc_object("tree", 1, 1, 9, 9))})
        words = "'tree'", "a.xml"
    data = read_data(tmp_path)
    assert len(boxes(data)) == (form == "yolo")
    only_problem(data, "error", *words)


# Bad lines and files


def test_yolo_polygons_become_boxes_and_confidences_are_ignored(tmp_path):
    data = read_data(yolo(tmp_path, {"a": "0 0.1 0.2 0.5 0.2 0.3 0.75\n1 .5 .5 .2 .25 0.9\n"}))
    assert boxes(data) == [[10, 16, 50, 60], [40, 30, 60, 50]]
    only_problem(data, "warning", "sixth number", "line 2")


def test_yolo_lines_that_cannot_be_read_are_counted_and_pixels_recognised(tmp_path):
    lines = "car .5 .5 .5 .5\n0 .5 .5\n0 .1 .1 .2 .2 .3 .3 .4\n0 50 40 20 20\n0 .5 .5 .2 .25\n"
    data = read_data(yolo(tmp_path, {"a": lines}))
    assert boxes(data) == [[40, 30, 60, 50]]
    assert [p.what[:20] for p in data.problems] == ["3 boxes that cannot ", "1 box with numbers f"]


@pytest.mark.parametrize("encode", ["utf-8-sig", "utf-16", "utf-16-le", "utf-32"])
@pytest.mark.parametrize("form", ["coco", "yolo", "voc"])
def test_byte_order_marks_utf16_and_crlf_are_understood(tmp_path, form, encode):
    if form == "coco":
        file = coco(tmp_path, [(1, 3, [1, 1, 5, 5])])
        files = [file]
    elif form == "yolo":
        root = yolo(tmp_path, {"a": "0 .5 .5 .5 .5\n"})
        files = [root / "data.yaml", root / "labels/train/a.txt"]
    else:
        root = voc(
            tmp_path, {"a": '<?xml version="1.0" encoding="utf-8"?>\n' + voc_xml(voc_object("ä", 1, 1, 9, 9))}
        )
        files = [root / "Annotations/a.xml", root / "ImageSets/Main/train.txt"]
    if encode == "utf-32" and form != "coco":
        pytest.skip("UTF-32 is JSON's business only")
    for file in files:
        file.write_bytes(file.read_text().replace("\n", "\r\n").encode(encode))
    data = read_data(tmp_path)
    assert len(boxes(data)) == 1 and not data.problems
    assert data.labels[0] == ("ä" if form == "voc" else "car")


def test_an_image_that_is_missing_or_broken_is_left_out_by_name(tmp_path):
    absent = {"id": 2, "file_name": "b.png", "width": 100, "height": 80, "absent": True}
    coco(tmp_path / "coco", [(1, 3, [1, 1, 5, 5]), (2, 3, [1, 1, 5, 5])], ["a.png", absent])
    data = read_data(tmp_path / "coco")
    assert [record.id for record in data.records] == [1] and len(boxes(data)) == 1
    only_problem(data, "error", "b.png", "does not exist")

    root = yolo(tmp_path / "yolo", {"a": "0 .5 .5 .5 .5", "b": "0 .5 .5 .5 .5", "c": "0 .5 .5 .5 .5"})
    text(root / "images/train/b.png", b"")
    (root / "images/train/c.png").unlink()
    data = read_data(root)
    assert len(data) == 1
    assert [p.file for p in data.problems] == ["images/train/b.png", "labels/train/c.txt"]

    root = voc(tmp_path / "voc", {"a": voc_xml(voc_object("car", 1, 1, 9, 9)), "b": voc_xml()})
    (root / "JPEGImages/b.png").unlink()
    only_problem(read_data(root), "error", "b.xml", "no image")


@pytest.mark.parametrize("xml", ["", "<annotation><object>", "<html/>", b"\xff\xfe\xff", "text"])
def test_an_image_whose_annotation_is_broken_is_left_out_not_taken_as_empty(tmp_path, xml):
    data = read_data(voc(tmp_path, {"a": voc_xml(voc_object("car", 1, 1, 9, 9)), "b": xml}))
    assert [record.id for record in data.records] == ["JPEGImages/a.png"]
    only_problem(data, "error", "b.xml")


def test_xml_with_entities_is_refused(tmp_path):
    bomb = '<!DOCTYPE x [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;">]>' + voc_xml(
        voc_object("&b;", 1, 1, 9, 9)
    )
    data = read_data(voc(tmp_path, {"a": voc_xml(voc_object("car", 1, 1, 9, 9)), "b": bomb}))
    only_problem(data, "error", "b.xml", "entities")


def test_images_without_annotation_are_ordinary_and_empty(tmp_path):
    coco(tmp_path / "coco", [(1, 3, [1, 1, 5, 5])], ["a.png", "b.png"])
    yolo(tmp_path / "yolo", {"a": "0 .5 .5 .5 .5", "b": None, "c": ""})
    voc(tmp_path / "voc", {"a": voc_xml(voc_object("car", 1, 1, 9, 9)), "b": None, "c": voc_xml()})
    for form, counts in (("coco", [1, 0]), ("yolo", [1, 0, 0]), ("voc", [1, 0, 0])):
        data = read_data(tmp_path / form)
        assert [len(record.boxes) for record in data.records] == counts
        assert data.records[1].boxes.shape == (0, 4)
        assert not any(problem.severity == "error" for problem in data.problems)


def test_annotations_of_unlisted_images_are_reported_together(tmp_path):
    coco(tmp_path, [(1, 3, [1, 1, 5, 5]), (8, 3, [1, 1, 5, 5]), (9, 3, [1, 1, 5, 5])])
    only_problem(read_data(tmp_path), "error", "train.json", "2 annotations", "8, 9")


def test_an_image_listed_twice_is_used_once_with_all_its_boxes(tmp_path):
    size = {"width": 100, "height": 80}
    images = [{"id": 1, "file_name": "a.png", **size}, {"id": 2, "file_name": "a.png", **size}]
    coco(tmp_path / "coco", [(1, 3, [1, 1, 5, 5]), (2, 3, [2, 2, 5, 5])], images)
    data = read_data(tmp_path / "coco")
    assert len(data) == 1 and len(boxes(data)) == 2
    only_problem(data, "warning", "a.png", "Listed twice")

    images = [{"id": 1, "file_name": "a.png", **size}, {"id": 1, "file_name": "b.png", **size}]
    coco(tmp_path / "ids", [(1, 3, [1, 1, 5, 5])], images)
    only_problem(read_data(tmp_path / "ids"), "error", "b.png", "image id 1")

    root = yolo(tmp_path / "yolo", {"a": "0 .5 .5 .5 .5"})
    text(root / "data.yaml", "train: t.txt\nnames: [car]")
    text(root / "t.txt", "./images/train/a.png\nimages/train/a.png\n./images/train/z.png\n")
    data = read_data(root)
    assert [(p.severity, p.file) for p in data.problems] == [
        ("error", "./images/train/z.png"),
        ("warning", "images/train/a.png"),
    ]


def test_a_coco_image_without_size_is_measured(tmp_path):
    images = [{"id": 1, "file_name": "a.png"}, {"id": 2, "file_name": "b.png", "width": 0, "height": "80"}]
    images.append({"id": 3, "file_name": "c.png", "width": 10**400, "height": 80})
    coco(tmp_path, [(1, 3, [1, 1, 500, 5])], images)
    assert [record.size for record in read_data(tmp_path).records] == [(80, 100)] * 3


def test_names_with_blanks_accents_and_backslashes_are_found(tmp_path):
    images = ["sub dir/Straße № 1.png", {"id": 2, "file_name": "é.png", "width": 100, "height": 80}]
    file = coco(tmp_path, [(1, 3, [1, 1, 5, 5])], images)
    (tmp_path / "images/é.png").rename(tmp_path / "images" / unicodedata.normalize("NFD", "é.png"))
    content = json.loads(file.read_text())
    content["images"][0]["file_name"] = content["images"][0]["file_name"].replace("/", "\\")
    file.write_text(json.dumps(content))
    data = read_data(tmp_path)
    assert len(data) == 2 and not data.problems
    assert all(os.path.isfile(record.path) for record in data.records)


def test_links_in_a_circle_are_not_followed(tmp_path):
    root = yolo(tmp_path, {"a": "0 .5 .5 .5 .5"})
    (root / "images/train/again").symlink_to(root / "images", target_is_directory=True)
    (root / "images/train/self.png").symlink_to(root / "images/train/self.png")
    data = read_data(root)
    assert [record.id for record in data.records] == ["images/train/a.png"]
    assert {p.severity for p in data.problems if "read already" in p.what} == {"warning"}
    assert [p.file for p in data.problems if p.severity == "error"] == ["images/train/self.png"]


# What cannot be used as a whole is refused in one line


@pytest.mark.parametrize(
    "content, words",
    [
        ("", "it is empty"),
        ('{"images": [', "not a JSON file"),
        ("[]", "results"),
        ('{"images": [], "annotations": []}', "'categories' is missing"),
        ('{"images": [], "annotations": [], "categories": []}', "'categories' is empty"),
        ('{"images": [], "annotations": [], "categories": [{"id": 1, "name": "a"}]}', "no image"),
        ('{"images": [], "annotations": [], "categories": [{"id": "x", "name": "a"}]}', "integer id"),
        ("[" * 100_000, "not a JSON file"),
    ],
)
def test_a_coco_file_that_is_none_is_refused(tmp_path, content, words):
    file = text(tmp_path / "train.json", content)
    with pytest.raises(DataError, match=words) as error:
        read_data(file)
    assert str(file) in str(error.value) or str(tmp_path) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_coco_file_whose_images_are_elsewhere_says_where_it_looked(tmp_path):
    coco(tmp_path, [], [{"id": 1, "file_name": "a.png", "width": 100, "height": 80, "absent": True}])
    with pytest.raises(DataError, match=f"none of its 1 image was found.*{tmp_path}/images"):
        read_data(tmp_path)


@pytest.mark.parametrize(
    "yaml, words",
    [
        ("", "empty"),
        ("train: images/train\n", "no class names"),
        ("names: [a]\n", "no split"),
        ("train: images/nowhere\nnames: [a]\n", "images/nowhere does not exist. Looked for"),
        ("train: [{a: b}]\nnames: [a]\n", "path or a list"),
        ("train: images/train\nnames: {x: a}\n", "integers"),
        ("train: [\n", "not YAML"),
    ],
)
def test_a_data_yaml_that_is_none_is_refused(tmp_path, yaml, words):
    root = yolo(tmp_path, {"a": "0 .5 .5 .5 .5"})
    text(root / "data.yaml", yaml)
    with pytest.raises(DataError, match=words) as error:
        read_data(root / "data.yaml", "train")
    assert "\n" not in str(error.value)


def test_a_path_without_data_set_says_what_was_looked_for_and_found(tmp_path):
    text(tmp_path / "notes.txt", "")
    with pytest.raises(DataError, match="Looked for .*COCO.*YOLO.*VOC.*found notes.txt"):
        read_data(tmp_path)
    for path in (tmp_path / "absent", tmp_path / "notes.txt", "a\0b"):
        with pytest.raises(DataError):
            read_data(path)


LABELME = {"version": "5.4.1", "flags": {}, "shapes": [], "imagePath": "a.jpg", "imageData": None}
TASK = {"id": 1, "annotations": [{"result": []}], "data": {"image": "a.jpg"}}
CREATE_ML = {"label": "car", "coordinates": {"x": 1, "y": 2, "width": 3, "height": 4}}


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"annotations.xml": "<?xml version='1.0'?>\n<annotations><version/></annotations>"}, "CVAT .*COCO 1.0"),
        ({"train/annotations.xml": "<annotations>\n<meta/></annotations>"}, "CVAT .*COCO 1.0"),
        ({f"train_{n}.json": LABELME for n in range(20)}, "LabelMe's.* Convert them all"),
        ({"a.json": LABELME}, "LabelMe's.* Convert them all"),
        ({"images/a.json": LABELME}, "LabelMe's.* Convert them all"),
        ({"project-1.json": [TASK]}, "a Label Studio export.* as COCO or YOLO"),
        ({"min.json": [{"image": "a.jpg", "id": 1, "label": [], "annotator": 1}]}, "a Label Studio export"),
        ({"meta.json": {"classes": [{"title": "car"}], "tags": []}}, "Supervisely's.* as COCO, YOLO or Pascal VOC"),
        ({"ann/a.jpg.json": {"size": {"height": 8, "width": 8}, "tags": [], "objects": []}}, "Supervisely's"),
        ({"train/_annotations.createml.json": [{"image": "a.jpg", "annotations": [CREATE_ML]}]}, "a Create ML export"),
        ({"labels.json": [{"imagefilename": "a.jpg", "annotation": [CREATE_ML]}]}, "a Create ML export"),
    ],
)  # fmt: skip
def test_exports_of_other_tools_are_known_by_their_content_and_told_what_to_do(tmp_path, files, words):
    for name, content in files.items():
        text(tmp_path / name, content if isinstance(content, str) else json.dumps(content))
    image(tmp_path / "images" / "a.png")
    for path in (tmp_path, tmp_path / next(iter(files))):
        with pytest.raises(DataError, match=words):
            read_data(path)


def test_an_unknown_split_says_which_exist(tmp_path):
    for split in ("train", "val"):
        coco(tmp_path, [(1, 3, [1, 1, 5, 5])], split=split)
    with pytest.raises(DataError, match="no split 'vall', it has train, val. Did you mean val?"):
        read_data(tmp_path, "vall")
    with pytest.raises(DataError, match="train, val: say which"):
        read_data(tmp_path)


def test_reading_logs_one_line(tmp_path, caplog):
    coco(tmp_path, [(1, 3, [200 + i, 1, 5, 5]) for i in range(50)], ["a.png", "b.png"])
    with caplog.at_level(logging.INFO, "hsvdet"):
        read_data(tmp_path)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "2 images" in caplog.text and "data check" in caplog.text


def test_published_photographs_are_read_alike_in_coco_and_voc_form(shared):
    ours, original = read_data(shared / "data/bccd", "val"), read_data(shared / "data/bccd/voc", "test")
    assert ours.labels == original.labels and not ours.problems
    by_name = {os.path.basename(record.path): record for record in original.records}
    assert len(by_name) == len(ours)
    for record in ours.records:
        other = by_name[os.path.basename(record.path)]
        # The COCO file was made without counting from one: the first corners are a pixel further.
        assert np.abs(record.boxes - other.boxes).max() <= 1 and (record.labels == other.labels).all()
    degenerate = [p.file for p in read_data(shared / "data/bccd/voc", "trainval").problems]
    assert degenerate == ["Annotations/BloodImage_00338.xml", "Annotations/BloodImage_00343.xml"]
