"""How models are trained, as numbers: the table of recipes, one name for each row of models/__init__.py."""

# pyright: strict

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..criteria.numbers import LossNumbers
from ..data.augmentation import Augmentation
from ..errors import ConfigError, did_you_mean
from ..options import override, typed

AUGMENTATIONS = tuple(field.name for field in dataclasses.fields(Augmentation))
MIXING = ("mosaic", "mixup", "copy_paste", "multi_scale")


@dataclass(frozen=True, kw_only=True)
class Recipe(LossNumbers):
    """The numbers of a training run. AdamW, a linear warm-up, then a cosine or a drop.

    A run has three stages, in shares of its epochs: integrate, without images being mixed (mosaic, mixup,
    copy_paste, multi_scale); hybrid, with all augmentation; settle, again without mixing.

    epochs: unless the caller says otherwise. integrate, settle: shares in [0, 1]. settle_epochs: longest
      settle stage.
    learning_rate: the highest, from random weights; warm_learning_rate: from trained ones. Factors of it:
      backbone_rate for a backbone whose weights were trained before, alone or with the rest; sampling_rate
      for the layers that say where deformable attention looks; gate_rate for gates of sparse global blocks.
    warmup_epochs, warmup_steps, warmup_share: the warm-up ends at the earliest of the three (a share of all
      steps). cosine_until: share of the run at which the cosine reaches `final_rate` (of the highest rate);
      constant from there. drop: without a cosine; the rate is the highest until this share of the run, and
      `final_rate` of it from there. 0 for the cosine; 1 for a constant rate.
    weight_decay: of weight matrices and convolution kernels; decay_all: of norms, biases and embeddings too.
      gate_limit: gates are clipped to +- this.
    clip: largest norm of the gradient. nominal_batch: batches are accumulated to about this many images.
    ema_decay, ema_ramp: weights are averaged with decay d (1 - exp(-t / ramp)) after t steps; ema_decay_small
      in a run of fewer than 10 ramps. 0: no average.
    frozen_norm_batch: batch statistics of trained weights are kept when fewer images than this share them.
    sync_norm: batch statistics over all processes (CUDA only).
    The rest: as in `Augmentation` (data/augmentation.py), in full in the hybrid stage; and in `LossNumbers`
    (criteria/numbers.py).
    """

    epochs: int = 100
    integrate: float = 0.0
    settle: float = 0.2
    settle_epochs: int = 10
    learning_rate: float = 1e-3
    warm_learning_rate: float = 2e-4
    backbone_rate: float = 0.1
    sampling_rate: float = 1.0
    gate_rate: float = 10.0
    warmup_epochs: float = 3.0
    warmup_steps: int = 1000
    warmup_share: float = 0.1
    cosine_until: float = 1.0
    final_rate: float = 0.01
    drop: float = 0.0
    weight_decay: float = 5e-4
    decay_all: bool = False
    gate_limit: float = 2.0
    beta1: float = 0.9
    beta2: float = 0.999
    clip: float = 10.0
    nominal_batch: int = 16
    ema_decay: float = 0.9999
    ema_decay_small: float = 0.999
    ema_ramp: float = 2000.0
    frozen_norm_batch: int = 8
    sync_norm: bool = False
    mosaic: float = 1.0
    mixup: float = 0.0
    copy_paste: float = 0.0
    flip: float = 0.5
    scale: float = 0.5
    translate: float = 0.1
    rotate: float = 0.0
    shear: float = 0.0
    hue: float = 0.015
    saturation: float = 0.7
    brightness: float = 0.4
    contrast: float = 0.0
    multi_scale: float = 0.0

    def __post_init__(self):
        for field in dataclasses.fields(self):
            value = typed(type(self), field.name, getattr(self, field.name))
            object.__setattr__(self, field.name, value)
        for name in (
            "integrate", "settle", "cosine_until", "warmup_share", "final_rate", "drop", "backbone_rate",
        ):  # fmt: skip
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name} expects a share from 0 to 1, got {getattr(self, name)}.")
        if self.integrate + self.settle > 1:
            raise ConfigError(
                "integrate and settle expect a sum of at most 1: they are shares of the epochs."
            )
        for name in ("beta1", "beta2", "ema_decay", "ema_decay_small"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"{name} expects a number from 0 to below 1, got {getattr(self, name)}.")
        for name in ("learning_rate", "warm_learning_rate", "clip", "ema_ramp", "epochs", "nominal_batch"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} expects a number above 0, got {getattr(self, name)}.")
        for name in (
            "weight_decay", "gate_rate", "sampling_rate", "gate_limit", "warmup_epochs", "warmup_steps",
            "smallest_side", "selector_gain",
        ):  # fmt: skip
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} expects 0 or more, got {getattr(self, name)}.")
        super().__post_init__()
        self._full_augmentation()

    def stage(self, epoch: int, epochs: int) -> str:
        """integrate, hybrid or settle: the stage of an epoch, counted from 0."""
        if epoch < round(self.integrate * epochs):
            return "integrate"
        if epoch >= epochs - min(self.settle_epochs, round(self.settle * epochs)):
            return "settle"
        return "hybrid"

    def augmentation(self, epoch: int, epochs: int) -> Augmentation:
        """Of an epoch, counted from 0, of a run of `epochs`."""
        full = self._full_augmentation()
        if self.stage(epoch, epochs) == "hybrid":
            return full
        return dataclasses.replace(full, **dict.fromkeys(MIXING, 0.0))

    def accumulation(self, batch: int) -> int:
        """How many batches of this many images make one step."""
        return max(1, round(self.nominal_batch / batch))

    def _full_augmentation(self) -> Augmentation:
        return Augmentation(**{name: getattr(self, name) for name in AUGMENTATIONS})


# What the papers of the DETR lineage share: a constant rate and one drop, no average of the weights, decay of
# everything. Their images are flipped, resized to a shorter side of 480 to 800 and, half of them, cropped
# before: a picture 0.6 to 1.56 times as large as evaluation's. Here the canvas stays evaluation's, with the
# picture at 0.6 to 1.4 of its size somewhere on it; crops do not change the aspect.
_LINEAGE = Recipe(
    settle=0.0,
    learning_rate=1e-4,
    warm_learning_rate=1e-4,
    warmup_epochs=0.0,
    final_rate=0.1,
    drop=0.8,
    weight_decay=1e-4,
    decay_all=True,
    clip=0.1,
    ema_decay=0.0,
    ema_decay_small=0.0,
    mosaic=0.0,
    scale=0.4,
    translate=0.2,
    hue=0.0,
    saturation=0.0,
    brightness=0.0,
)

RECIPES: dict[str, Recipe] = {
    "plain": Recipe(),
    # HSV-DET's protocol, but for one number: it holds the rate at 1 % while it settles (cosine_until=0.8), and
    # what settles then does not learn. experiments/bccd_from_scratch
    "three-stage": Recipe(
        integrate=0.1,
        settle=0.2,
        settle_epochs=1000,
        weight_decay=0.05,
        mixup=0.1,
        copy_paste=0.3,
    ),
    # A suppressor behind a detector that is as it is. On images that the detector has memorised candidates differ from
    # those on new ones, so images are mixed to the end. It gains until the 20th epoch or so: experiments/crowds
    "suppressor": Recipe(
        epochs=30,
        settle=0.0,
        learning_rate=1e-3,
        warm_learning_rate=1e-3,
        weight_decay=1e-4,
        clip=1.0,
        ema_decay_small=0.998,
        ema_ramp=300.0,
    ),
    # HSG-Det: three-stage's augmentation and decay of a detector that is part convolutions and part transformer; the
    # gradient is clipped as for transformers, and its selectors, one a level, learn to find objects of their level.
    "hsg": Recipe(
        integrate=0.1,
        settle=0.2,
        settle_epochs=1000,
        weight_decay=0.05,
        clip=1.0,
        mixup=0.1,
        copy_paste=0.3,
        salience="border-by-level",
        selector_gain=1.0,
    ),
    # Set prediction from random weights on few images: no paper's, but what works (docs/training.md).
    # Steps of few images, a high rate, an average that is felt within a thousand steps.
    "small-data": Recipe(
        settle=0.0,
        learning_rate=1e-3,
        warm_learning_rate=1e-4,
        weight_decay=1e-4,
        clip=1.0,
        nominal_batch=4,
        ema_decay=0.998,
        ema_decay_small=0.998,
        ema_ramp=300.0,
        mosaic=0.0,
        scale=0.3,
        saturation=0.4,
        brightness=0.2,
    ),
    # DETR (arXiv 2005.12872), section 4 and appendix A.4: 64 images a step, 500 epochs, the rate dropped at
    # 400. The ablations' short schedule is 300 epochs, dropped at 200: epochs=300, drop=0.667.
    "detr": dataclasses.replace(_LINEAGE, epochs=500, nominal_batch=64),
    # SMCA-DETR (arXiv 2101.07448), section 4.1; Conditional DETR (arXiv 2108.06152), section 4.1; DAB-DETR (arXiv
    # 2201.12329), section 5 and appendix A; DN-DETR (arXiv 2203.01305), section 5.1: 16 images a step, 50 epochs,
    # dropped at 40.
    "dab-detr": dataclasses.replace(_LINEAGE, epochs=50),
    # Anchor DETR (arXiv 2109.07107), section 4.1: 8 images a step, 50 epochs, dropped at 40.
    "anchor-detr": dataclasses.replace(_LINEAGE, epochs=50, nominal_batch=8),
    # Deformable DETR (arXiv 2010.04159), section 5: 32 images a step, 50 epochs, dropped at 40; a tenth of the
    # rate for sampling offsets and reference points.
    "deformable-detr": dataclasses.replace(
        _LINEAGE, epochs=50, learning_rate=2e-4, nominal_batch=32, sampling_rate=0.1
    ),
    # DINO (arXiv 2203.03605), section 4.1 and appendix: 16 images a step, 12 epochs, dropped at 11. Its longer
    # schedules are 24 epochs, dropped at 20, and 36, dropped at 30: epochs=36, drop=0.833.
    "dino": dataclasses.replace(_LINEAGE, epochs=12, drop=11 / 12),
    # Lite DETR (arXiv 2303.07335): DINO's longest schedule.
    "lite-dino": dataclasses.replace(_LINEAGE, epochs=36, drop=30 / 36),
    # Efficient DETR (arXiv 2104.01318), section 5: 16 images a step, 36 epochs; where the rate drops is DETR's share.
    "efficient-detr": dataclasses.replace(_LINEAGE, epochs=36, sampling_rate=0.1),
    # Sparse DETR (arXiv 2111.14330), section 4: Deformable DETR's, with 16 images a step.
    "sparse-detr": dataclasses.replace(_LINEAGE, epochs=50, learning_rate=2e-4, sampling_rate=0.1),
    # RT-DETR (arXiv 2304.08069), section 5.1 and appendix: 16 images a step, 72 epochs of a constant rate after
    # 2000 steps of warm-up, averaged weights, sizes of 480 to 800 for 640. The paper's colours vary in half of
    # the images, here in all; its pictures shrink to a quarter or are cropped by the overlap with an object,
    # here scaled. Its R101 takes backbone_rate=0.01.
    "rt-detr": dataclasses.replace(
        _LINEAGE,
        epochs=72,
        warmup_epochs=3.0,
        warmup_steps=2000,
        drop=1.0,
        decay_all=False,
        ema_decay=0.9999,
        ema_decay_small=0.999,
        scale=0.5,
        hue=0.05,
        saturation=0.5,
        brightness=0.125,
        contrast=0.5,
        multi_scale=0.25,
    ),
}


def find_recipe(recipe: str | Recipe, options: Mapping[str, Any] | None = None) -> Recipe:
    """A recipe, by its name if it is one, with some numbers changed. Raises ConfigError, with the nearest name."""
    if isinstance(recipe, str):
        if recipe not in RECIPES:
            raise ConfigError(
                f"No recipe is called {recipe!r}.{did_you_mean(recipe, RECIPES)} There are: {', '.join(RECIPES)}."
            )
        recipe = RECIPES[recipe]
    return override(recipe, options or {})
