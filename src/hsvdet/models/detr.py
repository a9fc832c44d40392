"""DETR: End-to-End Object Detection with Transformers. Carion et al., 2020, https://arxiv.org/abs/2005.12872

Detection as the prediction of a set. A transformer encodes the last map of a ResNet; learned queries look at it
and at one another through a decoder, and each comes out as one object or as "no object", without anchors and
without suppression.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .. import backbones
from ..criteria.class_losses import SoftmaxLoss
from ..criteria.matching import MatchingCosts
from ..criteria.numbers import LossNumbers
from ..criteria.set import SetCriterion, SetWeights
from ..layers.attention import MultiHeadAttention
from ..layers.position import cell_positions
from ..layers.transformer import EncoderLayer, FeedForward, Mlp
from ..structures import Prediction, QueryOutput
from .tiny import TINY


@dataclass(frozen=True, kw_only=True)
class DetrConfig:
    """The paper's numbers (section 4 and appendix A.4).

    backbone: see `backbones.build`. dilated: the DC5 form, whose last map has stride 16.
    pretrained: the backbone starts from ImageNet, with its normalisation and first stage fixed.
    dim: D of all tokens. queries: most objects an image can have.
    """

    backbone: str = "resnet50"
    dilated: bool = False
    pretrained: bool = True
    dim: int = 256
    heads: int = 8
    feed_forward: int = 2048
    encoder_layers: int = 6
    decoder_layers: int = 6
    queries: int = 100
    dropout: float = 0.1


VARIANTS: dict[str, dict[str, Any]] = {
    "detr-r50": dict(),
    "detr-r101": dict(backbone="resnet101"),
    "detr-r50-dc5": dict(dilated=True),
    "detr-r101-dc5": dict(backbone="resnet101", dilated=True),
    "detr-tiny": TINY,
}


class Detr(nn.Module):
    """images [B, 3, H, W] normalised, padding [B, H, W] bool, to QueryOutput.

    Class logits are for a softmax, and are C + 1: the last one stands for "no object".
    """

    BACKBONE = ("backbone",)
    HALF_PRECISION = False

    def __init__(self, config: DetrConfig, num_classes: int):
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
        self.decoder = nn.ModuleList(
            DecoderLayer(dim, config.heads, config.feed_forward, config.dropout)
            for _ in range(config.decoder_layers)
        )
        self.norm = nn.LayerNorm(dim)
        self.classes = nn.Linear(dim, num_classes + 1)
        self.boxes = Mlp(dim, dim, 4, depth=3)

    def forward(self, images: Tensor, padding: Tensor | None = None, targets=None) -> QueryOutput:
        features = self.project(self.backbone(images, padding)[-1])  # [B, D, h, w]
        position, mask = cell_positions(features, padding)
        memory = features.flatten(2).transpose(1, 2)  # [B, S, D]
        for layer in self.encoder:
            memory = layer(memory, position, mask)

        # A query is a learned place to which every layer adds what it found; at the start, nothing.
        queries = self.queries.expand(images.shape[0], -1, -1)
        content = torch.zeros_like(queries)
        predictions = []
        for layer in self.decoder:
            content = layer(content, queries, memory, position, mask)
            # The heads see the normalised content, the next layer sees it as it is.
            normalised = self.norm(content)
            boxes = self.boxes(normalised).float().sigmoid()
            predictions.append(Prediction(self.classes(normalised), boxes))
        return QueryOutput(tuple(predictions))


def criterion(numbers: LossNumbers = LossNumbers()) -> SetCriterion:
    """The paper's loss (section 3.1 and appendix A.4)."""
    return SetCriterion(SoftmaxLoss(), costs=MatchingCosts(class_=1.0), weights=SetWeights(class_=1.0))


class DecoderLayer(nn.Module):
    """Self-attention among queries, attention to the image, feed-forward (appendix A.3)."""

    EXPLAINED = {"self_attention": None, "cross_attention": "decoder"}

    def __init__(self, dim: int, heads: int, feed_forward: int, dropout: float):
        super().__init__()
        self.self_attention = MultiHeadAttention(dim, heads, dropout)
        self.norm_self = nn.LayerNorm(dim)
        self.cross_attention = MultiHeadAttention(dim, heads, dropout)
        self.norm_cross = nn.LayerNorm(dim)
        self.feed_forward = FeedForward(dim, feed_forward, dropout)
        self.norm_feed_forward = nn.LayerNorm(dim)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, content: Tensor, queries: Tensor, memory: Tensor, position: Tensor, mask: Tensor | None
    ) -> Tensor:
        """content, queries: [B, Q, D]. memory: [B, S, D]. position: [B or 1, S, D]. mask: [B, 1, S] bool."""
        placed = content + queries
        content = self.norm_self(content + self.dropout(self.self_attention(placed, placed, content)))
        seen = self.cross_attention(content + queries, memory + position, memory, mask)
        content = self.norm_cross(content + self.dropout(seen))
        return self.norm_feed_forward(content + self.dropout(self.feed_forward(content)))
