"""A certificate is about one file, and says nothing of another: what was changed, swapped or typed by hand shows."""

import dataclasses
import json
import os
import shutil

import numpy as np
import pytest
from PIL import Image

from hsvdet import runtime
from hsvdet.cli import main
from hsvdet.errors import CheckpointError, ConfigError
from hsvdet.runtime.artifact import ArtifactHeader, read_artifact, read_header, sidecar, write_header
from hsvdet.runtime.containers import close_onnx, close_openvino, open_onnx, open_openvino
from hsvdet.runtime.seal import seal_of, sign

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

HEADER = ArtifactHeader(
    model="yolov8-n", config={}, labels=("car", "a < b & \"c\" é"), category_ids=(3, 7), preprocess={}, licence="MIT",
    source="a test", target="onnx", precision="fp32", size=(32, 32), dynamic=False, score=0.25, floor=0.001, iou=0.7,
    max_detections=2,
)  # fmt: skip


def constant_model():
    """An artifact that finds one box in every image, and no network at all."""
    numbers = {
        "boxes": np.array([[[2, 3, 12, 13], [0, 0, 0, 0]]], np.float32),
        "scores": np.array([[0.5, 0]], np.float32),
        "labels": np.array([[1, -1]]),
        "count": np.array([1]),
    }
    nodes = [
        onnx.helper.make_node("Constant", [], [name], value=onnx.numpy_helper.from_array(array))
        for name, array in {**numbers, "none": np.zeros(1, np.float32)}.items()
    ]
    nodes[1].output[0] = "constant scores"  # and nothing of the image, or there would be no input
    nodes += [
        onnx.helper.make_node("Shape", ["images"], ["sides"]),
        onnx.helper.make_node("Cast", ["sides"], ["as float"], to=onnx.TensorProto.FLOAT),
        onnx.helper.make_node("ReduceMax", ["as float"], ["largest"]),
        onnx.helper.make_node("Mul", ["largest", "none"], ["zero"]),
        onnx.helper.make_node("Add", ["constant scores", "zero"], ["scores"]),
    ]
    kinds = {np.dtype(np.float32): onnx.TensorProto.FLOAT, np.dtype(np.int64): onnx.TensorProto.INT64}
    outputs = [
        onnx.helper.make_tensor_value_info(name, kinds[array.dtype], array.shape)
        for name, array in numbers.items()
    ]
    image = onnx.helper.make_tensor_value_info("images", onnx.TensorProto.UINT8, ["b", "h", "w", 3])
    graph = onnx.helper.make_graph(nodes, "g", [image], outputs)
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=9)


def certificate_for(path, **changes):
    """One that fits, as `certify` writes it."""
    content = {"passed": True, "reasons": [], "artifact_sha256": read_artifact(path).sha256, **changes}
    return {**content, "seal": seal_of(content)}


def certified(path, **changes):
    certificate = certificate_for(path, **changes)
    write_header(path, dataclasses.replace(read_header(path), certificate=certificate))
    return path


@pytest.fixture
def path(tmp_path):
    model = constant_model()
    onnx.helper.set_model_props(model, {"hsvdet": json.dumps(HEADER.to_json()), "names": "{}"})
    path = tmp_path / "street.onnx"
    onnx.save(model, path)
    return certified(path)


def flipped_bit(path):
    """In the box that the artifact finds."""
    content = bytearray(path.read_bytes())
    content[content.index(np.float32(13).tobytes()) + 2] ^= 1
    path.write_bytes(content)


def with_header(path, **changes):
    write_header(path, dataclasses.replace(read_header(path), **changes))


def typed_by_hand(path):
    with_header(path, certificate={"passed": True, "artifact_sha256": read_artifact(path).sha256})


def passed_after_all(path):
    refused = certificate_for(path, passed=False, reasons=["AP falls"])
    with_header(path, certificate={**refused, "passed": True})


CHANGES = {
    "a flipped bit": (flipped_bit, "changed after it was certified"),
    "swapped labels": (lambda path: with_header(path, labels=HEADER.labels[::-1]), "changed after it was certified"),
    "another licence": (lambda path: with_header(path, licence="AGPL-3.0"), "changed after it was certified"),
    "another score": (lambda path: with_header(path, score=0.001), "changed after it was certified"),
    "typed by hand": (typed_by_hand, "not bound to the file"),
    "passed after all": (passed_after_all, "changed after it was written"),
    "refused": (lambda path: certified(path, passed=False, reasons=["AP falls"]), "refused: AP falls"),
    "none": (lambda path: with_header(path, certificate=None), "no certificate"),
}  # fmt: skip


@pytest.mark.parametrize("change, words", CHANGES.values(), ids=CHANGES)
def test_a_changed_artifact_is_not_certified(path, change, words):
    assert runtime.load(path).certified
    assert len(runtime.load(path, require_certificate=True)(np.zeros((20, 20, 3), np.uint8)).scores) == 1
    change(path)
    runner = runtime.load(path)
    assert not runner.certified and words in runner.doubt
    with pytest.raises(CheckpointError, match=words):
        runtime.load(path, require_certificate=True)


def test_the_commands_say_that_an_artifact_was_changed_and_refuse_it_where_a_certificate_is_required(
    path, tmp_path, capsys, tiny_checkpoint
):
    picture = tmp_path / "a.png"
    Image.new("RGB", (40, 30), "grey").save(picture)
    data = {
        "images": [{"id": 1, "file_name": "a.png", "width": 40, "height": 30}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 7, "bbox": [2, 3, 10, 10]}],
        "categories": [{"id": i, "name": name} for i, name in zip((3, 7), HEADER.labels, strict=True)],
    }
    (tmp_path / "val.json").write_text(json.dumps(data))
    commands = (
        ["predict", str(path), str(picture), "--out", str(tmp_path / "seen")],
        ["val", str(path), "--data", str(tmp_path / "val.json")],
    )
    for command in commands:
        assert main([*command, "--require-certificate"]) == 0
        assert "not certified" not in capsys.readouterr().err
    flipped_bit(path)
    for command in commands:
        assert main(command) == 0
        assert f"warning: {path} is not certified: it was changed" in capsys.readouterr().err
        assert main([*command, "--require-certificate"]) == 2
        errors = capsys.readouterr().err
        assert errors.count("\n") == 1 and "expected a certified artifact" in errors
        assert main([command[0], str(tiny_checkpoint), *command[2:], "--require-certificate"]) == 2
        assert "got a checkpoint" in capsys.readouterr().err


def test_a_signature_tells_who_certified_an_artifact(path, tmp_path):
    ed25519 = pytest.importorskip("cryptography.hazmat.primitives.asymmetric.ed25519")
    from cryptography.hazmat.primitives import serialization as form

    for name in ("ours", "other"):
        key = ed25519.Ed25519PrivateKey.generate()
        private = key.private_bytes(form.Encoding.PEM, form.PrivateFormat.PKCS8, form.NoEncryption())
        public = key.public_key().public_bytes(form.Encoding.PEM, form.PublicFormat.SubjectPublicKeyInfo)
        (tmp_path / f"{name}.pem").write_bytes(private)
        (tmp_path / f"{name}.pub").write_bytes(public)
    certificate = certificate_for(path)
    signature = sign(certificate["seal"], tmp_path / "ours.pem")
    ours = tmp_path / "ours.pub"
    for wrong in ({}, {"signature": signature[:-2] + "00"}, {"signature": 1}, {"signature": "é"}):
        with_header(path, certificate={**certificate, **wrong})
        with pytest.raises(CheckpointError, match="not signed by"):
            runtime.load(path, trusted_key=ours)
    with_header(path, certificate={**certificate, "signature": signature})
    assert runtime.load(path, trusted_key=ours).certified
    with pytest.raises(CheckpointError, match="not signed by"):
        runtime.load(path, trusted_key=tmp_path / "other.pub")
    # What anybody can hash again, nobody else can sign.
    with_header(path, licence="MIT-0")
    with_header(path, certificate={**certificate_for(path), "signature": signature})
    assert runtime.load(path).certified
    with pytest.raises(CheckpointError, match="not signed by"):
        runtime.load(path, trusted_key=ours)
    for key in (tmp_path / "none.pub", path, tmp_path / "ours.pem"):
        with pytest.raises(ConfigError, match="key"):
            runtime.load(path, trusted_key=key)
    for key in (tmp_path / "none.pem", path, ours):
        with pytest.raises(ConfigError, match="key"):
            sign("0" * 64, key)


def test_weights_outside_the_file_are_not_read(path, tmp_path, monkeypatch):
    """They would be in no hash, and could be any file of the machine."""
    model = constant_model()
    weight = onnx.numpy_helper.from_array(np.zeros(4096, np.float32), "w")
    model.graph.initializer.append(weight)
    model.graph.node.append(onnx.helper.make_node("Identity", ["w"], ["unused"]))
    onnx.helper.set_model_props(model, {"hsvdet": json.dumps(HEADER.to_json())})
    onnx.save_model(model, path, save_as_external_data=True, location="w.bin", size_threshold=10)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match="not an ONNX model that can be run"):
        runtime.load(path)


def test_a_new_header_leaves_every_other_byte_and_text_survives(path):
    before = open_onnx(path.read_bytes())
    for text in ("", "x" * 300, 'a "quoted" <tag> & é \U0001f697'):
        changed = close_onnx(before, text)
        assert open_onnx(changed) == before._replace(header=text)
        loaded = onnx.load_model_from_string(changed)
        assert {entry.key: entry.value for entry in loaded.metadata_props} == {"names": "{}", "hsvdet": text}
    xml = b'<?xml version="1.0"?>\n<net><rt_info>\n<hsvdet value="a &quot;&#38;&#xe9;" />\n</rt_info></net>'
    opened = open_openvino(xml)
    assert opened.header == 'a "&é'
    for text in ("", 'a "quoted" <tag> &amp; é'):
        assert open_openvino(close_openvino(opened, text)) == opened._replace(header=text)


def test_files_that_are_no_artifacts_or_have_two_headers_are_refused(path, tmp_path):
    whole = path.read_bytes()
    opened = open_onnx(whole)
    twice = close_onnx(opened._replace(before=whole, after=b""), "{}")
    xml = b'<net><rt_info><hsvdet value="{}" /></rt_info></net>'
    wrong = {
        "two hsvdet headers": (twice, xml + xml),
        "cut off|not XML": (whole[:-1], b"\xff\xfe<\0n\0e\0t\0/\0>\0"),
        "protobuf|entities": (b"\x0b\x0c", b'<net><!DOCTYPE x [<!ENTITY e "1">]>' + xml),
        "no hsvdet header": (opened.before + opened.after, b"<net></net>"),
    }
    for words, contents in wrong.items():
        for suffix, content in zip(("onnx", "xml"), contents, strict=True):
            file = tmp_path / f"wrong.{suffix}"
            file.write_bytes(content)
            (tmp_path / "wrong.bin").touch()
            with pytest.raises(CheckpointError, match=words):
                read_header(file)


def test_pipes_and_what_no_artifact_is_as_large_as_are_not_read(path, tmp_path, monkeypatch):
    """A pipe would be waited for, and a device never ends."""
    text = json.dumps(dataclasses.replace(HEADER, target="openvino").to_json()).replace('"', "&quot;")
    (tmp_path / "a.xml").write_text(
        f'<net><rt_info><hsvdet value="{text.replace("<", "&lt;")}" /></rt_info></net>'
    )
    for weights in (tmp_path / "a.bin", tmp_path / "pipe.onnx", tmp_path / "pipe.xml"):
        os.mkfifo(weights)
    (tmp_path / "zero.onnx").symlink_to("/dev/zero")
    for name, unread in {"a.xml": "a.bin", "pipe.onnx": "", "pipe.xml": "", "zero.onnx": ""}.items():
        with pytest.raises(CheckpointError, match=f"{unread or name}: cannot be read: it is no regular file"):
            runtime.load(tmp_path / name)
    monkeypatch.setattr("hsvdet.runtime.artifact.LARGEST_GRAPH", 100)
    with pytest.raises(CheckpointError, match="it has .* bytes, more than 100"):
        runtime.load(path)


def test_a_header_that_could_not_be_written_again_is_refused(path):
    opened = open_onnx(path.read_bytes())
    for change in ({"licence": "\ud800"}, {"config": {"depth": float("nan")}}):
        path.write_bytes(close_onnx(opened, json.dumps({**HEADER.to_json(), **change})))
        with pytest.raises(CheckpointError, match="not readable JSON"):
            runtime.load(path)


@pytest.mark.parametrize("suffix", [".pte", ".mlpackage"])
def test_an_artifact_keeps_its_hash_when_it_is_renamed_and_loses_it_when_it_is_changed(tmp_path, suffix):
    old, new = tmp_path / f"a.rejected{suffix}", tmp_path / f"a{suffix}"
    inner = old
    if suffix == ".mlpackage":
        old.mkdir()
        inner = old / "weights"
    inner.write_bytes(b"123")
    sidecar(old).write_text(json.dumps(HEADER.to_json()))
    before = read_artifact(old).sha256
    shutil.move(old, new)
    shutil.move(sidecar(old), sidecar(new))
    assert read_artifact(new).sha256 == before
    (new if inner == old else new / "weights").write_bytes(b"124")
    assert read_artifact(new).sha256 != before
