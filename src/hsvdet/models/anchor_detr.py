"""Anchor DETR: Query Design for Transformer-Based Object Detection. Wang et al., 2022,
https://arxiv.org/abs/2109.07107

A query is a learned point of the picture with one of a few learned patterns, so that several objects can be found
at one place. Attention to the image chooses a column and a row apart and multiplies the two choices, so that no
matrix of queries by cells is kept.

Deviation: rows and columns are averaged over the picture alone. The authors' code, which evaluates one image at a
time, averages over the padding of a batch too, and then answers otherwise for an image in other company.
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
from ..errors import ConfigError
from ..layers.attention import MultiHeadAttention
from ..layers.initialise import init_class_prior, init_small_boxes, init_xavier, init_zero_last, xavier
from ..layers.position import sine_of_coordinates
from ..layers.row_column import RowColumnAttention, line_centres, means, real_lines, to_lines
from ..layers.tokens import sampled_padding
from ..layers.transformer import FeedForward, Mlp
from ..structures import Prediction, QueryOutput
from .tiny import TINY


@dataclass(frozen=True, kw_only=True)
class AnchorDetrConfig:
    """The paper's numbers (section 4.1). See DetrConfig for the names that are not here.

    queries: anchor points. patterns: learned contents that each point is tried with, at least 1.
    """

    backbone: str = "resnet50"
    dilated: bool = False
    pretrained: bool = True
    dim: int = 256
    heads: int = 8
    feed_forward: int = 1024
    encoder_layers: int = 6
    decoder_layers: int = 6
    queries: int = 300
    patterns: int = 3
    dropout: float = 0.0


VARIANTS: dict[str, dict[str, Any]] = {
    "anchor-detr-r50": dict(),
    "anchor-detr-r50-dc5": dict(dilated=True),
    "anchor-detr-r101": dict(backbone="resnet101"),
    "anchor-detr-r101-dc5": dict(backbone="resnet101", dilated=True),
    "anchor-detr-tiny": TINY,
}


class AnchorDetr(nn.Module):
    """images [B, 3, H, W] normalised, padding [B, H, W] bool, to QueryOutput. Class logits are for sigmoids.

    Query p * queries + n is point n with pattern p.
    """

    BACKBONE = ("backbone",)
    HALF_PRECISION = False

    def __init__(self, config: AnchorDetrConfig, num_classes: int):
        super().__init__()
        if config.patterns < 1:
            raise ConfigError(f"patterns expects at least 1; got {config.patterns}.")
        dim, sizes = config.dim, (config.dim, config.heads, config.feed_forward, config.dropout)
        self.backbone = backbones.build(
            config.backbone, (4,), frozen=1 if config.pretrained else None, dilated=config.dilated
        )
        self.project = nn.Sequential(
            init_xavier(nn.Conv2d(self.backbone.channels[-1], dim, 1)), nn.GroupNorm(32, dim)
        )
        # One coordinate, and both, as every layer of encoder and decoder sees them (section 3.4, and 3.2).
        self.coordinate = xavier(Mlp(dim, dim, dim, depth=2))
        self.point = xavier(Mlp(dim, dim, dim, depth=2))
        self.encoder = nn.ModuleList(EncoderLayer(*sizes) for _ in range(config.encoder_layers))
        self.points = nn.Parameter(torch.rand(config.queries, 2))  # (x, y), fractions of the picture
        self.patterns = nn.Parameter(torch.randn(config.patterns, dim))
        self.decoder = nn.ModuleList(DecoderLayer(*sizes) for _ in range(config.decoder_layers))
        self.classes = init_class_prior(nn.Linear(dim, num_classes))
        self.boxes = init_small_boxes(init_zero_last(Mlp(dim, dim, 4, depth=3)))

    def forward(self, images: Tensor, padding: Tensor | None = None, targets=None) -> QueryOutput:
        features = self.project(self.backbone(images, padding)[-1])  # [B, D, h, w]
        size = features.shape[-2], features.shape[-1]
        outside = None if padding is None else sampled_padding(padding, size)  # [B, h, w]
        nowhere = torch.zeros(1, *size, dtype=torch.bool, device=features.device)
        real_rows, real_columns = real_lines(nowhere if outside is None else outside)
        x, y = self._embedded(line_centres(real_columns)), self._embedded(line_centres(real_rows))
        memory = features.permute(0, 2, 3, 1)  # [B, h, w, D]
        for layer in self.encoder:
            memory = layer(memory, x, y, outside)

        points = self.points.repeat(len(self.patterns), 1)  # [Q, 2]
        content = self.patterns.repeat_interleave(len(self.points), 0).expand(images.shape[0], -1, -1)
        query_x, query_y = self._embedded(points.T)  # [Q, D] each
        # [Q, D], y then x.
        query_position = self.point(sine_of_coordinates(points.flip(-1), content.shape[-1] // 2))
        columns, rows = means(memory, outside)
        predictions = []
        for layer in self.decoder:
            content = layer(content, query_position, query_x, query_y, columns + x, rows + y, memory, outside)
            boxes = box_at(points, self.boxes(content))
            predictions.append(Prediction(self.classes(content), boxes))
        return QueryOutput(tuple(predictions))

    def _embedded(self, fractions: Tensor) -> Tensor:
        """Coordinates along one axis, [B, n], as every layer sees them, [B, n, D]."""
        sines = sine_of_coordinates(fractions.unsqueeze(-1), self.patterns.shape[-1])
        return to_lines(self.coordinate, sines)


def criterion(numbers: LossNumbers = LossNumbers()) -> SetCriterion:
    """The paper's loss (section 4.1): DETR's with focal classes, 2 in the matching and in the sum."""
    return SetCriterion(FocalLoss())


class EncoderLayer(nn.Module):
    """Row-column attention among cells, then a feed-forward network, each x <- LayerNorm(x + f(x))."""

    EXPLAINED = {"attention": "encoder"}

    def __init__(self, dim: int, heads: int, feed_forward: int, dropout: float):
        super().__init__()
        self.attention = RowColumnAttention(dim, heads, dropout)
        self.norm_attention = nn.LayerNorm(dim)
        self.feed_forward = FeedForward(dim, feed_forward, dropout)
        self.norm_feed_forward = nn.LayerNorm(dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, cells: Tensor, x: Tensor, y: Tensor, padding: Tensor | None) -> Tensor:
        """cells: [B, h, w, D]. x: [B or 1, w, D], y: [B or 1, h, D], of columns and rows. padding: [B, h, w]."""
        columns, rows = means(cells, padding)
        query_x, query_y = (cells + x.unsqueeze(1)).flatten(1, 2), (cells + y.unsqueeze(2)).flatten(1, 2)
        seen = self.attention(query_x, query_y, columns + x, rows + y, cells, padding)
        cells = self.norm_attention(cells + self.dropout(seen.view_as(cells)))
        return self.norm_feed_forward(cells + self.dropout(self.feed_forward(cells)))


class DecoderLayer(nn.Module):
    """Self-attention among queries, row-column attention to the image, feed-forward; each normalised after."""

    EXPLAINED = {"self_attention": None, "cross_attention": "decoder"}

    def __init__(self, dim: int, heads: int, feed_forward: int, dropout: float):
        super().__init__()
        self.self_attention = MultiHeadAttention(dim, heads, dropout)
        self.norm_self = nn.LayerNorm(dim)
        self.cross_attention = RowColumnAttention(dim, heads, dropout)
        self.norm_cross = nn.LayerNorm(dim)
        self.feed_forward = FeedForward(dim, feed_forward, dropout)
        self.norm_feed_forward = nn.LayerNorm(dim)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        content: Tensor,
        query_position: Tensor,
        x: Tensor,
        y: Tensor,
        key_x: Tensor,
        key_y: Tensor,
        memory: Tensor,
        padding: Tensor | None,
    ) -> Tensor:
        """content: [B, Q, D]. query_position, x, y: [Q, D], of the points. The others as of RowColumnAttention."""
        placed = content + query_position
        content = self.norm_self(content + self.dropout(self.self_attention(placed, placed, content)))
        seen = self.cross_attention(content + x, content + y, key_x, key_y, memory, padding)
        content = self.norm_cross(content + self.dropout(seen))
        return self.norm_feed_forward(content + self.dropout(self.feed_forward(content)))
