"""The checkpoint file: safetensors, with one JSON header that says what the tensors are.

Nothing in it is executable. Header (metadata key "hsvdet"): format, model, config, labels, category_ids,
preprocess, licence, source. docs/checkpoint.md describes it for readers in other languages.
"""

# pyright: strict

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from contextlib import AbstractContextManager
from os import PathLike
from pathlib import Path
from typing import Any, Protocol, cast

from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialise
from torch import Tensor, nn

from .errors import CheckpointError, counted
from .files import parse_json, write_atomically

FORMAT = 1

# What the header of every detector has, and the JSON type of it (docs/checkpoint.md).
HEADER = {
    "model": str,
    "config": dict,
    "labels": list,
    "category_ids": list,
    "preprocess": dict,
    "licence": str,
    "source": str,
}


def write_checkpoint(
    path: str | PathLike[str], tensors: Mapping[str, Tensor], header: Mapping[str, Any]
) -> None:
    """tensors: a state dict, written contiguous and on the CPU. header: anything JSON. Atomic."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    metadata = {"hsvdet": json.dumps({"format": FORMAT, **header}, ensure_ascii=False)}
    write_atomically(path, serialise(tensors, metadata))


def check_file(path: str | PathLike[str]) -> None:
    """Raises CheckpointError unless `path` is a file that can be read and has something in it."""
    path = Path(path)
    try:
        if path.is_dir():
            raise CheckpointError(f"{path}: expected a checkpoint file; this is a folder.")
        if not path.is_file():
            raise CheckpointError(f"{path}: no such checkpoint file.")
        with path.open("rb") as file:
            if not file.read(1):
                raise CheckpointError(f"{path}: the file is empty. Copy it again.")
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}.") from None


class SafetensorsFile(Protocol):
    """What the library opens, which it does not type."""

    def metadata(self) -> dict[str, str] | None: ...
    def keys(self) -> list[str]: ...
    def get_tensor(self, name: str) -> Tensor: ...


def open_safetensors(path: str | PathLike[str]) -> AbstractContextManager[SafetensorsFile]:
    """Its tensors on the CPU. Raises SafetensorError where it is damaged."""
    return cast("AbstractContextManager[SafetensorsFile]", safe_open(path, framework="pt"))


def is_checkpoint(path: str | PathLike[str]) -> bool:
    """Whether the file is, or was meant to be, one of ours; published weights are not. Raises as `check_file`."""
    check_file(path)
    if not looks_like_safetensors(path):
        return False
    try:
        with open_safetensors(path) as file:
            return "hsvdet" in (file.metadata() or {})
    except SafetensorError:
        return True


def read_header(path: str | PathLike[str]) -> dict[str, Any]:
    """The JSON header alone, without reading a tensor. Raises CheckpointError as `read_checkpoint`."""
    return _read(Path(path), tensors=False)[1]


def read_checkpoint(path: str | PathLike[str]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """(tensors, header). Raises CheckpointError, in words for the user, for anything that is not valid."""
    return _read(Path(path), tensors=True)


def _read(path: Path, tensors: bool) -> tuple[dict[str, Tensor], dict[str, Any]]:
    check_file(path)
    try:
        with open_safetensors(path) as file:
            header = _header(path, file.metadata() or {})
            return {name: file.get_tensor(name) for name in file.keys()} if tensors else {}, header
    except (SafetensorError, OSError) as error:
        if not looks_like_safetensors(path) and _looks_like_pickle(path):
            raise CheckpointError(
                f"{path}: a PyTorch pickle, which could run code and is not loaded. Convert published weights"
                f" first: hsvdet convert {shlex.quote(str(path))} OUT.safetensors"
            ) from None
        raise CheckpointError(
            f"{path}: expected a whole safetensors file; it is damaged or cut off ({error}). Copy it again."
        ) from None


def looks_like_safetensors(path: str | PathLike[str]) -> bool:
    """Eight bytes of length, then a JSON object."""
    with Path(path).open("rb") as file:
        return file.read(9)[8:] == b"{"


def _looks_like_pickle(path: Path) -> bool:
    """torch.save's zip file, or a bare pickle of protocol 2 or later."""
    with path.open("rb") as file:
        start = file.read(2)
    return start == b"PK" or start[:1] == b"\x80"


def _header(path: Path, metadata: Mapping[str, str]) -> dict[str, Any]:
    if "hsvdet" not in metadata:
        raise CheckpointError(
            f"{path}: safetensors without an hsvdet header, so which model it is cannot be told. If it holds"
            f" published weights: hsvdet convert {shlex.quote(str(path))} OUT.safetensors --model NAME"
        )
    try:
        header = parse_json(metadata["hsvdet"])
        version = header.pop("format")
    except (ValueError, KeyError, AttributeError, TypeError):
        raise CheckpointError(f"{path}: its hsvdet header is not readable JSON. Copy it again.") from None
    if version != FORMAT:
        raise CheckpointError(
            f"{path}: checkpoint format {version}; this hsvdet reads format {FORMAT}."
            + (" Install a newer hsvdet." if isinstance(version, int) and version > FORMAT else "")
        )
    return header


def check_description(header: Mapping[str, Any], path: str | PathLike[str]) -> None:
    """CheckpointError where the header does not describe a detector, or has a value of another type."""
    missing = [key for key in HEADER if key not in header]
    if missing:
        raise CheckpointError(
            f"{path}: its header lacks {', '.join(missing)}. Make it again with this hsvdet."
        )
    for key, kind in HEADER.items():
        if not isinstance(header[key], kind):
            raise wrong_value(header, key, path)
    for key, kind in (("labels", str), ("category_ids", int)):
        if any(type(value) is not kind for value in header[key]):
            raise wrong_value(header, key, path)


def wrong_value(header: Mapping[str, Any], key: str, path: str | PathLike[str]) -> CheckpointError:
    return CheckpointError(
        f"{path}: its header's {key} is not what it must be (docs/checkpoint.md): {repr(header[key])[:60]}."
        " Make it again with this hsvdet."
    )


def load_tensors(net: nn.Module, tensors: Mapping[str, Tensor], path: str | PathLike[str]) -> None:
    """A strict load: CheckpointError as `check_tensors`, and for values that are not finite."""
    check_tensors(net, tensors, path)
    not_finite = [
        name for name, tensor in tensors.items() if tensor.is_floating_point() and not tensor.isfinite().all()
    ]
    if not_finite:
        raise CheckpointError(
            f"{path}: NaN or infinity in {counted(len(not_finite), 'tensor')} ({not_finite[0]}): a training that"
            " diverged. Take an earlier checkpoint."
        )
    net.load_state_dict(tensors)


def check_tensors(net: nn.Module, tensors: Mapping[str, Tensor], path: str | PathLike[str]) -> None:
    """CheckpointError naming the first tensors that are missing, unknown or of another shape or kind."""
    expected = net.state_dict()
    shared = sorted(expected.keys() & tensors.keys())
    problems = {
        "missing": sorted(expected.keys() - tensors.keys()),
        "unknown": sorted(tensors.keys() - expected.keys()),
        "of another shape": [name for name in shared if expected[name].shape != tensors[name].shape],
        "of another kind of number": [
            name for name in shared if expected[name].is_floating_point() != tensors[name].is_floating_point()
        ],
    }
    if any(problems.values()):
        parts = [
            f"{len(names)} {what} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
            for what, names in problems.items()
            if names
        ]
        raise CheckpointError(f"{path}: its tensors do not fit {type(net).__name__}: {'; '.join(parts)}.")
