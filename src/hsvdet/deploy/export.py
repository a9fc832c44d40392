"""`hsvdet.export`: a checkpoint as one file that takes images and gives detections, in a runtime without PyTorch."""

# pyright: strict, reportUnknownMemberType=false
# PyTorch's own types leave some of its functions untyped.

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from .. import models
from ..data.dataset import DetectionData
from ..data.read import as_data
from ..detector import Detector
from ..errors import ConfigError, SaveError, counted
from ..layers.selection import selectors_of
from ..loading import as_detector
from ..options import check_reading
from ..preprocess import Preprocess, Size
from ..runtime.artifact import ArtifactHeader, accept, parts, rejected_path, write_header
from ..targets import PRECISIONS, RUNNABLE, TARGETS, Target
from .graph import ExportGraph

if TYPE_CHECKING:
    from ..certificate import Certificate

# Detections down to this score are in every artifact; those over --score are counted. So the threshold can be
# lowered without a new export, and AP be measured on the artifact itself.
FLOOR = 0.001


@dataclass(frozen=True)
class ExportReport:
    """path: of the artifact. header: what it says about itself. bytes: of all its files. seconds: all in all.
    certificate: whether it detects what the detector does; None where it was not asked for or cannot be run
    here. notes: what the user should know."""

    path: str
    header: ArtifactHeader
    bytes: int
    seconds: float
    certificate: Certificate | None
    notes: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """False only where a certificate was refused."""
        return self.certificate is None or self.certificate.passed

    def to_json(self) -> dict[str, Any]:
        return {
            "path": self.path,
            "header": self.header.to_json(),
            "bytes": self.bytes,
            "seconds": round(self.seconds, 2),
            "certificate": self.certificate and self.certificate.to_json(),
            "notes": list(self.notes),
        }

    def __str__(self) -> str:
        header = self.header
        canvas = "as small as each image allows" if header.dynamic else f"{header.size[0]}x{header.size[1]}"
        lines = [
            f"{self.path}: {header.model}, {header.target} {header.precision}, canvas {canvas},"
            f" {counted(len(header.labels), 'class')}, {self.bytes / 1e6:.1f} MB, {self.seconds:.0f} s",
            *self.notes,
        ]
        return "\n".join([*lines, *([str(self.certificate)] if self.certificate else [])])


def export(
    detector: Detector | str | PathLike[str],
    to: str,
    out: str | PathLike[str] | None = None,
    *,
    size: Size | None = None,
    options: Mapping[str, Any] | None = None,
    dynamic: bool = False,
    precision: str = "fp32",
    calibrate: DetectionData | str | PathLike[str] | None = None,
    data: DetectionData | str | PathLike[str] | None = None,
    score: float = 0.25,
    iou: float = 0.7,
    max_detections: int | None = None,
    certify: bool = True,
) -> ExportReport:
    """Write an artifact that takes uint8 images of any size and gives detections in their pixels (docs/export.md).

    detector: or the path of a checkpoint. to: a name of targets.py. out: beside the
    checkpoint if not given. size: (height, width) of the network's input, instead of the detector's own.
    options: as of `Detector.with_options`. dynamic:
    every image gets the smallest canvas it fits, as in `Detector`, instead of one of `size`; models that resize
    by the shorter side always do. precision: fp32, bf16, fp16 or int8, where the target has it. calibrate: a data
    set, for int8; fp16 measures on it, or else on drawn scenes, which layers come near its largest number. data:
    what the certificate is made with; if not given, `calibrate` for int8, else drawn scenes. score: what a detection
    must pass to be counted; weaker ones down to 0.001 follow it. iou: of the suppression. max_detections: of an image,
    the model's own number if not given. certify: compare the artifact with the detector and write its certificate;
    one that differs is not handed over, it stays NAME.rejected.SUFFIX.

    Written atomically. Raises CheckpointError, ConfigError, DataError and SaveError.
    """
    started = time.monotonic()
    target = _check(to, precision, calibrate, score, iou, max_detections)
    path = _path(detector, target, out)
    detector = as_detector(detector, size, options)
    _check_selector(detector)
    notes: list[str] = []
    if target.one_canvas and (dynamic or detector.preprocess.resize == "shortest"):
        raise ConfigError(
            f"{target.title} programs have one canvas; with --dynamic, and where images are resized by their shorter"
            " side, it depends on the image. ONNX Runtime and OpenVINO have such canvases."
        )
    if detector.preprocess.resize == "shortest" and not dynamic:
        dynamic = True
        notes.append("Its images are resized by their shorter side, so the canvas is as large as each needs.")
    if data is not None:  # what is wrong with them is said before minutes are spent
        data = as_data(data, "val", detector.labels)
        if not dynamic:
            notes += _smaller_canvases(detector.preprocess, data, target)
    images = _images(detector, precision, calibrate)
    reading = models.find(detector.name).reading
    floor = min(FLOOR, score) if reading.suppresses else 0.0
    most = reading.max_detections if max_detections is None else max_detections
    graph = ExportGraph(
        detector, score=score, floor=floor, iou=iou, max_detections=most, portable=target.one_canvas
    )
    header = ArtifactHeader(
        **detector.header(),
        target=to,
        precision=precision,
        size=detector.preprocess.size,
        dynamic=dynamic,
        score=score,
        floor=floor,
        iou=iou if reading.suppresses else None,
        max_detections=most,
        versions={package: version(package) for package in ("hsvdet", "torch")},
        float32=_kept_in_float32(graph, detector, precision, images, dynamic),
    )
    certified = certify and target in RUNNABLE
    written = rejected_path(path) if certified else path
    try:
        build = import_module(f".export_{target.name}", __package__).build
        build(written, graph, detector.preprocess, header, images)
        if not target.holds_header:
            write_header(written, header)
    except OSError as error:
        raise SaveError(f"{path}: could not be written: {error.strerror or error}.") from None
    if header.float32 and precision == "fp16":
        notes.append(f"float32 because of large values: {', '.join(header.float32)}.")
    certificate = None
    if not certified:
        why = f"hsvdet does not run {target.title} artifacts" if certify else "it was not asked for"
        notes.append(f"Not certified: {why}. Nothing has compared its detections with the detector's.")
    else:
        from ..certificate import certify as compare

        certificate = compare(detector, written, calibrate if data is None and precision == "int8" else data)
        if certificate.passed:
            accept(path)
            written = path
    seconds = time.monotonic() - started
    return ExportReport(str(written), header, _bytes(written), seconds, certificate, tuple(notes))


def _smaller_canvases(preprocess: Preprocess, data: DetectionData, target: Target) -> list[str]:
    """What to know where the detector has other canvases for these images than an artifact that has but one."""
    sizes = [record.size for record in data.records if record.size]
    canvases = [preprocess.geometry(*size, minimal=True)[0] for size in sizes]
    smaller = [canvas for canvas in canvases if canvas != preprocess.size]
    if not smaller:
        return []
    (height, width), own = smaller[0], preprocess.size
    remedy = "" if target.one_canvas else " With --dynamic it is as the checkpoint."
    return [
        f"A smaller canvas, such as {height}x{width}, is enough for {len(smaller)} of"
        f" {counted(len(canvases), 'image')}: on it the checkpoint is validated and used, this artifact on"
        f" {own[0]}x{own[1]}, with another AP.{remedy}"
    ]


def _check(
    to: str,
    precision: str,
    calibrate: DetectionData | str | PathLike[str] | None,
    score: float,
    iou: float,
    max_detections: int | None,
) -> Target:
    if to not in TARGETS:
        raise ConfigError(f"to expects one of {', '.join(TARGETS)}; got {to!r}.")
    if precision not in PRECISIONS:
        raise ConfigError(f"precision expects one of {', '.join(PRECISIONS)}; got {precision!r}.")
    if precision == "int8" and calibrate is None:
        raise ConfigError("int8 is calibrated on your images, and none were given: --calibrate DATA.")
    target = TARGETS[to]
    if precision not in target.precisions:
        others = " and ".join(other.title for other in TARGETS.values() if precision in other.precisions)
        raise ConfigError(
            f"{target.title} artifacts are exported in {', '.join(target.precisions)}; got {precision}, which"
            f" {others} can have."
        )
    check_reading(score=score, iou=iou, max_detections=max_detections)
    missing = [package for package in target.packages if find_spec(package) is None]
    if missing:
        raise ConfigError(
            f"Export to {to} needs {', '.join(missing)}, not installed here: pip install {' '.join(missing)}"
        )
    return target


def _path(detector: Detector | str | PathLike[str], target: Target, out: str | PathLike[str] | None) -> Path:
    if out is None:
        if isinstance(detector, Detector):
            return Path(f"{detector.name}{target.suffix}")
        return Path(detector).with_suffix(target.suffix)
    path = Path(out)
    if path.suffix != target.suffix:
        raise ConfigError(
            f"{path}: {target.title} artifacts are called NAME{target.suffix}. Choose such a name with --out."
        )
    if path.is_dir() and not target.folder:
        raise SaveError(f"{path}: a folder is in the way. Choose another name with --out.")
    return path


def _check_selector(detector: Detector) -> None:
    for selector in selectors_of(detector.net):
        if selector.needs_targets or not selector.repeatable:
            raise ConfigError(
                f"{detector.name} selects its tokens {selector.ranking}, which is for experiments: an artifact would"
                " not answer the same twice, or without annotations. Train with another option `selector`."
            )


def _images(
    detector: Detector, precision: str, calibrate: DetectionData | str | PathLike[str] | None
) -> list[np.ndarray]:
    """What values are measured on, [H, W, 3] uint8."""
    if precision in ("fp32", "bf16"):
        return []
    from .quantise import calibration_images

    if calibrate is None:
        from ..certificate.probes import probes

        return [probe.image for probe in probes(None, 8)]
    return calibration_images(as_data(calibrate, "train", detector.labels))


def _kept_in_float32(
    graph: ExportGraph, detector: Detector, precision: str, images: Sequence[np.ndarray], dynamic: bool
) -> tuple[str, ...]:
    if precision == "fp16":
        from .graph_half import layers_near_overflow

        return layers_near_overflow(graph, (_graph_input(detector, image, dynamic) for image in images))
    if precision == "int8":
        from .quantise import float32_layers

        return float32_layers(graph.net)
    return ()


def _graph_input(detector: Detector, image: np.ndarray, minimal: bool) -> tuple[Tensor, Tensor, Tensor]:
    """One image as `ExportGraph` takes it."""
    canvas, content = detector.preprocess.to_canvas(torch.from_numpy(image).permute(2, 0, 1), minimal)
    return detector.preprocess.normalise(canvas)[None], torch.tensor(content), torch.tensor(image.shape[:2])


def _bytes(path: Path) -> int:
    return sum(
        file.stat().st_size for part in parts(path) for file in [part, *part.rglob("*")] if file.is_file()
    )
