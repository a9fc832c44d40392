"""Where queries begin: places and boxes of tokens, the best of them, and references on the maps of a pyramid."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.types import IntLikeType

from .pyramid import Tokens
from .tokens import sides

# A token's box must lie this far from 0 and 1 in every number, or the token proposes nothing.
_MARGIN = 0.01
# Side of the boxes of the finest map, in fractions of the picture; it doubles from level to level.
_FINEST = 0.05


def token_centres(tokens: Tokens) -> Tensor:
    """[B, S, 2] float32: x and y of each token's cell in fractions of the picture; outside 0..1 in padding."""
    centres = []
    for level, (height, width) in enumerate(tokens.sizes):
        rows = torch.arange(height, device=tokens.extents.device, dtype=torch.float32) + 0.5
        columns = torch.arange(width, device=tokens.extents.device, dtype=torch.float32) + 0.5
        grid = torch.broadcast_tensors(columns, rows[:, None])  # [h, w] each
        cells = torch.stack(grid, -1).flatten(0, 1)  # [h w, 2]
        corner, size = tokens.extents[:, None, level].split(2, -1)  # [B, 1, 2] each
        centres.append((cells - corner) / size.where(size > 0, 1.0))  # 0: no cell of the map is picture
    return torch.cat(centres, 1)


def on_maps(reference: Tensor, tokens: Tokens) -> Tensor:
    """Points or boxes in fractions of the picture, [B, Q, 2 or 4], to fractions of each map, [B, Q, L, 2 or 4]."""
    scale = sides(tokens.sizes, tokens.extents).repeat(1, 2)
    corner, size = (tokens.extents / scale).unsqueeze(1).split(2, -1)  # [B, 1, L, 2] each
    reference = reference.unsqueeze(2)
    if reference.shape[-1] == 2:
        return reference * size + corner
    return torch.cat([reference[..., :2] * size + corner, reference[..., 2:] * size], -1)


def token_boxes(tokens: Tokens) -> tuple[Tensor, Tensor]:
    """A first guess for each token (Deformable DETR, arXiv 2010.04159, appendix A.4): [B, S, 4], and [B, S] bool.

    The box stands on the token's cell and is as wide and high as usual for its level. True: the token may not
    propose anything, because it is padding or its box comes too near to 0 or 1.
    """
    centres = token_centres(tokens)
    filled = [
        torch.full((height * width,), _FINEST * 2**level, device=centres.device)
        for level, (height, width) in enumerate(tokens.sizes)
    ]
    side = torch.cat(filled)[:, None].expand(centres.shape[0], -1, 2)
    boxes = torch.cat([centres, side], -1)
    unusable = torch.logical_or(boxes <= _MARGIN, boxes >= 1 - _MARGIN).any(-1)
    if tokens.padding is not None:
        unusable = torch.logical_or(unusable, tokens.padding)
    return boxes, unusable


def top_tokens(scores: Tensor, count: IntLikeType, unusable: Tensor | None = None) -> Tensor:
    """Numbers of the `count` best tokens, best first: scores [B, S] to [B, min(count, S)] int64.

    Of equal scores the first token comes first, on every device. unusable: [B, S] bool, tokens that are taken
    only where too few others are left.
    """
    scores = scores.detach().float()
    if unusable is not None:
        scores = scores.masked_fill(unusable, torch.finfo(torch.float32).min)
    count = torch.sym_min(count, scores.shape[1])  # in a graph for images of any size, not one of the two
    # ONNX defines the order of equal scores in TopK, and has no stable sort.
    if torch.compiler.is_exporting() or torch.jit.is_tracing():  # pyright: ignore[reportPrivateImportUsage] documented
        return scores.topk(count, 1).indices
    return scores.sort(dim=1, descending=True, stable=True).indices[:, :count]


def content_of(tokens: Tokens, chosen: Tensor) -> Tensor:
    """What queries start from that are tokens: features of these, [B, k, D]. Those of padding mean nothing; they are
    given as 0."""
    content = pick(tokens.features, chosen)
    if tokens.padding is None:
        return content
    return content.masked_fill(tokens.padding.gather(1, chosen).unsqueeze(-1), 0.0)


def pick(values: Tensor, chosen: Tensor) -> Tensor:
    """Rows of values [B, S, D] by their numbers [B, k]: [B, k, D]."""
    return values.gather(1, chosen.unsqueeze(-1).expand(-1, -1, values.shape[-1]))
