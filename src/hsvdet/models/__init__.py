"""Every model, in one table. A model is a network, its numbers, its loss, and how its answer is read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from torch import nn

from ..criteria.dense import DenseCriterion
from ..errors import ConfigError, did_you_mean
from ..postprocess import nms
from ..preprocess import Preprocess
from . import hsv_det, yolov8
from .hsv_det import HsvDet, HsvDetConfig
from .yolov8 import YoloV8, YoloV8Config


class Model(NamedTuple):
    """One row of the table.

    net: (config, number of classes) to the network. config: a frozen dataclass, all the numbers of it.
    criterion: makes the loss. postprocess: Prediction and original sizes to Detections. preprocess: what it
    was designed for. recipe: the name of its training recipe (training/recipe.py). licence: of the design as
    written here; published weights have their own.
    """

    family: str
    net: Callable[[Any, int], nn.Module]
    config: Any
    criterion: Callable[[], nn.Module]
    postprocess: Callable
    preprocess: Preprocess
    recipe: str
    licence: str = "Apache-2.0"
    note: str = ""


_LETTERBOX = Preprocess(size=(640, 640))


def _yolov8(scale: dict) -> Model:
    return Model("YOLOv8", YoloV8, YoloV8Config(**scale), DenseCriterion, nms, _LETTERBOX, "plain")


def _hsv_det(scale: dict, note: str, options: dict) -> Model:
    config = HsvDetConfig(**scale, **options)
    return Model("HSV-DET", HsvDet, config, DenseCriterion, nms, _LETTERBOX, "three-stage", note=note)


MODELS: dict[str, Model] = {
    **{f"yolov8-{s}": _yolov8(scale) for s, scale in yolov8.VARIANTS.items()},
    **{f"hsv-det-{s}": _hsv_det(scale, "faithful", {}) for s, scale in yolov8.VARIANTS.items()},
    **{f"hsv-det-{s}+": _hsv_det(scale, "recommended", hsv_det.PLUS) for s, scale in yolov8.VARIANTS.items()},
}


def find(name: str) -> Model:
    """The row of that name. Raises ConfigError with the nearest name."""
    if name not in MODELS:
        raise ConfigError(
            f"No model is called {name!r}.{did_you_mean(name, MODELS)} `hsvdet models` lists all."
        )
    return MODELS[name]
