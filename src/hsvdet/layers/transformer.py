"""The parts of a transformer that detectors share: [B, S, D] in and out."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from .attention import MultiHeadAttention


class Mlp(nn.Module):
    """`depth` linear layers from dim_in over `dim` to dim_out, with ReLU between and none after the last."""

    def __init__(self, dim_in: int, dim: int, dim_out: int, depth: int):
        super().__init__()
        sizes = [dim_in, *[dim] * (depth - 1), dim_out]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in zip(sizes, sizes[1:], strict=False))

    @property
    def last(self) -> nn.Linear:
        (*_, last) = self.layers
        assert isinstance(last, nn.Linear)
        return last

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers[:-1]:
            x = layer(x).relu()
        return self.layers[-1](x)


class FeedForward(nn.Module):
    """Linear to `hidden_dim` values, activation, dropout, linear back: the same for every token."""

    HALF_PRECISION = True

    def __init__(
        self, dim: int, hidden_dim: int, dropout: float = 0.0, activation: Callable[[], nn.Module] = nn.ReLU
    ):
        super().__init__()
        self.expand = nn.Linear(dim, hidden_dim)
        self.activation = activation()
        self.dropout = nn.Dropout(dropout)
        self.contract = nn.Linear(hidden_dim, dim)
        nn.init.xavier_uniform_(self.expand.weight)
        nn.init.xavier_uniform_(self.contract.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.contract(self.dropout(self.activation(self.expand(x))))


class EncoderLayer(nn.Module):
    """Self-attention, then a feed-forward network, each x <- LayerNorm(x + f(x)) (DETR, appendix A.3).

    The position is added to queries and keys, never to values.
    """

    EXPLAINED = {"attention": "encoder"}

    def __init__(
        self,
        dim: int,
        heads: int,
        feed_forward: int,
        dropout: float = 0.0,
        activation: Callable[[], nn.Module] = nn.ReLU,
    ):
        super().__init__()
        self.attention = MultiHeadAttention(dim, heads, dropout)
        self.norm_attention = nn.LayerNorm(dim)
        self.feed_forward = FeedForward(dim, feed_forward, dropout, activation)
        self.norm_feed_forward = nn.LayerNorm(dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens: Tensor, position: Tensor, mask: Tensor | None = None) -> Tensor:
        """tokens: [B, S, D]. position: [B or 1, S, D]. mask: [B, 1, S] bool, True = padding."""
        placed = tokens + position
        tokens = self.norm_attention(tokens + self.dropout(self.attention(placed, placed, tokens, mask)))
        return self.norm_feed_forward(tokens + self.dropout(self.feed_forward(tokens)))


class PreNormEncoderLayer(nn.Module):
    """Self-attention, then a feed-forward network, each x <- x + f(LayerNorm(x)): what it starts as is close to
    the identity, and no warm-up is needed (Xiong et al. 2020, arXiv 2002.04745)."""

    EXPLAINED = {"attention": None}

    def __init__(self, dim: int, heads: int, feed_forward: int):
        super().__init__()
        self.norm_attention = nn.LayerNorm(dim)
        self.attention = MultiHeadAttention(dim, heads)
        self.norm_feed_forward = nn.LayerNorm(dim)
        self.feed_forward = FeedForward(dim, feed_forward)

    def forward(self, tokens: Tensor, position: Tensor, mask: Tensor | None = None) -> Tensor:
        """tokens: [B, S, D]. position: [B or 1, S, D], added to queries and keys. mask: [B, 1, S] bool."""
        normed = self.norm_attention(tokens)
        placed = normed + position.to(normed.dtype)
        tokens = tokens + self.attention(placed, placed, normed, mask)
        return tokens + self.feed_forward(self.norm_feed_forward(tokens))


class PreNormDecoderLayer(nn.Module):
    """Attention among queries, attention to tokens, feed-forward; each x <- x + f(LayerNorm(x))."""

    EXPLAINED = {"self_attention": None, "cross_attention": None}

    def __init__(self, dim: int, heads: int, feed_forward: int):
        super().__init__()
        self.norm_self = nn.LayerNorm(dim)
        self.self_attention = MultiHeadAttention(dim, heads)
        self.norm_cross = nn.LayerNorm(dim)
        self.cross_attention = MultiHeadAttention(dim, heads)
        self.norm_feed_forward = nn.LayerNorm(dim)
        self.feed_forward = FeedForward(dim, feed_forward)

    def forward(
        self,
        content: Tensor,
        query_position: Tensor,
        memory: Tensor,
        position: Tensor,
        mask: Tensor | None = None,
    ) -> Tensor:
        """content, query_position: [B, Q, D], of queries. memory, position: [B, S, D], of tokens. mask: [B, 1, S] bool,
        tokens that may not be looked at. Returns the content."""
        normed = self.norm_self(content)
        placed = normed + query_position
        content = content + self.self_attention(placed, placed, normed)
        asked = self.norm_cross(content) + query_position
        content = content + self.cross_attention(asked, memory + position, memory, mask)
        return content + self.feed_forward(self.norm_feed_forward(content))
