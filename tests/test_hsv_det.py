"""HSV-DET: YOLOv8, plus blocks that start as nothing."""

import pytest
import torch

import hsvdet
from hsvdet.errors import CheckpointError, ConfigError
from hsvdet.models import find
from hsvdet.structures import Target
from hsvdet.training.warm_start import warm_start


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)
    torch.manual_seed(0)


def lively(net: torch.nn.Module) -> torch.nn.Module:
    """Statistics of normalisation and class biases under which answers differ from place to place."""
    generator = torch.Generator().manual_seed(7)
    for name, tensor in net.state_dict().items():
        if name.endswith("running_var"):
            tensor.uniform_(0.05, 0.2, generator=generator)
        elif name.endswith(("running_mean", "bias")):
            tensor.normal_(0, 0.1, generator=generator)
    return net.eval()


def image(height=64, width=96):
    return torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("variant", ["n", "s", "m", "l", "x", "n+", "m+"])
def test_with_the_weights_of_yolov8_it_answers_bit_for_bit_as_yolov8(variant):
    plain, hybrid = find(f"yolov8-{variant[0]}"), find(f"hsv-det-{variant}")
    yolov8 = lively(plain.net(plain.config, 3))
    net = hybrid.net(hybrid.config, 3).eval()
    missing, unknown = net.load_state_dict(yolov8.state_dict(), strict=False)
    assert not unknown and all(name.startswith("sparse_global.") for name in missing)
    padding = torch.zeros(2, 64, 96, dtype=torch.bool)
    padding[1, :, 50:] = True
    with torch.inference_mode():
        ours, theirs = net(image(), padding).answer, yolov8(image(), padding).answer
    assert theirs.logits.std() > 1e-3
    assert torch.equal(ours.logits, theirs.logits) and torch.equal(ours.boxes, theirs.boxes)


@pytest.mark.parametrize("name", ["hsv-det-n", "hsv-det-n+"])
def test_warm_start_from_a_file_answers_bit_for_bit(name, tmp_path):
    origin = hsvdet.create("yolov8-n", ["car", "person"])
    lively(origin.net)
    origin.licence, origin.source = "AGPL-3.0", "somewhere"
    origin.save(tmp_path / "origin.safetensors")
    detector = hsvdet.create(name, ["car", "person"])
    report = warm_start(detector, tmp_path / "origin.safetensors")
    assert report.transferred == report.available == len(origin.net.state_dict())
    assert report.classes == ("car", "person") and not report.fresh_classes
    assert all(part.startswith("sparse_global.") for part in report.fresh)
    assert detector.licence == "AGPL-3.0" and "somewhere" in detector.source
    with torch.inference_mode():
        ours, theirs = detector.net.eval()(image()).answer, origin.net(image()).answer
    assert torch.equal(ours.logits, theirs.logits) and torch.equal(ours.boxes, theirs.boxes)


def test_classes_come_along_by_name_and_new_ones_start_fresh(tmp_path):
    origin = hsvdet.create("yolov8-n", ["cat", "dog", "Bus"])
    lively(origin.net)
    origin.save(tmp_path / "origin.safetensors")
    detector = hsvdet.create("yolov8-n", ["bus", "unicorn", "cat", "dog"])
    before = {name: tensor.clone() for name, tensor in detector.net.state_dict().items()}
    report = warm_start(detector, tmp_path / "origin.safetensors")
    assert (
        report.classes == ("bus", "cat", "dog") and report.fresh_classes == ("unicorn",) and not report.fresh
    )
    given, after = origin.net.state_dict(), detector.net.state_dict()
    for level in range(3):
        for leaf in ("weight", "bias"):
            name = f"head.class_towers.{level}.2.{leaf}"
            assert torch.equal(after[name][[0, 2, 3]], given[name][[2, 0, 1]])
            assert torch.equal(after[name][1], before[name][1])
    assert torch.equal(after["head.class_towers.0.1.conv.weight"], given["head.class_towers.0.1.conv.weight"])


def test_class_towers_of_another_width_start_fresh_whole(tmp_path):
    origin = hsvdet.create("yolov8-n", [f"thing {i}" for i in range(90)])  # 90 channels wide, not 64
    origin.save(tmp_path / "origin.safetensors")
    detector = hsvdet.create("hsv-det-n", ["thing 3", "other"])
    before = {name: tensor.clone() for name, tensor in detector.net.state_dict().items()}
    report = warm_start(detector, tmp_path / "origin.safetensors")
    fresh = [name for name in report.fresh if not name.startswith("sparse_global.")]
    assert fresh and all(name.startswith("head.class_towers.") for name in fresh)
    assert "head.class_towers.0.2.bias" in fresh and not report.classes
    assert all(torch.equal(detector.net.state_dict()[name], before[name]) for name in fresh)
    assert report.transferred + len(fresh) == report.available


def test_fine_tuning_starts_from_the_same_model(tmp_path):
    origin = hsvdet.create("hsv-det-n", ["a", "b"])
    origin.net.sparse_global["P4"].gate.data.fill_(0.5)
    origin.save(tmp_path / "origin.safetensors")
    detector = hsvdet.create("hsv-det-n", ["a", "b"])
    report = warm_start(detector, tmp_path / "origin.safetensors")
    assert not report.fresh and detector.net.sparse_global["P4"].gate.item() == 0.5


@pytest.mark.parametrize("name", ["hsv-det-s", "yolov8-n", "hsv-det-n+"])
def test_weights_of_another_scale_or_model_are_refused_naming_both(name, tmp_path):
    hsvdet.create("hsv-det-n", ["a"]).save(tmp_path / "origin.safetensors")
    with pytest.raises(CheckpointError, match=rf"hsv-det-n, which do not fit {name.replace('+', '[+]')}"):
        warm_start(hsvdet.create(name, ["a"]), tmp_path / "origin.safetensors")


@pytest.mark.parametrize("name", ["yolov8-n", "hsv-det-n", "hsv-det-n+"])
def test_every_parameter_gets_a_gradient(name):
    entry = find(name)
    net = entry.net(entry.config, 3).train()
    for block in getattr(net, "sparse_global", {}).values():  # at their start only the gate learns
        for parameter in block.parameters():
            torch.nn.init.normal_(parameter, 0, 0.1)
    output = net(image(64, 64))
    (output.answer.logits.square().mean() + output.distances.square().mean()).backward()
    for parameter_name, parameter in net.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), parameter_name
        assert parameter.grad.abs().sum() > 0, parameter_name


def test_blocks_stand_where_they_are_inserted_and_work():
    options = {"insert": ["P3", "P5"], "k": 2, "gate": "none"}
    detector = hsvdet.create("hsv-det-n", ["a"], options=options)
    lively(detector.net)
    yolov8 = find("yolov8-n").net(find("yolov8-n").config, 1).eval()
    yolov8.load_state_dict(
        {n: t for n, t in detector.net.state_dict().items() if not n.startswith("sparse_global.")}
    )
    assert list(detector.net.sparse_global) == ["P3", "P5"]
    with torch.inference_mode():
        assert not torch.equal(detector.net.eval()(image()).answer.logits, yolov8(image()).answer.logits)
    with pytest.raises(ConfigError, match="insert expects"):
        hsvdet.create("hsv-det-n", ["a"], options={"insert": ["P6"]})


def test_the_oracle_looks_at_targets_and_says_when_there_are_none():
    net = hsvdet.create("hsv-det-n", ["a"], options={"selector": "oracle", "k": 2}).net
    targets = [Target(torch.tensor([0]), torch.tensor([[0.5, 0.5, 0.3, 0.3]]))] * 2
    net(image(), None, targets)
    with pytest.raises(ConfigError, match="expects targets"):
        net(image())


@pytest.mark.parametrize("name", ["hsv-det-n", "hsv-det-n+"])
def test_it_exports_as_one_graph(name):
    net = hsvdet.create(name, ["a"], options={"k": 2, "insert": ["P5"]}).net.eval()
    lively(net)
    images = image()[:1]
    exported = torch.export.export(net, (images,), strict=False).module()
    with torch.inference_mode():
        torch.testing.assert_close(exported(images).answer.boxes, net(images).answer.boxes)
