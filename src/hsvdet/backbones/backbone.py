"""What every backbone is: images to maps."""

# pyright: strict

from __future__ import annotations

from torch import Tensor, nn


class Backbone(nn.Module):
    """images [B, 3, H, W] and padding [B, H, W] bool or None, to maps [B, C, h, w], finest first.

    Stages are 1, 2, 3, 4, whose maps have strides 4, 8, 16, 32. channels, strides: of the maps that are given.
    normalisation: mean and standard deviation, of channels in [0, 1], of the images that its published weights
    have seen; None where they are those that the table of models says.
    """

    HALF_PRECISION = True

    channels: tuple[int, ...]
    strides: tuple[int, ...]
    normalisation: tuple[tuple[float, ...], tuple[float, ...]] | None = None

    def check_padding(self) -> None:
        """Raises ConfigError if what it makes of a picture depends on how much padding stands beside it."""

    def forward(self, images: Tensor, padding: Tensor | None = None) -> list[Tensor]:
        """What stands in the padding is read as 0, the mean colour, whatever it is."""
        raise NotImplementedError


def blank(images: Tensor, padding: Tensor | None) -> Tensor:
    """The images with 0, the mean colour, in the padding."""
    return images if padding is None else images.masked_fill(padding[:, None], 0.0)
