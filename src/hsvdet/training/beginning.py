"""What a run begins with: a model by name, or a checkpoint, made for the classes of the data when these are known."""

# pyright: strict, reportUnknownMemberType=false
# PyTorch's own types leave some of its functions untyped.

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from os import PathLike
from typing import Any

import torch

from .. import models
from ..checkpoint import check_description, read_header
from ..data.dataset import DetectionData
from ..detector import Detector, build, create
from ..errors import CheckpointError, ConfigError
from ..hub import is_address
from ..options import override
from ..preprocess import Preprocess, Size
from .backbone_weights import start_backbone
from .warm_start import warm_start


@dataclass(frozen=True, kw_only=True)
class Beginning:
    """model: a name of the table. options: numbers of its configuration that differ. size: of its input, where not the
    model's own. weights, backbone_weights: what it starts from, of all of it or of its backbone."""

    model: str
    options: dict[str, Any]
    size: Size | None
    weights: str | None
    backbone_weights: str | None

    @property
    def config(self) -> Any:
        return override(models.find(self.model).config, self.options)

    def changed(self, options: Mapping[str, Any]) -> Beginning:
        """With more numbers of the configuration. Raises ConfigError for what the model does not have."""
        begun = replace(self, options={**self.options, **options})
        config = begun.config
        if "backbone" in options:
            with torch.device("meta"):  # an unknown one is found out before the data are read
                build(models.find(self.model), config, 1)
        return begun

    def create(self, data: DetectionData, seed: int) -> Detector:
        """With the classes of the data."""
        torch.manual_seed(seed)
        detector = create(
            self.model,
            data.labels,
            size=self.size,
            category_ids=data.category_ids,
            options=self.options,
        )
        if self.weights is not None:
            logging.getLogger("hsvdet").info("%s", warm_start(detector, self.weights))
        if self.backbone_weights is not None:
            start_backbone(detector, self.backbone_weights)
        return detector


def begin(
    model: str | PathLike[str],
    *,
    weights: str | PathLike[str] | None = None,
    backbone_weights: str | PathLike[str] | None = None,
    size: Size | None = None,
) -> Beginning:
    """All that can be refused before the data are read is refused here. Its paths are absolute.

    model: a name, or a checkpoint, which says which model it is, with what configuration and size, and is the weights
    to start from. weights, backbone_weights, size: as of `Beginning`. Raises CheckpointError, ConfigError.
    """
    model = os.fspath(model)
    weights = None if weights is None else os.fspath(weights)
    options: dict[str, Any] = {}
    if model not in models.MODELS and (os.path.exists(model) or model.endswith((".safetensors", ".pt"))):
        if weights is not None:
            raise ConfigError(f"{model} is a checkpoint and brings its weights: give no others.")
        header, weights = read_header(model), model
        check_description(header, weights)
        try:
            model, options = str(header["model"]), header["config"]
            size = size or Preprocess.from_json(header["preprocess"]).size
        except ConfigError as error:
            raise CheckpointError(f"{weights}: its header does not describe a model: {error}") from None
    if weights is not None and backbone_weights is not None:
        raise ConfigError(f"{weights} brings a backbone of its own: give no backbone weights.")
    entry = models.find(model)
    if size is not None:
        entry.preprocess.resized(size)
    begun = Beginning(
        model=model,
        options={},
        size=size,
        weights=None if weights is None else located(weights),
        backbone_weights=None if backbone_weights is None else located(backbone_weights),
    )
    return begun.changed(options)


def located(path: str | PathLike[str]) -> str:
    """A path that means the same in another working directory; an address on the hub or a model's name as it is."""
    named = str(path) in models.MODELS and not os.path.exists(path)
    return str(path) if is_address(path) or named else os.path.abspath(os.path.expanduser(path))
