"""Where things are, as sines and cosines. Computed in float32, also under autocast."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .tokens import sampled_padding

# Against division by zero, for a row or column without any picture.
_EPSILON = 1e-6


def sine_of_map(padding: Tensor, dim: int, temperature: float = 10000.0, offset: float = 0.0) -> Tensor:
    """Place of each cell in its picture (DETR, appendix A.4): padding [B, h, w] bool to [B, dim, h, w].

    A cell's row and column are counted from 1 among the cells that are picture, less `offset`, and divided by
    how many there are: 0..1, the same for a large and a small picture. The first half of the channels tells
    the row, the second the column. offset: 0 in DETR, Conditional and DAB; 0.5, which means the cell's centre,
    in Deformable DETR. The values at padded cells are finite and mean nothing.
    """
    real = (~padding).float()
    rows, columns = real.cumsum(1), real.cumsum(2)
    rows = (rows - offset).clamp(min=0) / (rows[:, -1:, :] + _EPSILON)
    columns = (columns - offset).clamp(min=0) / (columns[:, :, -1:] + _EPSILON)
    return sine_of_coordinates(torch.stack([rows, columns], -1), dim // 2, temperature).permute(0, 3, 1, 2)


def sine_of_coordinates(coordinates: Tensor, dim: int = 128, temperature: float = 10000.0) -> Tensor:
    """Coordinates [..., n], 0..1, to [..., n * dim]: `dim` sines and cosines of each, in the order given.

    Values 2i and 2i + 1 are the sine and the cosine of 2 pi c / temperature^(2i / dim).
    """
    exponents = torch.arange(0, dim, 2, device=coordinates.device, dtype=torch.float32) / dim
    angles = coordinates.float().unsqueeze(-1) * (2 * math.pi) / temperature**exponents  # [..., n, dim / 2]
    return torch.stack([angles.sin(), angles.cos()], -1).flatten(-3)


def cell_positions(
    features: Tensor, padding: Tensor | None, temperature: float = 10000.0, offset: float = 0.0
) -> tuple[Tensor, Tensor | None]:
    """What a dense transformer must know about the cells of a map [B, D, h, w], row by row as tokens.

    padding: [B, H, W] bool over pixels, or None. Returns their position [B or 1, S, D] as `sine_of_map` gives
    it, and which of them may not be looked at: [B, 1, S] bool, or None for all may.
    """
    size = features.shape[-2], features.shape[-1]
    if padding is None:
        cells = torch.zeros(1, *size, dtype=torch.bool, device=features.device)
    else:
        cells = sampled_padding(padding, size)
    position = sine_of_map(cells, features.shape[1], temperature, offset).flatten(2).transpose(1, 2)
    return position, None if padding is None else cells.flatten(1).unsqueeze(1)


def sincos_2d(position: Tensor, channels: int, temperature: float = 10000.0) -> Tensor:
    """Places [..., 2] (x, y) to [..., channels]: sines and cosines of x, then of y."""
    frequencies = torch.arange(channels // 4, device=position.device, dtype=torch.float32) / (channels // 4)
    angles = position.float().unsqueeze(-1) / temperature**frequencies  # [..., 2, C / 4]
    return torch.cat([angles.sin(), angles.cos()], -1).flatten(-2)


def rotate_2d(tokens: Tensor, position: Tensor, temperature: float = 100.0) -> Tensor:
    """Rotary position (Su et al. 2021, arXiv 2104.09864) in two axes.

    tokens: [B, heads, k, d]. position: [B or 1, k, 2]. The first half of the channels turns with x, the second
    with y.
    """
    quarter = tokens.shape[-1] // 4
    frequencies = torch.arange(quarter, device=position.device, dtype=torch.float32) / quarter
    angles = (position.float().unsqueeze(-1) / temperature**frequencies).unsqueeze(1)  # [B, 1, k, 2, d / 4]
    cos, sin = angles.cos().to(tokens.dtype), angles.sin().to(tokens.dtype)
    real, imaginary = tokens.unflatten(-1, (2, 2, quarter)).unbind(-2)  # each [B, heads, k, 2, d / 4]
    turned = torch.stack([real * cos - imaginary * sin, real * sin + imaginary * cos], -2)
    return turned.flatten(-3)
