"""Weights and pictures from a rule instead of a file, the same on every machine.

The golden numbers (tests/golden, ../shared/golden) were computed by reference implementations with weights
drawn from a hash of each tensor's published name, and with drawn pictures; this draws the same ones.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable, Mapping

import numpy as np
import torch
from torch import Tensor

_QUERY_OR_KEY = re.compile(
    r"(^|\.)((sa|ca|self_attn|cross_attn)_)?(q|k|query|key)[a-z_]*_proj\.weight$|in_proj_weight$"
)
_CLASSES = re.compile(
    r"(class_embed(\.\d+)?|class_labels_classifier|enc_score_head|dec_score_head\.\d+)\.weight$"
)
_EMBEDDINGS = (
    "query_position_embeddings",
    "query_refpoint_embeddings",
    "query_embed",
    "refpoint_embed",
    "tgt_embed",
    "weight_embedding",
)
_GAINS = {"conv": 1.2, "linear": 1.0, "qk": 1.5, "cls": 2.0, "bias": 0.1, "offset_bias": 1.5, "embed": 1.0}


def _integers(seed: int, count: int) -> np.ndarray:
    """`count` integers of 16 bits from PCG64's raw words, low end first."""
    words = np.random.PCG64(seed).random_raw(-(-count // 4))
    return np.asarray(words, "<u8").view("<u2")[:count].astype(np.int64)


def fill(name: str, shape: Iterable[int], salt: str = "", gains: Mapping[str, float] | None = None) -> Tensor:
    """The tensor of that published name. Sums of four uniforms stand for normal numbers."""
    shape = tuple(shape)
    gain = {**_GAINS, **(gains or {})}
    count = int(np.prod(shape))
    if name.endswith("num_batches_tracked"):
        return torch.zeros(shape, dtype=torch.int64)
    if name.endswith("dfl.conv.weight"):
        return torch.arange(count, dtype=torch.float32).reshape(shape)
    seed = zlib.crc32((salt + name).encode())
    if name.endswith("running_var"):
        values = 0.5 + (_integers(seed, count) + 0.5) / 65536
        return torch.from_numpy(values.astype(np.float32)).reshape(shape)
    normal = (_integers(seed, 4 * count).reshape(-1, 4).sum(1) - 2 * 65535) / 65536 * np.sqrt(3.0)
    if name.endswith("running_mean") or "denoising_class_embed" in name:
        normal = 0.1 * normal
    elif name.endswith("sampling_offsets.bias"):
        normal = gain["offset_bias"] * normal
    elif name.endswith("bias"):
        normal = gain["bias"] * normal
    elif name.endswith("level_embed"):
        normal = 0.3 * normal
    elif any(key in name for key in _EMBEDDINGS):
        normal = gain["embed"] * normal
    elif shape == (1,):
        normal = 0.25 + 0.05 * normal
    elif len(shape) <= 1:
        normal = 1.0 + 0.1 * normal
    else:
        fan_in = count // shape[0]
        if fan_in >= 32:
            rows = normal.reshape(shape[0], fan_in)
            normal = rows - rows.mean(1, keepdims=True)
        kind = "linear"
        if len(shape) == 4:
            kind = "conv"
        elif _QUERY_OR_KEY.search(name):
            kind = "qk"
        elif _CLASSES.search(name):
            kind = "cls"
        normal = gain[kind] * normal / np.sqrt(fan_in)
    return torch.from_numpy(normal.astype(np.float32)).reshape(shape)


def picture(height: int, width: int, seed: int) -> Tensor:
    """[3, height, width] float32 in [0, 1]: coloured waves, six rectangles, noise."""
    numbers = iter(_integers(1000003 * (seed + 1), 256).tolist())
    y = ((np.arange(height) + 0.5) / height)[:, None]
    x = ((np.arange(width) + 0.5) / width)[None, :]
    image = np.full((height, width, 3), 0.5)
    for channel in range(3):
        for amplitude in (0.16, 0.12, 0.08):
            along_y, along_x = (0.5 + next(numbers) % 1000 / 1000.0 * 5.0 for _ in range(2))
            phase = next(numbers) % 1000 / 1000.0
            angle = np.floor((along_y * y + along_x * x + phase) * 65536.0) / 65536.0
            image[:, :, channel] += amplitude * np.sin(2.0 * np.pi * angle)
    for _ in range(6):
        top, left = next(numbers) % max(1, height - 8), next(numbers) % max(1, width - 8)
        tall, wide = 8 + next(numbers) % max(1, height // 3), 8 + next(numbers) % max(1, width // 3)
        colour = np.array([next(numbers) % 256 / 255.0 for _ in range(3)])
        inside = image[top : top + tall, left : left + wide]
        inside[:] = 0.35 * inside + 0.65 * colour
    noise = _integers(7919 * (seed + 1) + 17, height * width * 3) / 65535.0 - 0.5
    image += 0.16 * noise.reshape(height, width, 3)
    bytes_ = np.clip(np.floor(image * 255.0 + 0.5), 0, 255).astype(np.float32)
    return torch.from_numpy(bytes_ / np.float32(255.0)).permute(2, 0, 1).contiguous()
