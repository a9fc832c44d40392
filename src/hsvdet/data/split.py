"""A data set without validation images, divided on request; `train` does the same with `val_fraction`."""

# pyright: strict

from __future__ import annotations

import os
from os import PathLike
from pathlib import Path

from ..errors import ConfigError, SaveError
from .division import Division, divide, write_division
from .read import available_splits, read_data


def split_data(
    path: str | PathLike[str], out: str | PathLike[str], val_fraction: float = 0.2, seed: int = 0
) -> Division:
    """Set about `val_fraction` of the images aside for validation (see `divide`), and write down which.

    path: a data set with one split, or with `train` and no `val` (formats: see `read_data`). out: a new .json file,
    which is a data set with the splits `train` and `val`; the images stay where they are. The same as `train` writes
    with the same `val_fraction` and seed. Raises ConfigError, DataError, SaveError.
    """
    splits = available_splits(path)
    if "val" in splits:
        raise ConfigError(f"{path} has the split 'val' already: train and validate on {path} itself.")
    out = Path(out).expanduser()
    if out.suffix.lower() != ".json":
        raise ConfigError(f"out expects a .json file to write the division to, got {out}.")
    if os.path.lexists(out):
        raise ConfigError(f"{out} exists already. Remove it, or choose another name.")
    data = read_data(path, splits[0] if len(splits) == 1 else "train")
    division = divide(data, val_fraction, seed)
    try:
        write_division(out, division, str(path), data.split)
    except OSError as error:
        raise SaveError(f"{out} cannot be written: {error.strerror}.") from error
    return division
