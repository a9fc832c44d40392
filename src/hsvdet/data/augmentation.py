"""What happens to images in training: the numbers, and the order in which the transforms follow."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields

import numpy as np

from ..errors import ConfigError
from ..preprocess import Preprocess
from ..structures import Sample
from .mosaic import CopyPasteBoxes, MixUp, Mosaic
from .transforms import ColourJitter, HorizontalFlip, RandomAffine

_LIMITS = {
    "mosaic": (0, 1), "mixup": (0, 1), "copy_paste": (0, 1), "flip": (0, 1),
    "scale": (0, 0.95), "translate": (0, 0.5), "rotate": (0, 180), "shear": (0, 60),
    "hue": (0, 0.5), "saturation": (0, 1), "brightness": (0, 1), "contrast": (0, 1),
    "multi_scale": (0, 0.75),
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """How images are varied in one epoch. All zero, the default, is none: images as evaluation sees them.

    Probabilities per image: mosaic (of four images), mixup (with another image, itself perhaps a mosaic),
    copy_paste (of objects of another image), flip (left and right).
    Largest changes: scale (of the factor: .5 draws from .5 to 1.5), translate (fraction of the canvas),
    rotate and shear (degrees), hue (turns), saturation, brightness and contrast (of the factor).
    multi_scale: largest relative change of the network's input size, drawn per batch.

    Raises ConfigError where a number is out of its range.
    """

    mosaic: float = 0.0
    mixup: float = 0.0
    copy_paste: float = 0.0
    flip: float = 0.0
    scale: float = 0.0
    translate: float = 0.0
    rotate: float = 0.0
    shear: float = 0.0
    hue: float = 0.0
    saturation: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0
    multi_scale: float = 0.0

    def __post_init__(self):
        for field in fields(self):
            value, (low, high) = getattr(self, field.name), _LIMITS[field.name]
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
                raise ConfigError(f"{field.name} expects a number from {low} to {high}, got {value!r}.")

    def check(self, preprocess: Preprocess) -> None:
        """Raises ConfigError where the images' resizing does not allow for this."""
        if preprocess.resize == "shortest" and (self.mosaic or self.mixup):
            raise ConfigError(
                "mosaic and mixup need one canvas for all images, resize='shortest' gives each its own."
                " Set them to 0, or use resize='fit'."
            )

    def __call__(
        self,
        sample: Sample,
        another: Callable[[], Sample],
        preprocess: Preprocess,
        rng: np.random.Generator,
    ) -> Sample:
        """A sample as read to one as trained on, on the canvas of `preprocess`.

        another: gives one more sample as read at each call, for mosaic, mixup and copy_paste.
        """
        affine = RandomAffine(
            preprocess=preprocess,
            scale=self.scale,
            translate=self.translate,
            rotate=self.rotate,
            shear=self.shear,
        )

        def place(sample: Sample) -> Sample:
            if rng.random() < self.mosaic:
                return Mosaic(affine)(sample, another, rng)
            return affine(sample, rng)

        sample = place(sample)
        if rng.random() < self.copy_paste:
            sample = CopyPasteBoxes()(sample, affine(another(), rng), rng)
        if rng.random() < self.mixup:
            sample = MixUp()(sample, place(another()), rng)
        sample = ColourJitter(self.hue, self.saturation, self.brightness, self.contrast)(sample, rng)
        return HorizontalFlip(self.flip)(sample, rng)
