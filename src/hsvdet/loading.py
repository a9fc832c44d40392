"""Reading a Detector from its checkpoint, or from the hub."""

# pyright: strict

from __future__ import annotations

import logging
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any, get_args

import torch

from . import models
from .checkpoint import HEADER, check_description, check_tensors, load_tensors, read_checkpoint, wrong_value
from .conversion.foreign import read_foreign
from .detector import Detector, Start, build, create
from .devices import find_device
from .errors import CheckpointError, ConfigError
from .hub import fetch, is_address
from .options import override
from .preprocess import Preprocess, Size
from .weights import PUBLISHED


def load(path: str | PathLike[str], device: str | torch.device = "auto") -> Detector:
    """Read a checkpoint. Strict: every tensor must be there, of the right shape, and no other.

    path: a file; an address on the Hugging Face hub (hsvdet/hub.py), hf://owner/name; or the name of a model whose
    published weights are known (hsvdet/weights.py). Published weights are converted on the way. device: as of
    `find_device`. Raises CheckpointError for a file that is damaged, of another format version, or of another model,
    ConfigError for a device that is not there, and as `hub.fetch`.
    """
    place = find_device(device)
    if str(path) in models.MODELS and not Path(path).exists():
        published = PUBLISHED.get(str(path))
        if published is None:
            raise CheckpointError(
                f"{path} is a model, not weights: it has learned nothing yet. Give a checkpoint, as `hsvdet train"
                f" {path}` writes or `hsvdet convert` makes of published weights, or one of the names that stand for"
                f" weights: {', '.join(PUBLISHED)}."
            )
        logging.getLogger("hsvdet").info("%s: its weights are %s.", path, published)
        path = published.address
    if is_address(path):
        fetched = fetch(path)
        if not fetched.ours:
            return read_foreign(fetched).detector.to(place)
        path = fetched.path
    tensors, header = read_checkpoint(path)
    check_description(header, path)
    if header.get("start", "random") not in get_args(Start):
        raise wrong_value(header, "start", path)
    try:
        entry = models.find(header["model"])
        config = override(entry.config, header["config"])
        # On the meta device first: a header that asks for another network is found out before it takes memory.
        # Some are registered twice: those that are shared, and those of parametrised layers.
        with torch.device("meta"):
            net = build(entry, config, len(header["labels"]), most=2 * len(tensors) + 100)
        check_tensors(net, tensors, path)
        detector = create(
            header["model"],
            header["labels"],
            category_ids=header["category_ids"],
            options=header["config"],
        )
        detector.preprocess = Preprocess.from_json(header["preprocess"])
    except CheckpointError:
        raise
    except ConfigError as error:
        raise CheckpointError(f"{path}: its header does not describe a model: {error}") from None
    detector.licence, detector.source = header["licence"], header["source"]
    detector.start = header["start"] if "start" in header else _start_of(header["source"])
    detector.extra = {key: value for key, value in header.items() if key not in (*HEADER, "start")}
    load_tensors(detector.net, tensors, path)
    return detector.to(place)


def as_detector(
    detector: Detector | str | PathLike[str],
    size: Size | None = None,
    options: Mapping[str, Any] | None = None,
) -> Detector:
    """detector: itself, or where `load` finds it. size: (height, width) of its input, where it is to be another.
    options: as of `Detector.with_options`. Raises as `load`, and ConfigError for what it cannot have."""
    ready = detector if isinstance(detector, Detector) else load(detector, "cpu")
    ready = ready.with_options(options) if options else ready
    return ready if size is None else ready.resized(size)


def _start_of(source: str) -> Start:
    """Of a checkpoint from before headers had `start`."""
    if source == "random initialisation":
        return "random"
    return "backbone" if source.startswith("random initialisation, backbone from ") else "trained"
