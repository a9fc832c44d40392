"""Artifacts where a checkpoint may stand: in `hsvdet.predict`, `stream` and `val`."""

# pyright: strict, reportUnknownMemberType=false
# PyTorch's own types leave some of its functions untyped.

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from os import PathLike
from typing import TypeGuard

import torch
from torch import Tensor

from ..data.dataset import DetectionData
from ..data.pixels import read_pixels
from ..detector import Detector
from ..errors import ConfigError
from ..structures import Detections
from ..targets import RUNNABLE, target_of
from .runner import Runner, load


def is_artifact(detector: Detector | str | PathLike[str]) -> TypeGuard[str | PathLike[str]]:
    return not isinstance(detector, Detector) and target_of(detector) in RUNNABLE


def refuse(path: str | PathLike[str], **options: bool) -> None:
    """Raises ConfigError for the first option that is given: what the artifact has settled."""
    for name, given in options.items():
        if given:
            raise ConfigError(
                f"{path}: {name} is for checkpoints; an artifact runs as it was exported, in its runtime."
            )


def require_artifact(require_certificate: bool, trusted_key: str | PathLike[str] | None) -> None:
    """Of a checkpoint. Raises ConfigError where a certificate is asked for: only artifacts have one."""
    if require_certificate or trusted_key is not None:
        raise ConfigError(
            "A certificate was asked for, and only artifacts of `hsvdet export` have one; got a checkpoint."
        )


class ArtifactDetector:
    """An artifact with the `detect` of a `Detector`: tensors in, tensors out. Everything else is the header's."""

    def __init__(
        self,
        path: str | PathLike[str],
        *,
        require_certificate: bool = False,
        trusted_key: str | PathLike[str] | None = None,
    ):
        """Says in a warning where the artifact is not certified. Raises as `runtime.load`."""
        self.runner: Runner = load(path, require_certificate=require_certificate, trusted_key=trusted_key)
        if self.runner.doubt is not None:
            logging.getLogger("hsvdet").warning("%s is not certified: %s.", path, self.runner.doubt)
        header = self.runner.header
        self.name, self.licence = header.model, header.licence
        self.labels, self.category_ids = header.labels, header.category_ids

    def detect(
        self,
        images: Sequence[Tensor],
        *,
        score: float,
        iou: float,
        max_detections: int | None,
        batch: int,
        names: Sequence[str],
    ) -> list[Detections]:
        """images: [3, H, W] uint8 each. names: for errors. Raises ConfigError for what the artifact does not hold,
        NonFiniteError naming an image whose answer has NaN."""
        arrays = [image.permute(1, 2, 0).numpy() for image in images]
        found = self.runner(
            arrays, score=score, iou=iou, max_detections=max_detections, batch=batch, names=names
        )
        return [Detections(*(torch.from_numpy(part) for part in one[:3])) for one in found]

    def describe(self) -> str:
        """How it is run, in one line."""
        header = self.runner.header
        return f"{header.target}, {header.precision}, {'' if self.runner.certified else 'not '}certified"

    def on_data(
        self,
        data: DetectionData,
        *,
        score: float,
        iou: float,
        max_detections: int | None,
        batch: int,
        after_each: Callable[[int], None] = lambda images: None,
    ) -> dict[int | str, Detections]:
        """By image id. after_each: called after each batch with its number of images.

        Raises DataError naming an image that cannot be read, ConfigError as above."""
        found: dict[int | str, Detections] = {}
        for start in range(0, len(data), batch):
            records = data.records[start : start + batch]
            images = [torch.from_numpy(read_pixels(record.path)).permute(2, 0, 1) for record in records]
            answers = self.detect(
                images,
                score=score,
                iou=iou,
                max_detections=max_detections,
                batch=batch,
                names=[record.path for record in records],
            )
            found |= {record.id: answer for record, answer in zip(records, answers, strict=True)}
            after_each(len(records))
        return found
