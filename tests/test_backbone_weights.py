import json
import re

import pytest
import torch

from hsvdet.backbones.resnet_vd import ResNetVd
from hsvdet.cli import main
from hsvdet.detector import create
from hsvdet.errors import CheckpointError, ConfigError
from hsvdet.loading import load
from hsvdet.training import train
from hsvdet.training.backbone_weights import load_backbone, start_backbone
from tiny_runs import LABELS, squares


@pytest.mark.parametrize("frozen", [0, None])
def test_a_resnet_vd_starts_from_timms_and_sees_what_it_sees(tmp_path, frozen):
    timm = pytest.importorskip("timm")
    classifier = timm.create_model("resnet50d", pretrained=False).eval()
    for name, buffer in classifier.named_buffers():
        if "running" in name:
            buffer.uniform_(0.5, 1.5)
    torch.save(classifier.state_dict(), tmp_path / "resnet50d.pth")
    net = ResNetVd("resnet50vd", frozen=frozen).eval()
    given = [k for k in classifier.state_dict() if not k.startswith("fc.") and "num_batches" not in k]
    assert load_backbone(net, tmp_path / "resnet50d.pth") == len(given)
    with torch.inference_mode():
        image = torch.rand(1, 3, 64, 96)
        theirs = classifier.forward_intermediates(image, indices=[2, 3, 4], intermediates_only=True)
        for ours, expected in zip(net(image), theirs, strict=True):
            torch.testing.assert_close(ours, expected, rtol=1e-3, atol=1e-4)


def test_a_resnet_vd_starts_from_the_authors_file(tmp_path, shared):
    names = json.loads((shared / "golden/published/keys/rtdetr_r18.json").read_text())["keys"]
    tensors = {
        original.removeprefix("backbone."): torch.rand(shape)
        for _, shape, original in names
        if isinstance(original, str) and original.startswith("backbone.")
    }
    torch.save(tensors, tmp_path / "r18vd.pth")
    net = ResNetVd("resnet18vd")
    assert load_backbone(net, tmp_path / "r18vd.pth") == len(tensors)
    theirs = tensors["res_layers.2.blocks.0.short.conv.conv.weight"]
    assert torch.equal(net.stages[2][0].shortcut.conv.weight, theirs)
    assert torch.equal(net.stem[1].norm.running_mean, tensors["conv1.conv1_2.norm.running_mean"])
    with pytest.raises(CheckpointError, match="do not fit|missing|expected"):
        load_backbone(ResNetVd("resnet34vd"), tmp_path / "r18vd.pth")


def test_a_new_detector_on_a_trained_backbone_is_trained_as_one(tmp_path):
    torchvision = pytest.importorskip("torchvision")
    classifier = torchvision.models.resnet18(weights=None)
    torch.save(classifier.state_dict(), tmp_path / "resnet18.pth")
    data = squares(tmp_path, count=4)
    sizes = dict(dim=16, feed_forward=16, encoder_layers=1, queries=6, backbone="resnet18", pretrained=True)
    detector = create("detr-tiny", LABELS, size=(64, 64), options=sizes)
    start_backbone(detector, tmp_path / "resnet18.pth")
    assert detector.source == "random initialisation, backbone from resnet18.pth"
    assert detector.start == "backbone"
    train(
        detector, (data, None), tmp_path / "run", epochs=1, batch=4, workers=0, device="cpu", progress=False
    )
    trained = load(tmp_path / "run/last.safetensors")
    assert trained.source.endswith("starting from: random initialisation, backbone from resnet18.pth")
    settings = json.loads((tmp_path / "run/run.json").read_text())["settings"]
    assert settings["trained_backbone"] and not settings["warm"] and trained.start == "trained"
    assert torch.equal(trained.net.backbone.bn1.weight, classifier.bn1.weight)  # kept, as its statistics
    with pytest.raises(ConfigError, match="yolov8-n has no backbone"):
        start_backbone(create("yolov8-n", LABELS, options={"width": 0.0625}), tmp_path / "resnet18.pth")


def test_the_command_line_takes_one_kind_of_weights(tmp_path, capsys):
    options = ["--data", str(tmp_path), "--out", str(tmp_path / "run"), "--backbone-weights", "resnet18.pth"]
    assert main(["train", "detr-tiny", *options, "--weights", "detr.pth"]) == 2
    assert re.search("brings a backbone of its own", capsys.readouterr().err)
