"""Multi-head attention over sequences [B, S, D]. Masks: True = not to be looked at."""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import ConfigError


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    heads: int,
    mask: Tensor | None = None,
    dropout: float = 0.0,
    bias: Tensor | None = None,
) -> Tensor:
    """softmax(q k^T / sqrt(d) + bias) v, head by head (Vaswani et al. 2017, arXiv 1706.03762, section 3.2).

    query: [B, Q, heads * d]. key: [B, S, heads * d]. value: [B, S, heads * e]; e may differ from d.
    mask: bool, [Q, S] or [B, Q, S] or anything that broadcasts to it, e.g. [B, 1, S] for padded keys; every
    query must be left at least one key. dropout: chance for a weight to be dropped. bias: [B, heads, Q, S], or
    none. Returns [B, Q, heads * e].
    """
    query, key, value = (_split(x, heads) for x in (query, key, value))
    allowed = _allowed(mask)
    if bias is not None:
        bias = bias.to(query.dtype)
        allowed = bias if allowed is None else bias.masked_fill(~allowed, -math.inf)
    attended = F.scaled_dot_product_attention(query, key, value, allowed, dropout)
    return attended.transpose(1, 2).flatten(2)


def attention_weights(
    query: Tensor, key: Tensor, heads: int, mask: Tensor | None = None, bias: Tensor | None = None
) -> Tensor:
    """The weights that `attend` gives to the values, to be looked at: [B, heads, Q, S], float32, rows sum to 1."""
    query, key = _split(query, heads).float(), _split(key, heads).float()
    logits = query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1])
    if bias is not None:
        logits = logits + bias.float()
    allowed = _allowed(mask)
    return (logits if allowed is None else logits.masked_fill(~allowed, -math.inf)).softmax(-1)


def sharing(dim: int, heads: int) -> int:
    """The number of heads, if D channels can be shared out among them. Raises ConfigError."""
    if heads < 1 or dim % heads:
        raise ConfigError(f"heads expects a divisor of the {dim} channels; got {heads}.")
    return heads


def _split(x: Tensor, heads: int) -> Tensor:
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def _allowed(mask: Tensor | None) -> Tensor | None:
    """The one place where masks turn round: `scaled_dot_product_attention` has True = may be looked at."""
    return None if mask is None else ~mask.unsqueeze(-3)


class MultiHeadAttention(nn.Module):
    """Attention with a linear projection each for queries, keys, values and the output, all with biases.

    Initialised as the DETR family does: matrices Xavier-uniform, biases 0.
    """

    BY_QUERY = ("query",)
    HALF_PRECISION = True

    def __init__(self, dim: int, heads: int, dropout: float = 0.0):
        super().__init__()
        self.heads, self.dropout = sharing(dim, heads), dropout
        self.query = nn.Linear(dim, dim)
        self.key = nn.Linear(dim, dim)
        self.value = nn.Linear(dim, dim)
        self.output = nn.Linear(dim, dim)
        for layer in (self.query, self.key, self.value, self.output):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor | None = None,
        bias: Tensor | None = None,
    ) -> Tensor:
        """query: [B, Q, D]. key, value: [B, S, D]. mask, bias: as in `attend`. Returns [B, Q, D]."""
        dropout = self.dropout if self.training else 0.0
        projected = self.query(query), self.key(key), self.value(value)
        return self.output(attend(*projected, self.heads, mask, dropout, bias))

    def weights(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor | None = None,
        bias: Tensor | None = None,
    ) -> Tensor:
        """[B, heads, Q, S]: where a call of `forward` with the same arguments looks."""
        return attention_weights(self.query(query), self.key(key), self.heads, mask, bias)
