"""Lite DETR: An Interleaved Multi-Scale Encoder for Efficient DETR. Li et al., 2023, https://arxiv.org/abs/2303.07335
Here as the paper's Lite-DINO: DINO with another encoder and another attention to the image.

Three quarters of the tokens are those of the finest map, and most of the encoder's work is theirs. So blocks of the
encoder update the high levels, of few tokens, several times, and all tokens once (section 3.4, 3.5). For what is then
read across levels that are not equally fresh, key-aware deformable attention weighs the points it samples by comparing
the query with what is there, not from the query alone (section 3.6).

The samples, which are keys and values at once, are never stored (`sample_by_key`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import ConfigError
from ..layers.attention import sharing
from ..layers.deformable import (
    DeformableAttention,
    init_offsets,
    key_weights,
    point_locations,
    sample_by_key,
)
from ..layers.initialise import init_xavier
from ..layers.pyramid import Tokens
from ..layers.queries import on_maps, token_centres
from ..layers.transformer import FeedForward
from .dino import Dino, DinoConfig
from .tiny import TINY_PYRAMID


@dataclass(frozen=True, kw_only=True)
class LiteDinoConfig(DinoConfig):
    """DINO's numbers, and those of the encoder. The paper's H3L1-(2+1)x3 has 3 high levels, 1 low one and 3 blocks.

    high_levels: maps that every layer updates, the coarsest ones. blocks: into as many the encoder's layers are
    divided. The last layer of each updates the low levels too, and the paper counts it for both: a block of two layers
    is its "2+1".
    """

    box_noise: float = 1.0
    high_levels: int = 3
    blocks: int = 3

    def __post_init__(self):
        super().__post_init__()
        if not 1 <= self.high_levels <= self.levels:
            raise ConfigError(f"high_levels expects 1 to {self.levels}, the levels; got {self.high_levels}.")
        if self.blocks < 1 or self.encoder_layers % self.blocks:
            raise ConfigError(
                f"blocks expects a number that divides the {self.encoder_layers} encoder layers; got {self.blocks}."
            )


VARIANTS: dict[str, dict[str, Any]] = {
    "lite-dino-r50-h3l1-2p1x3": dict(),
    "lite-dino-r50-h3l1-6p1x1": dict(blocks=1),
    "lite-dino-r50-h2l2-2p1x3": dict(high_levels=2),
    "lite-dino-tiny": TINY_PYRAMID | dict(denoising=25, blocks=1),
}
PLAIN_VARIANTS: dict[str, dict[str, Any]] = {"lite-dino-r50-h3l1-2p1x3-plain": dict()}


class KeyAwareAttention(nn.Module):
    """Deformable attention whose weights are softmax(q k / sqrt(d)) over the samples of all maps (section 3.6); these
    are the keys and, as in the published networks, the values too. Sizes and arguments as of `DeformableAttention`."""

    LEARNING_RATES = {"sampling_offsets": "sampling"}
    HALF_PRECISION = False

    def __init__(self, dim: int, levels: int, heads: int, points: int):
        super().__init__()
        self.heads, self.levels, self.points = sharing(dim, heads), levels, points
        self.sampling_offsets = nn.Linear(dim, heads * levels * points * 2)
        self.query = init_xavier(nn.Linear(dim, dim))
        self.value = init_xavier(nn.Linear(dim, dim))
        self.output = init_xavier(nn.Linear(dim, dim))
        init_offsets(self.sampling_offsets, heads, levels, points)

    def forward(
        self,
        query: Tensor,
        reference: Tensor,
        memory: Tensor,
        sizes: list[tuple[int, int]],
        padding: Tensor | None = None,
    ) -> Tensor:
        queries, value, locations = self._project(query, reference, memory, sizes, padding)
        return self.output(sample_by_key(queries, value, sizes, locations).to(query.dtype))

    def locate(
        self,
        query: Tensor,
        reference: Tensor,
        memory: Tensor,
        sizes: list[tuple[int, int]],
        padding: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        queries, value, locations = self._project(query, reference, memory, sizes, padding)
        return locations, key_weights(queries, value, sizes, locations)

    def _project(
        self,
        query: Tensor,
        reference: Tensor,
        memory: Tensor,
        sizes: list[tuple[int, int]],
        padding: Tensor | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Queries [B, Q, M, d], values [B, S, M, d], 0 in padding, and locations [B, Q, M, L, P, 2]."""
        value = self.value(memory)
        if padding is not None:
            value = value.masked_fill(padding.unsqueeze(-1), 0.0)
        queries, value = (x.unflatten(-1, (self.heads, -1)) for x in (self.query(query), value))
        shape = (self.heads, self.levels, self.points, 2)
        offsets = self.sampling_offsets(query).float().unflatten(-1, shape)
        return queries, value, point_locations(offsets, reference, sizes)


Attention = type[KeyAwareAttention] | type[DeformableAttention]


class HighLevelLayer(nn.Module):
    """Tokens of the high levels look at all tokens (section 3.4); those of the low levels stay as they are."""

    EXPLAINED = {"attention": "encoder"}

    def __init__(self, config: LiteDinoConfig, attention: Attention):
        super().__init__()
        self.attention = attention(config.dim, config.levels, config.heads, config.points)
        self.norm_attention = nn.LayerNorm(config.dim)
        self.feed_forward = FeedForward(config.dim, config.feed_forward, config.dropout)
        self.norm_feed_forward = nn.LayerNorm(config.dim)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, tokens: Tokens, position: Tensor, reference: Tensor, low: int) -> Tensor:
        """position: [B or 1, S, D]. reference: [B, S, L, 2]. low: number of tokens of the low levels, which are the
        first. Returns the features of all tokens, [B, S, D]."""
        stays, high = tokens.features[:, :low], tokens.features[:, low:]
        seen = self.attention(
            high + position[:, low:], reference[:, low:], tokens.features, tokens.sizes, tokens.padding
        )
        high = self.norm_attention(high + self.dropout(seen))
        return torch.cat([stays, self.advance(high)], 1)

    def advance(self, high: Tensor) -> Tensor:
        return self.norm_feed_forward(high + self.dropout(self.feed_forward(high)))


class FullLayer(HighLevelLayer):
    """All tokens look at all tokens (section 3.5); those of the low levels have a small feed-forward network."""

    def __init__(self, config: LiteDinoConfig, attention: Attention):
        super().__init__(config, attention)
        self.feed_forward_low = FeedForward(config.dim, config.dim, config.dropout)
        self.norm_low = nn.LayerNorm(config.dim)

    def forward(self, tokens: Tokens, position: Tensor, reference: Tensor, low: int) -> Tensor:
        """As of HighLevelLayer."""
        features = tokens.features
        seen = self.attention(features + position, reference, features, tokens.sizes, tokens.padding)
        features = self.norm_attention(features + self.dropout(seen))
        fine, high = features[:, :low], features[:, low:]
        fine = self.norm_low(fine + self.dropout(self.feed_forward_low(fine)))
        return torch.cat([fine, self.advance(high)], 1)


class InterleavedEncoder(nn.Module):
    """Blocks of layers that update the high levels, each ended by one that updates all."""

    def __init__(self, config: LiteDinoConfig, attention: Attention):
        super().__init__()
        block = config.encoder_layers // config.blocks
        self.low_levels = config.levels - config.high_levels
        self.layers = nn.ModuleList(
            (HighLevelLayer if number % block else FullLayer)(config, attention)
            for number in range(1, config.encoder_layers + 1)
        )

    def forward(self, tokens: Tokens, position: Tensor) -> Tokens:
        """As `Pyramid` gives them. Returns the tokens with other features; those of padding mean nothing."""
        reference = on_maps(token_centres(tokens), tokens)
        low = sum(height * width for height, width in tokens.sizes[: self.low_levels])
        for layer in self.layers:
            tokens = tokens._replace(features=layer(tokens, position, reference, low))
        return tokens


class LiteDino(Dino):
    """As Dino, but for its encoder and for the attention of encoder and decoder to the image."""

    ATTENTION: Attention = KeyAwareAttention

    def __init__(self, config: LiteDinoConfig, num_classes: int):
        super().__init__(config, num_classes)
        self.encoder = InterleavedEncoder(config, self.ATTENTION)
        for layer in self.decoder:
            layer.cross_attention = self.ATTENTION(config.dim, config.levels, config.heads, config.points)


class PlainLiteDino(LiteDino):
    """The interleaved encoder alone: attention stays that of Deformable DETR, as the authors advise where speed
    counts."""

    ATTENTION = DeformableAttention
