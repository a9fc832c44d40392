"""Nothing that takes long is silent, whether somebody looks at a terminal or at a log."""

import io
import re
import sys

import pytest

import hsvdet
from hsvdet import progress
from hsvdet.cli import main
from hsvdet.data.scenes import write_scenes


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    root = tmp_path_factory.mktemp("long")
    write_scenes(root / "scenes", train=8, val=4, size=(64, 64), objects=(1, 3))
    labels = hsvdet.read_data(root / "scenes", "train").labels
    hsvdet.create("yolov8-n", labels, size=64, options={"width": 0.0625}).save(root / "a.safetensors")
    return root


COMMANDS = {
    "predict {0}/a.safetensors {0}/scenes/images/val --out {1}/found --no-pictures": r"predict: 1 of 4 images",
    "val {0}/a.safetensors --data {0}/scenes --batch 2 --workers 0": r"evaluating: 2 of 4 images, 0:\d\d left",
    "data check {0}/scenes": r"opening train: 1 of 8 images, 0:\d\d left",
    "train {0}/a.safetensors --data {0}/scenes --out {1}/run --epochs 1 --batch 2 --workers 0 --accumulate 1"
    " --val-split none": r"epoch 1/1: 2 of 4 batches, 0:\d\d left",
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


def test_on_a_terminal_there_is_a_bar_and_asked_for_silence_nothing(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setattr(progress, "EVERY", 0.0)
    for shown in (True, False):
        stderr = Terminal()
        monkeypatch.setattr(sys, "stderr", stderr)
        with progress.progress("opening [bold]", 3, shown=shown) as advance:
            advance(2)
        assert ("opening [bold]" in stderr.getvalue()) == shown
