"""The data of a run, opened: what is trained on, and what validates it."""

# pyright: strict

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from typing import NamedTuple

from ..data.class_names import strangers
from ..data.dataset import DetectionData
from ..data.division import Division, divide
from ..data.formats.splits import ALL
from ..data.read import available_splits, read_data
from ..errors import ConfigError, DataError

Data = str | os.PathLike[str] | DetectionData | tuple[DetectionData, DetectionData | None]

log = logging.getLogger("hsvdet")


class Divided(NamedTuple):
    """A division of a split of the data set at a path."""

    division: Division
    data: str
    split: str


class Opened(NamedTuple):
    """divided: where the validation images were set aside from the others, how."""

    training: DetectionData
    validation: DetectionData | None
    divided: Divided | None = None


def open_data(
    data: Data,
    *,
    split: str,
    val_split: str | None,
    val_fraction: float,
    seed: int,
    labels: Sequence[str] | None,
) -> Opened:
    """data, split, val_split, val_fraction, seed: as in `train`. labels: the classes, in this order; None for the
    data set's own. Never validates on what it trains on, but where that was asked for by name: then it warns.
    Raises ConfigError, DataError."""
    if isinstance(data, DetectionData):
        data = (data, None)
    if isinstance(data, tuple):
        training, validation = data
        path = str(training.root)
        if val_fraction and validation is not None:
            raise ConfigError(
                "val_fraction divides data without validation images; these have some. Leave it out."
            )
    else:
        path = str(data)
        val_split = _validating(path, split, val_split, val_fraction)
        training = read_data(path, split, labels=labels)
        validation = None
        if val_split is not None:
            validation = read_data(path, val_split, labels=training.labels)
            if stranger := next(strangers(training, validation), None):
                raise DataError(f"{path}, split {val_split}: {stranger}")
    if not val_fraction:
        return Opened(training, validation)
    division = divide(training, val_fraction, seed)
    log.info("%s: %s.", path, division)
    return Opened(division.training, division.validation, Divided(division, path, training.split))


def _validating(path: str, split: str, val_split: str | None, val_fraction: float) -> str | None:
    """The split to read for validation, or None."""
    if val_split is None:
        return None
    splits = available_splits(path)
    undivided = splits == (ALL,)
    if val_fraction:
        if val_split in splits:
            raise ConfigError(
                f"val_fraction divides data without a validation split; {path} has {val_split!r}. Leave val_fraction"
                f" out, or let val_split be none: then {split!r} is divided."
            )
        return None
    if undivided:
        # It would answer to any name, and the run would be judged by what it learned from.
        log.warning(
            "%s is not divided into splits: all of it is trained on, none validates. Set a part aside with"
            " val_fraction, such as 0.2.",
            path,
        )
        return None
    if val_split not in splits:
        raise DataError(
            f"{path} has no split {val_split!r} to validate on, it has {', '.join(splits)}. Name one with val_split,"
            f" set a part of {split!r} aside with val_fraction (such as 0.2), or let val_split be none."
        )
    if val_split == split:
        log.warning(
            "%s: trained and validated on the same images (%s). Its AP says nothing of others.", path, split
        )
    return val_split
