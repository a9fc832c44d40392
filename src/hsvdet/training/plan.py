"""What a run is asked to do, checked before anything is written."""

# pyright: strict

from __future__ import annotations

import dataclasses
import hashlib
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from .. import models
from ..data.dataset import DetectionData
from ..data.loader import subset
from ..detector import Detector, Start
from ..errors import ConfigError
from ..options import typed
from ..validation import check_labels
from .asked import Asked
from .capacity import check_capacity
from .opening import Data, Divided, Opened, open_data
from .recipe import Recipe, find_recipe

LARGEST_BATCH = 16  # unless asked for


@dataclass(frozen=True, kw_only=True)
class Plan:
    """One run: what learns from what, how long and how. The numbers are as in `train`, all of them known.

    epochs_asked: they were given; only then may a run that is resumed become longer or shorter. divided: where
    validation images were set aside from the training split, how. source and start: of the detector's weights at the
    start. warm: all of them were trained before; trained_backbone: those of its backbone were.
    """

    detector: Detector
    training_data: DetectionData
    validation_data: DetectionData | None
    divided: Divided | None
    out: Path
    recipe: Recipe
    epochs: int
    epochs_asked: bool
    batch: int
    accumulate: int
    precision: str
    seed: int
    fraction: float
    workers: int | None
    save_every: float
    asked: Asked | None
    source: str
    start: Start

    @property
    def warm(self) -> bool:
        return self.start == "trained"

    @property
    def trained_backbone(self) -> bool:
        return self.start != "random"

    @cached_property
    def settings(self) -> dict[str, Any]:
        """What must not change when the run is resumed."""
        validation = self.validation_data
        return {
            "model": self.detector.name,
            "config": dataclasses.asdict(self.detector.config),
            "labels": list(self.detector.labels),
            "preprocess": self.detector.preprocess.to_json(),
            "recipe": dataclasses.asdict(self.recipe),
            "epochs": self.epochs,
            "batch": self.batch,
            "accumulate": self.accumulate,
            "precision": self.precision,
            "seed": self.seed,
            "warm": self.warm,
            "trained_backbone": self.trained_backbone,
            "fraction": self.fraction,
            "data": {
                "train": _fingerprint(self.training_data),
                "val": validation and _fingerprint(validation),
            },
            **({"val_fraction": self.divided.division.fraction} if self.divided is not None else {}),
        }

    @property
    def trained_source(self) -> str:
        """What the detector says of its weights after the run."""
        start = f", starting from: {self.source}" if self.trained_backbone else ""
        name, images = self.training_data.root.name, len(self.training_data)
        return f"trained with hsvdet on {name} ({images} images){start}"


def make_plan(
    detector: Detector | Callable[[DetectionData], Detector],
    data: Data,
    out: str | os.PathLike[str],
    *,
    recipe: str | Recipe | None,
    options: Mapping[str, Any] | None,
    epochs: int | None,
    batch: int | None,
    accumulate: int | None,
    precision: str,
    seed: int,
    workers: int | None,
    split: str,
    val_split: str | None,
    val_fraction: float,
    fraction: float,
    save_every: float,
    asked: Asked | None = None,
) -> Plan:
    """Reads the data, gives the detector their category ids, and fills in what the recipe knows.

    Parameters as of `train`. Raises ConfigError, DataError.
    """

    numbers = {
        "epochs": epochs, "batch": batch, "accumulate": accumulate, "workers": workers, "fraction": fraction,
        "val_fraction": val_fraction, "save_every": save_every,
    }  # fmt: skip
    for name, number in numbers.items():
        typed(Asked, name, number)
        if name in ("epochs", "batch", "accumulate") and number == 0:
            raise ConfigError(f"{name} expects a whole number from 1 on, got 0.")

    def opened(labels: Sequence[str] | None) -> Opened:
        return open_data(
            data, split=split, val_split=val_split, val_fraction=val_fraction, seed=seed, labels=labels
        )

    if isinstance(detector, Detector):
        _check_trainable(detector)
        images = opened(detector.labels)
    else:
        images = opened(None)
        detector = detector(images.training)
        _check_trainable(detector)
    chosen = find_recipe(recipe or models.find(detector.name).recipe, options)
    epochs_asked = epochs is not None
    epochs = chosen.epochs if epochs is None else epochs
    batch = min(LARGEST_BATCH, chosen.nominal_batch) if batch is None else batch
    for part in (images.training, images.validation):
        if part is not None:
            check_labels(detector, part)
    detector.category_ids = tuple(images.training.category_ids)
    across = detector.preprocess.across([record.size for record in images.training.records])
    if across is not None:
        logging.getLogger("hsvdet").warning("%s", across)
    training = subset(images.training, fraction, seed) if fraction != 1 else images.training
    check_capacity(detector.name, detector.config, training)
    return Plan(
        detector=detector,
        training_data=training,
        validation_data=images.validation,
        divided=images.divided,
        out=Path(out),
        recipe=chosen,
        epochs=epochs,
        epochs_asked=epochs_asked,
        batch=batch,
        accumulate=accumulate or chosen.accumulation(batch),
        precision=precision,
        seed=seed,
        fraction=fraction,
        workers=workers,
        save_every=save_every,
        asked=asked,
        source=detector.source,
        start=detector.start,
    )


def _check_trainable(detector: Detector) -> None:
    for fixes in ("pretrained", "frozen"):  # as DETR's lineage and RT-DETR call it
        if detector.start == "random" and getattr(detector.config, fixes, False):
            raise ConfigError(
                f"{detector.name} keeps the normalisation of a trained backbone, and its backbone is random. Start"
                " from trained weights (weights), or a backbone from ImageNet (backbone_weights), or train all of"
                f" it ({fixes}=false)."
            )
    if detector.start == "random" and getattr(detector.config, "frozen_detector", False):
        raise ConfigError(
            f"{detector.name} learns a suppressor behind a detector that stays as it is, and this one is random."
            " Give it a trained one (--suppressor --weights FILE; in Python `with_suppressor`), or train both"
            " (frozen_detector=false)."
        )
    if detector.folded is not None:
        raise ConfigError(
            "train expects a detector with its layers apart; this one is deployed. Train the one it was made of."
        )


def _fingerprint(data: DetectionData) -> dict[str, Any]:
    """Images and annotations of a split, without its place: a data set may be moved."""
    digest = hashlib.sha256()
    for record in data.records:
        digest.update(str(record.id).encode())
        for part in (record.boxes, record.labels, record.crowd, record.labelled):
            if part is not None:
                digest.update(np.ascontiguousarray(part).tobytes())
    return {"images": len(data), "sha256": digest.hexdigest()[:16]}
