"""A learned suppressor of duplicates, instead of non-maximum suppression.

MDS-DETR: DETR with Masked Duplicate Suppressor. Lee, Koh, Jeon and Kim, 2026, https://arxiv.org/abs/2605.23507
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .attention import MultiHeadAttention
from .initialise import init_class_prior
from .relative_boxes import RelativeBoxBias
from .transformer import FeedForward


def stronger(scores: Tensor) -> Tensor:
    """scores [B, Q] to [B, Q, Q] bool: whether j comes before i when sorted, equal ones by their number.

    Comparisons instead of a sort: every runtime has them, and ties that quantisation makes stay in order.
    """
    later, earlier = scores[:, :, None], scores[:, None]
    number = torch.arange(scores.shape[1], device=scores.device)
    tie = torch.logical_and(earlier == later, number < number[:, None])
    return torch.logical_or(earlier > later, tie)


class Deduplication(nn.Module):
    """Boxes, scores and features of Q candidates to class logits [B, Q, C] in which duplicates are weak.

    One layer of attention and feed-forward, each x <- x + f(LayerNorm(x)), and classes. A candidate sees those
    that are stronger than it, never itself, so the strongest of an object can stand and the others know that
    they are not. Null tokens are what it looks at when nothing stronger matters. Boxes stay as they are, and
    say by a bias how candidates lie to one another; there is no other position.

    The candidates may be a decoder's queries or the best anchors of any dense head. num_classes: 1 for one
    score, "keep this". What the candidate is must be in its features: its class too, where duplicates are of
    one class. relation: `RelativeBoxBias`'s width.
    """

    EXPLAINED = {"attention": None}

    def __init__(
        self,
        dim: int,
        num_classes: int,
        heads: int = 8,
        feed_forward: int = 1024,
        null_tokens: int = 10,
        relation: int = 128,
    ):
        super().__init__()
        self.relation = RelativeBoxBias(heads, relation)
        self.null_tokens = nn.Parameter(torch.randn(null_tokens, dim) * dim**-0.5)
        self.null_bias = nn.Parameter(torch.zeros(heads, 1))
        self.norm_attention = nn.LayerNorm(dim)
        self.attention = MultiHeadAttention(dim, heads)
        self.norm_feed_forward = nn.LayerNorm(dim)
        self.feed_forward = FeedForward(dim, feed_forward)
        self.norm = nn.LayerNorm(dim)
        self.classes = init_class_prior(nn.Linear(dim, num_classes))

    def forward(
        self, features: Tensor, boxes: Tensor, scores: Tensor, padding: Tensor | None = None
    ) -> Tensor:
        """features: [B, Q, D]. boxes: [B, Q, 4] cxcywh of any unit. scores: [B, Q], any that rank; neither boxes
        nor scores get a gradient. padding: [B, Q] bool, True for rows that are no candidates: nobody sees
        them, and their answers mean nothing."""
        batch, queries = scores.shape
        nulls = self.null_tokens.expand(batch, -1, -1)
        mask = ~stronger(scores.detach())
        if padding is not None:
            mask = torch.logical_or(mask, padding[:, None])
        mask = torch.cat([mask, mask.new_zeros(batch, queries, nulls.shape[1])], 2)
        bias = self.relation(boxes)
        null_bias = self.null_bias[:, :, None].expand(batch, -1, queries, nulls.shape[1])
        bias = torch.cat([bias, null_bias.to(bias.dtype)], 3)

        normed = self.norm_attention(features)
        seen = torch.cat([normed, nulls.to(normed.dtype)], 1)
        features = features + self.attention(normed, seen, seen, mask, bias)
        features = features + self.feed_forward(self.norm_feed_forward(features))
        return self.classes(self.norm(features))
