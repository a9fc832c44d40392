import dataclasses
import errno
import itertools
import json
import logging
import os

import numpy as np
import pytest
import torch
from PIL import Image

from hsvdet.detector import create
from hsvdet.errors import ConfigError, NonFiniteError, SaveError
from hsvdet.loading import load
from hsvdet.training import train
from hsvdet.training.capacity import check_capacity, queries_of
from hsvdet.training.learner import Learner
from hsvdet.training.objective import Objective
from hsvdet.training.plan import make_plan
from hsvdet.training.record.state import read_state
from hsvdet.validation import val
from tiny_runs import LABELS, metrics, squares, tiny, tiny_query

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_a_run_leaves_what_its_documentation_lists(tmp_path, capfd):
    data = squares(tmp_path)
    detector = tiny("hsv-det-n+")
    out = tmp_path / "run"
    result = train(detector, (data, data), out, epochs=5, batch=4, accumulate=2, workers=0)

    rows = metrics(out)
    assert [row[0] for row in rows] == ["epoch", "1", "2", "3", "4", "5"]
    for column in ("learning_rate", "loss/class", "loss/selector", "ap", "ap50", "gate/P4", "entropy/P5"):
        assert column in rows[0]
    for name in ("curves.png", "train_batch.jpg", "train_batch_settle.jpg", "val/metrics.json", "val/pr.png"):
        assert (out / name).stat().st_size > 1000
    assert list((out / "tensorboard").iterdir())
    described = json.loads((out / "run.json").read_text())
    assert described["settings"]["accumulate"] == 2 and described["images"] == {"train": 12, "val": 12}
    shown = capfd.readouterr()
    assert shown.out == "" and shown.err.count("\nepoch ") == 5

    best = load(result.best)
    assert best.labels == LABELS and best.source.startswith("trained with hsvdet")
    for name, tensor in best.net.state_dict().items():
        assert torch.equal(tensor, detector.net.state_dict()[name]), name
    again = val(result.best, data, batch=5, workers=0, device="cpu")
    assert again.ap == pytest.approx(result.metrics["ap"], abs=1e-6)
    assert again.duplicates_before is not None


def test_eight_pictures_are_learned(tmp_path):
    data = squares(tmp_path, count=8)
    detector = tiny("yolov8-n", width=0.125)
    as_they_are = dict.fromkeys(("mosaic", "scale", "translate", "hue", "saturation", "brightness"), 0.0)
    train(
        detector, (data, None), tmp_path / "run", epochs=90, batch=4, accumulate=1, workers=0, recipe="plain",
        options={**as_they_are, "learning_rate": 2e-3}, progress=False,
    )  # fmt: skip
    # By heart takes more steps than a test has (benchmarks/overfit.py asks for 0.9). After these, AP50 was 0.45 to 1.0
    # over eight runs, as seed and rounding would have it.
    assert val(detector, data, workers=0, device="cpu").ap50 > 0.3


def test_answers_do_not_depend_on_the_batch_they_came_in(tmp_path):
    data = squares(tmp_path)
    wide = Image.fromarray(np.full((40, 64, 3), 90, np.uint8))
    wide.save(data.records[3].path)
    data.records[3] = data.records[3]._replace(size=(40, 64))
    detector = tiny("hsv-det-n")
    detector.net.eval()
    found = [val(detector, data, batch=batch, workers=0, device="cpu", score=1e-6) for batch in (1, 5, 12)]
    assert found[0].detections == found[1].detections == found[2].detections > 0
    assert found[0].stats == pytest.approx(found[2].stats, abs=1e-6, nan_ok=True)


def test_the_last_step_of_an_epoch_takes_the_batches_that_remain(tmp_path, monkeypatch):
    windows = []
    original = Learner.step

    def step(self, window, *others):
        windows.append(len(window))
        return original(self, window, *others)

    monkeypatch.setattr(Learner, "step", step)
    data = squares(tmp_path)
    train(tiny(), (data, None), tmp_path / "run", epochs=2, batch=2, accumulate=4, workers=0, progress=False)
    assert windows == [4, 2, 4, 2]


def test_images_per_second_counts_the_images_there_were(tmp_path, monkeypatch, no_pictures):
    seconds = itertools.count()

    class Clock:
        """Each look at it is a second later."""

        monotonic = staticmethod(lambda: float(next(seconds)))

    monkeypatch.setattr("hsvdet.training.loop.time", Clock)
    plain = dict(epochs=1, accumulate=1, workers=0, progress=False, save_every=1e9)
    for images, batch, expected in ((10, 4, 10 / 3), (9, 4, 8 / 2), (3, 8, 3 / 1)):
        out = tmp_path / f"{images}"
        out.mkdir()
        train(tiny(), (squares(out, count=images), None), out / "run", batch=batch, **plain)
        head, row = (line.split(",") for line in (out / "run/results.csv").read_text().splitlines())
        assert float(row[head.index("images_per_second")]) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_a_non_finite_step_stops_with_its_images_named_and_the_state_before_it_saved(
    tmp_path, monkeypatch, what
):
    data = squares(tmp_path)
    original, steps = Objective.__call__, itertools.count()
    before = {}

    def poisoned(self, batch, step):
        weights = {name: value.clone() for name, value in self.net.state_dict().items()}
        parts = original(self, batch, step)
        if next(steps) == 4:
            before["paths"] = [info.path for info in batch.infos]
            before["weights"] = weights
            poison = torch.tensor(float("nan")) if what == "loss" else _infinite_gradient(parts["box"].value)
            parts["box"] = parts["box"]._replace(value=parts["box"].value + poison)
        return parts

    monkeypatch.setattr(Objective, "__call__", poisoned)
    with pytest.raises(NonFiniteError) as caught:
        train(
            tiny(), (data, None), tmp_path / "run", epochs=3, batch=4, accumulate=1, workers=0, progress=False
        )
    message = str(caught.value)
    assert "Epoch 2, step 5" in message and ("box nan" in message) == (what == "loss")
    assert all(path in message for path in before["paths"]) and message.count(".png") == 4
    state = read_state(tmp_path / "run/nonfinite.safetensors")
    assert state.position == (1, 1, 4)
    for name, tensor in before["weights"].items():
        assert torch.equal(state.tensors["net"][name], tensor), name


def _infinite_gradient(loss):
    """0, with a gradient of infinity."""
    zero = loss.clone() - loss.detach()
    zero.register_hook(lambda gradient: gradient * float("inf"))
    return zero


def test_a_full_disk_stops_the_run_in_one_line_and_harms_nothing(tmp_path, monkeypatch):
    data = squares(tmp_path)
    out = tmp_path / "run"
    sync, left = os.fsync, [9]

    def fsync(handle):
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        sync(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(SaveError, match="No space left on device") as caught:
        train(tiny(), (data, None), out, epochs=8, batch=4, workers=0, progress=False)
    assert "\n" not in str(caught.value) and "resume" in str(caught.value)
    monkeypatch.undo()
    assert not list(out.glob(".*.part"))
    assert read_state(out / "resume.safetensors").position.epoch >= 1
    load(out / "last.safetensors")
    result = train(tiny(), (data, None), out, epochs=8, batch=4, workers=0, progress=False, resume=True)
    assert [row[0] for row in metrics(out)[1:]] == [str(epoch) for epoch in range(1, 9)]
    assert result.best.is_file()


def test_a_run_is_neither_overwritten_nor_continued_with_other_settings(tmp_path):
    data = squares(tmp_path, count=4)
    out = tmp_path / "run"
    plain = dict(epochs=1, batch=4, workers=0, progress=False)
    # Killed before its first state, or not begun: a command that always says resume still works.
    assert train(tiny(), (data, None), out, **plain, resume=True).epochs == 1
    with pytest.raises(ConfigError, match="already holds a run.*resume"):
        train(tiny(), (data, None), out, **plain)
    with pytest.raises(ConfigError, match=r"recipe.mosaic \(was 1.0, now 0.5\), seed \(was 0, now 3\)"):
        train(tiny(), (data, None), out, **plain, resume=True, seed=3, options={"mosaic": 0.5})


def test_an_undivided_data_set_does_not_validate_on_what_it_trains_on(tmp_path, caplog):
    records = squares(tmp_path, count=4).records
    boxes = [(record.id, *map(float, box)) for record in records for box in record.boxes]
    coco = {
        "images": [
            {"id": r.id, "file_name": f"squares {r.id}.png", "width": 64, "height": 64} for r in records
        ],
        "categories": [{"id": 1, "name": "dark"}, {"id": 2, "name": "light"}],
        "annotations": [
            {"id": n, "image_id": i, "category_id": 1, "bbox": [x, y, right - x, bottom - y]}
            for n, (i, x, y, right, bottom) in enumerate(boxes, 1)
        ],
    }
    (tmp_path / "boxes.json").write_text(json.dumps(coco))
    out = tmp_path / "run"
    result = train(tiny(), tmp_path / "boxes.json", out, epochs=1, batch=4, workers=0, progress=False)
    assert result.metrics == {} and result.best.is_file()
    assert "not divided into splits" in caplog.text


def test_a_batch_is_no_larger_than_the_step_its_recipe_wants(tmp_path):
    data = squares(tmp_path, count=4)
    asked = dict.fromkeys(("options", "epochs", "accumulate", "workers", "batch"))
    plain = dict(
        split="train",
        val_split=None,
        val_fraction=0.0,
        fraction=1.0,
        precision="fp32",
        seed=0,
        save_every=300.0,
    )
    for recipe, expected in (("small-data", (4, 1)), ("plain", (16, 1)), ("detr", (16, 4))):
        plan = make_plan(tiny_query(), data, tmp_path, recipe=recipe, **asked, **plain)
        assert (plan.batch, plan.accumulate) == expected


@pytest.mark.parametrize(("name", "fixes"), [("detr-tiny", "pretrained"), ("rt-detr-tiny", "frozen")])
def test_a_frozen_backbone_without_weights_is_refused(tmp_path, name, fixes):
    detector = create(name, ["a"], options={fixes: True})
    with pytest.raises(ConfigError, match=rf"its backbone is random.*backbone_weights.*{fixes}=false"):
        train(detector, tmp_path, tmp_path / "run", epochs=1)


def test_more_objects_than_queries_are_told_and_refused_where_too_many_are_lost(tmp_path, caplog):
    data = squares(tmp_path, count=12)  # 1, 2, 3, 1, 2, 3, ... objects: 24
    check_capacity("some-model", tiny_query(queries=3).config, data)
    check_capacity("some-model", tiny("yolov8-n").config, data)
    assert not caplog.records
    data.records[2] = data.records[2]._replace(crowd=np.array([True, False, False]))
    data.records[5:] = data.records[6:]
    check_capacity("some-model", tiny_query(queries=2).config, data)  # loses 2 of 20
    assert "2 of 11 training images have more, up to 3 in" in caplog.text and "squares 8.png" in caplog.text
    assert "10.0% of all objects" in caplog.text and "queries=100" in caplog.text
    with pytest.raises(ConfigError, match="finds at most 1 object .*up to 3 in.*queries=100"):
        train(tiny_query(queries=1), (data, None), tmp_path / "run", epochs=1)
    patterns = create("dab-detr-tiny", LABELS, options={"queries": 1, "patterns": 3}).config
    assert queries_of(patterns) == 3


def test_training_goes_on_where_an_image_has_more_objects_than_queries(tmp_path):
    data = squares(tmp_path, count=12)
    kept = dataclasses.replace(data, records=[*data.records[:2], *data.records[3:5], *data.records[6:9]])
    result = train(
        tiny_query(queries=2), (kept, None), tmp_path / "run", epochs=1, batch=7, workers=0, progress=False
    )
    assert result.epochs == 1


def test_settings_that_cannot_work_are_refused_before_anything_is_written(tmp_path):
    data = squares(tmp_path, count=4)
    for settings, message in (
        ({"precision": "fp16"}, "fp16 needs a CUDA device"),
        ({"precision": "int8"}, "precision expects one of fp32, bf16, fp16"),
        ({"device": "gpu"}, "device expects auto, cpu"),
        ({"batch": 0}, "batch"),
        ({"options": {"mozaic": 1.0}}, "Did you mean mosaic"),
    ):
        with pytest.raises(ConfigError, match=message):
            train(tiny(), (data, None), tmp_path / "run", device=settings.pop("device", "cpu"), **settings)
    renamed = data.__class__(**{**vars(data), "labels": ("dark", "bright")})
    with pytest.raises(ConfigError, match="the data set alone has bright; the detector alone has light"):
        train(tiny(), (renamed, None), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_warm_network_with_small_batches_keeps_its_statistics(tmp_path):
    data = squares(tmp_path, count=4)
    detector = tiny()
    detector.source, detector.start = "somewhere", "trained"
    before = {name: tensor.clone() for name, tensor in detector.net.state_dict().items()}
    plain = dict(epochs=2, batch=4, workers=0, progress=False)
    train(detector, (data, None), tmp_path / "run", **plain)
    for name, tensor in detector.net.state_dict().items():
        if "running" in name or "num_batches" in name:
            assert torch.equal(tensor, before[name]), name
    assert not torch.equal(detector.net.head.class_towers[0][-1].bias, before["head.class_towers.0.2.bias"])
    assert "starting from: somewhere" in load(tmp_path / "run/best.safetensors").source


def test_bfloat16_trains_too(tmp_path, caplog):
    data = squares(tmp_path, count=4)
    with caplog.at_level(logging.WARNING):
        train(
            tiny(),
            (data, data),
            tmp_path / "run",
            epochs=1,
            batch=4,
            workers=0,
            precision="bf16",
            progress=False,
        )
    assert not caplog.records
    assert all(
        tensor.dtype != torch.bfloat16
        for tensor in load(tmp_path / "run/last.safetensors").net.state_dict().values()
    )
