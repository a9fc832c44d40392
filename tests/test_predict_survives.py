"""One bad source never ends `predict`, and what was found is not lost: kills, full disks, names, metadata."""

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from hsvdet import files
from hsvdet.cli import main
from hsvdet.errors import ConfigError, DataError, NonFiniteError, SaveError
from hsvdet.prediction import results as results_folder
from hsvdet.prediction import sources
from test_predict import picture, table, video


def results(out: Path) -> tuple:
    """What does not depend on the day: every row, every detection."""
    content = table(out)
    return content["images"], content["failures"], json.loads((out / "detections.json").read_text())


def test_a_film_with_metadata_that_are_no_text_is_read(tmp_path, predict):
    av = pytest.importorskip("av")
    path = video(tmp_path / "plain.mp4")
    with av.open(str(path)) as plain, av.open(str(tmp_path / "in.mp4"), "w") as out:
        out.metadata["title"] = "Caf\u00e9"
        track = out.add_stream_from_template(plain.streams.video[0])
        for packet in plain.demux(plain.streams.video[0]):
            if packet.dts is not None:
                packet.stream = track
                out.mux(packet)
    content = (tmp_path / "in.mp4").read_bytes()
    assert content.count("Caf\u00e9".encode()) == 1
    (tmp_path / "in.mp4").write_bytes(content.replace("Caf\u00e9".encode(), b"Caf\xe9 "))
    assert predict([tmp_path / "in.mp4", picture(tmp_path / "a.png")], tmp_path / "out").images == 6


def test_names_as_long_as_a_file_system_allows_are_cut_and_stay_different(tmp_path, predict, server):
    answers, base = server
    long = "\u00e9" * 125  # 250 bytes
    first, second = picture(tmp_path / f"in/{long}.bmp"), picture(tmp_path / f"in/{long[:-1]}x.bmp")
    path = "/" + "u" * 900 + ".png"
    answers[path] = 200, {"Content-Type": "image/png"}, picture(tmp_path / "a.png").read_bytes()
    report = predict([first, second, base + path, base + path + "?"], tmp_path / "out")
    rows = table(tmp_path / "out")["images"]
    assert report.images == 3 and len(report.failures) == 1
    pictures = [tmp_path / "out" / row["picture"] for row in rows]
    assert len(set(pictures)) == 3 and all(path.is_file() and path.suffix == ".png" for path in pictures)
    assert rows[0]["file_name"].endswith(f"{long}.bmp"), "the row has the whole name"


def test_a_url_that_is_none_is_an_error_in_one_line(tmp_path, tiny_checkpoint, capsys):
    for url in ("http://[::1", "https://[", "rtsp://[x"):
        assert main(["predict", str(tiny_checkpoint), url, "--out", str(tmp_path / "out")]) == 2
        errors = capsys.readouterr().err
        assert errors.count("\n") == 1 and "is not a URL" in errors


def test_what_a_library_stumbles_over_is_one_failure_and_no_end(tmp_path, predict, monkeypatch):
    for i in range(4):
        picture(tmp_path / f"in/{i}.png")

    def stumbling(location):
        if location.endswith("1.png"):
            raise AttributeError("no such thing")
        return sources.read_pixels_as_tensor(location)

    monkeypatch.setattr(sources, "read_pixels_as_tensor", sources.read_image, raising=False)
    monkeypatch.setattr(sources, "read_image", stumbling)
    report = predict(tmp_path / "in", tmp_path / "out")
    assert report.images == 3
    assert "1.png cannot be read: unexpected AttributeError: no such thing" in report.failures[0]["reason"]


def test_a_file_given_twice_is_looked_at_once(tmp_path, predict):
    path = picture(tmp_path / "a.png")
    assert predict([path, str(path), tmp_path / "." / "a.png"], tmp_path / "out").images == 1


KILLED = """
import os, signal, sys
from hsvdet.cli import main
from hsvdet.prediction import results

add, left = results.ResultFolder.add, int(sys.argv[1])

def killed(self, frame, detections):
    global left
    add(self, frame, detections)
    left -= 1
    if not left:
        self._pool.shutdown()  # the pictures of before are on the disk; which of the last is, is chance
        self._settle(0)
        os.kill(os.getpid(), signal.SIGKILL)

results.ResultFolder.add = killed
main(sys.argv[2:])
"""


@pytest.mark.parametrize("after", [2, 5])
def test_a_killed_run_is_continued_where_it_stopped(tmp_path, tiny_checkpoint, capfd, after):
    """After two pictures, and within a video."""
    folder = tmp_path / "in"
    for name in ("1a.png", "2a.png", "9a.png"):
        picture(folder / name)
    (folder / "3broken.png").write_bytes(b"nothing")
    video(folder / "4film.mp4", frames=4)
    command = ["predict", str(tiny_checkpoint), str(folder), "--score", "0", "--batch", "1", "--out"]
    assert main([*command, str(tmp_path / "whole")]) == 0
    out = tmp_path / "cut"
    done = subprocess.run([sys.executable, "-c", KILLED, str(after), *command, str(out)], capture_output=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert not (out / "detections.json").exists() and (out / "unfinished.jsonl").exists()
    capfd.readouterr()

    assert main([*command, str(out)]) == 2
    assert "--resume continues it" in capfd.readouterr().err
    other = [*command, str(out), "--resume"]
    other[other.index("--score") + 1] = "0.1"
    assert main(other) == 2
    assert "begun with another score: 0.0; now it is 0.1" in capfd.readouterr().err

    before = (out / "1a.png").stat().st_mtime_ns
    assert main([*command, str(out), "--resume", "--json"]) == 0
    report = json.loads(capfd.readouterr().out)
    assert report["images"] == 7 and report["resumed"] == 2 and report["complete"] is True
    assert (out / "1a.png").stat().st_mtime_ns == before, "it was drawn again"
    assert results(out) == results(tmp_path / "whole")
    assert sorted(os.listdir(out)) == sorted(os.listdir(tmp_path / "whole")), "something stayed"


def test_ctrl_c_can_be_continued_and_changed_or_lost_files_are_looked_at_again(
    tmp_path,
    predict,
    detector,
    monkeypatch,
):
    for i in range(4):
        picture(tmp_path / f"in/{i}.png")
    out, calls = tmp_path / "out", []
    usual = type(detector).detect

    def interrupted(self, images, **options):
        calls.append(options["names"])
        if len(calls) == 4:
            raise KeyboardInterrupt
        return usual(self, images, **options)

    def looking(self, images, **options):
        calls.append(options["names"])
        return usual(self, images, **options)

    monkeypatch.setattr(type(detector), "detect", interrupted)
    with pytest.raises(KeyboardInterrupt):
        predict(tmp_path / "in", out, batch=1)
    assert len(table(out)["images"]) == 3 and table(out)["complete"] is False
    picture(tmp_path / "in/2.png", 80, 60)  # changed
    calls.clear()
    monkeypatch.setattr(type(detector), "detect", looking)
    assert predict(tmp_path / "in", out, batch=1, resume=True).resumed == 2
    assert [name for batch in calls for name in batch] == [str(tmp_path / f"in/{i}.png") for i in (2, 3)]
    assert [row["width"] for row in table(out)["images"]] == [40, 40, 80, 40]
    with pytest.raises(ConfigError, match="Leave out --resume"):
        predict(tmp_path / "in", out, resume=True)


def test_a_network_that_fails_at_one_image_loses_nothing_of_the_others(
    tmp_path, predict, detector, monkeypatch
):
    for i in range(3):
        picture(tmp_path / f"in/{i}.png")
    usual = type(detector).detect

    def failing(self, images, **options):
        if options["names"][0].endswith("2.png"):
            raise NonFiniteError("2.png: not finite")
        return usual(self, images, **options)

    monkeypatch.setattr(type(detector), "detect", failing)
    with pytest.raises(NonFiniteError):
        predict(tmp_path / "in", tmp_path / "out", batch=1)
    content = table(tmp_path / "out")
    assert len(content["images"]) == 2 and content["complete"] is False


def test_parts_of_killed_processes_are_swept_away_and_those_of_living_ones_are_not(tmp_path, predict):
    out = tmp_path / "out"
    predict(picture(tmp_path / "a.png"), out)
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    file = files.PartFile(out / "sub" / "b.png")
    file.part.touch()
    dead = file.part.with_name(file.part.name.replace(str(os.getpid()), str(child.pid)))
    dead.touch()
    elsewhere = file.part.with_name(f".hsvdet-00000000-{child.pid}-1.part")
    elsewhere.touch()
    predict(tmp_path / "a.png", out)
    assert sorted(path.name for path in (out / "sub").iterdir()) == sorted([file.part.name, elsewhere.name])


def test_a_picture_that_cannot_be_written_is_not_lost_beside_one_that_was(tmp_path, predict, monkeypatch):
    """On a full disk the first may fail and a later one, smaller, fit."""
    for name in ("1.png", "2.png", "3.png"):
        picture(tmp_path / "in" / name)
    saved, save = threading.Event(), results_folder._save_picture

    def full(path, *rest):
        if path.name == "1.png":
            assert saved.wait(60)
            raise SaveError("No space left on device")
        save(path, *rest)
        saved.set()

    with monkeypatch.context() as patch:
        patch.setattr(results_folder, "_save_picture", full)
        with pytest.raises(SaveError):
            predict(tmp_path / "in", tmp_path / "out", batch=1)
    report = predict(tmp_path / "in", tmp_path / "out", batch=1, resume=True)
    assert (
        report.images
        == len(table(tmp_path / "out")["images"])
        == len(list((tmp_path / "out").glob("*.png")))
        == 3
    )


def test_a_folder_of_somebody_else_is_refused_before_it_is_searched(tmp_path, predict, monkeypatch):
    """`--out ~`"""
    (tmp_path / "out" / "photos").mkdir(parents=True)
    searched, sweep = [], files.sweep
    monkeypatch.setattr(
        results_folder, "sweep", lambda folder, below=True: searched.append(below) or sweep(folder, below)
    )
    with pytest.raises(ConfigError, match="holds other files"):
        predict(picture(tmp_path / "a.png"), tmp_path / "out")
    assert searched == [False]


def test_a_number_too_long_for_a_camera_is_no_source():
    with pytest.raises(DataError, match="does not exist"):
        sources.find_sources("9" * 5000)


def test_pipes_among_the_sources_are_failures_and_not_waited_for(tmp_path, predict):
    folder = tmp_path / "in"
    picture(folder / "a.png")
    for name in ("b.mp4", "c.png", "d"):
        os.mkfifo(folder / name)
    report = predict([folder, folder / "d"], tmp_path / "out")
    assert report.images == 1 and len(report.failures) == 3
    assert all("regular file" in failure["reason"] for failure in report.failures)


def test_an_empty_source_is_not_the_folder_one_is_in(tmp_path, tiny_checkpoint, capsys, monkeypatch):
    """`hsvdet predict a.safetensors "$PHOTOS"` where nothing is set."""
    picture(tmp_path / "a.png")
    monkeypatch.chdir(tmp_path)
    for empty in ("", " "):
        assert main(["predict", str(tiny_checkpoint), empty, "--out", "out"]) == 2
        assert "is empty text" in capsys.readouterr().err
        with pytest.raises(DataError, match="A source is empty text"):
            sources.find_sources(empty)


def test_patterns_enter_a_folder_once_however_many_links_lead_to_it(tmp_path):
    """Of two links back, glob makes 2^40 paths."""
    for name in ("a.png", "one/b.png", "one/two/c.png", "one/two/d.txt", ".hidden/e.png"):
        picture(tmp_path / name) if name.endswith("png") else (tmp_path / name).touch()
    for name in ("one/back", "one/two/back"):
        (tmp_path / name).symlink_to(tmp_path)
    for pattern, names in {
        "**/*.png": ["a.png", "one/b.png", "one/two/c.png"],
        "**": ["a.png", "one/b.png", "one/two/c.png"],
        "*/**/[b-c].*": ["one/b.png", "one/two/c.png"],
        "one/**/two/*": ["two/c.png"],
    }.items():
        assert [source.name for source in sources.find_sources(f"{tmp_path}/{pattern}")] == names
