"""Tokens of a pyramid that are worth attention: the best cells of every map, and the coarsest map in coarse."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..structures import Selection
from .position import sine_of_coordinates
from .pyramid import Tokens
from .queries import pick, token_centres, top_tokens
from .selection import TokenScorer, kept_cells
from .tokens import pooled_cells
from .transformer import FeedForward


class ExtractedTokens(NamedTuple):
    """features, position: [B, S, D]. mask: [B, 1, S] bool, True = padding, or None. chosen: the cells of each
    map that the tokens are, best first, [B, k] int64; the pooled ones come after. selections: of each map."""

    features: Tensor
    position: Tensor
    mask: Tensor | None
    chosen: tuple[Tensor, ...]
    selections: tuple[Selection, ...]


class TokenExtractor(nn.Module):
    """The `tokens` best cells of each map by a learned score, and `context` x `context` means of the coarsest map
    (poll and pool: PnP-DETR, Wang et al. 2021, arXiv 2109.07036).

    A token is (f + MLP(f)) sigma(score) + position + level: the score weighs what it chooses, and so learns from
    what the tokens are used for. strides: of the maps, finest first. mass: 0 for always as many tokens; else, in
    evaluation, a quarter or half of them in images where these hold that share of the scores' sum. Nobody sees the
    others, so an answer does not depend on the images beside it; a single image is computed without them.
    """

    def __init__(self, dim: int, strides: tuple[int, ...], tokens: int, context: int, mass: float = 0.0):
        super().__init__()
        self.strides, self.tokens, self.context, self.mass = strides, tokens, context, mass
        self.scorers = nn.ModuleList(TokenScorer(dim, dim) for _ in strides)
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in strides)
        self.mlps = nn.ModuleList(FeedForward(dim, 2 * dim) for _ in strides)
        self.levels = nn.Parameter(torch.randn(len(strides) + 1, dim) * 0.02)

    def forward(self, maps: list[Tensor], cells: Tokens) -> ExtractedTokens:
        """maps: [B, D, h, w] each, finest first. cells: the same as `tile_maps` gives them."""
        counts = [height * width for height, width in cells.sizes]
        centres = token_centres(cells).split(counts, 1)
        padding = None if cells.padding is None else cells.padding.split(counts, 1)
        features, positions, mask, chosen, selections = [], [], [], [], []
        for number, tokens in enumerate(cells.features.split(counts, 1)):
            scores = self.scorers[number](maps[number])
            outside = None if padding is None else padding[number]
            best, empty = self._best(scores.flatten(1), outside)
            kept = kept_cells(scores, best, empty)
            selections.append(Selection(scores, self.strides[number], kept))
            token = pick(tokens, best)
            token = token + self.mlps[number](self.norms[number](token))
            features.append(token * scores.flatten(1).gather(1, best).sigmoid().unsqueeze(-1).to(token.dtype))
            positions.append(self._position(pick(centres[number], best), number))
            if empty is not None:
                mask.append(empty)
            chosen.append(best)
        coarse = None if padding is None else padding[-1].unflatten(1, cells.sizes[-1])
        means, middles, without = pooled_cells(maps[-1], coarse, self.context)
        corner, size = cells.extents[:, None, -1].split(2, -1)  # [B, 1, 2] each
        features.append(means)
        positions.append(self._position((middles - corner) / size, len(maps)))
        mask.append(without)
        position = torch.cat(positions, 1)
        return ExtractedTokens(
            torch.cat(features, 1) + position.to(means.dtype),
            position,
            torch.cat(mask, 1).unsqueeze(1) if len(mask) > len(maps) else None,
            tuple(chosen),
            tuple(selections),
        )

    def _position(self, centres: Tensor, level: int) -> Tensor:
        """Points in fractions of the picture [B, k, 2] to [B, k, D]."""
        return sine_of_coordinates(centres, self.levels.shape[1] // 2) + self.levels[level]

    def _best(self, scores: Tensor, outside: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Of a map's scores [B, N] and padding: the tokens [B, k], best first, and which of them nobody is to see,
        [B, k] bool: those of padding and, beyond the mass, those left out; None of none."""
        best = top_tokens(scores, self.tokens, outside)
        empty = None if outside is None else outside.gather(1, best)
        if not self.mass or self.training:
            return best, empty
        logits = scores.gather(1, best)
        masses = logits.sigmoid() if empty is None else logits.sigmoid().masked_fill(empty, 0.0)
        held = masses.cumsum(1)
        enough = (held < self.mass * held[:, -1:]).sum(1, keepdim=True) + 1
        number = torch.arange(best.shape[1], device=best.device)
        quarter, half = (
            torch.logical_and(enough <= count, number >= count)
            for count in (self.tokens // 4, self.tokens // 2)
        )
        unused = torch.logical_or(quarter, half)
        if scores.shape[0] == 1 and not torch.compiler.is_exporting():
            used = int((~unused).sum())
            return best[:, :used], None if empty is None else empty[:, :used]
        return best, unused if empty is None else torch.logical_or(empty, unused)
