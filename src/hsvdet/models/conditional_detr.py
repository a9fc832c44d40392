"""Conditional DETR for Fast Training Convergence. Meng et al., 2021, https://arxiv.org/abs/2108.06152

DETR trains slowly because its queries must find places through content. Here each query has a reference point,
and what the decoder has found so far scales the point's sine embedding into a spatial query, so that every head
looks at a band of the object. About ten times fewer epochs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .. import backbones
from ..boxes import box_at
from ..criteria.class_losses import FocalLoss
from ..criteria.numbers import LossNumbers
from ..criteria.set import SetCriterion
from ..layers.conditional import ConditionalDecoderLayer
from ..layers.initialise import init_class_prior, init_zero_last, xavier
from ..layers.position import cell_positions, sine_of_coordinates
from ..layers.transformer import EncoderLayer, Mlp
from ..structures import Prediction, QueryOutput
from .tiny import TINY


@dataclass(frozen=True, kw_only=True)
class ConditionalDetrConfig:
    """The paper's numbers (section 4.1). See DetrConfig for what the names mean."""

    backbone: str = "resnet50"
    dilated: bool = False
    pretrained: bool = True
    dim: int = 256
    heads: int = 8
    feed_forward: int = 2048
    encoder_layers: int = 6
    decoder_layers: int = 6
    queries: int = 300
    dropout: float = 0.1


VARIANTS: dict[str, dict[str, Any]] = {
    "conditional-detr-r50": dict(),
    "conditional-detr-r50-dc5": dict(dilated=True),
    "conditional-detr-tiny": TINY,
}


class ConditionalDetr(nn.Module):
    """images [B, 3, H, W] normalised, padding [B, H, W] bool, to QueryOutput. Class logits are for sigmoids."""

    BACKBONE = ("backbone",)
    LEARNING_RATES = {"reference": "sampling"}
    HALF_PRECISION = False

    def __init__(self, config: ConditionalDetrConfig, num_classes: int):
        super().__init__()
        dim = config.dim
        self.backbone = backbones.build(
            config.backbone, (4,), frozen=1 if config.pretrained else None, dilated=config.dilated
        )
        self.project = nn.Conv2d(self.backbone.channels[-1], dim, 1)
        self.encoder = nn.ModuleList(
            EncoderLayer(dim, config.heads, config.feed_forward, config.dropout)
            for _ in range(config.encoder_layers)
        )
        self.queries = nn.Parameter(torch.randn(config.queries, dim))
        self.reference = xavier(Mlp(dim, dim, 2, depth=2))
        self.scale = xavier(Mlp(dim, dim, dim, depth=2))
        self.decoder = nn.ModuleList(
            ConditionalDecoderLayer(dim, config.heads, config.feed_forward, config.dropout, first=number == 0)
            for number in range(config.decoder_layers)
        )
        self.norm = nn.LayerNorm(dim)
        self.classes = init_class_prior(nn.Linear(dim, num_classes))
        self.boxes = init_zero_last(Mlp(dim, dim, 4, depth=3))

    def forward(self, images: Tensor, padding: Tensor | None = None, targets=None) -> QueryOutput:
        features = self.project(self.backbone(images, padding)[-1])  # [B, D, h, w]
        position, mask = cell_positions(features, padding)
        memory = features.flatten(2).transpose(1, 2)  # [B, S, D]
        for layer in self.encoder:
            memory = layer(memory, position, mask)

        queries = self.queries.expand(images.shape[0], -1, -1)
        reference = self.reference(queries).float().sigmoid()  # [B, Q, 2] (x, y), fractions
        sine = sine_of_coordinates(reference.flip(-1), queries.shape[-1] // 2)  # [B, Q, D], y then x
        content = torch.zeros_like(queries)
        predictions = []
        for number, layer in enumerate(self.decoder):
            # The spatial query: the reference point's embedding, scaled by what was found so far (3.3).
            spatial = sine if number == 0 else sine * self.scale(content)
            content = layer(content, queries, spatial, memory, position, mask)
            normalised = self.norm(content)
            boxes = box_at(reference, self.boxes(normalised))
            predictions.append(Prediction(self.classes(normalised), boxes))
        return QueryOutput(tuple(predictions))


def criterion(numbers: LossNumbers = LossNumbers()) -> SetCriterion:
    """The paper's loss: DETR's with focal classes, 2 in the matching and in the sum."""
    return SetCriterion(FocalLoss())
