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
import torch.nn.functional as F
from torch import Tensor, nn

from .. import backbones
from ..boxes import box_at
from ..criteria.class_losses import FocalLoss
from ..criteria.numbers import LossNumbers
from ..criteria.set import SetCriterion
from ..errors import ConfigError
from ..layers.attention import MultiHeadAttention, attention_weights, sharing
from ..layers.initialise import init_class_prior, init_small_boxes, init_xavier, init_zero_last, xavier
from ..layers.position import sine_of_coordinates
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
        real_rows, real_columns = _real(nowhere if outside is None else outside)
        x, y = self._embedded(_centres(real_columns)), self._embedded(_centres(real_rows))
        memory = features.permute(0, 2, 3, 1)  # [B, h, w, D]
        for layer in self.encoder:
            memory = layer(memory, x, y, outside)

        points = self.points.repeat(len(self.patterns), 1)  # [Q, 2]
        content = self.patterns.repeat_interleave(len(self.points), 0).expand(images.shape[0], -1, -1)
        query_x, query_y = self._embedded(points.T)  # [Q, D] each
        place = self.point(sine_of_coordinates(points.flip(-1), content.shape[-1] // 2))  # [Q, D], y then x
        columns, rows = means(memory, outside)
        predictions = []
        for layer in self.decoder:
            content = layer(content, place, query_x, query_y, columns + x, rows + y, memory, outside)
            boxes = box_at(points, self.boxes(content))
            predictions.append(Prediction(self.classes(content), boxes))
        return QueryOutput(tuple(predictions))

    def _embedded(self, fractions: Tensor) -> Tensor:
        """Coordinates along one axis, [B, n], as every layer sees them, [B, n, D]."""
        sines = sine_of_coordinates(fractions.unsqueeze(-1), self.patterns.shape[-1])
        return _to_lines(self.coordinate, sines)


def criterion(numbers: LossNumbers = LossNumbers()) -> SetCriterion:
    """The paper's loss (section 4.1): DETR's with focal classes, 2 in the matching and in the sum."""
    return SetCriterion(FocalLoss())


class RowColumnAttention(nn.Module):
    """Row-column decoupled attention (section 3.4): along x to the columns of a map, along y to its rows.

    A cell's weight is the product of its column's and its row's. The first of the two sums leaves Q times the
    shorter side of the map, not Q times h w.
    """

    BY_QUERY = ("query_x", "query_y")
    HALF_PRECISION = True

    def __init__(self, dim: int, heads: int, dropout: float = 0.0):
        super().__init__()
        self.heads, self.dropout = sharing(dim, heads), dropout
        self.query_x, self.query_y, self.key_x, self.key_y, self.value, self.output = (
            init_xavier(nn.Linear(dim, dim)) for _ in range(6)
        )

    def forward(
        self,
        query_x: Tensor,
        query_y: Tensor,
        key_x: Tensor,
        key_y: Tensor,
        value: Tensor,
        padding: Tensor | None = None,
    ) -> Tensor:
        """query_x, query_y: [B, Q, D]. key_x: [B, w, D], of columns. key_y: [B, h, D], of rows. value:
        [B, h, w, D]. padding: [B, h, w] bool, rows and columns of it hidden. Returns [B, Q, D]."""
        along_x, along_y = self._along(query_x, query_y, key_x, key_y, padding)
        if self.training:
            along_x, along_y = (F.dropout(along, self.dropout) for along in (along_x, along_y))
        value = self.value(value).unflatten(-1, (self.heads, -1))  # [B, h, w, heads, d]
        # A graph for images of any size has one order for all of them.
        if not torch.compiler.is_exporting() and value.shape[1] > value.shape[2]:
            along_x, along_y, value = along_y, along_x, value.transpose(1, 2)
        # [B, heads, w, d h]; in a graph for images of any size PyTorch cannot flatten d and h.
        values = torch.cat(value.permute(0, 3, 2, 4, 1).unbind(3), -1)
        of_rows = along_x.to(value.dtype) @ values
        of_rows = of_rows.unflatten(-1, (value.shape[-1], -1))  # [B, heads, Q, d, h]
        seen = of_rows @ along_y.to(value.dtype).unsqueeze(-1)  # [B, heads, Q, d, 1]
        return self.output(seen.squeeze(-1).transpose(1, 2).flatten(2))

    def weights(
        self,
        query_x: Tensor,
        query_y: Tensor,
        key_x: Tensor,
        key_y: Tensor,
        value: Tensor,
        padding: Tensor | None = None,
    ) -> Tensor:
        """[B, heads, Q, h w]: where a call of `forward` with the same arguments looks."""
        along_x, along_y = self._along(query_x, query_y, key_x, key_y, padding)
        return (along_y.unsqueeze(-1) * along_x.unsqueeze(-2)).flatten(-2)

    def _along(self, query_x, query_y, key_x, key_y, padding) -> tuple[Tensor, Tensor]:
        """[B, heads, Q, w] and [B, heads, Q, h] float32, each sums to 1."""
        hidden_x = hidden_y = None
        if padding is not None:
            hidden_x, hidden_y = padding.all(1).unsqueeze(1), padding.all(2).unsqueeze(1)
        return (
            attention_weights(self.query_x(query_x), _to_lines(self.key_x, key_x), self.heads, hidden_x),
            attention_weights(self.query_y(query_y), _to_lines(self.key_y, key_y), self.heads, hidden_y),
        )


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
        place: Tensor,
        x: Tensor,
        y: Tensor,
        key_x: Tensor,
        key_y: Tensor,
        memory: Tensor,
        padding: Tensor | None,
    ) -> Tensor:
        """content: [B, Q, D]. place, x, y: [Q, D], of the points. The others as of RowColumnAttention."""
        placed = content + place
        content = self.norm_self(content + self.dropout(self.self_attention(placed, placed, content)))
        seen = self.cross_attention(content + x, content + y, key_x, key_y, memory, padding)
        content = self.norm_cross(content + self.dropout(seen))
        return self.norm_feed_forward(content + self.dropout(self.feed_forward(content)))


def means(cells: Tensor, padding: Tensor | None) -> tuple[Tensor, Tensor]:
    """Of a map [B, h, w, D] each column's mean [B, w, D] and each row's [B, h, D], over what is picture.

    The paper averages keys after their projection; it is linear, so that the keys of means are the same.
    """
    if padding is None:
        return cells.mean(1), cells.mean(2)
    rows, columns = (real / real.sum(1, keepdim=True).clamp(min=1) for real in _real(padding))
    return (cells * rows[:, :, None, None]).sum(1), (cells * columns[:, None, :, None]).sum(2)


def _to_lines(layer: nn.Module, lines: Tensor) -> Tensor:
    """`layer` of [B, n, D], B and n exchanged: a graph for one image of any size cannot have a linear layer of
    [1, n, D], because to flatten it PyTorch asks whether n is 1."""
    return layer(lines.transpose(0, 1)).transpose(0, 1)


def _real(padding: Tensor) -> tuple[Tensor, Tensor]:
    """padding: [B, h, w] bool. Which rows and which columns have picture, [B, h] and [B, w] bool."""
    return (~padding).any(2), (~padding).any(1)


def _centres(real: Tensor) -> Tensor:
    """real: [B, n] bool. The centre of each row or column in fractions of the picture, [B, n] float32; that of
    padding is finite and means nothing."""
    number = real.float().cumsum(1)
    return (number - 0.5) / number[:, -1:].clamp(min=1)
