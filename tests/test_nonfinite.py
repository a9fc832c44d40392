"""An answer with NaN or infinity is an error that names the image, wherever it is met: never "no objects"."""

import os
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

import hsvdet
from hsvdet.cli import main
from hsvdet.errors import NonFiniteError
from hsvdet.postprocess import BestClass, Suppressed, TopPairs
from hsvdet.structures import Prediction
from test_distributed import two_processes
from tiny_runs import squares, tiny

NOT_FINITE = "the network's answer is not finite"


def overflowing():
    """A detector that answers black images, and no others."""
    detector = tiny("yolov8-n")
    with torch.no_grad():
        detector.net.stem.conv.weight.fill_(3e38)
    return detector


@pytest.mark.parametrize("reading", [Suppressed(), TopPairs(), BestClass()])
@pytest.mark.parametrize("part, value", [("logits", torch.nan), ("boxes", torch.nan), ("logits", torch.inf)])
def test_one_bad_prediction_of_ten_is_no_answer(reading, part, value):
    answer = Prediction(torch.randn(3, 10, 4), torch.rand(3, 10, 4))
    getattr(answer, part)[1, 7, 2] = value
    with pytest.raises(NonFiniteError, match=f"^b: {NOT_FINITE}, NaN or infinity in 1 of 10 predictions"):
        reading.detections(answer, [(9, 9)] * 3, names=["a", "b", "c"])
    with pytest.raises(NonFiniteError, match="^image 2 of 3: "):
        reading.detections(answer, [(9, 9)] * 3)


def test_a_detector_names_the_image(tmp_path):
    detector = overflowing()
    black, noise = (
        np.zeros((64, 64, 3), np.uint8),
        np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8),
    )
    Image.fromarray(noise).save(tmp_path / "noise.png")
    assert len(detector([black, black])) == 2
    with pytest.raises(NonFiniteError, match=f"^image 2 of the list: {NOT_FINITE}"):
        detector([black, noise])
    with pytest.raises(NonFiniteError, match=rf"^{tmp_path}/noise.png: {NOT_FINITE}"):
        detector(tmp_path / "noise.png")


def test_predict_stream_val_and_explain_name_the_image(tmp_path, capsys):
    data = squares(tmp_path, count=3)
    checkpoint, first = tmp_path / "bad.safetensors", data.records[0].path
    detector = overflowing()
    with pytest.raises(NonFiniteError, match=f"^{first}: {NOT_FINITE}"):
        list(hsvdet.stream(detector, first))
    with pytest.raises(NonFiniteError, match=f"^{first}: {NOT_FINITE}"):
        hsvdet.val(detector, data)
    detector.save(checkpoint)
    for command in (
        ["predict", str(checkpoint), first, "--out", str(tmp_path / "seen")],
        ["explain", str(checkpoint), first, "--out", str(tmp_path / "explained")],
    ):
        assert main(command) == 2
        error = capsys.readouterr().err
        assert f"{first}: {NOT_FINITE}" in error and "Traceback" not in error


def test_a_certificate_names_the_image_to_which_the_detector_answers_nothing_finite(tmp_path):
    """As export and certify do; no artifact is asked."""
    from hsvdet.certificate.inspection import examine
    from hsvdet.certificate.tolerance import TOLERANCES

    header = SimpleNamespace(size=(64, 64), iou=0.7, max_detections=300, dynamic=False, floor=0.001)
    for data, name in ((squares(tmp_path, count=3), "0"), (None, "scene 0")):
        with pytest.raises(NonFiniteError, match=f"^image '{name}': {NOT_FINITE}"):
            examine(
                overflowing(), header, None, data, images=2, evaluated=1, tolerance=TOLERANCES["fp32"],
                precision="fp32",
            )  # fmt: skip


def validate(data, out):
    """Rank 1's average overflows; both ranks write down what they raise."""
    from hsvdet.training import train
    from hsvdet.training.ema import AveragedNet

    original, rank = AveragedNet.update, os.environ["RANK"]

    def update(self):
        original(self)
        if rank == "1":
            with torch.no_grad():
                next(self.net.parameters()).fill_(3e38)

    AveragedNet.update = update
    try:
        train(tiny("yolov8-n"), data, out, epochs=1, batch=4, workers=0, device="cpu", progress=False)
    except NonFiniteError as error:
        (out / f"rank{rank}.txt").write_text(str(error))


def test_validation_in_training_ends_every_process_and_names_the_image(tmp_path):
    data = squares(tmp_path, count=6)
    processes = two_processes(validate, (data, data), tmp_path / "run")
    for process in processes:
        process.join()
    messages = [(tmp_path / f"run/rank{rank}.txt").read_text() for rank in range(2)]
    assert messages[0] == messages[1]
    start = f"Epoch 1, validation of the averaged weights: {tmp_path}/squares "
    assert messages[0].startswith(start) and NOT_FINITE in messages[0]


@pytest.mark.parametrize("where", ["running statistics", "average"])
def test_what_diverged_at_finite_losses_replaces_nothing_that_is_sound(
    tmp_path, monkeypatch, no_pictures, where
):
    """In the second of three epochs; with nothing to validate on, so that nothing else would see it."""
    from hsvdet.training import train
    from hsvdet.training.ema import AveragedNet

    original, data, run = AveragedNet.update, squares(tmp_path, count=4), tmp_path / "run"
    before = {}

    def update(self):
        original(self)
        if self.steps == 1:
            before.update({path.name: path.read_bytes() for path in run.glob("resume.safetensors")})
        if self.steps == 2:
            before.update({path.name: path.read_bytes() for path in run.glob("*.safetensors")})
            net = trained if where == "running statistics" else self.net
            net.stem.norm.running_var[0] = torch.inf

    detector = tiny("yolov8-n")
    trained = detector.net
    monkeypatch.setattr(AveragedNet, "update", update)
    with pytest.raises(
        NonFiniteError, match=rf"Epoch 2: .*running_var of the .*{run}/best.safetensors .* of epoch 1"
    ):
        train(detector, data, run, epochs=3, batch=4, workers=0, device="cpu", progress=False, save_every=0.0,
              val_split=None)  # fmt: skip
    assert {path.name: path.read_bytes() for path in run.glob("*.safetensors")} == before
    assert set(before) == {"best.safetensors", "last.safetensors", "resume.safetensors"}
    assert hsvdet.load(run / "best.safetensors")


@pytest.mark.parametrize(
    "change",
    [
        {"position": {"epoch": 10**9, "batch": 0, "step": 0}}, {"position": {"epoch": 0, "batch": 7, "step": 0}},
        {"position": {"epoch": 1, "batch": 0, "step": 0}},
        {"position": {"epoch": -1, "batch": 0, "step": 0}}, {"position": {"epoch": 1.0, "batch": 0, "step": 1}},
        {"position": {"epoch": 0, "batch": 0}}, {"position": 3}, {"state": {}}, {"settings": []},
    ],
    ids=str,
)  # fmt: skip
def test_a_state_that_was_changed_is_refused_and_no_run_is_done_by_it(tmp_path, no_pictures, change):
    from hsvdet.checkpoint import read_checkpoint, write_checkpoint
    from hsvdet.errors import CheckpointError
    from hsvdet.training import train

    options = dict(epochs=1, batch=4, workers=0, device="cpu", progress=False, val_split=None)
    data, path = squares(tmp_path, count=4), tmp_path / "run/resume.safetensors"
    train(tiny("yolov8-n"), data, tmp_path / "run", **options)
    tensors, header = read_checkpoint(path)
    write_checkpoint(path, tensors, {**header, **change})
    with pytest.raises(CheckpointError, match="resume.safetensors: .* or train anew"):
        train(tiny("yolov8-n"), data, tmp_path / "run", resume=True, **options)


def test_no_part_of_a_state_is_believed(tmp_path, no_pictures):
    from hsvdet.checkpoint import read_checkpoint, write_checkpoint
    from hsvdet.errors import CheckpointError
    from hsvdet.training import find_recipe, train
    from hsvdet.training.optimizer import load_optimizer_tensors, make_optimizer
    from hsvdet.training.record.state import read_state

    detector, path = tiny("yolov8-n"), tmp_path / "run/resume.safetensors"
    train(
        detector, squares(tmp_path, count=2), tmp_path / "run", epochs=1, batch=2, workers=0, device="cpu",
        progress=False, val_split=None, accumulate=1,
    )  # fmt: skip
    right, header = read_checkpoint(path)
    moment = next(name for name in right if name.endswith("/exp_avg_sq"))

    def read(tensors, **state):
        write_checkpoint(path, {**right, **tensors}, {**header, "state": header["state"] | state})
        optimizer = make_optimizer(detector.net, find_recipe("plain"), False, False)
        load_optimizer_tensors(optimizer, read_state(path).tensors["optimizer"], str(path))

    read({})
    (row,) = header["state"]["history"]
    for tensors, state in (
        ({}, {"history": [{name: value for name, value in row.items() if name != "seconds"}]}),
        ({}, {"history": [row | {"seconds": float("nan")}]}),
        ({}, {"history": [row | {"loss/class": "small"}]}),
        ({}, {"seconds": float("nan")}),
        ({}, {"scaler": {"x": 1}}),
        ({}, {"average_steps": -5}),
        ({moment: torch.zeros(3)}, {}),
        ({moment: -torch.ones_like(right[moment])}, {}),
        ({moment: right[moment].int()}, {}),
        ({moment: torch.full_like(right[moment], torch.nan)}, {}),
        ({moment.replace("exp_avg_sq", "step"): torch.tensor(-1.0)}, {}),
        ({"optimizer:none/exp_avg": torch.zeros(3)}, {}),
        ({"losses:class": torch.zeros(3, dtype=torch.float64)}, {}),
        ({"matching:assignment": torch.zeros(3)}, {}),
    ):
        with pytest.raises(CheckpointError, match="or train *anew"):
            read(tensors, **state)
