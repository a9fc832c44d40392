"""Attention among all cells of one map: cheap where it is coarse, and dear everywhere else."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .position import sincos_2d
from .tokens import cell_padding
from .transformer import PreNormEncoderLayer


class GlobalBlock(nn.Module):
    """Attention among all cells of the coarsest map, in half of its channels, added to it; it starts at 0."""

    def __init__(self, channels: int):
        super().__init__()
        inner = channels // 2
        self.narrow = nn.Conv2d(channels, inner, 1, bias=False)
        self.attention = PreNormEncoderLayer(inner, max(1, inner // 64), inner * 17 // 8)
        self.widen = nn.Conv2d(inner, channels, 1, bias=False)
        self.gate = nn.Parameter(torch.ones(1))
        nn.init.zeros_(self.widen.weight)

    def forward(self, x: Tensor, padding: Tensor | None) -> Tensor:
        """x: [B, C, h, w]. padding: [B, H, W] bool over pixels, or None."""
        height, width = x.shape[-2:]
        rows, columns = (torch.arange(n, device=x.device) for n in (height, width))
        grid = torch.broadcast_tensors(columns, rows[:, None])  # [h, w] each
        mask = None if padding is None else cell_padding(padding, (height, width)).flatten(1).unsqueeze(1)
        tokens = self.narrow(x).flatten(2).transpose(1, 2)
        position = sincos_2d(torch.stack(grid, -1).flatten(0, 1), tokens.shape[2]).unsqueeze(0)
        tokens = self.attention(tokens, position, mask)
        return x + self.gate * self.widen(tokens.transpose(1, 2).unflatten(2, (height, width)))
