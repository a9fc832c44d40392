import csv
import json
import os
import random
import re
import shutil
import signal
import time

import pytest

import hsvdet
from hsvdet.cli import main
from hsvdet.data.scenes import write_scenes
from hsvdet.errors import ConfigError, Interrupted
from hsvdet.training import train
from hsvdet.training.ema import AveragedNet
from hsvdet.training.record.state import read_state
from tiny_runs import digest, in_process, kill_at_step, metrics, squares, tiny

FILES = ("resume.safetensors", "last.safetensors", "best.safetensors")


def run(data, out, workers, resume=False, kill=None, save_every=0.0):
    if kill is not None:
        kill_at_step(kill)
    # A random selector draws from torch's generator in every step: a lost random state would be seen.
    detector = tiny("hsv-det-n", selector="random", k=2, seed=1 if resume else 0)
    train(
        detector, (data, data), out, epochs=5, batch=4, accumulate=2, workers=workers, resume=resume,
        device="cpu", save_every=save_every, progress=False, options={"multi_scale": 0.5},
    )  # fmt: skip


def interrupted(data, out, number):
    """A run that gets a signal in its fifth step."""
    original = AveragedNet.update

    def update(self):
        if self.steps + 1 == 5:
            os.kill(os.getpid(), number)
        original(self)

    AveragedNet.update = update
    try:
        run(data, out, 0, save_every=1e9)
    except Interrupted as stopped:
        assert "resume" in str(stopped) and str(out) in str(stopped)
        os._exit(stopped.exit_code)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    root = tmp_path_factory.mktemp("run")
    data = squares(root, count=22)
    process = in_process(run, data, root / "whole", 0)
    process.join()
    assert process.exitcode == 0
    return data, root / "whole"


@pytest.mark.parametrize("workers", [0, 2])
def test_killed_in_any_step_a_resumed_run_ends_with_the_same_bits(uninterrupted, tmp_path, workers):
    data, whole = uninterrupted
    steps = read_state(whole / "resume.safetensors").position.step
    assert steps == 15
    random.seed(time.time_ns())
    first, second = sorted(random.sample(range(2, steps + 1), 2))
    out = tmp_path / "killed"
    for kill in (first, second, None):
        process = in_process(run, data, out, workers, out.exists(), kill, 0.0 if kill != second else 1e9)
        process.join()
        assert process.exitcode == (-signal.SIGKILL if kill else 0), (first, second)
    for name in FILES:
        assert digest(out / name) == digest(whole / name), (name, first, second)
    assert metrics(out) == metrics(whole)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_ends_the_step_saves_and_says_how_to_go_on(uninterrupted, tmp_path, number):
    data, whole = uninterrupted
    out = tmp_path / "stopped"

    process = in_process(interrupted, data, out, number)
    process.join()
    assert process.exitcode == 128 + number
    assert read_state(out / "resume.safetensors").position == (1, 4, 5)
    process = in_process(run, data, out, 0, True)
    process.join()
    assert process.exitcode == 0
    assert digest(out / "resume.safetensors") == digest(whole / "resume.safetensors")
    assert metrics(out) == metrics(whole)


def test_nothing_of_a_run_is_a_pickle(uninterrupted):
    _, whole = uninterrupted
    for path in whole.rglob("*"):
        if path.is_file():
            assert path.suffix in (".safetensors", ".csv", ".json", ".png", ".jpg") or "tfevents" in path.name


def command(folder, arguments, kill=None):
    """The command line, in another working directory than the run was begun in."""
    os.chdir(folder)
    if kill is not None:
        kill_at_step(kill)
    os._exit(main(arguments))


def test_a_run_is_continued_by_its_folder_alone(tmp_path):
    write_scenes(tmp_path / "scenes", train=8, val=2, size=(64, 64), objects=(1, 3))
    tiny("yolov8-n").save(tmp_path / "start.safetensors")  # of other classes than the scenes'
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()

    def ended(code, *given, **options):
        process = in_process(command, *given, *options.values())
        process.join()
        assert process.exitcode == code

    asked = ["--data", "scenes", "--epochs", "2", "--batch", "4", "--workers", "0", "--accumulate", "1"]
    ended(0, tmp_path, ["train", "start.safetensors", *asked, "--out", "whole"])
    ended(-signal.SIGKILL, tmp_path, ["train", "start.safetensors", *asked, "--out", "cut"], kill=3)
    began = json.loads((tmp_path / "cut/run.json").read_text())["started"]
    time.sleep(1.1)  # times are told in seconds
    ended(0, elsewhere, ["train", "--resume", str(tmp_path / "cut")])
    assert digest(tmp_path / "cut/last.safetensors") == digest(tmp_path / "whole/last.safetensors")
    assert metrics(tmp_path / "cut") == metrics(tmp_path / "whole")
    assert json.loads((tmp_path / "cut/run.json").read_text())["started"] == began
    labels = hsvdet.load(tmp_path / "cut/last.safetensors").labels
    assert labels == hsvdet.read_data(tmp_path / "scenes", "train").labels

    before = digest(tmp_path / "whole/resume.safetensors")
    assert hsvdet.resume(tmp_path / "whole", progress=False).epochs == 2  # has ended: it stays as it is
    assert digest(tmp_path / "whole/resume.safetensors") == before


@pytest.mark.parametrize(
    "content, message",
    [
        (None, "is no folder of a run"),
        ("{", "run.json is damaged"),
        ("[]", "does not say what was asked for"),
        ('{"asked": null}', "does not say what was asked for.*Continue it with the command that began it"),
        ('{"asked": {"epochs": 3}}', r"run.json: begun: Field required"),
    ],
)
def test_a_folder_that_does_not_say_what_was_asked_for_is_refused_in_one_line(
    tmp_path, capfd, content, message
):
    if content is not None:
        (tmp_path / "run.json").write_text(content)
    assert main(["train", "--resume", str(tmp_path)]) == 2
    lines = capfd.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and re.search(message, lines[0])


@pytest.mark.parametrize(
    "option", ["--batch 5", "--workers 0", "--seed 1", "--set mosaic=0", "--val-split none"]
)
def test_a_run_continued_by_its_folder_takes_no_other_settings(tmp_path, capfd, option):
    assert main(["train", "--resume", str(tmp_path), *option.split()]) == 2
    assert f"leave {option.split()[0]} out" in capfd.readouterr().err


def rows(folder):
    with (folder / "results.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def longer(folder, epochs, kill=None):
    if kill is not None:
        kill_at_step(kill)
    hsvdet.resume(folder, epochs=epochs)


def test_a_run_is_continued_for_longer_when_asked(tmp_path, capfd):
    write_scenes(tmp_path / "scenes", train=8, val=2, size=(64, 64), objects=(1, 3))
    tiny("yolov8-n").save(tmp_path / "start.safetensors")

    def begun(name, epochs):
        train(
            tmp_path / "start.safetensors", tmp_path / "scenes", tmp_path / name, epochs=epochs, batch=4, accumulate=1,
            workers=0, device="cpu", progress=False,
        )  # fmt: skip
        return tmp_path / name

    two, four = begun("two", 2), begun("four", 4)
    shutil.copytree(two, tmp_path / "cut")
    before = digest(two / "last.safetensors")

    # What cannot be is refused, and nothing has changed: the run is continued as if nobody had asked.
    capfd.readouterr()
    assert main(["train", "--resume", str(two), "--epochs", "1"]) == 2
    *_, refused = capfd.readouterr().err.strip().splitlines()
    assert "has begun its epoch 2 or ended it: epochs expects 2 or more, got 1." in refused
    assert digest(two / "last.safetensors") == before

    assert main(["train", "--resume", str(two), "--epochs", "4"]) == 0
    said = capfd.readouterr().err
    assert (
        "at epoch 3, batch 1 of 2" in said
        and "It was a run of 2 epochs." in said
        and "those of a run of 4" in said
    )
    rates, of_four = ([float(row["learning_rate"]) for row in rows(run)] for run in (two, four))
    assert rates[:2] == [float(row["learning_rate"]) for row in rows(tmp_path / "cut")]
    assert rates[2:] == of_four[2:], "they are those of a run of four epochs"
    assert re.search(r"the next rate is \S+ \(epoch 2 ended at \S+\)", said) and rates[1] < rates[2]
    assert [row["epoch"] for row in rows(two)] == ["1", "2", "3", "4"] and digest(
        two / "last.safetensors"
    ) != before
    precisions = [float(row["ap"]) for row in rows(two)]
    best = hsvdet.load(two / "best.safetensors").extra["training"]
    assert best["epoch"] == 1 + precisions.index(max(precisions)), "the best of all epochs stays"
    described = json.loads((two / "run.json").read_text())
    assert described["lengths"] == [{"epochs": 2, "until": 2}] and described["settings"]["epochs"] == 4

    # Killed on the way, it is resumed to the same bits, and by then is a run of four epochs.
    process = in_process(longer, tmp_path / "cut", 4, 6)
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert hsvdet.resume(tmp_path / "cut", progress=False).epochs == 4
    assert digest(tmp_path / "cut/last.safetensors") == digest(two / "last.safetensors")
    assert metrics(tmp_path / "cut") == metrics(two)


def test_only_epochs_that_are_asked_for_change_a_run(tmp_path):
    data = squares(tmp_path, count=4)

    def begun(**given):
        return train(
            tiny(), (data, None), tmp_path / "run", batch=4, workers=0, device="cpu", progress=False, **given
        )

    begun(epochs=1)
    with pytest.raises(ConfigError, match=r"other settings: epochs \(was 1, now 100\)"):
        begun(resume=True)
    assert begun(resume=True, epochs=2).epochs == 2


def test_a_detector_brings_its_own_weights_and_size(tmp_path):
    with pytest.raises(ConfigError, match="weights and size are for a model by its name"):
        train(tiny(), squares(tmp_path), tmp_path / "out", size=64)
