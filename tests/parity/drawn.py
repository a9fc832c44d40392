"""Weights and images that are functions of their names, so that parity needs no weight files.

The reference was filled with the same numbers under its own names, and its answers are kept in tests/golden. Two
rules: `published_*`, built from raw 64-bit PCG64 output and therefore the same under every numpy, and `lineage_*`,
drawn by numpy's Generator.
"""

from __future__ import annotations

import re
import zlib

import numpy as np

_EMBEDDINGS = ("query_position_embeddings", "query_refpoint_embeddings")
_QUERY_OR_KEY = re.compile(r"(^|\.)((sa|ca|self_attn|cross_attn)_)?(q|k|query|key)[a-z_]*_proj\.weight$")
_CLASSES = ("class_embed.weight", "class_labels_classifier.weight")


def _words(seed: int, count: int, each: int) -> np.ndarray:
    """[count, each] integers of 16 bits, in the order of the stream."""
    raw = np.random.PCG64(seed).random_raw(-(-count * each // 4)).astype("<u8")
    return raw.view("<u2")[: count * each].reshape(count, each).astype(np.int64)


def published_tensor(name: str, shape: list[int], gains: dict[str, float]) -> np.ndarray:
    """One float32 tensor of a published checkpoint of the DETR family, under its name in transformers 4."""
    count, seed = int(np.prod(shape)), zlib.crc32(name.encode())
    if name.endswith("running_var"):
        return (0.5 + (_words(seed, count, 1)[:, 0] + 0.5) / 65536).astype(np.float32).reshape(shape)
    # Four uniform numbers added up, centred, of unit variance.
    normal = (_words(seed, count, 4).sum(1) - 2 * 65535) / 65536.0 * np.sqrt(3.0)
    if name.endswith("running_mean"):
        values = 0.1 * normal
    elif name.endswith("bias"):
        values = gains["bias"] * normal
    elif any(part in name for part in _EMBEDDINGS):
        values = gains["embed"] * normal
    elif shape == [1]:
        values = 0.25 + 0.05 * normal
    elif len(shape) == 1:
        values = 1 + 0.1 * normal
    else:
        inputs = int(np.prod(shape[1:]))
        rows = normal.reshape(shape[0], inputs)
        if inputs >= 32:
            rows = rows - rows.mean(1, keepdims=True)
        kind = "linear"
        if len(shape) == 4:
            kind = "conv"
        elif _QUERY_OR_KEY.search(name):
            kind = "qk"
        elif name.endswith(_CLASSES):
            kind = "cls"
        values = gains[kind] * rows / np.sqrt(inputs)
    return values.astype(np.float32).reshape(shape)


def published_image(height: int, width: int, seed: int) -> np.ndarray:
    """[3, height, width] float32 normalised: waves, six rectangles, and noise."""
    numbers = iter(_words(1000003 * (seed + 1), 64, 4).ravel().tolist())
    y = (np.arange(height)[:, None] + 0.5) / height
    x = (np.arange(width)[None, :] + 0.5) / width
    image = np.empty((height, width, 3))
    for channel in range(3):
        waves = np.full((height, width), 0.5)
        for amplitude in (0.16, 0.12, 0.08):
            fy, fx, phase = (next(numbers) % 1000 / 1000.0 for _ in range(3))
            angle = np.floor(((0.5 + fy * 5.0) * y + (0.5 + fx * 5.0) * x + phase) * 65536.0) / 65536.0
            waves = waves + amplitude * np.sin(2.0 * np.pi * angle)
        image[:, :, channel] = waves
    for _ in range(6):
        top, left = next(numbers) % max(1, height - 8), next(numbers) % max(1, width - 8)
        tall, wide = 8 + next(numbers) % max(1, height // 3), 8 + next(numbers) % max(1, width // 3)
        colour = np.array([next(numbers) % 256 / 255.0 for _ in range(3)])
        part = image[top : top + tall, left : left + wide]
        part[:] = 0.35 * part + 0.65 * colour
    noise = (_words(7919 * (seed + 1) + 17, height * width * 3, 1)[:, 0] / 65535.0 - 0.5) * 0.16
    image = np.clip(np.floor((image + noise.reshape(image.shape)) * 255.0 + 0.5), 0, 255).astype(np.uint8)
    mean, std = np.array([0.485, 0.456, 0.406], np.float32), np.array([0.229, 0.224, 0.225], np.float32)
    return ((image.astype(np.float32) / np.float32(255)) - mean).transpose(2, 0, 1) / std[:, None, None]


def lineage_tensor(name: str, shape: list[int]) -> np.ndarray:
    """One float32 tensor of DN-DETR under its name in the authors' repository."""
    generator, leaf = np.random.Generator(np.random.PCG64(zlib.crc32(name.encode()))), name.split(".")[-1]
    if leaf == "running_var":
        return generator.uniform(0.5, 1.5, shape).astype(np.float32)
    normal = generator.standard_normal(shape)
    if leaf == "running_mean" or leaf.endswith("bias"):
        values = 0.1 * normal
    elif name == "refpoint_embed.weight":
        values = 1.5 * normal
    elif name in ("label_enc.weight", "transformer.patterns.weight"):
        values = normal
    elif shape == [1]:
        values = 0.25 + 0.05 * normal
    elif len(shape) == 1:
        values = 1 + 0.1 * normal
    else:
        values = normal / np.sqrt(np.prod(shape[1:]))
        if len(shape) == 4 and shape[1] > 3:
            values = values - values.mean((1, 2, 3), keepdims=True)
        owner = name.split(".")[-2]
        if owner in ("out_proj", "linear2"):
            values = 0.3 * values
        elif leaf == "in_proj_weight" or owner.startswith(("sa_q", "sa_k", "ca_q", "ca_k")):
            values = 2.0 * values
    return values.astype(np.float32)


def lineage_image(name: str, height: int, width: int) -> np.ndarray:
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
    return image.astype(np.float32)
