"""Samples made of several images: mosaic, mix-up, and objects pasted from another image."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..structures import Rectangle, Sample
from .transforms import RandomAffine, joined_regions, keep_visible, labelled_in_all, to_uint8


class Mosaic(NamedTuple):
    """Four images around a random point (YOLOv4, Bochkovskiy et al. 2020, arXiv 2004.10934, section 3.3),
    scaled, moved and turned as `affine` says.

    Only what can be seen of each image is resized, straight into the final canvas: the usual canvas of twice
    the size and its warp never exist. An image none of which would be seen is not even asked for. The sample
    given takes the corner that holds the middle of the canvas, so every image is seen in its own epoch.
    """

    affine: RandomAffine

    def __call__(self, sample: Sample, another: Callable[[], Sample], rng: np.random.Generator) -> Sample:
        """another: gives one more sample, as read, at each call (up to three)."""
        preprocess = self.affine.preprocess
        size = height, width = preprocess.size
        motion = self.affine.draw(rng)
        window = motion.window(size)
        centre_x, centre_y = (
            round(motion.move(length * rng.uniform(0, 1), length, axis))
            for axis, length in enumerate((width, height))
        )
        own = (centre_x < width / 2, centre_y < height / 2)
        tiles = []
        for flip_x, flip_y in ((False, False), (True, False), (False, True), (True, True)):
            right, below = own[0] != flip_x, own[1] != flip_y
            seen_x = centre_x < window.left + window.width if right else centre_x > window.left
            seen_y = centre_y < window.top + window.height if below else centre_y > window.top
            if tiles and not (seen_x and seen_y):
                continue
            tile = another() if tiles else sample
            _, content = preprocess.geometry(tile.image.shape[-2], tile.image.shape[-1])
            tile_width = max(1, round(content.width * motion.scale))
            tile_height = max(1, round(content.height * motion.scale))
            left = centre_x if right else centre_x - tile_width
            top = centre_y if below else centre_y - tile_height
            tiles.append((tile, Rectangle(left, top, tile_width, tile_height)))
        return self.affine.compose(tiles, size, motion)


class MixUp(NamedTuple):
    """Two images of one size blended, with the objects of both (Zhang et al. 2018, arXiv 1710.09412; for
    detection Zhang et al. 2019, arXiv 1902.04103). The share is drawn from Beta(alpha, alpha)."""

    alpha: float = 32.0

    def __call__(self, sample: Sample, other: Sample, rng: np.random.Generator) -> Sample:
        share = rng.beta(self.alpha, self.alpha)
        height, width = sample.image.shape[-2:]
        return Sample(
            to_uint8(torch.lerp(other.image.float(), sample.image.float(), share)),
            torch.cat([sample.boxes, other.boxes]),
            torch.cat([sample.labels, other.labels]),
            sample.info,
            sample.content if sample.content == other.content else None,
            joined_regions([sample, other], Rectangle(0, 0, width, height)),
            labelled_in_all([sample, other]),
        )


@dataclass(frozen=True, kw_only=True)
class CopyPasteBoxes:
    """Rectangles around objects of another image, pasted over this one with their labels (after Ghiasi et al.
    2021, arXiv 2012.07177, and Dwibedi et al. 2017, arXiv 1708.01642, here without masks).

    Each of the donor's objects is taken with probability `share`, pasted at its own size where it hides no
    object already there by more than `hidden`, in one of `attempts` random places, or else left out. Donor
    objects at least half inside a pasted rectangle come along, with their labels and clipped boxes, and so do its
    regions to ignore.
    """

    share: float = 0.5
    hidden: float = 0.3
    attempts: int = 4

    def __call__(self, sample: Sample, donor: Sample, rng: np.random.Generator) -> Sample:
        """donor: placed on a canvas of the same scale, so that its objects have a plausible size."""
        height, width = sample.image.shape[-2:]
        room = sample.content or Rectangle(0, 0, width, height)
        image = sample.image.clone()
        boxes, labels, samples = sample.boxes, sample.labels, [sample]
        hidden = boxes.new_zeros(len(boxes))  # share of each object under what was pasted so far
        for box in donor.boxes[torch.from_numpy(rng.random(len(donor.boxes)) < self.share)]:
            cut = _whole_pixels(box, (donor.image.shape[-2], donor.image.shape[-1]))
            place = self._free_place(boxes, hidden, cut, room, rng)
            if place is None:
                continue
            image[:, place.top : place.top + cut.height, place.left : place.left + cut.width] = donor.image[
                :, cut.top : cut.top + cut.height, cut.left : cut.left + cut.width
            ]
            clipped, visible = keep_visible(donor.boxes, cut)
            visible &= _share_under(donor.boxes, cut) >= 0.5
            shift = clipped.new_tensor([place.left - cut.left, place.top - cut.top] * 2)
            hidden = torch.cat([hidden + _share_under(boxes, place), hidden.new_zeros(int(visible.sum()))])
            boxes = torch.cat([boxes, clipped[visible] + shift])
            labels = torch.cat([labels, donor.labels[visible]])
            regions = joined_regions([donor], cut)
            samples.append(donor._replace(ignored=None if regions is None else regions + shift))
        return sample._replace(
            image=image,
            boxes=boxes,
            labels=labels,
            ignored=joined_regions(samples, Rectangle(0, 0, width, height)),
            labelled=labelled_in_all(samples),
        )

    def _free_place(
        self, boxes: Tensor, hidden: Tensor, cut: Rectangle, room: Rectangle, rng: np.random.Generator
    ) -> Rectangle | None:
        if cut.width > room.width or cut.height > room.height:
            return None
        for _ in range(self.attempts):
            left = room.left + int(rng.integers(room.width - cut.width + 1))
            top = room.top + int(rng.integers(room.height - cut.height + 1))
            place = cut._replace(left=left, top=top)
            if not (hidden + _share_under(boxes, place) > self.hidden).any():
                return place
        return None


def _whole_pixels(box: Tensor, size: tuple[int, int]) -> Rectangle:
    left, top, right, bottom = box.tolist()
    left, top = max(0, math.floor(left)), max(0, math.floor(top))
    return Rectangle(left, top, min(size[1], math.ceil(right)) - left, min(size[0], math.ceil(bottom)) - top)


def _share_under(xyxy: Tensor, cover: Rectangle) -> Tensor:
    """[N] share of each box's area that lies under the rectangle."""
    low = xyxy.new_tensor([cover.left, cover.top])
    high = low + xyxy.new_tensor([cover.width, cover.height])
    first, last = torch.maximum(xyxy[:, :2], low), torch.minimum(xyxy[:, 2:], high)
    return (last - first).clamp(min=0).prod(-1) / (xyxy[:, 2:] - xyxy[:, :2]).prod(-1).clamp(min=1e-6)
