"""Against the Ultralytics package as a black box: what it saves, converted, answers as it does itself.

Runs where that package is importable, or where the environment variable HSVDET_ULTRALYTICS_PYTHON names a
Python that has it. It is AGPL-3.0: nothing of it is read or imported here.
"""

import importlib.util
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from hsvdet import load
from hsvdet.conversion.foreign import convert
from hsvdet.errors import CheckpointError

BLACK_BOX = """
import sys
import numpy, torch
from ultralytics import YOLO
torch.set_num_threads(1)
torch.manual_seed(0)
folder = sys.argv[1]
for scale in "nsmlx":
    model = YOLO(f"yolov8{scale}.yaml")
    for name, module in model.model.named_modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0
            torch.nn.init.uniform_(module.weight, 0.8, 1.4)
            torch.nn.init.normal_(module.bias, 0, 0.2)
        if isinstance(module, torch.nn.Conv2d) and module.bias is not None:
            torch.nn.init.normal_(module.weight, 0, 0.1)
    with torch.no_grad():
        model.model.train()(torch.rand(2, 3, 64, 96))  # statistics that keep the signal alive
    model.model.eval()
    model.save(f"{folder}/yolov8{scale}.pt")
    saved = YOLO(f"{folder}/yolov8{scale}.pt")
    image = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        answer = saved.model.float().eval()(image)[0]
    numpy.savez(f"{folder}/{scale}.npz", image=image.numpy(), answer=answer.numpy())
for name in ("yolo11n", "yolov8n-seg", "yolov8n-pose", "yolov8n-cls", "yolov5n"):
    YOLO(f"{name}.yaml").save(f"{folder}/{name}.pt")
"""


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    python = os.environ.get("HSVDET_ULTRALYTICS_PYTHON")
    if not python and importlib.util.find_spec("ultralytics"):
        python = sys.executable
    if not python:
        pytest.skip("no ultralytics here; HSVDET_ULTRALYTICS_PYTHON can name a Python that has it")
    folder = tmp_path_factory.mktemp("ultralytics")
    environment = os.environ | {
        "YOLO_OFFLINE": "true",
        "OMP_NUM_THREADS": "1",
        "YOLO_CONFIG_DIR": str(folder),
    }
    subprocess.run(
        [python, "-c", BLACK_BOX, str(folder)], check=True, capture_output=True, env=environment, cwd=folder
    )
    return folder


@pytest.mark.parametrize("scale", "nsmlx")
def test_a_saved_model_converts_and_answers_the_same(scale, saved, tmp_path):
    torch.set_num_threads(1)
    report = convert(saved / f"yolov8{scale}.pt", tmp_path / "ours.safetensors")
    assert report.model == f"yolov8-{scale}" and len(report.dropped) == 1
    numbers = np.load(saved / f"{scale}.npz")
    image = torch.from_numpy(numbers["image"])
    with torch.inference_mode():
        answer = load(tmp_path / "ours.safetensors").net.eval()(image).answer
    theirs = torch.from_numpy(numbers["answer"])[0].T
    boxes = answer.boxes[0] * torch.tensor([96, 64, 96, 64])
    assert theirs[:, 4:].std() > 1e-3  # the weights make a difference
    torch.testing.assert_close(boxes, theirs[:, :4], rtol=0, atol=1e-4)
    torch.testing.assert_close(answer.logits[0].sigmoid(), theirs[:, 4:], rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("yolo11n", "yolo11n .DetectionModel. with .*C3k2"),
        ("yolov8n-seg", "yolov8n-seg .SegmentationModel"),
        ("yolov8n-pose", "PoseModel"),
        ("yolov8n-cls", "ClassificationModel"),
        ("yolov5n", "yolov5n .DetectionModel. with C3"),
    ],
)
def test_its_other_models_are_refused_by_name(name, said, saved, tmp_path):
    with pytest.raises(CheckpointError, match=said):
        convert(saved / f"{name}.pt", tmp_path / "ours.safetensors")
