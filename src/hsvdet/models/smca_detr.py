"""SMCA: Fast Convergence of DETR with Spatially Modulated Co-Attention. Gao et al., 2021,
https://arxiv.org/abs/2101.07448

Every query first guesses where its object is. Each head then looks near a centre of its own beside that guess: its
attention to the image is multiplied with a Gaussian whose width the query chooses. The rest is DETR.

The single-scale model; that of several maps has not been written here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .. import backbones
from ..criteria.class_losses import FocalLoss
from ..criteria.numbers import LossNumbers
from ..criteria.set import SetCriterion
from ..layers.attention import MultiHeadAttention, attend, attention_weights, sharing
from ..layers.initialise import init_class_prior, init_xavier, init_zero_last, xavier
from ..layers.position import cell_positions
from ..layers.tokens import content_extents
from ..layers.transformer import EncoderLayer, FeedForward, Mlp
from ..structures import Prediction, QueryOutput
from .tiny import TINY


@dataclass(frozen=True, kw_only=True)
class SmcaDetrConfig:
    """The paper's numbers (section 4.1). See DetrConfig for the names that are not here.

    smooth: squared distances, in cells, are divided by it; larger for wider attention at the start of training.
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
    dropout: float = 0.1
    smooth: float = 8.0


VARIANTS: dict[str, dict[str, Any]] = {"smca-detr-r50": dict(), "smca-detr-tiny": TINY}


class SmcaDetr(nn.Module):
    """images [B, 3, H, W] normalised, padding [B, H, W] bool, to QueryOutput. Class logits are for sigmoids."""

    BACKBONE = ("backbone",)
    HALF_PRECISION = False

    def __init__(self, config: SmcaDetrConfig, num_classes: int):
        super().__init__()
        dim, sizes = config.dim, (config.dim, config.heads, config.feed_forward, config.dropout)
        self.backbone = backbones.build(
            config.backbone, (4,), frozen=1 if config.pretrained else None, dilated=config.dilated
        )
        self.project = nn.Conv2d(self.backbone.channels[-1], dim, 1)
        self.encoder = nn.ModuleList(EncoderLayer(*sizes) for _ in range(config.encoder_layers))
        self.queries = nn.Parameter(torch.randn(config.queries, dim))
        self.decoder = nn.ModuleList(
            DecoderLayer(*sizes, config.smooth, first=number == 0) for number in range(config.decoder_layers)
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

        size = features.shape[-2], features.shape[-1]
        # Where the picture lies on the map, to the fraction of a cell: [B, 1, 4].
        extents = content_extents(images, padding).unsqueeze(1) / self.backbone.strides[-1]
        queries = self.queries.expand(images.shape[0], -1, -1)
        content, guess, predictions = torch.zeros_like(queries), None, []
        for layer in self.decoder:
            # The first layer guesses where the object is, the others look from there too.
            content, guess = layer(content, queries, guess, memory, position, size, extents, mask)
            normalised = self.norm(content)
            change = self.boxes(normalised).float()
            boxes = torch.cat([change[..., :2] + guess, change[..., 2:]], -1).sigmoid()
            predictions.append(Prediction(self.classes(normalised), boxes))
        return QueryOutput(tuple(predictions))


def criterion(numbers: LossNumbers = LossNumbers()) -> SetCriterion:
    """The paper's loss (section 4.1): DETR's with focal classes, 2 in the matching and in the sum."""
    return SetCriterion(FocalLoss())


class ModulatedAttention(nn.Module):
    """Multi-head attention to the cells of a map, the further from a head's centre the less (section 3.2)."""

    BY_QUERY = ("query", "centre", "scale")
    HALF_PRECISION = True

    def __init__(self, dim: int, heads: int, dropout: float, smooth: float):
        super().__init__()
        self.heads, self.dropout, self.smooth = sharing(dim, heads), dropout, smooth
        self.query, self.key, self.value, self.output = (init_xavier(nn.Linear(dim, dim)) for _ in range(4))

    def forward(
        self,
        query: Tensor,
        centre: Tensor,
        scale: Tensor,
        key: Tensor,
        value: Tensor,
        size: tuple[int, int],
        mask: Tensor | None = None,
    ) -> Tensor:
        """query: [B, Q, D]. centre, scale: [B, Q, heads, 2] (x, y), cells, and how fast attention falls along each
        axis. key, value: [B, h w, D]. size: (h, w). mask: [B, 1, h w] bool, True = padding. Returns [B, Q, D]."""
        dropout = self.dropout if self.training else 0.0
        projected = self.query(query), self.key(key), self.value(value)
        bias = self._gaussian(centre, scale, size)
        return self.output(attend(*projected, self.heads, mask, dropout, bias))

    def weights(
        self,
        query: Tensor,
        centre: Tensor,
        scale: Tensor,
        key: Tensor,
        value: Tensor,
        size: tuple[int, int],
        mask: Tensor | None = None,
    ) -> Tensor:
        """[B, heads, Q, h w]: where a call of `forward` with the same arguments looks."""
        bias = self._gaussian(centre, scale, size)
        return attention_weights(self.query(query), self.key(key), self.heads, mask, bias)

    def _gaussian(self, centre: Tensor, scale: Tensor, size: tuple[int, int]) -> Tensor:
        """Its logarithm, [B, heads, Q, h w] float32. Cell (x, y) lies at x, y, not at its centre, as in the authors'
        code."""
        centre, scale = (part.float().transpose(1, 2) for part in (centre, scale))  # [B, heads, Q, 2]
        y, x = (torch.arange(side, device=centre.device, dtype=torch.float32) for side in size)
        along_x = scale[..., :1] * (centre[..., :1] - x).square()  # [B, heads, Q, w]
        along_y = scale[..., 1:] * (centre[..., 1:] - y).square()
        return (along_y.unsqueeze(-1) + along_x.unsqueeze(-2)).flatten(-2) / -self.smooth


class DecoderLayer(nn.Module):
    """DETR's, with modulated attention to the image. first: it guesses where the objects are."""

    EXPLAINED = {"self_attention": None, "cross_attention": "decoder"}

    def __init__(
        self, dim: int, heads: int, feed_forward: int, dropout: float, smooth: float, *, first: bool
    ):
        super().__init__()
        self.norm_place = nn.LayerNorm(dim)
        self.guess = xavier(Mlp(dim, dim, 2, depth=3)) if first else None
        self.offset = nn.Linear(dim, heads * 2)
        self.scale = nn.Linear(dim, heads * 2)
        nn.init.zeros_(self.scale.weight)
        nn.init.ones_(self.scale.bias)
        self.self_attention = MultiHeadAttention(dim, heads, dropout)
        self.norm_self = nn.LayerNorm(dim)
        self.cross_attention = ModulatedAttention(dim, heads, dropout, smooth)
        self.norm_cross = nn.LayerNorm(dim)
        self.feed_forward = FeedForward(dim, feed_forward, dropout)
        self.norm_feed_forward = nn.LayerNorm(dim)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        content: Tensor,
        queries: Tensor,
        guess: Tensor | None,
        memory: Tensor,
        position: Tensor,
        size: tuple[int, int],
        extents: Tensor,
        mask: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        """content, queries: [B, Q, D]. guess: [B, Q, 2] (x, y), fractions of the picture before the sigmoid; None in
        the first layer. memory: [B, h w, D]. position: [B or 1, h w, D]. extents: [B, 1, 4], where the picture lies,
        in cells. mask: [B, 1, h w] bool. Returns the content and the guess."""
        placed = content + queries
        asked = self.norm_place(placed)
        if self.guess is not None:
            guess = self.guess(asked).float()
        assert guess is not None
        guessed = extents[..., :2] + guess.sigmoid() * extents[..., 2:]  # [B, Q, 2], cells
        centre = guessed.unsqueeze(2) + self.offset(asked).float().unflatten(-1, (-1, 2))  # [B, Q, heads, 2]
        scale = self.scale(asked).float().unflatten(-1, (-1, 2)).square()

        content = self.norm_self(content + self.dropout(self.self_attention(placed, placed, content)))
        seen = self.cross_attention(content + queries, centre, scale, memory + position, memory, size, mask)
        content = self.norm_cross(content + self.dropout(seen))
        return self.norm_feed_forward(content + self.dropout(self.feed_forward(content))), guess
