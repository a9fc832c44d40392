"""Row-column decoupled attention (Anchor DETR, Wang et al. 2022, arXiv 2109.07107, section 3.4), and what it needs of
the rows and columns of a map."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .attention import attention_weights, sharing
from .initialise import init_xavier


class RowColumnAttention(nn.Module):
    """Attention along x to the columns of a map, along y to its rows.

    A cell's weight is the product of its column's and its row's. The first of the two sums leaves Q times the
    shorter side of the map, not Q times h w.
    """

    BY_QUERY = ("query_x", "query_y")
    HALF_PRECISION = True

    def __init__(self, dim: int, heads: int, dropout: float = 0.0):
        super().__init__()
        self.heads, self.dropout = sharing(dim, heads), dropout
        self.query_x, self.query_y, self.key_x, self.key_y, self.value, self.output = (
            init_xavier(nn.Linear(dim, dim)) for _ in range(6)
        )

    def forward(
        self,
        query_x: Tensor,
        query_y: Tensor,
        key_x: Tensor,
        key_y: Tensor,
        value: Tensor,
        padding: Tensor | None = None,
    ) -> Tensor:
        """query_x, query_y: [B, Q, D]. key_x: [B, w, D], of columns. key_y: [B, h, D], of rows. value:
        [B, h, w, D]. padding: [B, h, w] bool, rows and columns of it are not looked at. Returns [B, Q, D]."""
        along_x, along_y = self._along(query_x, query_y, key_x, key_y, padding)
        if self.training:
            along_x, along_y = (F.dropout(along, self.dropout) for along in (along_x, along_y))
        value = self.value(value).unflatten(-1, (self.heads, -1))  # [B, h, w, heads, d]
        # A graph for images of any size has one order for all of them.
        if not torch.compiler.is_exporting() and value.shape[1] > value.shape[2]:
            along_x, along_y, value = along_y, along_x, value.transpose(1, 2)
        # [B, heads, w, d h]; in a graph for images of any size PyTorch cannot flatten d and h.
        values = torch.cat(value.permute(0, 3, 2, 4, 1).unbind(3), -1)
        of_rows = along_x.to(value.dtype) @ values
        of_rows = of_rows.unflatten(-1, (value.shape[-1], -1))  # [B, heads, Q, d, h]
        seen = of_rows @ along_y.to(value.dtype).unsqueeze(-1)  # [B, heads, Q, d, 1]
        return self.output(seen.squeeze(-1).transpose(1, 2).flatten(2))

    def weights(
        self,
        query_x: Tensor,
        query_y: Tensor,
        key_x: Tensor,
        key_y: Tensor,
        value: Tensor,
        padding: Tensor | None = None,
    ) -> Tensor:
        """[B, heads, Q, h w]: where a call of `forward` with the same arguments looks."""
        along_x, along_y = self._along(query_x, query_y, key_x, key_y, padding)
        return (along_y.unsqueeze(-1) * along_x.unsqueeze(-2)).flatten(-2)

    def _along(self, query_x, query_y, key_x, key_y, padding) -> tuple[Tensor, Tensor]:
        """[B, heads, Q, w] and [B, heads, Q, h] float32, each sums to 1."""
        mask_x = mask_y = None
        if padding is not None:
            mask_x, mask_y = padding.all(1).unsqueeze(1), padding.all(2).unsqueeze(1)
        return (
            attention_weights(self.query_x(query_x), to_lines(self.key_x, key_x), self.heads, mask_x),
            attention_weights(self.query_y(query_y), to_lines(self.key_y, key_y), self.heads, mask_y),
        )


def means(cells: Tensor, padding: Tensor | None) -> tuple[Tensor, Tensor]:
    """Of a map [B, h, w, D] each column's mean [B, w, D] and each row's [B, h, D], over what is picture.

    The paper averages keys after their projection; it is linear, so that the keys of means are the same.
    """
    if padding is None:
        return cells.mean(1), cells.mean(2)
    rows, columns = (real / real.sum(1, keepdim=True).clamp(min=1) for real in real_lines(padding))
    return (cells * rows[:, :, None, None]).sum(1), (cells * columns[:, None, :, None]).sum(2)


def to_lines(layer: nn.Module, lines: Tensor) -> Tensor:
    """`layer` of [B, n, D], B and n exchanged: a graph for one image of any size cannot have a linear layer of
    [1, n, D], because to flatten it PyTorch asks whether n is 1."""
    return layer(lines.transpose(0, 1)).transpose(0, 1)


def real_lines(padding: Tensor) -> tuple[Tensor, Tensor]:
    """padding: [B, h, w] bool. Which rows and which columns have picture, [B, h] and [B, w] bool."""
    return (~padding).any(2), (~padding).any(1)


def line_centres(real: Tensor) -> Tensor:
    """real: [B, n] bool. The centre of each row or column in fractions of the picture, [B, n] float32; that of
    padding is finite and means nothing."""
    number = real.float().cumsum(1)
    return (number - 0.5) / number[:, -1:].clamp(min=1)
