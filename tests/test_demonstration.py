"""The demo: it fits the time it has, says so, and what it prints works."""

import json
import os
import subprocess

import pytest

from hsvdet import demonstration
from hsvdet.cli import main
from hsvdet.demonstration import EPOCHS, MOST_EPOCHS, Amount, Speed, fitting
from hsvdet.errors import ConfigError

# A machine of two free cores, and slower ones.
FAST = Speed(image=0.04, between=3.0, once=8.0)
SCENES = demonstration.DEMO["train"]


@pytest.mark.parametrize("slower", [1, 3, 5, 8])
@pytest.mark.parametrize("seconds", [150, 300, 1000])
def test_it_trains_as_much_as_there_is_time_for(slower, seconds):
    speed = Speed(*(slower * part for part in FAST))
    amount = fitting(speed, seconds, MOST_EPOCHS)
    takes = speed.seconds(*amount)
    if amount.epochs > 1:
        assert amount.scenes == SCENES
    if takes > seconds:  # no less is any use
        assert amount == Amount(1, 32)
    elif amount < Amount(MOST_EPOCHS, SCENES):
        more = Amount(1, amount.scenes + 1) if amount.scenes < SCENES else Amount(amount.epochs + 1, SCENES)
        assert speed.seconds(*more) > seconds


def test_with_time_to_spare_it_trains_as_long_as_it_takes_to_learn_the_scenes():
    assert fitting(FAST, 300, EPOCHS) == (EPOCHS, SCENES)
    assert fitting(FAST, 1e6, MOST_EPOCHS) == (MOST_EPOCHS, SCENES)


@pytest.fixture
def small(monkeypatch):
    scenes = {"train": 40, "val": 1, "test": 1, "size": (64, 64), "objects": (1, 2)}
    monkeypatch.setattr(demonstration, "DEMO", scenes)


def test_a_demo_cut_short_says_so_and_its_last_line_works_as_printed(small, monkeypatch, tmp_path, capfd):
    # A machine on which an epoch takes ten minutes, and ten scenes a quarter of one.
    monkeypatch.setattr(demonstration, "measured", lambda *_: Speed(image=15.0, between=1.0, once=0.0))
    out = tmp_path / "it's mine, \N{GREEK SMALL LETTER OMEGA} $HOME"
    (out / "run-1").mkdir(parents=True)  # an earlier demo's is left alone
    assert main(["demo", "--out", str(out)]) == 0
    shown, log = capfd.readouterr()
    assert "Training hsv-det-n for 1 epoch of 32 scenes" in log and "all 8 epochs would take 1:20:1" in log
    assert "hsv-det-n after 1 epoch of 32 scenes" in shown
    assert "there were 6 minutes, it learned less than it should" in shown and "--minutes 9" in shown
    assert "knows drawn scenes like these only" in shown
    *_, last = shown.strip().splitlines()
    assert str(out / "run-2").replace("'", "'\"'\"'") in last
    ran = subprocess.run(["sh", "-c", last], capture_output=True, text=True, cwd="/")
    assert ran.returncode == 0 and (out / "run-2/again/detections.json").is_file(), ran.stderr


def test_a_demo_measures_and_says_where_everything_is(small, monkeypatch, tmp_path, capfd):
    speeds, measured = [], demonstration.measured
    monkeypatch.setattr(
        demonstration, "measured", lambda *given: speeds.append(measured(*given)) or speeds[0]
    )
    monkeypatch.setattr(demonstration, "EPOCHS", 1)
    assert main(["demo", "--out", str(tmp_path / "demo"), "--json"]) == 0
    report = json.loads(capfd.readouterr().out)
    for what in ("scenes", "checkpoint", "curves", "evaluation", "pictures"):
        assert os.path.exists(report[what]), what
    assert report["pictures"] == str(tmp_path / "demo/run-1/pictures")
    assert (report["epochs"], report["training_scenes"], report["fitted"]) == (1, 40, "")
    assert all(0 < part < 60 for part in speeds[0])


@pytest.mark.parametrize("minutes", [0, -1, float("nan"), float("inf"), "5"])
def test_minutes_are_a_time(minutes, tmp_path):
    with pytest.raises(ConfigError, match="minutes expects"):
        demonstration.demo(tmp_path, minutes=minutes)
