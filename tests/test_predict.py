import json
import os
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import hsvdet
from hsvdet.errors import ConfigError, DataError
from hsvdet.prediction import sources
from hsvdet.prediction.sources import find_sources
from hsvdet.prediction.video import VideoFrame, VideoWriter, read_video


def picture(path: Path, width: int = 40, height: int = 30, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, **options)
    return path


def video(path: Path, frames: int = 5, height: int = 32, width: int = 48) -> Path:
    pytest.importorskip("av")
    writer = VideoWriter(path)
    for i in range(frames):
        writer.write(np.full((height, width, 3), 40 * i, np.uint8), i / 10)
    writer.close()
    return path


def table(out: Path) -> dict:
    return json.loads((out / "images.json").read_text(encoding="utf-8"))


def names(found) -> list[str]:
    return [source.name for source in found]


def test_a_folder_is_searched_below_and_sorted_as_people_count(tmp_path, predict):
    for name in ("10.png", "9.png", "b/1 ü.png", "b/.hidden.png", "notes.txt"):
        picture(tmp_path / "in" / name) if name.endswith("png") else (tmp_path / "in" / name).write_text("x")
    (tmp_path / "in/b/loop").symlink_to(tmp_path / "in")
    report = predict(tmp_path / "in", tmp_path / "out")
    rows = table(tmp_path / "out")["images"]
    assert [row["file_name"] for row in rows] == ["9.png", "10.png", "b/1 ü.png"]
    assert [row["id"] for row in rows] == [1, 2, 3]
    assert all((tmp_path / "out" / row["picture"]).is_file() for row in rows)
    assert report.images == 3 and sum(report.objects.values()) == 9


def test_coco_tools_read_the_results(tmp_path, predict):
    COCO = pytest.importorskip("pycocotools.coco").COCO
    picture(tmp_path / "in/a.png", 40, 30)
    predict(tmp_path / "in", tmp_path / "out")
    found = COCO(tmp_path / "out/images.json").loadRes(str(tmp_path / "out/detections.json"))
    rows = found.loadAnns(found.getAnnIds())
    assert len(rows) == 3 and {row["category_id"] for row in rows} <= {3, 7}
    for row in rows:
        left, top, width, height = row["bbox"]
        assert (
            row["image_id"] == 1 and 0 <= left <= left + width <= 40.01 and 0 <= top <= top + height <= 30.01
        )
    assert table(tmp_path / "out")["categories"] == [{"id": 3, "name": "car"}, {"id": 7, "name": "person"}]


def test_the_numbers_in_coco_file_names_are_the_image_ids(tmp_path, predict):
    for name in ("000000000139.jpg", "000000000285.jpg"):
        picture(tmp_path / "in" / name)
    predict(tmp_path / "in", tmp_path / "out", pictures=False)
    assert [row["id"] for row in table(tmp_path / "out")["images"]] == [139, 285]
    assert {row["image_id"] for row in json.loads((tmp_path / "out/detections.json").read_text())} == {
        139,
        285,
    }
    assert not list((tmp_path / "out").glob("*.jpg"))


def test_a_photograph_lying_on_its_side_is_saved_upright_with_its_boxes(tmp_path, predict, detector):
    exif = Image.Exif()
    exif[0x0112] = 6
    picture(tmp_path / "phone.jpg", 60, 20, exif=exif)
    predict(tmp_path / "phone.jpg", tmp_path / "out")
    row = table(tmp_path / "out")["images"][0]
    with Image.open(tmp_path / "out/phone.jpg") as saved:
        assert saved.size == (20, 60) == (row["width"], row["height"])
        assert saved.getexif().get(0x0112, 1) == 1
    expected = detector(tmp_path / "phone.jpg", score=0.0, iou=1.0, max_detections=3).boxes
    boxes = torch.tensor([r["bbox"] for r in json.loads((tmp_path / "out/detections.json").read_text())])
    boxes[:, 2:] += boxes[:, :2]
    torch.testing.assert_close(boxes, expected, atol=0.03, rtol=0)


def test_a_broken_image_is_skipped_with_one_warning_and_counted(tmp_path, predict, caplog):
    picture(tmp_path / "in/good.png")
    (tmp_path / "in/cut.jpg").write_bytes(picture(tmp_path / "whole.jpg", 400, 300).read_bytes()[:900])
    (tmp_path / "in/empty.png").touch()
    report = predict(tmp_path / "in", tmp_path / "out")
    assert report.images == 1 and len(report.failures) == 2
    for name in ("cut.jpg", "empty.png"):
        assert sum(name in record.message for record in caplog.records) == 1
    assert {Path(row["source"]).name for row in table(tmp_path / "out")["failures"]} == {
        "cut.jpg",
        "empty.png",
    }


def test_nothing_readable_is_an_error_and_leaves_nothing(tmp_path, predict):
    for name in ("a.png", "b.jpg"):
        (tmp_path / name).write_bytes(b"no picture")
    with pytest.raises(DataError, match="None of 2 sources.*a.png"):
        predict([tmp_path / "a.png", tmp_path / "b.jpg"], tmp_path / "out")
    assert not list((tmp_path / "out").glob("*"))


def test_two_images_of_one_name_give_two_pictures(tmp_path, predict):
    paths = [picture(tmp_path / folder / "1.PNG") for folder in ("a", "b")] + [picture(tmp_path / "c/1.png")]
    predict(paths, tmp_path / "out")
    assert [row["picture"] for row in table(tmp_path / "out")["images"]] == ["1.PNG", "1-2.PNG", "1-3.png"]
    predict([tmp_path / "a", tmp_path / "b"], tmp_path / "again")
    assert [row["picture"] for row in table(tmp_path / "again")["images"]] == ["a/1.PNG", "b/1.PNG"]


def test_only_results_of_an_earlier_run_are_replaced(tmp_path, predict):
    picture(tmp_path / "in/a.png")
    picture(tmp_path / "in/b.png")
    out = tmp_path / "out"
    predict(tmp_path / "in", out)
    (out / "mine.txt").write_text("keep")
    predict(tmp_path / "in/a.png", out)
    assert sorted(path.name for path in out.iterdir()) == [
        "a.png",
        "detections.json",
        "images.json",
        "mine.txt",
    ]
    before = picture(out / "b.png").read_bytes()
    with pytest.raises(ConfigError, match="b.png is there already"):
        predict(tmp_path / "in", out)
    assert (out / "b.png").read_bytes() == before
    with pytest.raises(ConfigError, match="holds other files"):
        predict(out / "b.png", tmp_path / "in")
    with pytest.raises(DataError, match="Choose another folder for the results"):
        predict(out, out)


def test_a_changed_table_cannot_remove_files_outside_the_results(tmp_path, predict):
    picture(tmp_path / "in/a.png")
    predict(tmp_path / "in", tmp_path / "out")
    victim = picture(tmp_path / "victim.png")
    content = table(tmp_path / "out")
    content["images"][0]["picture"] = "../victim.png"
    (tmp_path / "out/images.json").write_text(json.dumps(content))
    (tmp_path / "out/a.png").unlink()
    predict(tmp_path / "in", tmp_path / "out")
    assert victim.is_file()
    content = table(tmp_path / "out")
    content["written"]["../victim.png"] = os.lstat(victim).st_ctime_ns
    (tmp_path / "out/images.json").write_text(json.dumps(content))
    with pytest.raises(ConfigError, match="victim.png is no result of `predict`"):
        predict(tmp_path / "in", tmp_path / "out")
    assert victim.is_file()


def test_a_made_up_table_removes_nothing(tmp_path, predict):
    """Nor does one that was brought along with the files it lists."""
    mine = picture(tmp_path / "out/mine.png")
    os.utime(mine, ns=(10**18, 10**18))  # as archives bring it along
    for written in ({"mine.png": 0}, {"mine.png": mine.stat().st_mtime_ns}, {}, [], None):
        made = {
            "info": {"description": "hsvdet predict"},
            "images": [{"picture": "mine.png"}],
            "written": written,
        }
        (tmp_path / "out/images.json").write_text(json.dumps(made))
        picture(tmp_path / "in/mine.png")
        with pytest.raises(ConfigError):
            predict(tmp_path / "in", tmp_path / "out")
        assert mine.is_file()
    predict(tmp_path / "in", tmp_path / "sound")
    shutil.copytree(tmp_path / "sound", tmp_path / "copy")
    with pytest.raises(ConfigError, match="changed or copied since"):
        predict(tmp_path / "in", tmp_path / "copy")


def test_a_pattern_with_dots_writes_inside_the_results(tmp_path, predict):
    picture(tmp_path / "in/sub/a.png")
    picture(tmp_path / "in/b.png")
    picture(tmp_path / "c.png")
    predict([str(tmp_path / "in/*/../b.png"), str(tmp_path / "in/*/../../c.png")], tmp_path / "deep/er/out")
    rows = table(tmp_path / "deep/er/out")["images"]
    assert [row["picture"] for row in rows] == ["b.png", "c.png"]
    found = [path.relative_to(tmp_path / "deep") for path in (tmp_path / "deep").rglob("*.png")]
    assert sorted(map(str, found)) == ["er/out/b.png", "er/out/c.png"]


def test_results_inside_the_folder_of_images_are_not_looked_at_again(tmp_path, predict):
    picture(tmp_path / "a.png")
    for _ in range(2):
        assert predict(tmp_path, tmp_path / "out").images == 1


def test_sources_that_are_not_there_are_named(tmp_path):
    (tmp_path / "empty").mkdir()
    for source, message in {
        tmp_path / "nope.jpg": "nope.jpg does not exist",
        tmp_path / "empty": "no image and no video.*[.]jpg",
        tmp_path / "*.jpg": "names no file",
        "ftp://host/a.jpg": "got ftp",
        "97": "camera 97 expects the device /dev/video97",
        "\0": "does not exist",
    }.items():
        with pytest.raises(DataError, match=message):
            find_sources(source)
    with pytest.raises(DataError, match="got none"):
        find_sources([])


def test_a_file_name_that_is_no_text_is_kept(tmp_path, predict):
    name = os.fsdecode(b"\xff 1.png")
    picture(tmp_path / "in" / name)
    predict(tmp_path / "in", tmp_path / "out")
    assert table(tmp_path / "out")["images"][0]["file_name"] == name
    assert (tmp_path / "out" / name).is_file()


def test_a_pattern_takes_images_and_keeps_their_folders(tmp_path):
    for name in ("x/a/1.png", "x/b/2.png"):
        picture(tmp_path / name)
    (tmp_path / "x/a/1.txt").touch()
    assert names(find_sources(str(tmp_path / "x/**/*"))) == ["a/1.png", "b/2.png"]
    odd = picture(tmp_path / "x/[1].png")  # a name that exists is no pattern
    assert names(find_sources(str(odd))) == ["[1].png"]


def test_a_film_has_a_row_and_a_drawn_frame_for_each_frame(tmp_path, predict):
    path = video(tmp_path / "a video.mp4", height=31, width=47)
    predict(path, tmp_path / "out", batch=2)
    rows = table(tmp_path / "out")["images"]
    assert [row["frame"] for row in rows] == [0, 1, 2, 3, 4]
    assert [row["seconds"] for row in rows] == pytest.approx([0, 0.1, 0.2, 0.3, 0.4], abs=1e-3)
    drawn = list(read_video(str(tmp_path / "out/a video.mp4"), "drawn"))
    assert [frame.seconds for frame in drawn] == pytest.approx([0, 0.1, 0.2, 0.3, 0.4], abs=1e-3)
    assert drawn[0].image.shape == (3, 32, 48)  # video wants even sides
    assert {row["picture"] for row in rows} == {"a video.mp4"}


def test_a_film_from_a_phone_is_turned_upright(tmp_path):
    path = video(tmp_path / "phone.mp4")
    content = path.read_bytes()
    as_it_is = struct.pack(">9i", 65536, 0, 0, 0, 65536, 0, 0, 0, 1 << 30)
    clockwise = struct.pack(">9i", 0, 65536, 0, -65536, 0, 0, 0, 0, 1 << 30)
    at = content.index(as_it_is, content.index(b"tkhd"))
    path.write_bytes(content[:at] + clockwise + content[at + len(clockwise) :])
    assert next(read_video(str(path), "phone")).image.shape == (3, 48, 32)


def test_an_endless_film_needs_no_more_than_a_batch(monkeypatch, detector, tmp_path):
    read = 0

    def endless(location, name, *, live=False):
        nonlocal read
        while True:
            read += 1
            yield VideoFrame(torch.zeros(3, 32, 32, dtype=torch.uint8), read / 30)

    monkeypatch.setattr(sources, "read_video", endless)
    (tmp_path / "a.mp4").touch()
    answers = hsvdet.stream(detector, tmp_path / "a.mp4", batch=4)
    assert [next(answers)[0].number for _ in range(6)] == [0, 1, 2, 3, 4, 5]
    assert read == 8
    answers.close()


@pytest.mark.parametrize("live", [False, True])
def test_ctrl_c_keeps_what_was_found_and_is_the_way_to_end_a_camera(monkeypatch, predict, tmp_path, live):
    pytest.importorskip("av")

    class Stop(KeyboardInterrupt):
        """As the command line makes of SIGTERM."""

    def interrupted(location, name, *, live=False):
        for i in range(3):
            yield VideoFrame(torch.zeros(3, 32, 32, dtype=torch.uint8), i / 30)
        raise Stop

    monkeypatch.setattr(sources, "read_video", interrupted)
    (tmp_path / "a.mp4").touch()
    source = "rtsp://user:secret@camera/one" if live else tmp_path / "a.mp4"
    if live:
        assert predict(source, tmp_path / "out", batch=1).complete is False
    else:
        with pytest.raises(Stop):
            predict(source, tmp_path / "out", batch=1)
    content = table(tmp_path / "out")
    assert len(content["images"]) == 3 and content["complete"] is False
    assert len(list(read_video(str(tmp_path / "out" / content["images"][0]["picture"]), "drawn"))) == 3
    assert "secret" not in (tmp_path / "out/images.json").read_text()


def test_without_pyav_a_film_says_what_to_install(monkeypatch, predict, tmp_path):
    monkeypatch.setitem(__import__("sys").modules, "av", None)
    (tmp_path / "a.mp4").touch()
    with pytest.raises(DataError, match=r'pip install "hsvdet\[video\]"'):
        predict(tmp_path / "a.mp4", tmp_path / "out")


def test_a_broken_film_is_skipped_and_one_that_breaks_off_keeps_its_frames(tmp_path, predict):
    whole = video(tmp_path / "whole.mp4").read_bytes()
    (tmp_path / "in").mkdir()
    (tmp_path / "in/broken.mp4").write_bytes(whole[: len(whole) // 2])
    picture(tmp_path / "in/good.png")
    report = predict(tmp_path / "in", tmp_path / "out")
    assert report.images == 1 and "broken.mp4" in report.failures[0]["source"]


def test_urls_of_images_and_films(tmp_path, predict, server, monkeypatch):
    answers, base = server
    image = picture(tmp_path / "a.png").read_bytes()
    answers["/street%20one.png?x=1"] = 200, {"Content-Type": "image/png"}, image
    answers["/video"] = (
        200,
        {"Content-Type": "application/octet-stream"},
        video(tmp_path / "a.mp4").read_bytes(),
    )
    answers["/gone.png"] = 404, {}, b""
    answers["/page"] = 200, {"Content-Type": "text/html"}, b"<html>"
    answers["/cut.png"] = 200, {"Content-Type": "image/png", "Content-Length": "4400"}, image
    answers["/huge.png"] = 200, {"Content-Type": "image/png"}, b"x" * 5000
    answers["/text.png"] = 200, {"Content-Type": "image/png"}, b"x"
    monkeypatch.setattr(sources, "LARGEST_IMAGE_DOWNLOAD", 4500)
    paths = ["/street%20one.png?x=1", "/video", "/gone.png", "/page", "/cut.png", "/huge.png", "/text.png"]
    report = predict([base + path for path in paths] + ["http://127.0.0.1:1/a.png"], tmp_path / "out")
    assert report.images == 1 + 5
    assert [row["picture"] for row in table(tmp_path / "out")["images"]][:2] == [
        "street one.png",
        "video.mp4",
    ]
    reasons = [failure["reason"] for failure in report.failures]
    for reason, expected in zip(
        reasons, ["404", "web page", "broke off", "more than", "/text.png", "refused"], strict=True
    ):
        assert expected in reason and "/tmp" not in reason


def test_batch_size_does_not_change_the_answers(tmp_path, predict):
    for i in range(5):
        picture(tmp_path / f"in/{i}.png", 40 + 20 * (i % 2), 30)
    answers = []
    for batch in (1, 3):
        predict(tmp_path / "in", tmp_path / "out", batch=batch, pictures=False)
        answers.append(json.loads((tmp_path / "out/detections.json").read_text()))
    assert [row["image_id"] for row in answers[0]] == [row["image_id"] for row in answers[1]]
    boxes = [np.array([row["bbox"] for row in rows]) for rows in answers]
    np.testing.assert_allclose(*boxes, atol=0.05)


def test_another_size_is_used_and_checked(tmp_path, detector, predict):
    picture(tmp_path / "a.png", 200, 100)
    with pytest.raises(ConfigError, match="multiples of 32"):
        predict(tmp_path / "a.png", tmp_path / "out", size=(64, 100))
    ((_, found),) = hsvdet.stream(detector, tmp_path / "a.png", score=0.0, size=(128, 256))
    ((_, usual),) = hsvdet.stream(detector, tmp_path / "a.png", score=0.0)
    assert not torch.equal(found.scores[:5], usual.scores[:5])
    assert detector.preprocess.size == (64, 64)


def test_a_full_disk_is_said_in_one_line_and_leaves_no_half_files(tmp_path, predict, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    source = picture(tmp_path / "a.png")
    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(hsvdet.HsvdetError, match="a.png cannot be written: No space left"):
        predict(source, tmp_path / "out")
    # By which the run can be continued (test_predict_survives.py).
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["unfinished.jsonl"]
