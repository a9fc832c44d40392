"""HSV-DET: Hybrid Sparse Vision detector. This project, 2026.

YOLOv8 plus gated sparse global attention: one block after the backbone's last stage (P5) and one after the
neck's first merge (P4), or at any of P3, P4, P5. Each starts as the identity, so the detector starts as the
YOLOv8 whose weights it is given, bit for bit, and opens towards global context as far as training finds it
useful. Parameters that both share have the same names in both.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..criteria.salience import gaussian_salience
from ..errors import ConfigError
from ..layers.conv import double
from ..layers.csp import PyramidPooling
from ..layers.dense_head import OneToOneConfig, OneToOneHead
from ..layers.selection import selectors_of
from ..layers.sparse_global import SparseGlobal, SparseGlobalConfig
from ..layers.tokens import cell_padding, content_extents
from ..structures import Selection
from .yolov8 import YoloV8, YoloV8Config

STRIDES = {"P3": 8, "P4": 16, "P5": 32}

# The recommended block: multi-head attention that knows place and sees the whole map in coarse.
PLUS: dict[str, Any] = dict(
    k="auto", selector="learned", gate="outproj_zero", heads="auto", position="sincos", context=8, registers=4
)


@dataclass(frozen=True, kw_only=True)
class HsvDetConfig(YoloV8Config, SparseGlobalConfig):
    """YOLOv8's scaling, the block's options, and `insert`: after which maps a block stands."""

    insert: tuple[str, ...] = ("P5", "P4")

    def __post_init__(self):
        super().__post_init__()
        object.__setattr__(self, "insert", tuple(self.insert))
        if not set(self.insert) <= set(STRIDES) or len(set(self.insert)) != len(self.insert):
            raise ConfigError(f"insert expects any of P3, P4, P5, each once; got {', '.join(self.insert)}.")


class HsvDet(YoloV8):
    """images [B, 3, H, W] (H, W multiples of 32, values 0..1), padding [B, H, W] bool, to DenseOutput."""

    EXPLAINED = {"sparse_global": "blocks"}

    def __init__(self, config: HsvDetConfig, num_classes: int):
        super().__init__(config, num_classes)
        pooling = self.stage5[-1]
        assert isinstance(pooling, PyramidPooling)
        channels = {
            "P3": self.down3.conv.in_channels,
            "P4": self.down4.conv.in_channels,
            "P5": pooling.join.conv.out_channels,
        }
        self.sparse_global: Any = nn.ModuleDict(
            {name: SparseGlobal(channels[name], STRIDES[name], config) for name in config.insert}
        )
        self.ranks_by_objects = any(selector.needs_targets for selector in selectors_of(self))

    def readers(self, name: str) -> tuple[tuple[nn.Conv2d, slice], ...]:
        """The convolutions that read the map after block `name`, and which of their input channels it is."""
        channels = self.sparse_global[name].channels
        first, last = slice(channels), slice(-channels, None)
        match name:
            case "P5":
                return (self.top_down4.split.conv, first), (self.bottom_up5.split.conv, last)
            case "P4":
                return (self.top_down3.split.conv, first), (self.bottom_up4.split.conv, last)
            case _:
                return (self.down3.conv, first), *((reader, first) for reader in self.head.readers(0))

    def maps(
        self, images: Tensor, padding: Tensor | None, targets
    ) -> tuple[list[Tensor], tuple[Selection, ...]]:
        selections: list[Selection] = []

        def with_context(name: str, level: Tensor) -> Tensor:
            if name not in self.sparse_global:
                return level
            size = level.shape[-2], level.shape[-1]
            ranking = None
            if self.ranks_by_objects and targets is not None:
                ranking = gaussian_salience(targets, content_extents(images, padding), size, STRIDES[name])
            mask = None if padding is None else cell_padding(padding, size)
            output = self.sparse_global[name](level, mask, ranking)
            if output.scores is not None:
                selections.append(Selection(output.scores, STRIDES[name], output.kept))
            return output.map

        p3 = self.stage3(self.stage2(self.stem(images)))
        p4 = self.stage4(p3)
        p5 = with_context("P5", self.stage5(p4))
        p4 = with_context("P4", self.top_down4(torch.cat([double(p5), p4], 1)))
        p3 = with_context("P3", self.top_down3(torch.cat([double(p4), p3], 1)))
        p4 = self.bottom_up4(torch.cat([self.down3(p3), p4], 1))
        p5 = self.bottom_up5(torch.cat([self.down4(p4), p5], 1))
        return [p3, p4, p5], tuple(selections)


@dataclass(frozen=True, kw_only=True)
class HsvDetE2eConfig(OneToOneConfig, HsvDetConfig):
    """HSV-DET's options, and the numbers of its one-to-one head."""


class HsvDetE2e(HsvDet):
    """HSV-DET with a one-to-one head: its answer needs no suppression, so what context says of who stands where
    can decide."""

    EXTENDS = {"head.": "head.twin."}

    def make_head(self, channels: tuple[int, ...], config: Any, num_classes: int) -> OneToOneHead:
        return OneToOneHead(channels, num_classes, config)
