"""What the command line says beside the answer: in its own words, in English, and before a mistake costs a run."""

import re

import numpy as np
import pytest
from PIL import Image

import hsvdet
import tiny_data
from hsvdet.cli import main
from hsvdet.cli.other_names import PARAMETERS, as_options
from hsvdet.errors import ConfigError, counted
from hsvdet.preprocess import Preprocess
from tiny_runs import tiny


@pytest.fixture
def landscape(tmp_path):
    """A data set of one picture, 96 wide and 64 high, with one box."""
    folder = tmp_path / "data"
    for split in ("train", "val"):
        tiny_data.text(folder / f"labels/{split}/a.txt", "0 0.5 0.5 0.4 0.4\n")
        path = folder / f"images/{split}/a.png"
        path.parent.mkdir(parents=True)
        pixels = np.random.default_rng(len(split)).integers(0, 255, (64, 96, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
    tiny_data.text(folder / "data.yaml", "train: images/train\nval: images/val\nnames: [car]\n")
    return folder


def test_one_is_one(landscape, capfd):
    assert (counted(1, "epoch"), counted(2, "epoch"), counted(0, "box"), counted(1234, "class")) == (
        "1 epoch",
        "2 epochs",
        "0 boxes",
        "1,234 classes",
    )
    assert main(["data", "check", str(landscape)]) == 0
    said = "".join(capfd.readouterr())
    assert "(yolo), 1 class\n" in said and "train: 1 image, 0 of them without objects; 1 box\n" in said


def test_messages_name_options_and_not_parameters(landscape, tmp_path, capfd):
    given = ["train", "yolov8-n", "--data", str(landscape), "--out", str(tmp_path / "run")]
    for wrong, expected in (
        (["--imgsz", "64"], "No such option: --imgsz. --imgsz is --size here. See hsvdet train --help"),
        (["--val-fraction", "2", "--val-split", "none"], "--val-fraction expects a share"),
        (["--val-fraction", "0.2"], "--val-fraction divides data without a validation split"),
        (
            ["--val-split", "vla"],
            "Name one with --val-split, set a part of 'train' aside with --val-fraction",
        ),
    ):
        assert main([*given, *wrong]) == 2
        said = capfd.readouterr().err
        assert expected in said and not [name for name in PARAMETERS if name in said], said
    assert as_options("/data/val_split/a.jpg, val_split.json: max_detections.") == (
        "/data/val_split/a.jpg, val_split.json: --max-detections."
    )


@pytest.mark.parametrize(
    "size, sizes, hint",
    [
        ((1920, 1088), [(1080, 1920)] * 9 + [(1920, 1080)], "1920x1088 is upright, and 9 of 10 images are landscape"),
        ((640, 1088), [(1080, 700), (700, 1080), (500, 300)], "2 of 3 images are upright, where 1088x640"),
        ((1088, 1920), [(1080, 1920)], None),
        ((640, 640), [(1080, 1920)], None),
        ((1920, 1088), [(1080, 1920), (1920, 1080)], None),
    ],
)  # fmt: skip
def test_a_size_across_the_images_is_seen(size, sizes, hint):
    said = Preprocess(size=size).across(sizes)
    assert said is None if hint is None else hint in said


def test_width_before_height_is_warned_of(landscape, tmp_path, capfd):
    expected = "warning: A size is height x width: 96x64 is upright, and 1 of 1 image is landscape"
    (tmp_path / "run").mkdir()
    (tmp_path / "run/results.csv").touch()  # refused before it trains
    given = ["train", "yolov8-n", "--data", str(landscape), "--out", str(tmp_path / "run"), "--size"]
    for size, warned in (("96x64", True), ("64x96", False)):
        assert main([*given, size]) == 2
        said = capfd.readouterr().err
        assert (expected in said) == warned and "(yolo, train): 1 image, 1 box, 1 class.\n" in said
    tiny("yolov8-n").save(tmp_path / "a.safetensors")
    picture = str(landscape / "images/val/a.png")
    assert (
        main(
            [
                "predict",
                str(tmp_path / "a.safetensors"),
                picture,
                "--out",
                str(tmp_path / "o"),
                "--size",
                "96x64",
            ]
        )
        == 0
    )
    assert f"{picture}: {expected[9:]}" in capfd.readouterr().err


def test_answers_are_readable_where_they_are_the_last_line_of_a_notebook(landscape, tmp_path):
    tiny("yolov8-n").save(tmp_path / "a.safetensors")
    out = tmp_path / "it's here"
    trained = hsvdet.train(
        tmp_path / "a.safetensors", str(landscape), out, epochs=1, batch=1, workers=0, val_split=None, val_fraction=0,
        progress=False,
    )  # fmt: skip
    assert re.fullmatch(
        rf"1 epoch in \d:\d\d: not validated\nBest: {re.escape(str(out))}/best.safetensors", repr(trained)
    )
    evaluation = hsvdet.val(trained.best, str(landscape), workers=0, progress=False)
    assert repr(evaluation) == str(evaluation) == evaluation.table()
    assert evaluation.table().startswith("1 image, 1 object, ")
    checked = hsvdet.check_data(landscape)
    assert repr(checked) == checked.summary()
    seen = hsvdet.predict(trained.best, str(landscape / "images/val"), tmp_path / "seen")
    assert repr(seen).startswith("1 image, ")


@pytest.mark.parametrize(
    "given",
    [
        {"epochs": "3"}, {"epochs": 2.5}, {"epochs": 0}, {"epochs": -1}, {"batch": "4"}, {"accumulate": 0},
        {"workers": "2"}, {"fraction": "half"}, {"val_fraction": None}, {"save_every": "often"},
    ],
    ids=str,
)  # fmt: skip
def test_a_number_of_another_kind_is_refused_before_data_are_read(given, tmp_path):
    (name,) = given
    with pytest.raises(ConfigError, match=f"^{name} expects a "):
        hsvdet.train(tiny("yolov8-n"), tmp_path / "no data", tmp_path / "run", **given)


@pytest.mark.parametrize(
    "given",
    [
        {"score": "high"}, {"score": -0.1}, {"score": float("nan")}, {"score": True}, {"iou": None}, {"iou": 1.5},
        {"max_detections": "all"}, {"max_detections": 1.5}, {"max_detections": 0}, {"batch": 0}, {"batch": "4"},
    ],
    ids=str,
)  # fmt: skip
def test_a_threshold_that_is_no_number_of_its_range_is_refused(given):
    (name,) = given
    with pytest.raises(ConfigError, match=f"^{name} expects a (whole )?number from .*; got"):
        tiny("yolov8-n")(np.zeros((64, 64, 3), np.uint8), **given)


def test_a_size_of_0_is_not_the_models_own():
    with pytest.raises(ConfigError, match="size expects"):
        hsvdet.create("yolov8-n", ["car"], size=0)
