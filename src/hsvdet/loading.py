"""Reading a Detector from its checkpoint, or from the hub."""

# pyright: strict

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from typing import Any, get_args

import torch

from . import models
from .checkpoint import check_tensors, load_tensors, read_checkpoint
from .conversion.foreign import read_foreign
from .detector import Detector, Start, at_most, create, override
from .errors import CheckpointError, ConfigError
from .hub import fetch, is_address
from .preprocess import Preprocess

# What every checkpoint's header has, and the JSON type of it (docs/checkpoint.md).
HEADER = {
    "model": str,
    "config": dict,
    "labels": list,
    "category_ids": list,
    "preprocess": dict,
    "licence": str,
    "source": str,
}


def load(path: str | PathLike[str], device: str | torch.device = "cpu") -> Detector:
    """Read a checkpoint. Strict: every tensor must be there, of the right shape, and no other.

    path: a file, or an address on the Hugging Face hub (hsvdet/hub.py): hf://owner/name. Published weights that
    are found there are converted on the way. Raises CheckpointError for a file that is damaged, of another
    format version, or of another model, and as `hub.fetch`.
    """
    if is_address(path):
        fetched = fetch(path)
        if not fetched.ours:
            return read_foreign(fetched).detector.to(device)
        path = fetched.path
    tensors, header = read_checkpoint(path)
    _check_header(header, path)
    try:
        entry = models.find(header["model"])
        config = override(entry.config, header["config"])
        # On the meta device first: a header that asks for another network is found out before it takes memory.
        # Some are registered twice: those that are shared, and those of parametrised layers.
        with torch.device("meta"), at_most(2 * len(tensors) + 100):
            check_tensors(entry.net(config, len(header["labels"])), tensors, path)
        detector = create(
            header["model"],
            header["labels"],
            category_ids=header["category_ids"],
            options=header["config"],
        )
        detector.preprocess = Preprocess(**header["preprocess"])
    except CheckpointError:
        raise
    except (ArithmeticError, AttributeError, ConfigError, RuntimeError, TypeError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f"{path}: its header does not describe a model: {reason}") from None
    detector.licence, detector.source = header["licence"], header["source"]
    detector.start = header["start"] if "start" in header else _start_of(header["source"])
    detector.extra = {key: value for key, value in header.items() if key not in (*HEADER, "start")}
    load_tensors(detector.net, tensors, path)
    return detector.to(device)


def _start_of(source: str) -> Start:
    """Of a checkpoint from before headers had `start`."""
    if source == "random initialisation":
        return "random"
    return "backbone" if source.startswith("random initialisation, backbone from ") else "trained"


def _check_header(header: Mapping[str, Any], path: str | PathLike[str]) -> None:
    missing = [key for key in HEADER if key not in header]
    if missing:
        raise CheckpointError(
            f"{path}: its header lacks {', '.join(missing)}. Make it again with this hsvdet."
        )
    wrong = [key for key, kind in HEADER.items() if not isinstance(header[key], kind)]
    wrong += [] if wrong or all(isinstance(label, str) for label in header["labels"]) else ["labels"]
    wrong += (
        [] if wrong or all(type(number) is int for number in header["category_ids"]) else ["category_ids"]
    )
    if header.get("start", "random") not in get_args(Start):
        wrong.append("start")
    if wrong:
        raise CheckpointError(
            f"{path}: its header's {wrong[0]} is not what it must be (docs/checkpoint.md):"
            f" {repr(header[wrong[0]])[:60]}. Make it again with this hsvdet."
        )
