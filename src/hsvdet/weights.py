"""Published weights that a model's name alone stands for: `hsvdet predict rt-detr-r18 street.jpg`.

Only repositories on the Hugging Face hub whose layout the converters know, under a licence that asks for nothing but
its notice. What other files are read, is in docs/conversion.md.
"""

# pyright: strict

from __future__ import annotations

from typing import NamedTuple


class PublishedWeights(NamedTuple):
    """address: on the hub. ap: on COCO's val2017, in per cent, as their makers publish it. licence: of the weights."""

    address: str
    ap: float
    licence: str = "Apache-2.0"

    def __str__(self) -> str:
        return f"{self.address} ({self.licence}; COCO AP {self.ap}, as published)"


PUBLISHED = {
    "detr-r50": PublishedWeights("hf://facebook/detr-resnet-50", 42.0),
    "detr-r101": PublishedWeights("hf://facebook/detr-resnet-101", 43.5),
    "detr-r50-dc5": PublishedWeights("hf://facebook/detr-resnet-50-dc5", 43.3),
    "detr-r101-dc5": PublishedWeights("hf://facebook/detr-resnet-101-dc5", 44.9),
    "conditional-detr-r50": PublishedWeights("hf://microsoft/conditional-detr-resnet-50", 40.9),
    "dab-detr-r50": PublishedWeights("hf://IDEA-Research/dab-detr-resnet-50", 42.2),
    "deformable-detr-r50": PublishedWeights("hf://SenseTime/deformable-detr", 43.8),
    "deformable-detr-r50-single-scale": PublishedWeights("hf://SenseTime/deformable-detr-single-scale", 39.4),
    "deformable-detr-r50-single-scale-dc5": PublishedWeights(
        "hf://SenseTime/deformable-detr-single-scale-dc5", 41.5
    ),
    "deformable-detr-r50-refine": PublishedWeights("hf://SenseTime/deformable-detr-with-box-refine", 45.4),
    "deformable-detr-r50-two-stage": PublishedWeights(
        "hf://SenseTime/deformable-detr-with-box-refine-two-stage", 46.2
    ),
    "rt-detr-r18": PublishedWeights("hf://PekingU/rtdetr_r18vd", 46.5),
    "rt-detr-r34": PublishedWeights("hf://PekingU/rtdetr_r34vd", 48.9),
    "rt-detr-r50": PublishedWeights("hf://PekingU/rtdetr_r50vd", 53.1),
    "rt-detr-r101": PublishedWeights("hf://PekingU/rtdetr_r101vd", 54.3),
}
