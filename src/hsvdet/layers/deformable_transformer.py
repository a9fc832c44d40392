"""Transformer layers whose attention to images is deformable (Deformable DETR, arXiv 2010.04159, section 4.1)."""

from __future__ import annotations

from torch import Tensor, nn

from .attention import MultiHeadAttention
from .deformable import DeformableAttention
from .pyramid import Tokens
from .queries import on_maps, token_centres
from .transformer import FeedForward


class DeformableEncoderLayer(nn.Module):
    """Deformable attention of tokens to all tokens, then a feed-forward network, each x <- LayerNorm(x + f(x))."""

    EXPLAINED = {"attention": "encoder"}

    def __init__(self, dim: int, levels: int, heads: int, points: int, feed_forward: int, dropout: float):
        super().__init__()
        self.attention = DeformableAttention(dim, levels, heads, points)
        self.norm_attention = nn.LayerNorm(dim)
        self.feed_forward = FeedForward(dim, feed_forward, dropout)
        self.norm_feed_forward = nn.LayerNorm(dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, features: Tensor, position: Tensor, reference: Tensor, tokens: Tokens) -> Tensor:
        """features: [B, k, D], of the tokens that look: all S of them, or some. position: [B or 1, k, D]. reference:
        [B, k, L, 2]. tokens: what they look at. Returns their features [B, k, D]."""
        seen = self.attention(features + position, reference, tokens.features, tokens.sizes, tokens.padding)
        features = self.norm_attention(features + self.dropout(seen))
        return self.norm_feed_forward(features + self.dropout(self.feed_forward(features)))


class DeformableEncoder(nn.Module):
    """`layers` layers in which every token looks at points near its own position on all maps."""

    def __init__(
        self, layers: int, dim: int, levels: int, heads: int, points: int, feed_forward: int, dropout: float
    ):
        super().__init__()
        self.layers = nn.ModuleList(
            DeformableEncoderLayer(dim, levels, heads, points, feed_forward, dropout) for _ in range(layers)
        )

    def forward(self, tokens: Tokens, position: Tensor) -> Tokens:
        """As `Pyramid` gives them. Returns the tokens with other features; those of padding mean nothing."""
        reference = on_maps(token_centres(tokens), tokens)
        for layer in self.layers:
            tokens = tokens._replace(features=layer(tokens.features, position, reference, tokens))
        return tokens


class DeformableDecoderLayer(nn.Module):
    """Self-attention among queries, deformable attention to the image, feed-forward; each normalised after."""

    EXPLAINED = {"self_attention": None, "cross_attention": "decoder"}

    def __init__(self, dim: int, levels: int, heads: int, points: int, feed_forward: int, dropout: float):
        super().__init__()
        self.self_attention = MultiHeadAttention(dim, heads, dropout)
        self.norm_self = nn.LayerNorm(dim)
        self.cross_attention = DeformableAttention(dim, levels, heads, points)
        self.norm_cross = nn.LayerNorm(dim)
        self.feed_forward = FeedForward(dim, feed_forward, dropout)
        self.norm_feed_forward = nn.LayerNorm(dim)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        content: Tensor,
        query_position: Tensor,
        reference: Tensor,
        memory: Tokens,
        query_mask: Tensor | None = None,
    ) -> Tensor:
        """content, query_position: [B, Q, D]. reference: [B, Q, 2 or 4] points or boxes, fractions of the picture.
        query_mask: [Q, Q] bool, which queries may not look at which. Returns the content [B, Q, D]."""
        return self.cross_attend(
            self.self_attend(content, query_position, query_mask), query_position, reference, memory
        )

    def self_attend(
        self, content: Tensor, query_position: Tensor, query_mask: Tensor | None = None
    ) -> Tensor:
        """The first half: queries look at one another."""
        placed = content + query_position
        attended = self.self_attention(placed, placed, content, query_mask)
        return self.norm_self(content + self.dropout(attended))

    def cross_attend(
        self, content: Tensor, query_position: Tensor, reference: Tensor, memory: Tokens
    ) -> Tensor:
        """The second half: they look at the image."""
        seen = self.cross_attention(
            content + query_position,
            on_maps(reference, memory),
            memory.features,
            memory.sizes,
            memory.padding,
        )
        content = self.norm_cross(content + self.dropout(seen))
        return self.norm_feed_forward(content + self.dropout(self.feed_forward(content)))
