"""Every model, in one table. A model is a network, its numbers, its loss, and how its answer is read."""

# pyright: strict

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from torch import nn

from ..criteria.criterion import Criterion
from ..criteria.numbers import LossNumbers
from ..errors import ConfigError, did_you_mean
from ..postprocess import BestClass, Reading, Suppressed, TopPairs
from ..preprocess import Preprocess
from . import (
    anchor_detr,
    conditional_detr,
    dab_detr,
    deduplicated,
    deformable_detr,
    detr,
    dino,
    dn_deformable_detr,
    dn_detr,
    efficient_detr,
    hsg_det,
    hsg_det_plus,
    hsv_det,
    lite_dino,
    mamba_detr,
    rt_detr,
    smca_detr,
    sparse_detr,
    yolov8,
)
from .anchor_detr import AnchorDetr, AnchorDetrConfig
from .conditional_detr import ConditionalDetr, ConditionalDetrConfig
from .dab_detr import DabDetr, DabDetrConfig
from .deduplicated import (
    DeduplicatedHsvDet,
    DeduplicatedHsvDetConfig,
    DeduplicatedYoloV8,
    DeduplicatedYoloV8Config,
)
from .deformable_detr import (
    DeformableDetr,
    DeformableDetrConfig,
    RefiningDeformableDetr,
    TwoStageDeformableDetr,
)
from .detr import Detr, DetrConfig
from .dino import Dino, DinoConfig
from .dn_deformable_detr import DnDeformableDetr, DnDeformableDetrConfig
from .dn_detr import DnDetr, DnDetrConfig
from .efficient_detr import EfficientDetr, EfficientDetrConfig
from .hsg_det import HsgDet, HsgDetConfig
from .hsg_det_plus import HsgDetPlus, HsgDetPlusConfig
from .hsv_det import HsvDet, HsvDetConfig, HsvDetE2e, HsvDetE2eConfig
from .lite_dino import LiteDino, LiteDinoConfig, PlainLiteDino
from .mamba_detr import MambaDetr, MambaDetrConfig
from .rt_detr import RtDetr, RtDetrConfig
from .smca_detr import SmcaDetr, SmcaDetrConfig
from .sparse_detr import SparseDetr, SparseDetrConfig
from .yolov8 import YoloV8, YoloV8Config, YoloV8E2e, YoloV8E2eConfig


class Model(NamedTuple):
    """One row of the table.

    net: (config, number of classes) to the network. config: a frozen dataclass, all the numbers of it.
    criterion: makes the loss, with the numbers of a recipe. reading: how its answer becomes detections. preprocess:
    what it was designed for. recipe: the name of its training recipe (training/recipe.py). padding_cell: the side in
    pixels of the cells in which a graph may tell the network what is padding; only where its output then decodes
    boxes by the exact extents (`DenseOutput.boxes_at`). licence: of the design as written here; published weights
    have their own.
    """

    family: str
    net: Callable[[Any, int], nn.Module]
    config: Any
    criterion: Callable[[LossNumbers], Criterion]
    reading: Reading
    preprocess: Preprocess
    recipe: str
    padding_cell: int = 1
    licence: str = "Apache-2.0"
    note: str = ""


_LETTERBOX = Preprocess(size=(640, 640))
_STRETCH = Preprocess(size=(640, 640), resize="stretch", antialias=True)
_IMAGENET: dict[str, Any] = dict(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), antialias=True)
_SHORTEST = Preprocess(size=(800, 1333), resize="shortest", **_IMAGENET)
_FIT = Preprocess(size=(320, 320), resize="fit", **_IMAGENET)


def _dense(
    family: str, net: Callable[[Any, int], nn.Module], configs: Mapping[str, Any], recipe: str, note: str = ""
) -> dict[str, Model]:
    return {
        name: Model(
            family, net, config, yolov8.criterion, Suppressed(), _LETTERBOX, recipe, padding_cell=8, note=note
        )
        for name, config in configs.items()
    }


def _query(
    family: str,
    net: Callable[[Any, int], nn.Module],
    config: Callable[..., Any],
    variants: Mapping[str, Mapping[str, Any]],
    criterion: Callable[[LossNumbers], Criterion],
    reading: Reading,
    preprocess: Preprocess,
    recipe: str,
) -> dict[str, Model]:
    """Tiny forms are for small images and few of them, whatever the paper's evaluation and training were."""
    rows: dict[str, Model] = {}
    for name, sizes in variants.items():
        own, learned_by = preprocess, recipe
        if name.endswith("-tiny"):
            learned_by = "small-data"
            own = preprocess.resized((320, 320)) if preprocess.resize == "stretch" else _FIT
        rows[name] = Model(family, net, config(**sizes), criterion, reading, own, learned_by)
    return rows


_SCALES = yolov8.VARIANTS.items()

MODELS: dict[str, Model] = {
    **_dense("YOLOv8", YoloV8, {f"yolov8-{s}": YoloV8Config(**scale) for s, scale in _SCALES}, "plain"),
    **_dense(
        "HSV-DET", HsvDet, {f"hsv-det-{s}": HsvDetConfig(**scale) for s, scale in _SCALES},
        "three-stage", "faithful",
    ),
    **_dense(
        "HSV-DET", HsvDet, {f"hsv-det-{s}+": HsvDetConfig(**scale, **hsv_det.PLUS) for s, scale in _SCALES},
        "three-stage", "recommended",
    ),
    **{
        f"yolov8-{s}-e2e": Model(
            "YOLOv8", YoloV8E2e, YoloV8E2eConfig(**scale), yolov8.e2e_criterion, TopPairs(), _LETTERBOX, "plain",
            padding_cell=8, note="no suppression",
        )
        for s, scale in _SCALES
    },
    **{
        f"hsv-det-{s}-e2e": Model(
            "HSV-DET", HsvDetE2e, HsvDetE2eConfig(**scale, **hsv_det.PLUS), yolov8.e2e_criterion, TopPairs(),
            _LETTERBOX, "three-stage", padding_cell=8, note="recommended, no suppression",
        )
        for s, scale in _SCALES
    },
    **{
        f"{name}-{s}-dedup": Model(
            family, net, config(**scale), deduplicated.criterion, TopPairs(), _LETTERBOX, "suppressor",
            note="learned suppression",
        )
        for name, family, net, config in (
            ("yolov8", "YOLOv8", DeduplicatedYoloV8, DeduplicatedYoloV8Config),
            ("hsv-det", "HSV-DET", DeduplicatedHsvDet, DeduplicatedHsvDetConfig),
        )
        for s, scale in _SCALES
    },
    **{
        f"hsg-det-{s}": Model(
            "HSG-Det", HsgDet, HsgDetConfig(**scale), hsg_det.criterion, Suppressed(), _LETTERBOX, "hsg",
            note="faithful",
        )
        for s, scale in hsg_det.VARIANTS.items()
    },
    **{
        f"hsg-det-{s}+": Model(
            "HSG-Det", HsgDetPlus, HsgDetPlusConfig(**scale), hsg_det_plus.criterion, TopPairs(), _LETTERBOX, "hsg",
            note="recommended, no suppression",
        )
        for s, scale in hsg_det.VARIANTS.items()
    },
    **_query("DETR", Detr, DetrConfig, detr.VARIANTS, detr.criterion, BestClass(), _SHORTEST, "detr"),
    **_query(
        "SMCA-DETR", SmcaDetr, SmcaDetrConfig, smca_detr.VARIANTS,
        smca_detr.criterion, TopPairs(), _SHORTEST, "dab-detr",
    ),
    **_query(
        "Conditional DETR", ConditionalDetr, ConditionalDetrConfig, conditional_detr.VARIANTS,
        conditional_detr.criterion, TopPairs(max_detections=100), _SHORTEST, "dab-detr",
    ),
    **_query(
        "DAB-DETR", DabDetr, DabDetrConfig, dab_detr.VARIANTS,
        dab_detr.criterion, TopPairs(), _SHORTEST, "dab-detr",
    ),
    **_query(
        "DN-DETR", DnDetr, DnDetrConfig, dn_detr.VARIANTS,
        dn_detr.criterion, TopPairs(), _SHORTEST, "dab-detr",
    ),
    **_query(
        "Anchor DETR", AnchorDetr, AnchorDetrConfig, anchor_detr.VARIANTS,
        anchor_detr.criterion, TopPairs(max_detections=100), _SHORTEST, "anchor-detr",
    ),
    **_query(
        "Deformable DETR", DeformableDetr, DeformableDetrConfig, deformable_detr.VARIANTS,
        deformable_detr.criterion, TopPairs(max_detections=100), _SHORTEST, "deformable-detr",
    ),
    **_query(
        "Deformable DETR", RefiningDeformableDetr, DeformableDetrConfig, deformable_detr.REFINE_VARIANTS,
        deformable_detr.criterion, TopPairs(max_detections=100), _SHORTEST, "deformable-detr",
    ),
    **_query(
        "Deformable DETR", TwoStageDeformableDetr, DeformableDetrConfig, deformable_detr.TWO_STAGE_VARIANTS,
        deformable_detr.two_stage_criterion, TopPairs(max_detections=100), _SHORTEST, "deformable-detr",
    ),
    **_query(
        "DN-Deformable-DETR", DnDeformableDetr, DnDeformableDetrConfig, dn_deformable_detr.VARIANTS,
        dn_deformable_detr.criterion, TopPairs(), _SHORTEST, "dab-detr",
    ),
    **_query("DINO", Dino, DinoConfig, dino.VARIANTS, dino.criterion, TopPairs(), _SHORTEST, "dino"),
    **_query(
        "Lite-DINO", LiteDino, LiteDinoConfig, lite_dino.VARIANTS,
        dino.criterion, TopPairs(), _SHORTEST, "lite-dino",
    ),
    **_query(
        "Lite-DINO", PlainLiteDino, LiteDinoConfig, lite_dino.PLAIN_VARIANTS,
        dino.criterion, TopPairs(), _SHORTEST, "lite-dino",
    ),
    **_query(
        "Efficient DETR", EfficientDetr, EfficientDetrConfig, efficient_detr.VARIANTS,
        efficient_detr.criterion, TopPairs(max_detections=100), _SHORTEST, "efficient-detr",
    ),
    **_query(
        "Efficient DETR", EfficientDetr, EfficientDetrConfig, efficient_detr.DEEP_VARIANTS,
        efficient_detr.criterion, TopPairs(max_detections=100), _SHORTEST, "sparse-detr",
    ),
    **_query(
        "Sparse DETR", SparseDetr, SparseDetrConfig, sparse_detr.VARIANTS,
        sparse_detr.criterion, TopPairs(max_detections=100), _SHORTEST, "sparse-detr",
    ),
    **_query(
        "RT-DETR", RtDetr, RtDetrConfig, rt_detr.VARIANTS, rt_detr.criterion, TopPairs(), _STRETCH, "rt-detr"
    ),
    **_query(
        "Mamba-DETR", MambaDetr, MambaDetrConfig, mamba_detr.VARIANTS, rt_detr.criterion, TopPairs(), _STRETCH,
        "rt-detr",
    ),
}  # fmt: skip


def find(name: str) -> Model:
    """The row of that name. Raises ConfigError with the nearest name."""
    if name not in MODELS:
        raise ConfigError(
            f"No model is called {name!r}.{did_you_mean(name, MODELS)} `hsvdet models` lists all."
        )
    return MODELS[name]
