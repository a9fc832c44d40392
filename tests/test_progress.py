"""Nothing that takes long is silent, whether somebody looks at a terminal or at a log."""

import io
import re
import sys

import pytest

import hsvdet
from hsvdet import progress
from hsvdet.cli import main
from hsvdet.data.scenes import write_scenes
from hsvdet.training.record.progress import Pace


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    root = tmp_path_factory.mktemp("long")
    write_scenes(root / "scenes", train=8, val=4, size=(64, 64), objects=(1, 3))
    labels = hsvdet.read_data(root / "scenes", "train").labels
    hsvdet.create("yolov8-n", labels, size=64, options={"width": 0.0625}).save(root / "a.safetensors")
    hsvdet.convert_data(root / "scenes", root / "yolo", to="yolo")
    return root


COMMANDS = {
    "predict {0}/a.safetensors {0}/scenes/images/val --out {1}/found --no-pictures": r"predict: 1 of 4 images",
    "val {0}/a.safetensors --data {0}/scenes --batch 2 --workers 0": r"evaluating: 2 of 4 images, 0:\d\d left",
    "data check {0}/scenes": r"opening train: 1 of 8 images, 0:\d\d left",
    "train {0}/a.safetensors --data {0}/scenes --out {1}/run --epochs 1 --batch 2 --workers 0 --accumulate 1"
    " --val-split none": r"epoch 1/1: 2 of 4 batches, 0:\d\d left \(0:\d\d of the run\)",
    "train {0}/a.safetensors --data {0}/scenes --out {1}/run --epochs 1 --batch 2 --workers 0": (
        r"validating: 2 of 4 images, 0:\d\d left"
    ),
    "data convert {0}/scenes {1}/run --to yolo": r"copying: 1 of 8 images, 0:\d\d left",
    "data check {0}/yolo": r"reading sizes: 1 of 8 images[^$]*reading labels: 1 of 8 files",
}


@pytest.mark.parametrize("command", COMMANDS)
def test_without_a_terminal_there_is_a_line_now_and_then(command, place, tmp_path, capfd, monkeypatch):
    arguments = command.format(place, tmp_path).split()
    assert main(arguments) == 0
    assert not re.search(COMMANDS[command], capfd.readouterr().err)  # it took less than half a minute
    monkeypatch.setattr(progress, "EVERY", 0.0)
    assert main([part.replace("/found", "/again").replace("/run", "/again") for part in arguments]) == 0
    assert re.search(COMMANDS[command], capfd.readouterr().err)


@pytest.mark.parametrize("workers", [1, 2])
def test_drawing_scenes_is_not_silent(workers, tmp_path, capfd, monkeypatch):
    monkeypatch.setattr(progress, "EVERY", 0.0)
    for shown in (True, False):
        write_scenes(
            tmp_path / str(shown), train=3, val=0, test=0, size=(64, 64), workers=workers, progress=shown
        )
        assert ("drawing train: 1 of 3 scenes" in capfd.readouterr().err) == shown


def test_the_time_left_is_that_of_the_whole_run():
    """Ten epochs of 100 images, 10 a second in this one."""
    pace = Pace(epochs=10, images=100, validated=30)
    assert pace.left([], image=0.1, images=50) == pytest.approx(5 + 9 * 10 + 11 * 1), "validating at a third"
    done = [{"epoch": epoch + 1, "images_per_second": 20.0, "seconds": 5.0 + 2.0} for epoch in range(4)]
    assert pace.left(done, image=0.1, images=50) == pytest.approx(5 + 5 * 5 + 7 * 2)
    assert pace.left_after(done) == pytest.approx(6 * (5 + 2) + 2)


@pytest.mark.parametrize("shown", [True, False])
def test_the_bar_of_a_training_tells_the_time_of_the_whole_run(shown, place, tmp_path, monkeypatch):
    stderr = Terminal()
    monkeypatch.setattr(sys, "stderr", stderr)
    hsvdet.train(
        place / "a.safetensors", place / "scenes", tmp_path / "run", epochs=2, batch=4, accumulate=1, workers=0,
        progress=shown,
    )  # fmt: skip
    said = stderr.getvalue()
    for expected in (
        r"epoch 1/2 .* 0:\d\d left \(0:\d\d of the run\), loss \d",
        r"validating .*4/4\S* images",
    ):
        assert bool(re.search(expected, said)) == shown, said


def test_on_a_terminal_there_is_a_bar_and_asked_for_silence_nothing(monkeypatch):
    monkeypatch.setattr(progress, "EVERY", 0.0)
    for shown in (True, False):
        stderr = Terminal()
        monkeypatch.setattr(sys, "stderr", stderr)
        with progress.progress("opening [bold]", 3, shown=shown) as advance:
            advance(2)
        assert ("opening [bold]" in stderr.getvalue()) == shown
