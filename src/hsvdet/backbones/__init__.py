"""Backbones by name."""

# pyright: strict

from __future__ import annotations

from ..errors import ConfigError, did_you_mean
from . import resnet, resnet_vd
from .backbone import Backbone
from .resnet import ResNet
from .resnet_vd import ResNetVd
from .timm import PREFIX, TimmBackbone

__all__ = ["Backbone", "build"]


def build(
    name: str, stages: tuple[int, ...] = (2, 3, 4), *, frozen: int | None = None, dilated: bool = False
) -> Backbone:
    """A backbone with random weights, that gives the maps of `stages` (see Backbone).

    name: a ResNet of resnet.py or resnet_vd.py, or timm/NAME for any network of timm with such maps, for example
    timm/resnet18.a1_in1k. frozen: how it is treated that has learned before: its batch normalisation is fixed, and
    the stem and the first `frozen` stages are not trained; None: all of it is trained. dilated: the last stage
    keeps stride 16 and looks twice as far instead (DC5). Raises ConfigError for a name that there is not, and for
    what a backbone cannot do.
    """
    if name.startswith(PREFIX):
        return TimmBackbone(name, stages, frozen=frozen, dilated=dilated)
    if name in resnet.VARIANTS:
        return ResNet(name, stages, frozen=frozen, dilated=dilated)
    if name in resnet_vd.VARIANTS:
        if dilated:
            raise ConfigError(f"{name} has no dilated form. Choose resnet50 or resnet101, or dilated=false.")
        return ResNetVd(name, stages, frozen=frozen)
    known = [*resnet.VARIANTS, *resnet_vd.VARIANTS]
    raise ConfigError(
        f"No backbone is called {name!r}.{did_you_mean(name, known)} There are {', '.join(known)}, and"
        f" {PREFIX}NAME for networks of timm, such as {PREFIX}resnet18.a1_in1k."
    )
