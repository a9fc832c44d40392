"""Published weights: whatever form they come in, they are read without being trusted."""

import builtins
import json
import os
import pickle
import re
import sys
import types
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import hsvdet
from hsvdet.conversion.coco_classes import COCO, COCO_LABELS
from hsvdet.conversion.foreign import convert
from hsvdet.conversion.pickles import read_pickle
from hsvdet.conversion.rename import Rule, rename, thirds
from hsvdet.errors import CheckpointError, ConfigError
from hsvdet.training.warm_start import warm_start
from parity.filler import fill

KEYS = json.loads((Path(__file__).parent / "golden" / "yolov8_n.json").read_text())["keys"]


def state_dict(classes=80):
    """YOLOv8n's, under its published names."""
    width = max(64, min(classes, 100))  # of the class towers, 80 for 80 classes
    shapes = {}
    for key, shape in KEYS:
        if key.startswith("model.22.cv3."):
            shape = [width if side == 80 else side for side in shape]
            if re.fullmatch(r"model\.22\.cv3\.\d\.2\..*", key):
                shape = [classes, *shape[1:]]
        shapes[key] = shape
    return {key: fill(key, shape) for key, shape in shapes.items()}


@pytest.fixture
def package(monkeypatch):
    """Classes that pickle under the names of the package whose files hold whole modules."""

    def make(path):
        module, _, name = path.rpartition(".")
        if hasattr(sys.modules.get(module), name):
            return getattr(sys.modules[module], name)
        kind = type(name, (nn.Module,), {"__module__": module})
        for end in range(1, module.count(".") + 2):
            parent = ".".join(module.split(".")[:end])
            monkeypatch.setitem(sys.modules, parent, sys.modules.get(parent) or types.ModuleType(parent))
        setattr(sys.modules[module], name, kind)
        return kind

    return make


def module_objects(package, tensors, kind="DetectionModel", inner="ultralytics.nn.modules.conv.Conv"):
    """`tensors` as a tree of modules, as that package keeps them."""
    root, block = package(f"ultralytics.nn.tasks.{kind}")(), package(inner)
    for key, tensor in tensors.items():
        *path, leaf = key.split(".")
        module = root
        for name in path:
            if name not in module._modules:
                module.add_module(name, nn.BatchNorm2d(1, eps=1e-3) if name == "bn" else block())
            module = module._modules[name]
        if isinstance(module, nn.BatchNorm2d) and leaf in (
            "running_mean",
            "running_var",
            "num_batches_tracked",
        ):
            module._buffers[leaf] = tensor
        else:
            module._parameters[leaf] = nn.Parameter(tensor, requires_grad=False)
    return root


def test_a_whole_module_is_read_without_its_package(package, tmp_path, monkeypatch):
    trained, averaged = state_dict(3), {key: tensor * 2 for key, tensor in state_dict(3).items()}
    averaged["model.22.dfl.conv.weight"] = trained["model.22.dfl.conv.weight"]
    saved = {"epoch": 3, "ema": None, "train_args": {"imgsz": 300}, "updates": 7}
    for name, tensors in (("model", trained), ("ema", averaged)):
        saved[name] = module_objects(package, tensors).half()
        saved[name].names = {0: "cat", 1: "dog", 2: "house"}
        saved[name].yaml = {"nc": 3, "yaml_file": "yolov8n.yaml"}
    torch.save(saved, tmp_path / "a.pt")
    for name in [name for name in sys.modules if name.startswith("ultralytics")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "ultralytics", None)  # importing it would fail
    report = convert(tmp_path / "a.pt", tmp_path / "a.safetensors")
    assert (report.model, report.labels, report.size) == ("yolov8-n", ("cat", "dog", "house"), (320, 320))
    assert report.licence == "AGPL-3.0" and "AGPL-3.0" in str(report) and "sha256" in report.source
    detector = hsvdet.load(tmp_path / "a.safetensors")
    assert detector.licence == "AGPL-3.0" and detector.source.startswith("a.pt (sha256 ")
    stem = detector.net.stem.conv.weight
    assert stem.dtype == torch.float32
    torch.testing.assert_close(
        stem.data, averaged["model.0.conv.weight"].half().float()
    )  # not the trained one


@pytest.mark.parametrize(
    "wrap", ["bare", "model", "state_dict", "ema.module", "ema_model", "module.", "legacy", "safetensors"]
)
def test_a_plain_state_dict_is_read_in_every_form(wrap, tmp_path):
    tensors, path = state_dict(), tmp_path / "weights"
    match wrap:
        case "safetensors":
            save_file(tensors, path)
        case "legacy":
            torch.save(OrderedDict(tensors), path, _use_new_zipfile_serialization=False)
        case "ema.module":
            torch.save({"ema": {"module": tensors, "updates": 3}, "epoch": 5}, path)
        case "module.":
            torch.save({f"module.{name}": tensor for name, tensor in tensors.items()}, path)
        case "bare":
            torch.save(tensors, path)
        case _:
            torch.save({wrap: tensors, "epoch": 5}, path)
    report = convert(path, tmp_path / "a.safetensors", model="yolov8-n", size=(320, 640))
    assert report.consumed == len(KEYS) - 1 and report.size == (320, 640)
    detector = hsvdet.load(tmp_path / "a.safetensors")
    assert torch.equal(detector.net.down4.conv.weight.data, tensors["model.19.conv.weight"])
    assert detector.labels == COCO_LABELS and detector.category_ids == tuple(COCO)  # 80 without names
    assert (detector.category_ids[0], detector.category_ids[-1], len(set(detector.labels))) == (1, 90, 80)


def test_names_can_be_given_and_must_be_as_many(tmp_path):
    torch.save(state_dict(2), tmp_path / "a.pt")
    assert convert(tmp_path / "a.pt", tmp_path / "b", labels=["x", "y"]).labels == ("x", "y")
    assert convert(tmp_path / "a.pt", tmp_path / "b").labels == ("class 0", "class 1")
    with pytest.raises(ConfigError, match="the 2 classes of .*; got 3"):
        convert(tmp_path / "a.pt", tmp_path / "b", labels=["x", "y", "z"])


def test_a_foreign_file_starts_a_training(tmp_path):
    torch.save(state_dict(), tmp_path / "a.pt")
    detector = hsvdet.create("hsv-det-n", ["Dog", *COCO_LABELS[:15], *COCO_LABELS[17:], "unicorn"])
    report = warm_start(detector, tmp_path / "a.pt")
    assert "Dog" in report.classes and "cat" not in report.classes
    assert detector.licence == "AGPL-3.0"


def test_a_foreign_file_gets_a_suppressor(tmp_path):
    torch.save(state_dict(), tmp_path / "a.pt")
    detector = hsvdet.with_suppressor(tmp_path / "a.pt")
    assert (detector.name, detector.licence, detector.labels) == ("yolov8-n-dedup", "AGPL-3.0", COCO_LABELS)
    convert(tmp_path / "a.pt", tmp_path / "b.safetensors")
    alone, own = hsvdet.load(tmp_path / "b.safetensors").net.state_dict(), detector.net.state_dict()
    assert all(torch.equal(own[name], value) for name, value in alone.items())


def without(key):
    return {name: tensor for name, tensor in state_dict().items() if name != key}


@pytest.mark.parametrize(
    ("tensors", "said"),
    [
        (
            lambda: state_dict() | {"model.5.extra.weight": torch.zeros(1)},
            "nothing is known of .*model.5.extra",
        ),
        (lambda: without("model.7.bn.bias"), "1 missing .stage5.0.norm.bias"),
        (
            lambda: state_dict() | {"model.22.dfl.conv.weight": torch.ones(1, 16, 1, 1)},
            "dfl.conv.weight: expected",
        ),
        (lambda: state_dict() | {"model.4.cv1.conv.weight": torch.zeros(3)}, "1 of another shape"),
        (lambda: state_dict() | {"model.5.bn.bias": torch.full((128,), torch.nan)}, "NaN or infinity in 1"),
        (
            lambda: state_dict() | {"model.0.conv.weight": torch.zeros(24, 3, 3, 3)},
            "16, 32, .*; came one with 24",
        ),
        (
            lambda: state_dict() | {"model.22.proto.cv1.conv.weight": torch.zeros(1)},
            "came a segmentation model",
        ),
        (lambda: state_dict() | {"model.22.cv4.0.2.bias": torch.zeros(1)}, "came a pose"),
        (lambda: state_dict() | {"model.23.cv2.0.2.bias": torch.zeros(1)}, "came a model of 24 layers"),
        (lambda: {"layer1.0.conv1.weight": torch.zeros(1)}, "names of no published model"),
        (lambda: {"optimizer": {}, "epoch": 3}, "expected a state dict.*came optimizer, epoch"),
        (lambda: [1, 2], "came list"),
        (lambda: {}, "empty dict"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(tensors, said, tmp_path):
    torch.save(tensors(), tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match=said) as error:
        convert(tmp_path / "a.pt", tmp_path / "b.safetensors")
    assert "\n" not in str(error.value) and "a.pt" in str(error.value)
    assert not (tmp_path / "b.safetensors").exists()


def test_the_model_that_was_asked_for_is_checked(tmp_path):
    torch.save(state_dict(), tmp_path / "a.pt")
    with pytest.raises(
        CheckpointError, match="expected weights of yolov8-s; its shapes are those of yolov8-n"
    ):
        convert(tmp_path / "a.pt", tmp_path / "b", model="yolov8-s")
    with pytest.raises(ConfigError, match="Did you mean yolov8-n"):
        convert(tmp_path / "a.pt", tmp_path / "b", model="yolov8n")
    hsvdet.create("yolov8-n", ["a"]).save(tmp_path / "ours")
    with pytest.raises(CheckpointError, match="already an hsvdet checkpoint"):
        convert(tmp_path / "ours", tmp_path / "b")


@pytest.mark.parametrize(
    ("kind", "inner", "said"),
    [
        ("SegmentationModel", "ultralytics.nn.modules.conv.Conv", r"came yolov8n-seg \(SegmentationModel\)"),
        (
            "DetectionModel",
            "ultralytics.nn.modules.block.C3k2",
            r"came yolov8n-seg \(DetectionModel\) with C3k2",
        ),
    ],
)
def test_other_models_in_module_files_are_named(kind, inner, said, package, tmp_path):
    model = module_objects(package, state_dict(), kind, inner)
    model.yaml = {"yaml_file": "yolov8n-seg.yaml"}
    torch.save({"model": model}, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match=said):
        convert(tmp_path / "a.pt", tmp_path / "b")


class Call:
    """Pickles as a call of `function`, as an attacker's object does."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def payloads(mark):
    command = f"touch {mark}"
    return {
        "posix.system": Call(os.system, command),
        "builtins.eval": Call(builtins.eval, f"open({str(mark)!r}, 'w')"),
        "builtins.exec": Call(builtins.exec, f"open({str(mark)!r}, 'w')"),
        "builtins.getattr": Call(getattr, str(mark), "upper"),
        # The name that pickle writes for subprocess.
        "commands.Popen": Call(__import__("subprocess").Popen, ["touch", str(mark)]),
        "torch.hub.load": Call(torch.hub.load, "a/b", "c"),
        "torch.serialization.load": Call(torch.serialization.load, str(mark)),
        "numpy.load": Call(__import__("numpy").load, str(mark)),
    }


@pytest.mark.parametrize("place", ["alone", "nested", "in a module's state", "legacy"])
@pytest.mark.parametrize("name", payloads(Path("x")))
def test_nothing_in_a_pickle_is_executed(name, place, package, tmp_path):
    mark = tmp_path / "mark"
    payload = payloads(mark)[name]
    content = payload
    if place == "nested":
        content = {"model": OrderedDict(a=[{"b": (payload, torch.zeros(2))}])}
    elif place == "in a module's state":
        content = package("ultralytics.nn.tasks.DetectionModel")()
        content.names = payload
    torch.save(content, tmp_path / "a.pt", _use_new_zipfile_serialization=place != "legacy")
    with pytest.raises(CheckpointError) as error:
        convert(tmp_path / "a.pt", tmp_path / "b")
    assert f"it asks to load {name}" in str(error.value) and "\n" not in str(error.value)
    assert not mark.exists()


@pytest.mark.parametrize("protocol", [0, 4])
def test_a_bare_pickle_of_any_protocol_runs_nothing(protocol, tmp_path):
    mark = tmp_path / "mark"
    (tmp_path / "a.pt").write_bytes(pickle.dumps(payloads(mark)["posix.system"], protocol=protocol))
    with pytest.raises(CheckpointError, match="a.pt"):
        convert(tmp_path / "a.pt", tmp_path / "b")
    assert not mark.exists()


def test_admitted_names_become_shells_that_do_nothing(package, tmp_path):
    boom = package("ultralytics.utils.Boom")
    boom.__reduce__ = lambda self: (boom, ("argument",), {"value": 3})
    boom.__init__ = lambda self, *arguments: None
    torch.save({"x": boom()}, tmp_path / "a.pt")
    boom.__init__ = lambda self, *arguments: pytest.fail("ran code of the file's class")
    shell = read_pickle(tmp_path / "a.pt")["x"]
    assert shell.origin == "ultralytics.utils.Boom" and shell.attribute("value") == 3
    assert not isinstance(shell, boom)


@pytest.mark.parametrize("size", [0, 1, 100, 5000, -100])
def test_a_cut_file_is_refused_in_one_line(size, tmp_path):
    torch.save(state_dict(2), tmp_path / "whole.pt")
    (tmp_path / "a.pt").write_bytes((tmp_path / "whole.pt").read_bytes()[:size])
    with pytest.raises(CheckpointError, match="Copy it again") as error:
        convert(tmp_path / "a.pt", tmp_path / "b")
    assert "\n" not in str(error.value)


def test_rules_rename_split_join_and_drop():
    tensors = {
        "a.0.w": torch.zeros(2),
        "a.1.w": torch.ones(2),
        "joint": torch.arange(6.0),
        "k": torch.full((1, 2), 2.0),
        "q": torch.full((1, 2), 1.0),
        "old": torch.zeros(1),
        "tied": torch.zeros(2),
    }
    rules = [
        Rule(r"a\.(\d)\.w", lambda match: f"layer.{int(match[1]) + 1}"),
        Rule("joint", ("x.query", "x.key", "x.value"), thirds),
        Rule("q", "both", part=(0, 2)),
        Rule("k", "both", lambda tensor: -tensor, part=(1, 2)),
        Rule("tied", "layer.1"),
        Rule("old", None),
    ]
    renamed = rename(tensors, rules, "file")
    assert renamed.dropped == ("old",)
    assert list(renamed.tensors) == ["layer.1", "layer.2", "x.query", "x.key", "x.value", "both"]
    assert renamed.tensors["both"].tolist() == [[1, 1], [-2, -2]] and renamed.tensors["x.key"].tolist() == [
        2,
        3,
    ]
    with pytest.raises(CheckpointError, match="only 1 of the 2 parts of both"):
        rename({"q": torch.zeros(1, 2)}, rules, "file")
    with pytest.raises(CheckpointError, match="a.0.w and another|tied and another"):
        rename(tensors | {"tied": torch.ones(2)}, rules, "file")
    with pytest.raises(CheckpointError, match="nothing is known of its tensor unheard"):
        rename({"unheard": torch.zeros(1)}, rules, "file")
