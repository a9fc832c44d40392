"""DAB-DETR: Dynamic Anchor Boxes are Better Queries for DETR. Liu et al., 2022, https://arxiv.org/abs/2201.12329

A query's place is a box. It starts at a learned anchor, is refined from layer to layer, and shapes the attention:
its centre says where to look, its width and height how wide. The rest is Conditional DETR.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .. import backbones
from ..boxes import refine
from ..criteria.class_losses import FocalLoss
from ..criteria.numbers import LossNumbers
from ..criteria.set import SetCriterion, SetWeights
from ..layers.conditional import ConditionalDecoderLayer
from ..layers.initialise import init_class_prior, init_zero_last, xavier
from ..layers.position import cell_positions, sine_of_coordinates
from ..layers.transformer import EncoderLayer, Mlp
from ..structures import Prediction, QueryOutput
from .tiny import TINY


@dataclass(frozen=True, kw_only=True)
class DabDetrConfig:
    """The paper's numbers (section 4 and appendix). See DetrConfig for the names that are not here.

    temperature: of the sines of the map's cells (section 4.4); those of anchors keep 10000.
    patterns: learned contents that each anchor is tried with, or 0 to start from nothing (appendix D).
    eps: how near to 0 and 1 a box's numbers can come when they are refined.
    """

    backbone: str = "resnet50"
    dilated: bool = False
    pretrained: bool = True
    dim: int = 256
    heads: int = 8
    feed_forward: int = 2048
    encoder_layers: int = 6
    decoder_layers: int = 6
    queries: int = 300
    dropout: float = 0.0
    temperature: float = 20.0
    patterns: int = 0
    eps: float = 1e-3


VARIANTS: dict[str, dict[str, Any]] = {
    "dab-detr-r50": dict(),
    "dab-detr-r50-3pat": dict(patterns=3),
    "dab-detr-r50-dc5": dict(dilated=True, temperature=10.0),
    "dab-detr-r50-dc5-3pat": dict(dilated=True, temperature=10.0, patterns=3),
    "dab-detr-tiny": TINY,
}


class DabDetr(nn.Module):
    """images [B, 3, H, W] normalised, padding [B, H, W] bool, to QueryOutput. Class logits are for sigmoids.

    With patterns, query p * queries + n is anchor n with pattern p.
    """

    BACKBONE = ("backbone",)
    HALF_PRECISION = False

    def __init__(self, config: DabDetrConfig, num_classes: int):
        super().__init__()
        dim = config.dim
        self.config = config
        self.backbone = backbones.build(
            config.backbone, (4,), frozen=1 if config.pretrained else None, dilated=config.dilated
        )
        self.project = nn.Conv2d(self.backbone.channels[-1], dim, 1)
        self.encoder = nn.ModuleList(
            EncoderLayer(dim, config.heads, config.feed_forward, config.dropout, nn.PReLU)
            for _ in range(config.encoder_layers)
        )
        self.encoder_scale = xavier(Mlp(dim, dim, dim, depth=2))
        self.anchors = nn.Parameter(torch.randn(config.queries, 4))  # before the sigmoid
        self.patterns = nn.Parameter(torch.randn(config.patterns, dim)) if config.patterns else None
        self.query_position = xavier(Mlp(2 * dim, dim, dim, depth=2))
        self.scale = xavier(Mlp(dim, dim, dim, depth=2))
        self.size = xavier(Mlp(dim, dim, 2, depth=2))
        self.decoder = nn.ModuleList(
            ConditionalDecoderLayer(
                dim, config.heads, config.feed_forward, config.dropout, nn.PReLU, first=number == 0
            )
            for number in range(config.decoder_layers)
        )
        self.norm = nn.LayerNorm(dim)
        self.classes = init_class_prior(nn.Linear(dim, num_classes))
        self.boxes = init_zero_last(Mlp(dim, dim, 4, depth=3))

    def forward(self, images: Tensor, padding: Tensor | None = None, targets=None) -> QueryOutput:
        anchors = self.anchors.sigmoid()  # [Q, 4]
        content = anchors.new_zeros(len(anchors), self.config.dim)
        if self.patterns is not None:
            content = self.patterns.repeat_interleave(len(anchors), 0)
            anchors = anchors.repeat(self.config.patterns, 1)
        content, anchors = (x.expand(images.shape[0], -1, -1) for x in (content, anchors))
        return QueryOutput(self.decode(content, anchors, *self.encode(images, padding)))

    def encode(self, images: Tensor, padding: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
        """Tokens of the image [B, S, D], their position [B or 1, S, D], and which are padding [B, 1, S]."""
        features = self.project(self.backbone(images, padding)[-1])  # [B, D, h, w]
        position, mask = cell_positions(features, padding, self.config.temperature)
        memory = features.flatten(2).transpose(1, 2)
        for layer in self.encoder:
            memory = layer(memory, position * self.encoder_scale(memory), mask)
        return memory, position, mask

    def decode(
        self,
        content: Tensor,
        anchors: Tensor,
        memory: Tensor,
        position: Tensor,
        mask: Tensor | None,
        query_mask: Tensor | None = None,
    ) -> tuple[Prediction, ...]:
        """content: [B, Q, D]. anchors: [B, Q, 4] boxes. memory, position, mask: as `encode` gives them.
        query_mask: [Q, Q] bool, which queries may not look at which. The predictions of every layer."""
        dim, eps = self.config.dim, self.config.eps
        reference, predictions = anchors, []
        for number, layer in enumerate(self.decoder):
            if number > 0:
                # The next layer looks from the refined anchor, but cannot move it to suit itself: only the
                # prediction, which starts from the same box, passes gradient to the layer before (section 4.3).
                reference = refine(self.boxes(content), anchors, eps)
                anchors = reference.detach()
            embedded = sine_of_coordinates(anchors[..., [1, 0, 2, 3]], dim // 2)  # [B, Q, 2 D]: y, x, w, h
            spatial = embedded[..., :dim]
            if number > 0:
                spatial = spatial * self.scale(content)
            # Attention as wide and as high as the anchor (section 4.4).
            stretch = self.size(content).float().sigmoid() / anchors[..., 2:]  # [B, Q, 2] w, h
            stretch_y, stretch_x = stretch[..., 1:], stretch[..., :1]
            half = dim // 2
            spatial = torch.cat([spatial[..., :half] * stretch_y, spatial[..., half:] * stretch_x], -1)
            content = layer(
                content, self.query_position(embedded), spatial, memory, position, mask, query_mask
            )
            normalised = self.norm(content)
            boxes = refine(self.boxes(normalised), reference, eps)
            predictions.append(Prediction(self.classes(normalised), boxes))
        return tuple(predictions)


def criterion(numbers: LossNumbers = LossNumbers()) -> SetCriterion:
    """Focal classes as in Conditional DETR, but 1 in the sum, as in the authors' code."""
    return SetCriterion(FocalLoss(), weights=SetWeights(class_=1.0))
