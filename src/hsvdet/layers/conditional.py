"""The decoder layer of Conditional DETR (Meng et al. 2021, arXiv 2108.06152), which DAB-DETR shares.

Content and place of a query are projected apart. In the attention to the image they are not added but stand
side by side in every head, so that a head can look for a place whatever is there (section 3.3).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from .attention import attend, attention_weights, sharing
from .transformer import FeedForward


class ConditionalSelfAttention(nn.Module):
    """Among queries: (Wqc x + Wqp p) against (Wkc x + Wkp p), values Wv x."""

    def __init__(self, dim: int, heads: int, dropout: float = 0.0):
        super().__init__()
        self.heads, self.dropout = sharing(dim, heads), dropout
        self.query_content = nn.Linear(dim, dim)
        self.query_position = nn.Linear(dim, dim)
        self.key_content = nn.Linear(dim, dim)
        self.key_position = nn.Linear(dim, dim)
        self.value = nn.Linear(dim, dim)
        self.output = nn.Linear(dim, dim)
        _xavier(self)

    def forward(self, content: Tensor, position: Tensor, mask: Tensor | None = None) -> Tensor:
        """content, position: [B, Q, D]. mask: [Q, Q] bool. Returns [B, Q, D]."""
        query, key = self._project(content, position)
        dropout = self.dropout if self.training else 0.0
        return self.output(attend(query, key, self.value(content), self.heads, mask, dropout))

    def weights(self, content: Tensor, position: Tensor, mask: Tensor | None = None) -> Tensor:
        """[B, heads, Q, Q]: where a call of `forward` with the same arguments looks."""
        return attention_weights(*self._project(content, position), self.heads, mask)

    def _project(self, content: Tensor, position: Tensor) -> tuple[Tensor, Tensor]:
        query = self.query_content(content) + self.query_position(position)
        return query, self.key_content(content) + self.key_position(position)


class ConditionalCrossAttention(nn.Module):
    """From queries to the image: [Wqc x; Wqs s] against [Wkc m; Wkp pos] in every head, values Wv m.

    places_content: in the first decoder layer, whose content is still empty, the query's position also goes
    into its content, and the keys' position into theirs.
    """

    BY_QUERY = ("content", "position", "sine")

    def __init__(self, dim: int, heads: int, dropout: float = 0.0, *, places_content: bool = False):
        super().__init__()
        self.heads, self.dropout = sharing(dim, heads), dropout
        self.query_content = nn.Linear(dim, dim)
        self.query_sine = nn.Linear(dim, dim)
        self.query_position = nn.Linear(dim, dim) if places_content else None
        self.key_content = nn.Linear(dim, dim)
        self.key_position = nn.Linear(dim, dim)
        self.value = nn.Linear(dim, dim)
        self.output = nn.Linear(dim, dim)
        _xavier(self)

    def forward(
        self,
        content: Tensor,
        position: Tensor,
        sine: Tensor,
        memory: Tensor,
        memory_position: Tensor,
        mask: Tensor | None = None,
    ) -> Tensor:
        """content, position, sine: [B, Q, D], sine = where to look. memory: [B, S, D]. memory_position:
        [B or 1, S, D]. mask: [B, 1, S] bool, True = padding. Returns [B, Q, D]."""
        query, key = self._project(content, position, sine, memory, memory_position)
        dropout = self.dropout if self.training else 0.0
        return self.output(attend(query, key, self.value(memory), self.heads, mask, dropout))

    def weights(
        self,
        content: Tensor,
        position: Tensor,
        sine: Tensor,
        memory: Tensor,
        memory_position: Tensor,
        mask: Tensor | None = None,
    ) -> Tensor:
        """[B, heads, Q, S]: where a call of `forward` with the same arguments looks."""
        query, key = self._project(content, position, sine, memory, memory_position)
        return attention_weights(query, key, self.heads, mask)

    def _project(self, content, position, sine, memory, memory_position) -> tuple[Tensor, Tensor]:
        query, key = self.query_content(content), self.key_content(memory)
        key_position = self.key_position(memory_position)
        if self.query_position is not None:
            query, key = query + self.query_position(position), key + key_position
        return (
            self._side_by_side(query, self.query_sine(sine)),
            self._side_by_side(key, key_position.expand_as(key)),
        )

    def _side_by_side(self, content: Tensor, place: Tensor) -> Tensor:
        """Two [B, S, D] to [B, S, 2 D] in which each head has its part of both."""
        parts = [part.unflatten(-1, (self.heads, -1)) for part in (content, place)]
        return torch.cat(parts, -1).flatten(-2)


class ConditionalDecoderLayer(nn.Module):
    """Self-attention, attention to the image, feed-forward, each x <- LayerNorm(x + f(x))."""

    EXPLAINED = {"self_attention": None, "cross_attention": "decoder"}

    def __init__(
        self,
        dim: int,
        heads: int,
        feed_forward: int,
        dropout: float = 0.0,
        activation: Callable[[], nn.Module] = nn.ReLU,
        *,
        first: bool,
    ):
        super().__init__()
        self.self_attention = ConditionalSelfAttention(dim, heads, dropout)
        self.norm_self = nn.LayerNorm(dim)
        self.cross_attention = ConditionalCrossAttention(dim, heads, dropout, places_content=first)
        self.norm_cross = nn.LayerNorm(dim)
        self.feed_forward = FeedForward(dim, feed_forward, dropout, activation)
        self.norm_feed_forward = nn.LayerNorm(dim)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        content: Tensor,
        position: Tensor,
        sine: Tensor,
        memory: Tensor,
        memory_position: Tensor,
        mask: Tensor | None = None,
        query_mask: Tensor | None = None,
    ) -> Tensor:
        """As the two attentions; query_mask: [Q, Q] bool, which queries may not look at which."""
        attended = self.self_attention(content, position, query_mask)
        content = self.norm_self(content + self.dropout(attended))
        seen = self.cross_attention(content, position, sine, memory, memory_position, mask)
        content = self.norm_cross(content + self.dropout(seen))
        return self.norm_feed_forward(content + self.dropout(self.feed_forward(content)))


def _xavier(attention: nn.Module) -> None:
    """All projections: matrices Xavier-uniform, biases 0."""
    for layer in attention.children():
        if isinstance(layer, nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
