"""Every model, in one table. A model is a network, its numbers, its loss, and how its answer is read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from torch import nn

from ..criteria.class_losses import FocalLoss, VarifocalLoss
from ..criteria.dense import DenseCriterion
from ..criteria.set import SetCriterion, SetWeights
from ..errors import ConfigError, did_you_mean
from ..postprocess import nms, top_k
from ..preprocess import Preprocess
from . import deformable_detr, dn_deformable_detr, hsv_det, rt_detr, yolov8
from .deformable_detr import (
    DeformableDetr,
    DeformableDetrConfig,
    RefiningDeformableDetr,
    TwoStageDeformableDetr,
)
from .dn_deformable_detr import DnDeformableDetr, DnDeformableDetrConfig
from .hsv_det import HsvDet, HsvDetConfig
from .rt_detr import RtDetr, RtDetrConfig
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


_IMAGENET = dict(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), antialias=True)
_SHORTEST = Preprocess(size=(800, 1333), resize="shortest", **_IMAGENET)
_FIT = Preprocess(size=(320, 320), resize="fit", **_IMAGENET)


def _focal() -> SetCriterion:
    return SetCriterion(FocalLoss())


def _focal_with_foreground() -> SetCriterion:
    return SetCriterion(FocalLoss(), proposals="foreground")


def _focal_with_real_noise() -> SetCriterion:
    return SetCriterion(FocalLoss(), weights=SetWeights(class_=1.0), denoised_rows="real")


def _varifocal() -> SetCriterion:
    return SetCriterion(VarifocalLoss(), weights=SetWeights(class_=1.0))


def _deformable(name: str, net, sizes: dict, criterion: Callable[[], nn.Module]) -> Model:
    config, preprocess = DeformableDetrConfig(**sizes), _FIT if name.endswith("-tiny") else _SHORTEST
    return Model("Deformable DETR", net, config, criterion, top_k, preprocess, "plain")


def _dn_deformable(name: str, sizes: dict) -> Model:
    config, preprocess = DnDeformableDetrConfig(**sizes), _FIT if name.endswith("-tiny") else _SHORTEST
    return Model(
        "DN-Deformable-DETR", DnDeformableDetr, config, _focal_with_real_noise, top_k, preprocess, "plain"
    )


def _rt_detr(name: str, sizes: dict) -> Model:
    side = 320 if name.endswith("-tiny") else 640
    preprocess = Preprocess(size=(side, side), resize="stretch", antialias=True)
    return Model("RT-DETR", RtDetr, RtDetrConfig(**sizes), _varifocal, top_k, preprocess, "plain")


MODELS: dict[str, Model] = {
    **{f"yolov8-{s}": _yolov8(scale) for s, scale in yolov8.VARIANTS.items()},
    **{f"hsv-det-{s}": _hsv_det(scale, "faithful", {}) for s, scale in yolov8.VARIANTS.items()},
    **{f"hsv-det-{s}+": _hsv_det(scale, "recommended", hsv_det.PLUS) for s, scale in yolov8.VARIANTS.items()},
    **{
        name: _deformable(name, net, sizes, criterion)
        for net, variants, criterion in (
            (DeformableDetr, deformable_detr.VARIANTS, _focal),
            (RefiningDeformableDetr, deformable_detr.REFINE_VARIANTS, _focal),
            (TwoStageDeformableDetr, deformable_detr.TWO_STAGE_VARIANTS, _focal_with_foreground),
        )
        for name, sizes in variants.items()
    },
    **{name: _dn_deformable(name, sizes) for name, sizes in dn_deformable_detr.VARIANTS.items()},
    **{name: _rt_detr(name, sizes) for name, sizes in rt_detr.VARIANTS.items()},
}


def find(name: str) -> Model:
    """The row of that name. Raises ConfigError with the nearest name."""
    if name not in MODELS:
        raise ConfigError(
            f"No model is called {name!r}.{did_you_mean(name, MODELS)} `hsvdet models` lists all."
        )
    return MODELS[name]
