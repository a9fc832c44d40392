"""Weights and images of the DETR lineage's golden numbers, drawn by numpy's Generator from a hash of the name.

filler.py has the other rule, that of the published models.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

_EMBEDDINGS = (
    "label_enc.weight",
    "query_embed.weight",
    "tgt_embed.weight",
    "transformer.tgt_embed.weight",
    "transformer.patterns.weight",
    "transformer.pattern.weight",
    "transformer.level_embed",
)


def lineage_tensor(name: str, shape: Sequence[int]) -> Tensor:
    """One float32 tensor of a model under its name in the authors' repository."""
    generator, leaf = np.random.Generator(np.random.PCG64(zlib.crc32(name.encode()))), name.split(".")[-1]
    if leaf == "running_var":
        return torch.from_numpy(generator.uniform(0.5, 1.5, shape).astype(np.float32))
    if name == "transformer.position.weight":
        return torch.from_numpy(generator.uniform(0, 1, shape).astype(np.float32))
    normal = generator.standard_normal(shape)
    if leaf == "running_mean" or leaf.endswith("bias"):
        values = 0.1 * normal
    elif name == "refpoint_embed.weight":
        values = 1.5 * normal
    elif name in _EMBEDDINGS:
        values = normal
    elif list(shape) == [1]:
        values = 0.25 + 0.05 * normal
    elif len(shape) == 1:
        values = 1 + 0.1 * normal
    else:
        values = normal / np.sqrt(np.prod(shape[1:]))
        if len(shape) == 4 and shape[1] > 3:
            values = values - values.mean((1, 2, 3), keepdims=True)
        owner = name.split(".")[-2]
        if owner in ("out_proj", "output_proj", "linear2", "linear22"):
            values = 0.3 * values
        elif leaf == "in_proj_weight" or owner.startswith(("sa_q", "sa_k", "ca_q", "ca_k")):
            values = 2.0 * values
    return torch.from_numpy(values.astype(np.float32))


def lineage_image(name: str, height: int, width: int) -> Tensor:
    """[3, height, width] float32, normalised already: four gratings a channel, and noise."""
    generator = np.random.Generator(np.random.PCG64(zlib.crc32(f"image:{name}".encode())))
    y = (np.arange(height)[:, None] + 0.5) / 64.0
    x = (np.arange(width)[None, :] + 0.5) / 64.0
    image = np.zeros((3, height, width))
    for channel in image:
        for _ in range(4):
            fy, fx = generator.uniform(-3, 3), generator.uniform(-3, 3)
            phase, amplitude = generator.uniform(0, 2 * np.pi), generator.uniform(0.3, 0.9)
            channel += amplitude * np.sin(2 * np.pi * (fy * y + fx * x) + phase)
        channel += 0.25 * generator.standard_normal((height, width))
    return torch.from_numpy(image.astype(np.float32))


def on_one_canvas(sizes: Sequence[tuple[int, int]]) -> tuple[Tensor, Tensor]:
    """Images img0, img1, ... of (height, width) `sizes` in the upper left of canvases that hold the largest of each
    side: [B, 3, H, W], and what of them is padding, [B, H, W] bool."""
    height, width = (max(size[axis] for size in sizes) for axis in (0, 1))
    images = torch.zeros(len(sizes), 3, height, width)
    padding = torch.ones(len(sizes), height, width, dtype=torch.bool)
    for i, (height, width) in enumerate(sizes):
        images[i, :, :height, :width] = lineage_image(f"img{i}", height, width)
        padding[i, :height, :width] = False
    return images, padding


def lineage_noise(name: str, shape: Sequence[int], high: int | None = None) -> Tensor:
    """What a reference drew: uniform in [0, 1) float32 or, with `high`, integers from 0 to below it, int64."""
    generator = np.random.Generator(np.random.PCG64(zlib.crc32(f"noise:{name}".encode())))
    if high is not None:
        return torch.from_numpy(generator.integers(0, high, tuple(shape)).astype(np.int64))
    return torch.from_numpy(generator.uniform(0, 1, tuple(shape)).astype(np.float32))
