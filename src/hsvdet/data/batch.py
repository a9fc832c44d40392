"""Samples to a Batch: the one place where pixel boxes become fractions and images become float."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.utils.data import default_collate

from ..boxes import xyxy_to_cxcywh
from ..preprocess import Preprocess
from ..structures import Batch, Rectangle, Sample, Target


def collate(samples: list[Sample], preprocess: Preprocess) -> Batch:
    """Stack samples of any sizes; a smaller one is padded on the right and below, at the normalised zero.

    The padding mask covers both that and what lies outside a sample's `content`.
    """
    return normalised(stack(samples, preprocess), preprocess)


def stack(samples: list[Sample], preprocess: Preprocess) -> Batch:
    """As `collate`, but images of one size stay uint8: a quarter of the bytes from a worker to the main
    process and from there to a device. `normalised` does the rest."""
    sizes = {sample.image.shape[-2:] for sample in samples}
    if len(sizes) == 1:
        # Unlike torch.stack, this writes straight into shared memory in a worker.
        images = default_collate([sample.image for sample in samples])
    else:
        height, width = (max(size[axis] for size in sizes) for axis in (0, 1))
        images = torch.zeros(len(samples), 3, height, width)
        for image, sample in zip(images, samples, strict=True):
            h, w = sample.image.shape[-2:]
            image[:, :h, :w] = preprocess.normalise(sample.image)
    contents = [
        sample.content or Rectangle(0, 0, sample.image.shape[-1], sample.image.shape[-2])
        for sample in samples
    ]
    targets = [_target(sample, content) for sample, content in zip(samples, contents, strict=True)]
    return Batch(
        images, padding_of(contents, images.shape[-2:]), targets, [sample.info for sample in samples]
    )


def normalised(batch: Batch, preprocess: Preprocess) -> Batch:
    """uint8 images to what the network takes, on the device where they are; float ones are so already."""
    if batch.images.dtype != torch.uint8:
        return batch
    return batch._replace(images=preprocess.normalise(batch.images))


def _target(sample: Sample, content: Rectangle) -> Target:
    offset = torch.tensor([content.left, content.top] * 2, dtype=torch.float32)
    scale = torch.tensor([content.width, content.height] * 2, dtype=torch.float32)
    placed = sample.with_boxes(lambda boxes: xyxy_to_cxcywh((boxes.float() - offset) / scale))
    return Target(placed.labels, placed.boxes, placed.ignored, placed.labelled)


def padding_of(contents: Sequence[Rectangle], size: Sequence[int]) -> Tensor | None:
    """[B, H, W] bool, True outside each image's content; None where all are as large as the canvas of `size` (H, W)."""
    if all(content == Rectangle(0, 0, size[1], size[0]) for content in contents):
        return None
    padding = torch.ones(len(contents), *size, dtype=torch.bool)
    for mask, content in zip(padding, contents, strict=True):
        bottom, right = content.top + content.height, content.left + content.width
        mask[content.top : bottom, content.left : right] = False
    return padding
