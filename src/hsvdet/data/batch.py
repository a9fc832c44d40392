"""Samples to a Batch: the one place where pixel boxes become fractions and images become float."""

from __future__ import annotations

import torch

from ..boxes import xyxy_to_cxcywh
from ..preprocess import Preprocess
from ..structures import Batch, Rectangle, Sample, Target


def collate(samples: list[Sample], preprocess: Preprocess) -> Batch:
    """Stack samples of any sizes; a smaller one is padded on the right and below, at the normalised zero.

    The padding mask covers both that and what lies outside a sample's `content`.
    """
    height = max(sample.image.shape[-2] for sample in samples)
    width = max(sample.image.shape[-1] for sample in samples)
    images = torch.zeros(len(samples), 3, height, width)
    padding = torch.ones(len(samples), height, width, dtype=torch.bool)
    targets, infos = [], []
    for i, sample in enumerate(samples):
        h, w = sample.image.shape[-2:]
        images[i, :, :h, :w] = preprocess.normalise(sample.image)
        content = sample.content or Rectangle(0, 0, w, h)
        bottom, right = content.top + content.height, content.left + content.width
        padding[i, content.top : bottom, content.left : right] = False
        offset = torch.tensor([content.left, content.top] * 2, dtype=torch.float32)
        scale = torch.tensor([content.width, content.height] * 2, dtype=torch.float32)
        targets.append(Target(sample.labels, xyxy_to_cxcywh((sample.boxes.float() - offset) / scale)))
        infos.append(sample.info)
    return Batch(images, padding if padding.any() else None, targets, infos)
