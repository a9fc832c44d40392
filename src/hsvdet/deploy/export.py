"""`hsvdet.export`: a checkpoint as one file that takes images and gives detections, in a runtime without PyTorch."""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass
from importlib.metadata import version
from os import PathLike
from pathlib import Path
from typing import Any

from .. import models
from ..checkpoint import write_atomically
from ..detector import Detector, load
from ..errors import ConfigError
from ..postprocess import nms
from .artifact import ArtifactHeader, set_onnx_header
from .export_onnx import to_onnx
from .graph import ExportGraph

# Detections down to this score are in every artifact; those over --score are counted. So the threshold can be
# lowered without a new export, and AP be measured on the artifact itself.
FLOOR = 0.001

SUFFIXES = {
    "onnx": ".onnx",
    "openvino": ".xml",
    "tensorrt": ".engine",
    "coreml": ".mlpackage",
    "executorch": ".pte",
}


@dataclass(frozen=True)
class ExportReport:
    """path: of the artifact. header: what it says about itself. bytes: of all its files. seconds: all in all.
    notes: what the user should know."""

    path: str
    header: ArtifactHeader
    bytes: int
    seconds: float
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return {**dataclasses.asdict(self), "header": self.header.to_json()}

    def __str__(self) -> str:
        header = self.header
        size = "any size" if header.dynamic else f"{header.size[0]}x{header.size[1]}"
        return "\n".join(
            [
                f"{self.path}: {header.model}, {header.target} {header.precision}, canvas {size},"
                f" {len(header.labels)} classes, {self.bytes / 1e6:.1f} MB, {self.seconds:.0f} s",
                *self.notes,
            ]
        )


def export(
    detector: Detector | str | PathLike[str],
    to: str,
    out: str | PathLike[str] | None = None,
    *,
    size: tuple[int, int] | None = None,
    dynamic: bool = False,
    precision: str = "fp32",
    score: float = 0.25,
    iou: float = 0.7,
    limit: int = 300,
) -> ExportReport:
    """Write an artifact that takes uint8 images of any size and gives detections in their pixels (docs/export.md)."""
    started = time.monotonic()
    if to not in SUFFIXES:
        raise ConfigError(f"to expects one of {', '.join(SUFFIXES)}; got {to!r}.")
    name = None
    if not isinstance(detector, Detector):
        name = Path(detector)
        detector = load(detector)
    preprocess = detector.preprocess
    if size is not None:
        preprocess = dataclasses.replace(preprocess, size=tuple(size))
        detector = dataclasses.replace(detector, preprocess=preprocess)
    dynamic = dynamic or preprocess.resize == "shortest"
    dense = models.find(detector.name).postprocess is nms
    floor = min(FLOOR, score)
    path = Path(out) if out is not None else (name or Path(detector.name)).with_suffix(SUFFIXES[to])
    header = ArtifactHeader(
        **detector.header(),
        target=to,
        precision=precision,
        size=preprocess.size,
        dynamic=dynamic,
        score=score,
        floor=floor if dense else 0.0,
        iou=iou if dense else None,
        limit=limit,
        versions={package: version(package) for package in ("hsvdet", "torch", "onnx")},
    )
    graph = ExportGraph(detector, score=score, floor=floor, iou=iou, limit=limit)
    model = to_onnx(graph, preprocess, dynamic=dynamic)
    set_onnx_header(model, header)
    write_atomically(path, model.SerializeToString())
    return ExportReport(str(path), header, path.stat().st_size, time.monotonic() - started)
