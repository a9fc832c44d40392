"""How models are trained, as numbers: the table of recipes, one name for each row of models/__init__.py."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..data.augmentation import Augmentation
from ..detector import override
from ..errors import ConfigError, did_you_mean

AUGMENTATIONS = tuple(field.name for field in dataclasses.fields(Augmentation))
MIXING = ("mosaic", "mixup", "copy_paste", "multi_scale")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """The numbers of a training run. AdamW, a linear warm-up and a cosine.

    A run has three stages, in shares of its epochs: integrate, without images being mixed (mosaic, mixup,
    copy_paste, multi_scale); hybrid, with all augmentation; settle, again without mixing.

    epochs: unless the caller says otherwise. integrate, settle: shares in [0, 1]. settle_epochs: longest
      settle stage.
    learning_rate: the highest, from random weights; warm_learning_rate: from trained ones, whose backbone
      then learns at `warm_backbone` of it. gate_rate: factor for the gates of sparse global blocks.
    warmup_epochs, warmup_steps, warmup_share: the warm-up ends at the earliest of the three (a share of all
      steps). cosine_until: share of the run at which the cosine reaches `final_rate` (of the highest rate);
      constant from there.
    weight_decay: of weight matrices and convolution kernels only. gate_limit: gates are clipped to +- this.
    clip: largest norm of the gradient. nominal_batch: batches are accumulated to about this many images.
    ema_decay, ema_ramp: weights are averaged with decay d (1 - exp(-t / ramp)) after t steps; ema_decay_small
      in a run of fewer than 10 ramps.
    frozen_norm_batch: batch statistics of trained weights are kept when fewer images than this share them.
    sync_norm: batch statistics over all processes (CUDA only).
    The rest: as in `Augmentation` (data/augmentation.py), in full in the hybrid stage.
    """

    epochs: int = 100
    integrate: float = 0.0
    settle: float = 0.2
    settle_epochs: int = 10
    learning_rate: float = 1e-3
    warm_learning_rate: float = 2e-4
    warm_backbone: float = 0.1
    gate_rate: float = 10.0
    warmup_epochs: float = 3.0
    warmup_steps: int = 1000
    warmup_share: float = 0.1
    cosine_until: float = 1.0
    final_rate: float = 0.01
    weight_decay: float = 5e-4
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
            default, value = field.default, getattr(self, field.name)
            if isinstance(default, float) and type(value) is int:
                object.__setattr__(self, field.name, float(value))
            elif type(value) is not type(default):
                kind = {bool: "true or false", int: "a whole number", float: "a number"}[type(default)]
                raise ConfigError(f"{field.name} expects {kind}, got {value!r}.")
        for name in ("integrate", "settle", "cosine_until", "warmup_share", "final_rate", "warm_backbone"):
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
        for name in ("weight_decay", "gate_rate", "gate_limit", "warmup_epochs", "warmup_steps"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} expects 0 or more, got {getattr(self, name)}.")
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


RECIPES: dict[str, Recipe] = {
    "plain": Recipe(),
    "three-stage": Recipe(
        integrate=0.1,
        settle=0.2,
        settle_epochs=1000,
        cosine_until=0.8,
        weight_decay=0.05,
        mixup=0.1,
        copy_paste=0.3,
    ),
    "query": Recipe(learning_rate=4e-4, warm_learning_rate=1e-4, weight_decay=1e-4, clip=0.1),
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
