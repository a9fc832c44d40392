"""A checkpoint that is not valid is refused in one line; a sound one comes back as it was."""

import json
import os
import pickle
import struct

import pytest
import torch
from safetensors.torch import save

import hsvdet
from hsvdet.checkpoint import read_header
from hsvdet.errors import CheckpointError


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    path = tmp_path_factory.mktemp("whole") / "a.safetensors"
    hsvdet.create("hsv-det-n", ["käfer", "b"], size=(64, 96), category_ids=[7, 3]).save(path, {"epoch": 4})
    return path


def parts(path):
    """(header of hsvdet, tensors)."""
    from hsvdet.checkpoint import read_checkpoint

    tensors, header = read_checkpoint(path)
    return {"format": 1, **header}, tensors


def test_save_load_is_the_same_detector(whole, tmp_path):
    detector = hsvdet.load(whole)
    assert (detector.name, detector.labels, detector.category_ids) == ("hsv-det-n", ("käfer", "b"), (7, 3))
    assert detector.preprocess.size == (64, 96) and detector.extra == {"epoch": 4}
    assert detector.config.insert == ("P5", "P4")
    detector.save(tmp_path / "b.safetensors")
    assert (tmp_path / "b.safetensors").read_bytes() == whole.read_bytes()
    assert read_header(whole)["model"] == "hsv-det-n"
    assert list(tmp_path.iterdir()) == [tmp_path / "b.safetensors"]


def test_a_failed_save_leaves_the_old_file(whole, tmp_path, monkeypatch):
    path = tmp_path / "a.safetensors"
    path.write_bytes(whole.read_bytes())

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        hsvdet.load(path).save(path)
    assert list(tmp_path.iterdir()) == [path] and path.read_bytes() == whole.read_bytes()


def refused(path, said):
    with pytest.raises(CheckpointError, match=said) as error:
        hsvdet.load(path)
    assert "\n" not in str(error.value) and str(path) in str(error.value) and len(str(error.value)) < 700


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (lambda whole: b"", "is empty"),
        (lambda whole: whole[:5], "damaged or cut off"),
        (lambda whole: whole[: len(whole) // 2], "damaged or cut off"),
        (lambda whole: whole[:-1], "damaged or cut off"),
        (lambda whole: whole + b"more", "damaged or cut off"),
        (lambda whole: struct.pack("<Q", 1 << 62) + whole[8:], "damaged or cut off"),
        (lambda whole: whole[:8] + b"[" + whole[9:], "damaged or cut off"),
        (lambda whole: os.urandom(1000), "damaged or cut off"),
        (lambda whole: b"{}", "damaged or cut off"),
        (lambda whole: pickle.dumps(print), "pickle, which could run code.*hsvdet convert"),
        (lambda whole: b"PK\x03\x04" + whole, "pickle, which could run code.*hsvdet convert"),
        (lambda whole: b"cposix\nsystem\n(S'touch x'\ntR.", "damaged or cut off"),
    ],
)
def test_damaged_files_are_refused(content, said, whole, tmp_path):
    (tmp_path / "a.safetensors").write_bytes(content(whole.read_bytes()))
    refused(tmp_path / "a.safetensors", said)


def test_what_is_no_file_is_refused(tmp_path, whole, monkeypatch):
    refused(tmp_path, "this is a folder")
    refused(tmp_path / "absent", "no such checkpoint file")
    refused(tmp_path / ("x" * 300), "no such|cannot be read")
    torch.save({"a": torch.zeros(1)}, tmp_path / "a.pt")
    refused(tmp_path / "a.pt", "hsvdet convert")

    def denied(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.open", denied)
    refused(whole, "cannot be read: Permission denied")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda h: h.pop("model"), "header lacks model"),
        (lambda h: h.update(format=2), "format 2; this hsvdet reads format 1. Install a newer"),
        (lambda h: h.update(format="x"), "checkpoint format x"),
        (lambda h: h.pop("format"), "not readable JSON"),
        (lambda h: h.update(model="yolov8-q"), "No model is called 'yolov8-q'. Did you mean"),
        (lambda h: h.update(model=["yolov8-n"]), "header's model is not"),
        (lambda h: h.update(model="yolov8-n"), "YoloV8Config has no option"),
        (lambda h: h.update(start="cold"), "header's start is not"),
        (lambda h: h.update(start=["trained"]), "header's start is not"),
        (lambda h: h.update(labels="ab"), "header's labels is not"),
        (lambda h: h.update(labels=[1, 2]), "header's labels is not"),
        (lambda h: h.update(labels=["a", "a"]), "each once"),
        (lambda h: h.update(labels=["a", "b", "c"]), "of another shape .head.class_towers"),
        (lambda h: h.update(category_ids=["a", "b"]), "header's category_ids is not"),
        (lambda h: h.update(category_ids=[1]), "one id for each"),
        (lambda h: h.update(config=[]), "header's config is not"),
        (lambda h: h["config"].update(colour="red"), "no option 'colour'"),
        (lambda h: h["config"].update(width="wide"), "does not describe a model"),
        (lambda h: h["config"].update(width=0), "width expects .*; got 0"),
        (lambda h: h["config"].update(width=1e12), "does not describe a model|do not fit"),
        (lambda h: h["config"].update(width=4.0), "do not fit HsvDet"),
        (lambda h: h["config"].update(width=4000.0), "more than 4,294,967,296 parameters"),
        (lambda h: h["config"].update(k=-1), "k expects"),
        (lambda h: h["preprocess"].update(size=[65, 96]), "multiples of 32"),
        (lambda h: h["preprocess"].update(size=3), "does not describe a model"),
        (lambda h: h["preprocess"].update(warp=1), "warp"),
    ],
)
def test_headers_that_are_wrong_are_refused(change, said, whole, tmp_path):
    header, tensors = parts(whole)
    change(header)
    (tmp_path / "a.safetensors").write_bytes(save(tensors, {"hsvdet": json.dumps(header)}))
    refused(tmp_path / "a.safetensors", said)


@pytest.mark.parametrize(
    ("metadata", "said"),
    [
        (None, "without an hsvdet header.*hsvdet convert"),
        ({"format": "pt"}, "without an hsvdet header"),
        ({"hsvdet": "{"}, "not readable JSON"),
        ({"hsvdet": "[1]"}, "not readable JSON"),
        ({"hsvdet": "[" * 100_000}, "not readable JSON"),
    ],
)
def test_headers_that_are_missing_or_garbled_are_refused(metadata, said, tmp_path):
    (tmp_path / "a.safetensors").write_bytes(save({"a": torch.zeros(1)}, metadata))
    refused(tmp_path / "a.safetensors", said)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: t.pop("stem.conv.weight"), "1 missing .stem.conv.weight."),
        (lambda t: t.update(more=torch.zeros(1)), "1 unknown .more."),
        (lambda t: t.update({"stem.conv.weight": torch.zeros(1)}), "1 of another shape"),
        (
            lambda t: t.update({"stem.norm.bias": torch.zeros(16, dtype=torch.int64)}),
            "another kind of number",
        ),
        (lambda t: t["stem.norm.bias"].fill_(torch.nan), "NaN or infinity in 1 tensor .stem.norm.bias"),
    ],
)
def test_tensors_that_are_wrong_are_refused(change, said, whole, tmp_path):
    header, tensors = parts(whole)
    change(tensors)
    (tmp_path / "a.safetensors").write_bytes(save(tensors, {"hsvdet": json.dumps(header)}))
    refused(tmp_path / "a.safetensors", said)


@pytest.mark.parametrize(
    ("source", "start"),
    [
        ("random initialisation", "random"),
        ("random initialisation, backbone from resnet50.pth", "backbone"),
        ("warm start from random initialisation", "trained"),
        ("yolov8n.pt (sha256 00)", "trained"),
    ],
)
def test_what_was_trained_before_is_in_the_header_and_told_by_the_source_in_older_ones(
    source, start, whole, tmp_path
):
    header, tensors = parts(whole)
    assert header.pop("start") == "random"
    older = {"hsvdet": json.dumps(header | {"source": source})}
    (tmp_path / "a.safetensors").write_bytes(save(tensors, older))
    detector = hsvdet.load(tmp_path / "a.safetensors")
    assert detector.start == start and "start" not in detector.extra
    detector.source = "in other words"
    detector.save(tmp_path / "b.safetensors")
    assert hsvdet.load(tmp_path / "b.safetensors").start == start


def test_half_precision_weights_load_into_a_float32_network(whole, tmp_path):
    header, tensors = parts(whole)
    tensors = {name: t.half() if t.is_floating_point() else t for name, t in tensors.items()}
    (tmp_path / "a.safetensors").write_bytes(save(tensors, {"hsvdet": json.dumps(header)}))
    assert {p.dtype for p in hsvdet.load(tmp_path / "a.safetensors").net.parameters()} == {torch.float32}


def test_a_model_is_not_taken_for_its_weights():
    with pytest.raises(CheckpointError, match="yolov8-n is a model, not weights.*hsvdet train yolov8-n"):
        hsvdet.load("yolov8-n")
