"""Between pixel masks, maps and tokens."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def as_tensor(numbers: Sequence[int], like: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """[n], on the device of `like`. Sizes of maps in a graph for images of any size stay symbols."""
    if torch.compiler.is_exporting():  # torch.tensor would make constants of them
        return torch.stack([torch.full((), number, dtype=dtype, device=like.device) for number in numbers])
    return torch.tensor(numbers, dtype=dtype, device=like.device)


def sides(sizes: Sequence[tuple[int, int]], like: Tensor) -> Tensor:
    """(h, w) of each of L maps to [L, 2] float32 (w, h)."""
    return as_tensor([side for height, width in sizes for side in (width, height)], like).view(-1, 2)


def cell_padding(padding: Tensor, size: tuple[int, int]) -> Tensor:
    """padding: [B, H, W] bool over pixels to [B, h, w] over the cells of a map of `size` (h, w).

    A cell is padding when every pixel of it is, so that a picture thinner than a cell keeps its cells.
    """
    if torch.compiler.is_exporting():
        # A picture is a rectangle; of that it can be said in any size of graph.
        left, top, width, height = content_extents(padding, padding).split(1, 1)
        outside = []
        for first, length, cells, pixels in (
            (top, height, size[0], padding.shape[1]),
            (left, width, size[1], padding.shape[2]),
        ):
            cell = torch.arange(cells, device=padding.device)
            start, end = cell * pixels // cells, ((cell + 1) * pixels + cells - 1) // cells
            outside.append(torch.logical_or(start >= first + length, end <= first))  # [B, cells]
        return torch.logical_or(outside[0][:, :, None], outside[1][:, None])
    real = F.adaptive_max_pool2d((~padding)[:, None].float(), size)
    return real[:, 0] == 0


def sampled_padding(padding: Tensor, size: tuple[int, int]) -> Tensor:
    """padding: [B, H, W] bool over pixels to [B, h, w] over the cells of a map of `size` (h, w).

    A cell is what its first pixel is: row floor(i H / h), column floor(j W / w). The DETR family's rule, and
    what its published weights were trained with; see `cell_padding` for the other one.
    """
    return F.interpolate(padding[:, None].float(), size, mode="nearest")[:, 0] > 0.5


def content_extents(images: Tensor, padding: Tensor | None) -> Tensor:
    """[B, 4] float32 (left, top, width, height) in pixels of the picture inside each [3, H, W] input.

    The picture is a rectangle: the smallest that holds every pixel that is not padding.
    """
    batch, height, width = images.shape[0], images.shape[-2], images.shape[-1]
    if padding is None:
        return as_tensor([0, 0, width, height], images).expand(batch, 4)
    columns, rows = (~padding).any(1), (~padding).any(2)
    left, top = columns.float().argmax(1), rows.float().argmax(1)
    return torch.stack([left, top, columns.sum(1), rows.sum(1)], 1).float()


def pooled_cells(x: Tensor, padding: Tensor | None, side: int) -> tuple[Tensor, Tensor, Tensor]:
    """A map [B, C, h, w] in coarse, as P = `side` x `side` means over the cells that are not padding [B, h, w]. On a
    map of fewer cells the means share them.

    Returns the means [B, P, C], the places of their middles in cells of the map [P, 2] (x, y), and which of them are
    of padding alone [B, P] bool.
    """
    batch, _, height, width = x.shape
    real = x.new_ones(batch, 1, height, width) if padding is None else (~padding)[:, None].to(x.dtype)
    share = _means(_means(real, side, 2), side, 3)
    means = _means(_means(x * real, side, 2), side, 3) / share.clamp(min=1e-6)
    middles = torch.arange(side, device=x.device) + 0.5
    rows, columns = middles * (height / side), middles * (width / side)
    size = (side, side)
    places = torch.stack([columns[None].expand(size), rows[:, None].expand(size)], -1).flatten(0, 1)
    return means.flatten(2).transpose(1, 2), places, share.flatten(1) == 0


def _means(x: Tensor, parts: int, dim: int) -> Tensor:
    """The mean over each of `parts` parts of a dimension, as adaptive average pooling has them: those at a seam belong
    to both sides. Spelled out, because a graph for maps of any size cannot hold that where a map has fewer cells."""
    length = x.shape[dim]
    ends = [(i * length // parts, ((i + 1) * length + parts - 1) // parts) for i in range(parts)]
    return torch.stack([x.narrow(dim, first, last - first).mean(dim) for first, last in ends], dim)
