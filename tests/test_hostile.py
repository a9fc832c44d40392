"""Small files that would hang, fill the memory, or be taken for something else: refused in words, before the work."""

import dataclasses
import json
import os
import pickle
import subprocess
import sys
import types
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

import hsvdet
from hsvdet.checkpoint import read_checkpoint, write_checkpoint
from hsvdet.conversion.foreign import read_foreign
from hsvdet.data.read import read_data
from hsvdet.errors import CheckpointError, ConfigError, DataError, NonFiniteError
from hsvdet.preprocess import Preprocess
from hsvdet.runtime.artifact import Artifact, ArtifactHeader
from test_seal import HEADER
from tiny_data import coco, image, text, voc, voc_object, voc_xml, yolo


def changed(checkpoint, out, **header):
    tensors, before = read_checkpoint(checkpoint)
    write_checkpoint(out, tensors, {**before, **header})
    return out


@pytest.mark.parametrize("name, option", [("yolov8-n", "depth"), ("detr-tiny", "decoder_layers")])
def test_a_configuration_without_end_is_refused_before_it_is_built(tmp_path, monkeypatch, name, option):
    monkeypatch.setattr("hsvdet.detector.MOST_TENSORS", 500)  # the rest would be built, and take time
    detector = hsvdet.create(name, ["car"])
    detector.save(tmp_path / "a.safetensors")
    config = json.loads(json.dumps(detector.header()["config"])) | {option: 10**6}
    path = changed(tmp_path / "a.safetensors", tmp_path / "b.safetensors", config=config)
    with pytest.raises(CheckpointError, match="ask for a network of more than"):
        hsvdet.load(path)
    with pytest.raises(ConfigError, match="ask for a network of more than"):
        hsvdet.create(name, ["car"], options={option: 10**6})
    with pytest.raises(ConfigError, match="ask for a network of more than"):
        hsvdet.profile(str(path))


PREPROCESS = {
    "size": [[2**20, 2**20], [64, 64, 64], [64.0, 64], "64x64", 64, [True, 64]],
    "std": [[0.0, 1.0, 1.0], [1, 1], ["a", 1, 1], None, [-1, 1, 1]],
    "mean": [[float("nan"), 0, 0], [float("inf"), 0, 0], [0, 0]],
    "stride": [-32, 0, 2**20, "32", 32.0],
    "fill": ["x", -1, 256, 1.5],
    "antialias": [1, "yes"],
}


@pytest.mark.parametrize("name", PREPROCESS)
def test_preprocessing_that_makes_no_sense_is_refused(tmp_path, tiny_checkpoint, name):
    sound = {"size": [64, 64]}
    assert Preprocess(**sound).size == (64, 64)
    for value in PREPROCESS[name]:
        with pytest.raises(ConfigError, match=name):
            Preprocess(**{**sound, name: value})
        preprocess = read_checkpoint(tiny_checkpoint)[1]["preprocess"] | {name: value}
        path = changed(tiny_checkpoint, tmp_path / "a.safetensors", preprocess=preprocess)
        with pytest.raises(CheckpointError, match=name):
            hsvdet.load(path)


@pytest.mark.parametrize("preprocess", [{}, {"fill": 0}, {"size": [64, 64], "crop": 1}])
def test_preprocessing_by_other_names_is_refused_by_all_that_read_it(
    tmp_path, tiny_checkpoint, monkeypatch, preprocess
):
    from hsvdet.runtime import run_executorch
    from hsvdet.training.beginning import begin

    path = changed(tiny_checkpoint, tmp_path / "a.safetensors", preprocess=preprocess)
    for read in (hsvdet.load, hsvdet.profile, begin):
        with pytest.raises(
            CheckpointError, match=f"{path}.* preprocess expects size, and no other names than"
        ):
            read(path)
    if "crop" in preprocess:  # the size is the artifact's own
        runtime = types.SimpleNamespace(Runtime=None)
        monkeypatch.setitem(sys.modules, "executorch", types.ModuleType("executorch"))
        monkeypatch.setitem(sys.modules, "executorch.runtime", runtime)
        header = dataclasses.replace(HEADER, preprocess=preprocess)
        with pytest.raises(CheckpointError, match="header's preprocess"):
            run_executorch.start(Artifact(path, header, "", b""), None)


WRONG = {
    "model": 1, "config": [], "labels": ["car", "car"], "category_ids": [1, 1], "preprocess": None, "licence": [],
    "source": 1, "target": "x", "precision": ["fp32"], "size": [32], "dynamic": 1, "score": "0.5", "floor": -1,
    "iou": float("nan"), "max_detections": True, "versions": [], "float32": "a", "certificate": [1],
}  # fmt: skip


def test_every_value_of_an_artifacts_header_is_checked():
    right = HEADER.to_json()
    assert ArtifactHeader.from_json(right) == HEADER and set(WRONG) | {"format"} == set(right)
    for name, value in WRONG.items():
        with pytest.raises(CheckpointError, match=f"header's {name} is not what it must be"):
            ArtifactHeader.from_json({**right, name: value})
    for name in ("labels", "category_ids", "size", "float32"):
        for value in ([[1], [2]], [None, None], [{}, {}], [1.5, 2.5]):
            with pytest.raises(CheckpointError, match="is not what it must be"):
                ArtifactHeader.from_json({**right, name: value})


def test_outputs_that_no_artifact_gives_are_refused():
    from hsvdet.runtime.runner import Runner

    boxes, scores = np.zeros((1, 2, 4), np.float32), np.array([[0.9, 0.8]], np.float32)
    labels, count = np.array([[0, 1]]), np.array([2])
    picture = np.zeros((9, 9, 3), np.uint8)

    def answer(*rows):
        return Runner(lambda images: rows, HEADER, None, "")(picture)

    assert len(answer(boxes, scores, labels, count).scores) == 2
    for error, words, rows in (
        (NonFiniteError, "not finite", (np.full_like(boxes, np.nan), scores, labels, count)),
        (CheckpointError, "a class that is none", (boxes, scores, labels + 1, count)),
        (CheckpointError, "a class that is none", (boxes, scores, labels - 1, count)),
        (CheckpointError, "have the shapes", (boxes[:, :1], scores, labels, count)),
        (CheckpointError, "have the shapes", (boxes, scores[0], labels, count)),
        (CheckpointError, "have the shapes", (boxes, scores, labels)),
    ):
        with pytest.raises(error, match=words):
            answer(*rows)


def test_pickles_that_hold_themselves_or_more_than_their_file_are_refused(tmp_path):
    itself = {}
    itself["model"] = itself
    torch.save(itself, tmp_path / "itself.pt")
    with pytest.raises(CheckpointError, match="contains itself"):
        read_foreign(tmp_path / "itself.pt")
    circle = [torch.zeros(1)]
    circle.append(circle)
    torch.save({"model": circle}, tmp_path / "circle.pt")
    with pytest.raises(CheckpointError, match="expected a state dict"):
        read_foreign(tmp_path / "circle.pt")
    torch.save({"a": torch.zeros(1).expand(10**12)}, tmp_path / "stride.pt")
    with pytest.raises(CheckpointError, match="memory for 4 bytes alone"):
        read_foreign(tmp_path / "stride.pt")
    torch.save({"a": torch.zeros(1 << 20)}, tmp_path / "plain.pt")
    with zipfile.ZipFile(tmp_path / "plain.pt") as plain:
        with zipfile.ZipFile(tmp_path / "small.pt", "w", zipfile.ZIP_DEFLATED) as small:
            for name in plain.namelist():
                small.writestr(name, plain.read(name))
    assert (tmp_path / "small.pt").stat().st_size < 20_000
    with pytest.raises(CheckpointError, match="compressed"):
        read_foreign(tmp_path / "small.pt")


def test_a_pickle_of_another_protocol_is_refused_without_advice_to_load_it_unlooked_at(tmp_path):
    (tmp_path / "a.pt").write_bytes(pickle.dumps([1.0], protocol=4))
    with pytest.raises(CheckpointError, match=r"expected .*\(Unsupported operand 149\)") as refused:
        read_foreign(tmp_path / "a.pt")
    assert "weights_only" not in str(refused.value)


def test_a_pickle_that_asks_for_memory_alone_is_refused_before_it_has_it(tmp_path):
    size = 1_500_000_000
    asks = b"\x80\x02cbuiltins\nbytearray\nJ" + size.to_bytes(4, "little") + b"\x85R."
    (tmp_path / "old.pt").write_bytes(asks)
    torch.save({}, tmp_path / "empty.pt")
    with zipfile.ZipFile(tmp_path / "empty.pt") as empty, zipfile.ZipFile(tmp_path / "zip.pt", "w") as full:
        for name in empty.namelist():
            full.writestr(name, asks if name.endswith("data.pkl") else empty.read(name))
    for name in ("old.pt", "zip.pt"):
        with pytest.raises(CheckpointError, match="builtins.bytearray"):
            read_foreign(tmp_path / name)


def test_data_yaml_that_stands_for_more_than_it_says_is_refused(tmp_path):
    folder = yolo(tmp_path / "set", {"a": "0 0.5 0.5 0.2 0.2"})
    os.mkfifo(tmp_path / "pipe")
    pairs = zip("abcdefgh", "bcdefghi", strict=True)
    laughs = "a: &a [x, x]\n" + "".join(f"{new}: &{new} [*{old}, *{old}]\n" for old, new in pairs)
    for content, words in {
        f"train: images/train\n{laughs}names: *i\n": "aliases",
        "train: images/train\nnc: 10000000000\n": "classes without names",
        f"train: {tmp_path}/pipe\nnames: [car]\n": "no regular file",
        "train: /dev/zero\nnames: [car]\n": "no regular file",
        "train: /\nnames: [car]\n": "root of the file system",
        "train: images/train\nnames: [car, bus]\ncategory_ids: [1, 1]\n": "category_ids expects",
        "train: images/train\nnames: [car]\ncategory_ids: [[1]]\n": "category_ids expects",
        "train: images/train\nnames: [car]\ncategory_ids: 7\n": "category_ids expects",
        f"train: images/train\nnames: [car]\ncategory_ids: ['{'9' * 400}']\n": "category_ids expects",
    }.items():
        text(folder / "data.yaml", content)
        with pytest.raises(DataError, match=words):
            read_data(folder, "train")
    for name in ("pipe.json", "pipe.yaml"):
        os.mkfifo(tmp_path / name)
        with pytest.raises(DataError):
            read_data(tmp_path / name, "train")


@pytest.mark.parametrize("encoding", ["undefined", "zip_codec", "idna", "no-such"])
def test_encodings_that_xml_may_name_and_nobody_writes_are_one_finding(tmp_path, encoding):
    from hsvdet.data.files import read_text

    text(tmp_path / "a.xml", b'<?xml version="1.0" encoding="%s"?><a>\xff</a>' % encoding.encode())
    with pytest.raises(DataError, match="is not text"):
        read_text(tmp_path / "a.xml")


def test_ids_and_names_of_classes_are_each_once(tmp_path, tiny_checkpoint):
    for wrong in ({"category_ids": [3, 3]}, {"labels": ["car", ""]}, {"labels": ["car", "car"]}):
        with pytest.raises(CheckpointError, match="each once"):
            hsvdet.load(changed(tiny_checkpoint, tmp_path / "a.safetensors", **wrong))


MEASURED = """
import sys
from hsvdet.data.pixels import read_pixels

def most():  # of this process: getrusage() would know its parent's
    (line,) = (line for line in open("/proc/self/status") if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024

before = most()
pixel = read_pixels(sys.argv[1])[0, 0].tolist()
print(most() - before, *pixel)
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="asks Linux for the memory")
@pytest.mark.parametrize(
    "image, expected, most",
    [
        (lambda side: Image.new("RGBA", side, (10, 20, 30, 128)), [132, 137, 142], 9),
        (lambda side: Image.fromarray(np.full(side, 0.5, np.float32)), [128] * 3, 9),
    ],
)
def test_a_large_image_is_decoded_in_a_few_times_its_size(tmp_path, image, expected, most):
    """4 bytes a pixel come in, 3 go out."""
    side = 5000
    image((side, side)).save(tmp_path / "a.tif", compression="tiff_deflate")
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, tmp_path / "a.tif"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    memory, *pixel = map(int, done.stdout.split())
    assert pixel == expected and memory < most * side**2, f"{memory / side**2:.1f} bytes a pixel"


def test_frames_of_a_video_are_bounded_as_images_are(tmp_path, monkeypatch):
    pytest.importorskip("av")
    from hsvdet.prediction.video import read_video
    from test_predict import video

    path = video(tmp_path / "a.mp4")
    assert len(list(read_video(str(path), "a"))) > 0
    monkeypatch.setenv("HSVDET_MAX_PIXELS", "100")
    with pytest.raises(DataError, match="more than 100 pixels"):
        next(read_video(str(path), "a"))


def test_large_images_are_not_decoded_four_at_a_time(tmp_path, monkeypatch):
    from hsvdet.prediction import sources

    asked, read = [], sources.read_image
    monkeypatch.setattr(sources, "read_image", lambda path: asked.append(path) or read(path))
    monkeypatch.setattr(sources, "_PIXELS_AT_ONCE", 100 * 80 + 1)
    for i in range(4):
        Image.new("RGB", (100, 80)).save(tmp_path / f"{i}.png")
    frames = sources.read_frames(sources.find_sources(tmp_path))
    next(frames)
    frames.close()
    assert len(asked) == 2


@pytest.mark.parametrize(
    "name, option", [("yolov8-n", "cap"), ("hsv-det-n", "gate_value"), ("detr-tiny", "heads")]
)
def test_options_of_another_type_and_beyond_any_number_are_refused(tmp_path, name, option):
    detector = hsvdet.create(
        name, ["car"], options={"backbone": "resnet-tiny"} if name == "detr-tiny" else {}
    )
    detector.save(tmp_path / "a.safetensors")
    config = json.loads(json.dumps(detector.header()["config"]))
    for value in (
        "x",
        None,
        True,
        [1],
        float("nan"),
        float("inf"),
        *(() if option == "gate_value" else (10**9, -1)),
    ):
        with pytest.raises(ConfigError, match=f"{option} expects"):
            hsvdet.create(name, ["car"], options={option: value})
        path = changed(
            tmp_path / "a.safetensors", tmp_path / "b.safetensors", config=config | {option: value}
        )
        for use in (hsvdet.load, hsvdet.profile):
            with pytest.raises(CheckpointError, match=f"{option} expects"):
                use(path)


def test_options_that_make_no_network_or_too_large_a_one_are_refused():
    for options, words in (
        ({"dropout": 1.5}, "do not make a network: dropout probability"),
        ({"heads": 0}, "heads expects a divisor of the 64 channels"),
        ({"dim": 10**5}, "more than 4,294,967,296 parameters"),
    ):
        with torch.device("meta"), pytest.raises(ConfigError, match=words):
            hsvdet.create("detr-tiny", ["car"], options=options)


DEEP = "[" * 100_000


def folder_of_weights(folder, **files):
    """As Hugging Face keeps it."""
    from safetensors.torch import save_file

    folder.mkdir()
    save_file({"a": torch.zeros(1)}, folder / "model.safetensors")
    for name, content in files.items():
        text(folder / f"{name}.json", content)
    return folder


def test_settings_beside_weights_are_checked_before_they_are_used(tmp_path):
    for number, (name, content, words) in enumerate(
        (
            ("config", DEEP, "nested too deep"),
            ("config", '{"id2label": {"a": "x", "9": "y"}}', "names of no published"),
            ("preprocessor_config", DEEP, "nested too deep"),
            (
                "preprocessor_config",
                '{"size": {"shortest_edge": "x", "longest_edge": null}}',
                "whole numbers",
            ),
            ("preprocessor_config", '{"size": {"shortest_edge": 1e999, "longest_edge": 1}}', "whole numbers"),
        )
    ):
        with pytest.raises(CheckpointError, match=words):
            read_foreign(folder_of_weights(tmp_path / str(number), **{name: content}))


def test_module_objects_that_contain_each_other_twice_are_counted(tmp_path, monkeypatch):
    """Sixty of them stand for 2^60."""
    tasks = types.ModuleType("ultralytics.nn.tasks")
    for name in ("ultralytics", "ultralytics.nn"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, "ultralytics.nn.tasks", tasks)
    kind = tasks.DetectionModel = type("DetectionModel", (), {"__module__": "ultralytics.nn.tasks"})
    module = kind()
    for _ in range(60):
        inner, module = module, kind()
        module._modules = {"a": inner, "b": inner}
    torch.save({"model": module}, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match="more than 20,000 modules"):
        read_foreign(tmp_path / "a.pt")


def test_tensors_that_are_no_models_are_one_error(tmp_path):
    shapes = ("model.0.conv.weight", "model.22.cv2.0.a", "model.22.cv3.0.a")
    for tensors in (
        {f"model.{'9' * 5000}.x": torch.zeros(1), **{name: torch.zeros(16) for name in shapes}},
        {name: torch.zeros(()) for name in shapes},
        {"model": torch.zeros(2), "x": 1},
        {"class_embed.weight": torch.zeros(()), "query_embed.weight": torch.zeros(())},
    ):
        torch.save(tensors, tmp_path / "a.pt")
        with pytest.raises(CheckpointError, match=r"a\.pt"):
            read_foreign(tmp_path / "a.pt")


def test_a_division_is_what_training_writes(tmp_path):
    folder = yolo(tmp_path / "set", {"a": "0 0.5 0.5 0.2 0.2", "b": ""})
    file = tmp_path / "split.json"
    right = {
        "hsvdet_division": 1,
        "data": str(folder),
        "split": "train",
        "train": ["images/train/a.png"],
        "val": ["images/train/b.png"],
    }
    text(file, json.dumps(right))
    assert len(read_data(file, "val").records) == 1
    for change, words in (
        ({"data": str(file)}, "a division itself"),
        ({"data": 7}, "data Input should be a valid string"),
        ({"train": [[1]]}, "not a division"),
        ({"train": []}, "not a division"),
        ({"val": right["train"]}, "an image is in it twice"),
        ({"data": f"{folder}\0"}, "does not exist"),
    ):
        text(file, json.dumps({**right, **change}))
        with pytest.raises(DataError, match=words):
            read_data(file, "train")
    text(file, '{"hsvdet_division": ' + DEEP)
    with pytest.raises(DataError, match="not a division"):
        read_data(file, "train")


def test_the_class_list_of_a_voc_data_set_is_read_as_a_data_yaml_is(tmp_path):
    folder = voc(tmp_path / "set", {"a": voc_xml(voc_object("car", 1, 1, 50, 50))})
    for content, words in {
        "a: &a [x]\nnames: {1: *a}\n": "aliases",
        f"names: {DEEP}": "not YAML that can be read",
        "names: {1: [car]}\n": "expects 'names'",
        "names: {car: 1}\n": "expects 'names'",
        "- car\n": "expects 'names'",
        "names: {1: car}\nlabelled_classes: {a: b}\n": "expects a list of class names",
    }.items():
        text(folder / "labels.yaml", content)
        with pytest.raises(DataError, match=words):
            read_data(folder, "train")


NAMES = ["", "  ", ["car"], {"a": 1}, True, "\x1b[31mcar", "car\nbus", "\ud800", "a\u2028b"]


@pytest.mark.parametrize("form", ["coco", "yolo", "voc"])
def test_what_is_no_name_of_a_class_is_refused(tmp_path, form):
    for name in NAMES:
        if form == "coco":
            path = coco(tmp_path / "set", [(1, 3, [1, 1, 20, 20])], categories=[{"id": 3, "name": name}])
        elif form == "yolo":
            path = yolo(tmp_path / "set", {"a": "0 0.5 0.5 0.2 0.2"})
            text(path / "data.yaml", f"train: images/train\nnames: {json.dumps([name])}\ncategory_ids: [3]\n")
        else:
            path = voc(tmp_path / "set", {"a": voc_xml()})
            text(path / "labels.yaml", "names: " + json.dumps({1: name}))
        if form != "coco" and name is True:
            continue  # a word, in YAML as it is read here
        with pytest.raises(DataError):
            read_data(path, "train")
    for name in NAMES:
        with pytest.raises(ConfigError, match="labels expects"):
            hsvdet.create("yolov8-n", [name], options={"width": 0.0625})
        with pytest.raises(CheckpointError, match="labels is not what it must be"):
            ArtifactHeader.from_json({**HEADER.to_json(), "labels": [name]})


def test_classes_that_are_numbers_are_named_and_used(tmp_path):
    path = coco(tmp_path, [(1, 3, [1, 1, 20, 20])], categories=[{"id": 3, "name": 7}])
    data = read_data(path)
    assert data.labels == ("7",) and "called 7: numbers" in data.problems[0].what


@pytest.mark.parametrize(
    "change, severity, words",
    [
        ({"area": float("inf")}, "warning", "area Infinity"),
        ({"area": "much"}, "warning", 'area "much"'),
        ({"area": -4}, "warning", "area -4"),
        ({"area": 1e300}, "warning", "area 1e+300"),
        ({"area": True}, "warning", "area true"),
        ({"iscrowd": 2}, "warning", "iscrowd 2"),
        ({"iscrowd": [1]}, "warning", "iscrowd [1]"),
        ({"iscrowd": None}, "warning", "iscrowd null"),
        ({"bbox": [True, 1, 20, 20]}, "error", "expects 4 numbers"),
        ({"bbox": [[1], 1, 20, 20]}, "error", "expects 4 numbers"),
        ({"bbox": [1, 1, 7e-6, 7e-6]}, "error", "thinner than a hundredth of a pixel"),
        ({"image_id": True}, "error", "image_id is true"),
        ({"category_id": float("nan")}, "error", "category_id is NaN"),
    ],
)
def test_values_of_an_annotation_that_mean_nothing_are_named(tmp_path, change, severity, words):
    whole = {"id": 1, "image_id": 1, "category_id": 3, "bbox": [1, 1, 20, 20]}
    data = read_data(coco(tmp_path, [{**whole, **change}, (1, 7, [30, 30, 9, 9])]))
    (problem,) = data.problems
    assert problem.severity == severity and words in problem.what
    (record,) = data.records
    assert record.labels.tolist() == ([0, 1] if severity == "warning" else [1])
    assert np.isfinite(record.area).all() and record.area[-1] == 81 and not record.crowd.any()
    if severity == "warning":
        assert record.area[0] == 400


def test_a_voc_iscrowd_that_means_nothing_is_named(tmp_path):
    car = voc_object("car", 1, 1, 50, 50)
    odd = car.replace("<bndbox>", "<iscrowd>yes</iscrowd><bndbox>")
    data = read_data(voc(tmp_path, {"a": voc_xml(odd, voc_object("car", 1, 1, 9, 9))}))
    assert "object 1: yes" in data.problems[0].what and data.records[0].crowd.tolist() == [False, False]


@pytest.mark.parametrize("form", ["coco", "voc"])
def test_sizes_that_no_image_has_are_measured(tmp_path, form):
    for side in (10**7, 1e300, float("inf")):
        if form == "coco":
            images = [{"id": 1, "file_name": "a.png", "width": side, "height": 80}]
            path = coco(tmp_path / "set", [(1, 3, [1, 1, 20, 20])], images)
        else:
            size = f"<size><width>{side}</width><height>80</height></size>"
            path = voc(tmp_path / "set", {"a": voc_xml(voc_object("car", 1, 1, 5, 5), size=size)})
        assert read_data(path, "train").records[0].size == (80, 100)


@pytest.mark.parametrize("form", ["yolo", "voc"])
@pytest.mark.parametrize("kind", ["folder", "pipe", "broken link"])
def test_what_stands_where_annotations_should_is_not_taken_for_none(tmp_path, form, kind):
    """An image without annotations would be trained as one without objects."""
    if form == "yolo":
        folder = yolo(tmp_path / "set", {"a": "0 0.5 0.5 0.2 0.2", "b": None})
        place, name = folder / "labels/train/b.txt", "labels/train/b.txt"
    else:
        folder = voc(tmp_path / "set", {"a": voc_xml(voc_object("car", 1, 1, 9, 9)), "b": None})
        place, name = folder / "Annotations/b.xml", "Annotations/b.xml"
    if kind == "folder":
        place.mkdir()
    elif kind == "pipe":
        os.mkfifo(place)
    else:
        place.symlink_to(tmp_path / "nowhere")
    data = read_data(folder, "train")
    assert len(data.records) == 1
    (problem,) = data.problems
    assert problem.severity == "error" and problem.file == name and "Its image is left out" in problem.what


def test_a_journal_that_was_changed_is_not_continued(tmp_path, predict, detector, monkeypatch):
    for i in range(3):
        image(tmp_path / f"in/{i}.png")
    out, usual = tmp_path / "out", type(detector).detect

    def stopped(self, images, **options):
        if options["names"][0].endswith("2.png"):
            raise KeyboardInterrupt
        return usual(self, images, **options)

    with monkeypatch.context() as until, pytest.raises(KeyboardInterrupt):
        until.setattr(type(detector), "detect", stopped)
        predict(tmp_path / "in", out, batch=1)
    header, first, *rest = (out / "unfinished.jsonl").read_text().splitlines()
    right = json.loads(first)
    found = right["detections"][0]
    for change in (
        {"detections": [1]},
        {"detections": [found | {"category_id": 99}]},
        {"detections": [found | {"bbox": [1, 2, 3]}]},
        {"detections": [found | {"score": float("nan")}]},
        {"row": right["row"] | {"picture": "../../secret.png"}},
        {"row": right["row"] | {"id": True}},
        {"source": -1},
        {"reason": 7},
    ):
        text(out / "unfinished.jsonl", "\n".join([header, json.dumps(right | change), *rest, ""]))
        with pytest.raises(ConfigError, match="not what `predict` writes"):
            predict(tmp_path / "in", out, batch=1, resume=True)
    text(out / "unfinished.jsonl", "\n".join([header, first, *rest, ""]))
    assert predict(tmp_path / "in", out, batch=1, resume=True).resumed == 2


HOLDING = """
import sys
from pathlib import Path
from hsvdet.files import FolderLock
lock = FolderLock(Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
lock.release()
"""


def test_two_trainings_into_one_folder_are_refused_and_a_killed_one_locks_nothing(tmp_path, no_pictures):
    from hsvdet.training import train
    from tiny_runs import squares, tiny

    run = tmp_path / "run"
    run.mkdir()

    def trained():
        train(tiny("yolov8-n"), squares(tmp_path, count=2), run, epochs=1, batch=2, workers=0, device="cpu",
              progress=False, val_split=None)  # fmt: skip

    command = [sys.executable, "-c", HOLDING, run]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None and other.stdout.readline() == b"held\n"
        with pytest.raises(ConfigError, match="Another process is writing to .*run"):
            trained()
        assert [path.name for path in run.iterdir()] == [".lock"]
        dead = dead_part(run / "best.safetensors", other.pid)
        other.kill()
    dead.touch()
    trained()
    assert (
        not {".lock", dead.name} & {path.name for path in run.iterdir()}
        and (run / "best.safetensors").exists()
    )


def dead_part(path, process):
    """What a process leaves that is killed while it writes `path`."""
    from hsvdet.files import part_beside

    part = part_beside(path)
    return part.with_name(part.name.replace(f"-{os.getpid()}-", f"-{process}-"))


def test_what_a_killed_conversion_left_is_swept_away(tmp_path):
    from hsvdet.data.convert import convert_data

    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    dead = dead_part(tmp_path / "out", child.pid)
    image(dead / "images/a.png")
    convert_data(yolo(tmp_path / "set", {"a": "0 0.5 0.5 0.2 0.2"}), tmp_path / "out", "coco")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "set"]


def test_no_name_of_a_file_loses_an_image_when_it_is_converted(tmp_path):
    from hsvdet.data.convert import convert_data

    names = [
        "a\x01.png", "a\nb.png", "a\x1bb.png", "\x85.png", "a\u2028b.png", " lead.png", "trail .png", "x.xml.png",
        "x.jpg.png", "a 1.png", "a -1.png", os.fsdecode(b"caf\xe9.png"), "\x02.png", "deep \n/er.png",
    ]  # fmt: skip
    folder = yolo(tmp_path / "set", {})
    for name in names:
        path = image(folder / "images/train" / name)
        label = folder / "labels/train" / path.relative_to(folder / "images/train").with_suffix(".txt")
        text(label, "0 .5 .5 .2 .2")
    text(folder / "data.yaml", "train: images/train\nnames: [car]\n")
    for to in ("coco", "yolo", "voc"):
        report = convert_data(folder, tmp_path / to, to)
        data = read_data(tmp_path / to, "train")
        assert report["splits"]["train"]["images"] == len(names) == len(data.records)
        assert not data.problems and all(len(record.labels) == 1 for record in data.records)


def test_a_server_that_trickles_is_left_in_time(tmp_path, monkeypatch):
    """A byte now and then keeps every wait short; also before the first line of the answer is whole."""
    import socket
    import threading
    import time

    from hsvdet.prediction import transfer

    monkeypatch.setattr(transfer, "LONGEST_TRANSFER", 1)
    for start in (b"", b"HTTP/1.1 200 OK\r\nContent-Type: image/png\r\nContent-Length: 9999\r\n\r\n"):
        with socket.create_server(("127.0.0.1", 0)) as listening:

            def serve(listening=listening, start=start):
                connection, _ = listening.accept()
                with connection:
                    connection.sendall(start)
                    while True:
                        try:
                            connection.sendall(b"x")
                        except OSError:
                            return
                        time.sleep(0.1)

            threading.Thread(target=serve, daemon=True).start()
            url = f"http://127.0.0.1:{listening.getsockname()[1]}/a.png"
            began = time.monotonic()
            with pytest.raises(DataError, match="not there after 1 s"):
                with transfer.opened(url, "a") as response, open(tmp_path / "a", "wb") as file:
                    transfer.download(response, file, "a", 10**6)
            assert time.monotonic() - began < 10


def test_a_redirect_into_the_private_network_is_not_followed(tmp_path, server, monkeypatch):
    from hsvdet.prediction import transfer

    answers, base = server
    answers["/a.png"] = 302, {"Location": f"{base}/secret"}, b""
    answers["/secret"] = 200, {}, b"secret"
    answers["/ftp"] = 302, {"Location": base.replace("http", "ftp")}, b""

    def fetched(path="/a.png"):
        with transfer.opened(base + path, path) as response:
            return response.read()

    assert fetched() == b"secret", "from one address of the private network to another"
    with pytest.raises(DataError, match="ftp, which is not followed"):
        fetched("/ftp")

    def first_of_the_internet():
        seen = iter((True, False))
        monkeypatch.setattr(transfer, "ip_address", lambda _: types.SimpleNamespace(is_global=next(seen)))

    first_of_the_internet()
    with pytest.raises(DataError, match="HSVDET_PRIVATE_REDIRECTS=1"):
        fetched()
    monkeypatch.setenv("HSVDET_PRIVATE_REDIRECTS", "1")
    first_of_the_internet()
    assert fetched() == b"secret"


@pytest.mark.parametrize("length", ["-5", "abc", "9" * 30, "²"])
def test_a_length_that_is_none_is_said(tmp_path, length):
    from email.message import Message

    from hsvdet.prediction.transfer import download

    headers = Message()
    headers["Content-Length"] = length
    with pytest.raises(DataError, match="says that it has"), open(tmp_path / "a", "wb") as file:
        download(types.SimpleNamespace(headers=headers), file, "a", 10)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_log_on_a_full_disk_is_one_error_and_no_threads_traceback(tmp_path, capfd):
    import threading

    from hsvdet.errors import SaveError
    from hsvdet.training.record import log

    threads = threading.active_count()
    written = log.TensorBoardLog(tmp_path / "log", 1)
    written.add({"epoch": 1, "ap": 0.5, "loss/class": float("nan")})
    written._file.close()
    with open("/dev/full", "wb", buffering=0) as full:
        written._writer._writer = written._file = full
        with pytest.raises(SaveError, match="log cannot be written: No space left on device"):
            written.add({"epoch": 2, "ap": 0.5})
        written.close()
    assert threading.active_count() == threads and capfd.readouterr().err == ""


@pytest.mark.parametrize("form", ["coco", "yolo", "voc"])
def test_an_image_of_more_objects_than_can_be_compared_is_left_out(tmp_path, monkeypatch, form):
    monkeypatch.setattr("hsvdet.data.formats.repair.MOST_OBJECTS", 2)
    corners = [(x, 1, x + 9, 9) for x in (1, 21, 41)]
    if form == "coco":
        boxes = [(1, 3, [x, 1, 8, 8]) for x, *_ in corners] + [(2, 3, [1, 1, 8, 8])]
        path = coco(tmp_path, boxes, ["a.png", "b.png"])
    elif form == "yolo":
        path = yolo(tmp_path, {"a": "".join(f"0 .{x} .5 .1 .1\n" for x in (2, 4, 6)), "b": "0 .5 .5 .1 .1"})
    else:
        objects = [voc_object("car", *corner) for corner in corners]
        path = voc(tmp_path, {"a": voc_xml(*objects), "b": voc_xml(objects[0])})
    data = read_data(path, "train")
    assert [len(record.boxes) for record in data.records] == [1] and "b.png" in data.records[0].path
    (problem,) = data.problems
    assert problem.severity == "error" and "3 boxes, more than 2: the image is left out" in problem.what


def test_more_classes_than_can_be_compared_are_refused(tmp_path, monkeypatch):
    for module in ("data.formats.repair", "detector"):
        monkeypatch.setattr(f"hsvdet.{module}.MOST_CLASSES", 1)
    with pytest.raises(DataError, match="2 classes; at most 1"):
        read_data(yolo(tmp_path, {"a": None}), "train")
    with pytest.raises(ConfigError, match="at most 1 class names; got 2"):
        hsvdet.create("yolov8-n", ["car", "bus"])


def test_boxes_are_compared_a_part_at_a_time_with_the_same_answer(monkeypatch):
    from hsvdet.data import overlap
    from hsvdet.data.nms_ceiling import nms_ceiling
    from hsvdet.evaluate import duplicates

    rng = np.random.default_rng(0)
    corner = rng.random((50, 2)) * 20
    boxes = np.concatenate([corner, corner + 1 + rng.random((50, 2)) * 20], 1)
    record = types.SimpleNamespace(boxes=boxes, labels=np.arange(50) % 2, crowd=np.zeros(50, bool))
    scores = torch.rand(50, 2)

    def answers():
        xyxy = torch.from_numpy(boxes)
        return (
            overlap.overlaps(boxes[:40], boxes, record.crowd),
            overlap.occlusion(boxes),
            nms_ceiling([record]),
            duplicates.duplicates_per_object(xyxy, scores, xyxy, torch.from_numpy(record.labels)),
        )

    whole = answers()
    for module in (overlap, duplicates):
        monkeypatch.setattr(module, "_AT_ONCE", 120)
    for part, expected in zip(answers(), whole, strict=True):
        assert np.array_equal(part, expected)
    assert (whole[1] > 0.5).any() and whole[3].any()


def test_numbered_classes_are_not_each_compared_with_each():
    from hsvdet.data.class_names import alike_pairs

    assert alike_pairs([*(f"part {i:05}" for i in range(30_000)), "door", "doors"]) == [("door", "doors")]


def test_pipes_among_what_a_run_left_are_not_waited_for(tmp_path, predict):
    from hsvdet.runtime.seal import sign
    from hsvdet.training.asked import read_asked
    from hsvdet.training.record.log import read_json

    picture, out = image(tmp_path / "a.png"), tmp_path / "out"
    out.mkdir()
    for name in ("run.json", "key.pem", "images.json"):
        os.mkfifo(out / name)
    assert read_json(out / "run.json") == {}
    for error, read in (
        (ConfigError, lambda: read_asked(out)),
        (ConfigError, lambda: sign("0" * 64, out / "key.pem")),
        (ConfigError, lambda: predict(picture, out)),
    ):
        with pytest.raises(error):
            read()
    os.mkfifo(out / "unfinished.jsonl")
    with pytest.raises(ConfigError, match="unfinished.jsonl cannot be read: it is no regular file"):
        predict(picture, out, resume=True)


@pytest.mark.parametrize(
    "form, denied", [("yolo", "labels/train"), ("voc", "Annotations"), ("yolo", "images/train/b")]
)
def test_a_folder_that_must_not_be_read_is_not_taken_for_an_empty_one(tmp_path, monkeypatch, form, denied):
    """Its images would be left out, or trained as images without objects."""
    if form == "yolo":
        folder = yolo(tmp_path, {"a": "0 .5 .5 .2 .2", "b/c": "0 .5 .5 .2 .2"})
    else:
        folder = voc(tmp_path, {"a": voc_xml(voc_object("car", 1, 1, 9, 9))})
        text(folder / "labels.txt", "car")
    scandir = os.scandir

    def scan(path="."):
        if os.fspath(path) == str(tmp_path / denied):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", scan)
    with pytest.raises(DataError, match=f"{denied} cannot be read: Permission denied"):
        read_data(folder, "train")
    from hsvdet.prediction.sources import find_sources

    if form == "yolo":  # of sources, what can be read is
        assert len(find_sources(folder / "images")) == (1 if denied.startswith("images") else 2)
