"""What an exported artifact says about itself, inside its own file: read and written here, without PyTorch.

An ONNX file has it in `metadata_props`, an OpenVINO model in `rt_info`, each under the key "hsvdet" as one JSON
text; what other runtimes read has it in a file beside it, `NAME.json`. docs/export.md describes it.
"""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np

from ..bounds import LARGEST_GRAPH, LARGEST_SIDE, LARGEST_WEIGHTS, MOST_DETECTIONS
from ..errors import CheckpointError
from ..files import parse_json, regular
from ..structures import is_class_name
from ..targets import PRECISIONS, TARGETS, target_of
from .containers import KEY, Opened, close_onnx, close_openvino, open_onnx, open_openvino

# uint8 [B, H, W, 3] to boxes, scores, labels, count, as the artifact gives them.
Run = Callable[[np.ndarray], Sequence[np.ndarray]]

FORMAT = 2  # 1 had `limit` for `max_detections`


@dataclass(frozen=True, kw_only=True)
class ArtifactHeader:
    """model, config, labels, category_ids, preprocess, licence, source: as in the checkpoint it was made of.

    target: onnx, openvino, ... precision: fp32, bf16, fp16 or int8. size: (height, width) of the network's input;
    with `dynamic`, the largest: each image then has the smallest canvas that it fits. score: what a detection
    must pass to be counted; floor: weaker ones are not in the output at all. iou: of the suppression, None for
    models without. max_detections: rows of the output. versions: of the packages that made it. float32: layers
    that were kept in full precision. certificate: what the comparison with the detector found, or None; `seal.doubt`
    says whether it is this artifact's.
    """

    model: str
    config: dict[str, Any]
    labels: tuple[str, ...]
    category_ids: tuple[int, ...]
    preprocess: dict[str, Any]
    licence: str
    source: str
    target: str
    precision: str
    size: tuple[int, int]
    dynamic: bool
    score: float
    floor: float
    iou: float | None
    max_detections: int
    versions: dict[str, str] = field(default_factory=dict)
    float32: tuple[str, ...] = ()
    certificate: dict[str, Any] | None = None

    def to_json(self) -> dict[str, Any]:
        return {"format": FORMAT, **dataclasses.asdict(self)}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> ArtifactHeader:
        """Raises CheckpointError for another format or a header that lacks something; unknown keys are ignored."""
        version = content.get("format")
        if version != FORMAT:
            newer = isinstance(version, int) and version > FORMAT
            what = "Install a newer hsvdet." if newer else "Export it again."
            raise CheckpointError(f"artifact format {version}; this hsvdet reads format {FORMAT}. {what}")
        values = {}
        for item in dataclasses.fields(cls):
            if item.name in content:
                value = content[item.name]
                values[item.name] = tuple(value) if isinstance(value, list) else value
            elif item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING:
                raise CheckpointError(f"its hsvdet header lacks {item.name!r}. Export it again.")
        header = cls(**values)
        wrong = header._wrong()
        if wrong is not None:
            value = str(getattr(header, wrong))
            raise CheckpointError(
                f"its hsvdet header's {wrong} is not what it must be (docs/export.md): {value[:60]}. Export it again."
            )
        return header

    def _wrong(self) -> str | None:
        """The first field whose value no export writes."""
        labels, ids, size = self.labels, self.category_ids, self.size
        valid = {
            "model": isinstance(self.model, str),
            "config": isinstance(self.config, dict),
            "labels": _are(labels, str)
            and len(labels) > 0
            and len(set(labels)) == len(labels)
            and all(map(is_class_name, labels)),
            "category_ids": _are(ids, int) and _are(labels, str) and len(set(ids)) == len(ids) == len(labels),
            "preprocess": isinstance(self.preprocess, dict),
            "licence": isinstance(self.licence, str),
            "source": isinstance(self.source, str),
            "target": isinstance(self.target, str) and self.target in TARGETS,
            "precision": isinstance(self.precision, str) and self.precision in PRECISIONS,
            "size": _are(size, int) and len(size) == 2 and 1 <= min(size) <= max(size) <= LARGEST_SIDE,
            "dynamic": isinstance(self.dynamic, bool),
            "floor": _is_share(self.floor),
            "score": _is_share(self.score) and _is_share(self.floor) and self.floor <= self.score,
            "iou": self.iou is None or _is_share(self.iou),
            "max_detections": type(self.max_detections) is int
            and 1 <= self.max_detections <= MOST_DETECTIONS,
            "versions": isinstance(self.versions, dict) and _are(tuple(self.versions.values()), str),
            "float32": _are(self.float32, str),
            "certificate": self.certificate is None or isinstance(self.certificate, dict),
        }
        return next((name for name, sound in valid.items() if not sound), None)


def _are(values: object, kind: type) -> bool:
    """Whether it is a tuple of these, and True and False are no integers."""
    return isinstance(values, tuple) and all(type(value) is kind for value in values)


def _is_share(value: object) -> bool:
    return type(value) in (int, float) and 0 <= cast("float", value) <= 1  # NaN is neither


class Artifact(NamedTuple):
    """An artifact as it is on the disk, nothing of it run. sha256: of all its files and its header, but for the
    certificate (see `seal.doubt`). content: of its own file; empty where that is a folder."""

    path: Path
    header: ArtifactHeader
    sha256: str
    content: bytes


def read_artifact(path: str | PathLike[str]) -> Artifact:
    """Raises CheckpointError, naming the file, where there is no artifact or its header is not valid."""
    path = existing(path)
    try:
        content = b"".join(_blocks(path, LARGEST_GRAPH)) if not path.is_dir() else b""
        opened = _open(path, content)
        header = parse_header(opened.header, path)
        digest = hashlib.sha256()
        parts = (_bare(header).encode(), opened.before, opened.after)
        # With the length, so that nothing can move from one part to the next.
        for size, blocks in (*((len(part), [part]) for part in parts), *_beside(path)):
            digest.update(size.to_bytes(8, "little"))
            for block in blocks:
                digest.update(block)
    except OSError as error:
        raise CheckpointError(f"{error.filename or path}: cannot be read: {error.strerror}.") from None
    return Artifact(path, header, digest.hexdigest(), content)


def read_header(path: str | PathLike[str]) -> ArtifactHeader:
    """The header of an artifact. Raises CheckpointError, naming the file, where there is none or it is not valid."""
    return read_artifact(path).header


def write_header(path: str | PathLike[str], header: ArtifactHeader) -> None:
    """Put the header into an artifact, instead of the one it has; every other byte stays. Atomic. Raises OSError and
    CheckpointError."""
    from ..files import write_atomically

    path, text = existing(path), _text(header)
    close = {".onnx": close_onnx, ".xml": close_openvino}.get(path.suffix)
    if close is None:
        write_atomically(sidecar(path), text.encode())
    else:
        write_atomically(path, close(_open(path, path.read_bytes()), text))


def _open(path: Path, content: bytes) -> Opened:
    """Raises CheckpointError naming `path`."""
    try:
        match path.suffix:
            case ".onnx":
                return open_onnx(content)
            case ".xml":
                return open_openvino(content)
            case _:
                beside = sidecar(path)
                return Opened(beside.read_text("utf-8") if beside.is_file() else None, content, b"")
    except ValueError as error:
        reason = "its header is not UTF-8" if isinstance(error, UnicodeDecodeError) else error
        raise CheckpointError(f"{path}: expected an artifact of `hsvdet export`; {reason}.") from None


def _beside(path: Path) -> Iterator[tuple[int, Iterable[bytes]]]:
    """What belongs to an artifact beside its own file, each with its length: names (which do not change when it is
    renamed) and contents."""
    target = target_of(path)
    if target is not None and target.beside:
        weights = path.with_suffix(target.beside)
        yield weights.stat().st_size, _blocks(weights, LARGEST_WEIGHTS)
    for file in sorted(path.rglob("*")) if path.is_dir() else ():
        if file.is_file():
            name = os.fsencode(file.relative_to(path).as_posix())
            yield len(name), [name]
            yield file.stat().st_size, _blocks(file, LARGEST_WEIGHTS)


def _blocks(path: Path, most: int) -> Iterator[bytes]:
    """The content of a file. Raises OSError, also for a pipe or a device, which would not end, and beyond `most`
    bytes."""
    size = regular(path).stat().st_size
    if size > most:
        raise OSError(errno.EFBIG, f"it has {size:,} bytes, more than {most:,}", str(path))
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            yield block


def _text(header: ArtifactHeader) -> str:
    return json.dumps(header.to_json(), ensure_ascii=False, allow_nan=False)


def _bare(header: ArtifactHeader) -> str:
    """All that a certificate is about."""
    content = dataclasses.replace(header, certificate=None).to_json()
    return json.dumps(content, ensure_ascii=False, sort_keys=True)


def set_onnx_header(model, header: ArtifactHeader) -> None:
    """model: an onnx.ModelProto in memory. Also `names`, class names by index, for readers that know only that."""
    from onnx.helper import set_model_props

    others = {entry.key: entry.value for entry in model.metadata_props}
    names = json.dumps(dict(enumerate(header.labels)), ensure_ascii=False)
    set_model_props(model, {**others, KEY: _text(header), "names": names})


def parse_header(text: str | None, path: str | PathLike[str]) -> ArtifactHeader:
    """The JSON text to a header. Raises CheckpointError naming `path`."""
    if text is None:
        raise CheckpointError(
            f"{path}: no hsvdet header in it, so its output means nothing to hsvdet. Export it"
            " with `hsvdet export`."
        )
    try:
        header = ArtifactHeader.from_json(parse_json(text))
        _text(header).encode()  # what could not be written again: NaN, halves of characters
        return header
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from None
    except (ValueError, TypeError, AttributeError):
        raise CheckpointError(f"{path}: its hsvdet header is not readable JSON. Export it again.") from None


def existing(path: str | PathLike[str]) -> Path:
    """Raises CheckpointError where there is no such file. A Core ML package is a folder."""
    path = Path(path)
    if not path.exists():
        raise CheckpointError(f"{path}: no such artifact. `hsvdet export` writes one.")
    return path


def sidecar(path: Path) -> Path:
    """Where the header of a file is that cannot hold one."""
    return path.with_name(path.name + ".json")


def rejected_path(path: Path) -> Path:
    """NAME.rejected.SUFFIX: what an artifact is called until it is certified, and stays called where it is not."""
    return path.with_name(f"{path.stem}.rejected{path.suffix}")


def accept(path: Path) -> None:
    """Give the artifact at `rejected_path(path)`, with its certificate, the name it was asked for, instead of one
    that may be there; what an earlier rejection left is gone with it. Raises OSError."""
    rejected = rejected_path(path)
    # The artifact itself comes last: once it has its name, all that belongs to it has too.
    belonging = zip(certificate_files(rejected), certificate_files(path), strict=True)
    for old, new in (*belonging, *zip(parts(rejected)[::-1], parts(path)[::-1], strict=True)):
        if old.exists():
            os.replace(old, new)


def parts(path: Path) -> list[Path]:
    """The files an artifact consists of: its own, and what it cannot be used without. Not all need be there."""
    target = target_of(path)
    beside = target.beside if target is not None else None
    return [path, path.with_suffix(beside) if beside else sidecar(path)]


def certificate_files(path: Path) -> tuple[Path, Path]:
    """Where the certificate of an artifact is: JSON and picture."""
    name = f"{path.name}.certificate"
    return path.with_name(f"{name}.json"), path.with_name(f"{name}.png")
