"""Our networks against numbers of the reference implementations, through the real converter."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from hsvdet import load
from hsvdet.conversion.foreign import convert
from hsvdet.conversion.rename import rename
from hsvdet.conversion.ultralytics import RULES, recognise
from hsvdet.models import find
from parity.filler import fill, picture

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


def answer_of(net, image):
    """Boxes in pixels [A, 4] and logits [A, C]."""
    images = picture(**image)[None]
    height, width = images.shape[-2:]
    with torch.inference_mode():
        answer = net.eval()(images).answer
    return answer.boxes[0] * torch.tensor([width, height, width, height]), answer.logits[0]


def test_yolov8_n_answers_as_the_reference(tmp_path):
    golden = json.loads((GOLDEN / "yolov8_n.json").read_text())
    image = dict(zip(("height", "width", "seed"), golden["image"].values(), strict=True))
    published, ours = tmp_path / "published.pt", tmp_path / "ours.safetensors"
    torch.save({name: fill(name, shape, gains=golden["gains"]) for name, shape in golden["keys"]}, published)
    report = convert(published, ours)
    assert report.model == "yolov8-n" and report.consumed == 354 and report.licence == "AGPL-3.0"
    assert report.dropped == ("model.22.dfl.conv.weight",)
    boxes, logits = answer_of(load(ours).net, image)
    at, tolerance = golden["anchors"], golden["tolerance"]
    assert (boxes[at] - torch.tensor(golden["boxes"])).abs().max() < tolerance["boxes"]
    assert (logits[at] - torch.tensor(golden["logits"])).abs().max() < tolerance["logits"]


@pytest.mark.parametrize("scale", "nsmlx")
def test_every_yolov8_answers_as_the_reference(scale, shared):
    folder = shared / "golden" / "published"
    meta = json.loads((folder / "open" / f"yolov8{scale}.json").read_text())
    keys = json.loads((folder / "keys" / f"yolov8{scale}.json").read_text())["keys"]
    numbers = np.load(folder / "open" / f"yolov8{scale}.npz")
    case = meta["cases"][1]  # the rectangle
    (spec,) = case["images"]
    image = {"height": spec["h"], "width": spec["w"], "seed": spec["seed"]}
    published = {name: fill(name, shape, gains=meta["fill"]["gains"]) for name, shape in keys}
    assert recognise(published) == f"yolov8-{scale}"
    with torch.device("meta"):  # no time for random weights
        net = find(f"yolov8-{scale}").net(find(f"yolov8-{scale}").config, 80)
    net.load_state_dict(rename(published, RULES, "published").tensors, assign=True)
    boxes, logits = answer_of(net, image)
    at, tolerance = case["sample_anchor_positions"], case["suggested_atol_f32"]
    decoded, raw = torch.from_numpy(numbers["c1/decoded"][0]), torch.from_numpy(numbers["c1/raw_cls"][0])
    assert (boxes[at] - decoded[:, :4]).abs().max() < tolerance["decoded_box"]
    assert (logits[at].sigmoid() - decoded[:, 4:]).abs().max() < tolerance["class_prob"]
    assert (logits[at] - raw).abs().max() < tolerance["raw_cls"]
