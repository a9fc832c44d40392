"""Networks of timm as backbones; the ResNets have their tests in test_detr_family.py and test_backbone_weights.py."""

import pytest
import torch

import hsvdet
from hsvdet import backbones
from hsvdet.checkpoint import read_header
from hsvdet.cli import main
from hsvdet.errors import CheckpointError, ConfigError
from hsvdet.training.backbone_weights import load_backbone, start_backbone
from tiny_data import coco

timm = pytest.importorskip("timm")

RESNET = "timm/test_resnet.r160_in1k"
CONVNEXT = "timm/test_convnext.r160_in1k"
MAMBAOUT = "timm/test_mambaout"  # channels last
SQUEEZING = "timm/test_efficientnet"  # squeeze-and-excitation: means of whole maps
LABELS = ["car", "person"]
SMALL = dict(dim=16, heads=2, feed_forward=16, encoder_layers=1, decoder_layers=1, queries=6)


def published(name, path):
    """A classifier's weights, as timm publishes them; statistics are not those of the start."""
    net = timm.create_model(name.removeprefix("timm/"), pretrained=False)
    for key, buffer in net.named_buffers():
        if "running" in key:
            buffer.uniform_(0.5, 1.5)
    torch.save(net.state_dict(), path)
    return net.state_dict()


@pytest.mark.parametrize("name", [RESNET, CONVNEXT, MAMBAOUT, SQUEEZING])
@pytest.mark.parametrize("frozen", [None, 1])
def test_the_maps_are_those_of_timms_own_extractor(tmp_path, name, frozen):
    weights = published(name, tmp_path / "classifier.pth")
    ours = backbones.build(name, (2, 4), frozen=frozen).eval()
    assert load_backbone(ours, tmp_path / "classifier.pth") == len(ours.state_dict())
    extractor = timm.create_model(
        name.removeprefix("timm/"),
        features_only=True,
        pretrained=True,
        pretrained_cfg_overlay={"state_dict": weights},
    ).eval()
    reductions = extractor.feature_info.reduction()
    with torch.inference_mode():
        images = torch.rand(2, 3, 64, 96)
        maps = extractor(images)
        for features, stride, channels in zip(ours(images), ours.strides, ours.channels, strict=True):
            expected = maps[reductions.index(stride)]
            if name == MAMBAOUT:
                expected = expected.permute(0, 3, 1, 2)
            assert features.shape == (2, channels, 64 // stride, 96 // stride)
            torch.testing.assert_close(features, expected, rtol=1e-4, atol=1e-5)
    assert ours.strides == (8, 32)


def test_a_backbone_of_timm_is_frozen_by_stage_and_otherwise_trains():
    net = backbones.build(RESNET, frozen=1).train()
    trained = {name.split(".")[1] for name, parameter in net.named_parameters() if parameter.requires_grad}
    assert trained == {"layer2", "layer3", "layer4"}
    before = {name: buffer.clone() for name, buffer in net.named_buffers()}
    sum(features.sum() for features in net(torch.rand(2, 3, 64, 64))).backward()
    assert before and all(torch.equal(buffer, before[name]) for name, buffer in net.named_buffers())
    assert all(parameter.grad is not None for parameter in net.parameters() if parameter.requires_grad)
    stem = backbones.build(RESNET, frozen=0)
    fixed = {name.split(".")[1] for name, parameter in stem.named_parameters() if not parameter.requires_grad}
    assert fixed == {"conv1"}


@pytest.mark.parametrize("name", [RESNET, CONVNEXT, MAMBAOUT, SQUEEZING])
def test_padding_is_safe_where_a_cell_sees_its_neighbours_only(name):
    """What is found out of the network's operations, against what a far pixel does to a near cell."""
    net = backbones.build(name, (4,)).eval()
    images = torch.rand(1, 3, 32, 1024)
    changed = images.clone()
    changed[..., -32:] = 0.0
    with torch.inference_mode():
        near, far = (net(x)[0][..., :1] for x in (images, changed))
    assert torch.equal(near, far) == (net.whole is None) == (name != SQUEEZING)
    padding = torch.zeros(1, 32, 1024, dtype=torch.bool)
    padding[..., 40:] = True
    if name == SQUEEZING:
        with pytest.raises(ConfigError, match=r"mixes all of a picture's cells \(mean\)"):
            net(images, padding)
    else:
        with torch.inference_mode():
            noisy = images + padding[:, None] * torch.rand_like(images)
            assert torch.equal(net(images, padding)[0], net(noisy, padding)[0])


def test_a_model_that_pads_does_not_take_a_backbone_that_sees_padding():
    with pytest.raises(ConfigError, match="mixes all of a picture's cells"):
        hsvdet.create("detr-tiny", LABELS, options={"backbone": SQUEEZING})
    with pytest.raises(ConfigError, match="mixes all of a picture's cells"):
        hsvdet.create("hsg-det-n", LABELS, options={"backbone": SQUEEZING})
    stretching = hsvdet.create("rt-detr-tiny", LABELS, size=(64, 96), options={"backbone": SQUEEZING})
    assert len(stretching(torch.zeros(3, 50, 70, dtype=torch.uint8), score=0.0).scores)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("timm/test_resnit", "Did you mean test_resnet"),
        ("timm/test_resnet.r224_in1k", "Did you mean test_resnet.r160_in1k"),
        ("timm/hf-hub:somebody/something", "timm has no network"),
        ("timm/test_vit", "A map of stride 8 was expected; those of timm/test_vit have strides 16"),
        ("timm/nest_tiny", "expects images of its own size"),
        ("test_resnet", "timm/NAME"),
    ],
)
def test_what_is_no_backbone_is_refused_with_a_reason(name, message):
    with pytest.raises(ConfigError, match=message):
        backbones.build(name)


def test_a_dilated_backbone_of_timm_keeps_stride_16():
    net = backbones.build("timm/test_resnet", (3, 4), dilated=True).eval()
    with torch.inference_mode():
        assert [x.shape[-2:] for x in net(torch.rand(1, 3, 64, 96))] == [(4, 6), (4, 6)]
    assert net.strides == (16, 16)
    with pytest.raises(ConfigError, match="no dilated form"):
        backbones.build("timm/test_mambaout", (4,), dilated=True)


def test_weights_of_another_network_are_refused(tmp_path):
    published(CONVNEXT, tmp_path / "convnext.pth")
    with pytest.raises(CheckpointError, match=f"convnext.pth: expected the weights of {RESNET}"):
        load_backbone(backbones.build(RESNET), tmp_path / "convnext.pth")


def test_timms_own_weights_come_out_of_its_cache_with_their_licence(tmp_path, monkeypatch):
    import huggingface_hub
    from safetensors.torch import save_file

    detector = hsvdet.create("detr-tiny", LABELS, options=SMALL | {"backbone": RESNET})
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(CheckpointError, match="neither in the cache nor to be had from the hub"):
        start_backbone(detector, "timm")  # nothing there, and no network in tests
    folder = tmp_path / "models--timm--test_resnet.r160_in1k"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("0" * 40)
    (folder / "snapshots" / ("0" * 40)).mkdir(parents=True)
    weights = published(RESNET, tmp_path / "classifier.pth")
    save_file(weights, folder / "snapshots" / ("0" * 40) / "model.safetensors")
    assert start_backbone(detector, "timm") == len(detector.net.backbone.state_dict())
    assert torch.equal(detector.net.backbone.net.conv1[0].weight, weights["conv1.0.weight"])
    assert detector.source == f"random initialisation, backbone from {RESNET}"
    assert detector.licence == "Apache-2.0"
    ours = hsvdet.create("detr-tiny", LABELS, options=SMALL)
    with pytest.raises(ConfigError, match="choose a backbone called timm/NAME"):
        start_backbone(ours, "timm")


def test_the_command_line_trains_on_a_backbone_of_timm(tmp_path, capsys):
    """Its weights begin the training, its mean and deviation go into the checkpoint, and the checkpoint detects."""
    data = coco(tmp_path, [(1, 3, [10, 10, 30, 30]), (2, 7, [40, 20, 50, 40])], images=["a.png", "b.png"])
    weights = published(RESNET, tmp_path / "classifier.pth")
    command = ["train", "detr-tiny", "--data", str(data), "--out", str(tmp_path / "run"), "--epochs", "1"]
    command += ["--val-split", "none", "--workers", "0", "--device", "cpu", "--size", "64"]
    for setting in (*(f"{name}={value}" for name, value in SMALL.items()), "pretrained=true"):
        command += ["--set", setting]
    command += ["--backbone", RESNET, "--backbone-weights", str(tmp_path / "classifier.pth")]
    assert main(command) == 0, capsys.readouterr().err
    last = tmp_path / "run" / "last.safetensors"
    header = read_header(last)
    assert header["config"]["backbone"] == RESNET
    assert header["preprocess"]["mean"] == header["preprocess"]["std"] == [0.5, 0.5, 0.5]
    detector = hsvdet.load(last)
    assert torch.equal(detector.net.backbone.net.conv1[0].weight, weights["conv1.0.weight"])  # fixed
    assert len(detector(torch.zeros(3, 50, 70, dtype=torch.uint8), score=0.0).scores) == 6
    assert main(["train", "yolov8-n", *command[2:6], "--backbone", RESNET]) == 2
    assert "has no option 'backbone'" in capsys.readouterr().err
    assert main([*command[:6], "--backbone", "timm/test_resnit"]) == 2
    assert "Did you mean test_resnet" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("rt-detr-tiny", {"queries": 6}),
        ("hsg-det-n", dict(dim=32, heads=4, fusion_layers=1, decoder_layers=1, tokens=12, queries=6)),
    ],
)
def test_a_detector_on_a_backbone_of_timm_is_deployed_and_exported(name, options):
    detector = hsvdet.create(name, LABELS, size=(64, 96), options={"backbone": RESNET, **options})
    assert detector.preprocess.mean == detector.net.backbone.normalisation[0] == (0.5, 0.5, 0.5)
    net = detector.net.eval()
    with torch.no_grad():  # tokens that score the same may be chosen in any order
        for parameter in net.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    images = torch.rand(2, 3, 64, 96)
    with torch.no_grad():
        eager = net(images).answer
        deployed = detector.deploy().net(images).answer
        exported = torch.export.export(net, (images,)).module()(images).answer
    for answer in (deployed, exported):
        torch.testing.assert_close(answer, eager, rtol=1e-4, atol=1e-5)
