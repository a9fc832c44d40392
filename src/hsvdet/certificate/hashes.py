"""Hashes that tie a certificate to one artifact and one set of weights, the same on every machine."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import json
from pathlib import Path
from xml.etree import ElementTree

import torch

from ..detector import Detector
from ..runtime.artifact import KEY, ArtifactHeader, read_header, set_onnx_header, sidecar


def artifact_sha256(path: Path) -> str:
    """Of the artifact as it is without a certificate in it: the same before and after it is written."""
    header = dataclasses.replace(read_header(path), certificate=None)
    digest = hashlib.sha256()
    match path.suffix:
        case ".onnx":
            import onnx

            model = onnx.load(path)
            set_onnx_header(model, header)
            entries = sorted(model.metadata_props, key=lambda entry: entry.key)
            entries = [copy.deepcopy(entry) for entry in entries]
            del model.metadata_props[:]
            model.metadata_props.extend(entries)
            digest.update(model.SerializeToString(deterministic=True))
        case ".xml":
            tree = ElementTree.fromstring(path.read_bytes())
            for entry in tree.iterfind(f"rt_info/{KEY}"):
                entry.set("value", _text(header))
            digest.update(ElementTree.canonicalize(ElementTree.tostring(tree), strip_text=True).encode())
            digest.update(path.with_suffix(".bin").read_bytes())
        case _:
            files = sorted(path.rglob("*")) if path.is_dir() else [path]
            for file in files:
                if file.is_file():
                    digest.update(file.relative_to(path.parent).as_posix().encode())
                    digest.update(file.read_bytes())
            digest.update(_text(header).encode() if sidecar(path).is_file() else b"")
    return digest.hexdigest()


def weights_sha256(detector: Detector) -> str:
    """Of names, types, shapes and values of all tensors, in the order of their names."""
    digest = hashlib.sha256()
    for name, tensor in sorted(detector.net.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)} ".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _text(header: ArtifactHeader) -> str:
    return json.dumps(header.to_json(), ensure_ascii=False, sort_keys=True)
