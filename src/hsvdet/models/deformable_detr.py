"""Deformable DETR: Deformable Transformers for End-to-End Object Detection. Zhu et al., 2021,
https://arxiv.org/abs/2010.04159

Attention to the image reads a few points near a reference instead of every cell, so that maps of several sizes fit,
small objects are found, and training is ten times shorter. Three models: queries with fixed reference points; with
references refined from layer to layer ("+ iterative bounding box refinement", section 4.2); and with the best
tokens of the image as first references ("++ two-stage").

Deviation: in the two-stage model, tokens of padding, and those whose box would touch the edge of the picture, are
proposed only when there are no others; the paper lets them compete, all with one and the same score.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .. import backbones
from ..boxes import box_at, refine
from ..criteria.class_losses import FocalLoss
from ..criteria.numbers import LossNumbers
from ..criteria.set import SetCriterion
from ..layers.deformable_transformer import DeformableDecoderLayer, DeformableEncoder
from ..layers.initialise import init_class_prior, init_small_boxes, init_xavier, init_zero_last
from ..layers.position import sine_of_coordinates
from ..layers.pyramid import Pyramid
from ..layers.queries import pick, token_boxes, top_tokens
from ..layers.transformer import Mlp
from ..structures import Prediction, QueryOutput
from .tiny import TINY_PYRAMID


@dataclass(frozen=True, kw_only=True)
class DeformableDetrConfig:
    """The paper's numbers (section 5.1 and appendix A.4). See DetrConfig for the names that are not here.

    levels: maps of the pyramid; of three or more, the first three are the backbone's last three.
    points: that a head of a query reads on each map.
    """

    backbone: str = "resnet50"
    dilated: bool = False
    pretrained: bool = True
    dim: int = 256
    heads: int = 8
    levels: int = 4
    points: int = 4
    feed_forward: int = 1024
    encoder_layers: int = 6
    decoder_layers: int = 6
    queries: int = 300
    dropout: float = 0.1


VARIANTS: dict[str, dict[str, Any]] = {
    "deformable-detr-r50": dict(),
    "deformable-detr-r50-single-scale": dict(levels=1),
    "deformable-detr-r50-single-scale-dc5": dict(levels=1, dilated=True),
    "deformable-detr-tiny": TINY_PYRAMID,
}
REFINE_VARIANTS: dict[str, dict[str, Any]] = {
    "deformable-detr-r50-refine": dict(),
    "deformable-detr-refine-tiny": TINY_PYRAMID,
}
TWO_STAGE_VARIANTS: dict[str, dict[str, Any]] = {
    "deformable-detr-r50-two-stage": dict(),
    "deformable-detr-two-stage-tiny": TINY_PYRAMID,
}


class DeformableDetr(nn.Module):
    """images [B, 3, H, W] normalised, padding [B, H, W] bool, to QueryOutput. Class logits are for sigmoids."""

    BACKBONE = ("backbone",)
    LEARNING_RATES = {"reference": "sampling"}
    HALF_PRECISION = False

    def __init__(self, config: DeformableDetrConfig, num_classes: int):
        super().__init__()
        dim = config.dim
        self.backbone = backbone_of(config)
        self.pyramid = Pyramid(self.backbone.channels, dim, config.levels)
        self.encoder = encoder_of(config)
        # Where a query looks, and what it is at first.
        self.places = nn.Parameter(torch.randn(config.queries, dim))
        self.contents = nn.Parameter(torch.randn(config.queries, dim))
        self.reference = init_xavier(nn.Linear(dim, 2))
        self.decoder = decoder_of(config)
        self.classes = init_class_prior(nn.Linear(dim, num_classes))
        self.boxes = init_small_boxes(init_zero_last(Mlp(dim, dim, 4, depth=3)))

    def forward(self, images: Tensor, padding: Tensor | None = None, targets=None) -> QueryOutput:
        memory = self.encoder(*self.pyramid(self.backbone(images, padding), padding))
        query_position, content = (x.expand(images.shape[0], -1, -1) for x in (self.places, self.contents))
        reference = self.reference(query_position).float().sigmoid()  # [B, Q, 2]
        predictions = []
        for layer in self.decoder:
            content = layer(content, query_position, reference, memory)
            boxes = box_at(reference, self.boxes(content))
            predictions.append(Prediction(self.classes(content), boxes))
        return QueryOutput(tuple(predictions))


class RefiningDeformableDetr(nn.Module):
    """As DeformableDetr, but each layer looks from the boxes that the layer before found."""

    BACKBONE = ("backbone",)
    LEARNING_RATES = {"reference": "sampling"}
    HALF_PRECISION = False

    def __init__(self, config: DeformableDetrConfig, num_classes: int):
        super().__init__()
        dim, layers = config.dim, config.decoder_layers
        self.backbone = backbone_of(config)
        self.pyramid = Pyramid(self.backbone.channels, dim, config.levels)
        self.encoder = encoder_of(config)
        self.places = nn.Parameter(torch.randn(config.queries, dim))
        self.contents = nn.Parameter(torch.randn(config.queries, dim))
        self.reference = init_xavier(nn.Linear(dim, 2))
        self.decoder = decoder_of(config)
        self.classes = nn.ModuleList(init_class_prior(nn.Linear(dim, num_classes)) for _ in range(layers))
        boxes = [init_zero_last(Mlp(dim, dim, 4, depth=3)) for _ in range(layers)]
        init_small_boxes(boxes[0])
        self.boxes = nn.ModuleList(boxes)

    def forward(self, images: Tensor, padding: Tensor | None = None, targets=None) -> QueryOutput:
        memory = self.encoder(*self.pyramid(self.backbone(images, padding), padding))
        query_position, content = (x.expand(images.shape[0], -1, -1) for x in (self.places, self.contents))
        reference = (
            self.reference(query_position).float().sigmoid()
        )  # [B, Q, 2], and boxes from the second layer on
        predictions = []
        for number, (layer, to_classes, to_boxes) in enumerate(
            zip(self.decoder, self.classes, self.boxes, strict=True)
        ):
            content = layer(content, query_position, reference, memory)
            change = to_boxes(content)
            boxes = box_at(reference, change) if number == 0 else refine(change, reference)
            predictions.append(Prediction(to_classes(content), boxes))
            reference = boxes.detach()
        return QueryOutput(tuple(predictions))


class TwoStageDeformableDetr(nn.Module):
    """As RefiningDeformableDetr, but queries are made from the tokens that most look like an object.

    The output's proposals are those of all tokens; their class 0 stands for any object, so the criterion
    wants proposals="foreground".
    """

    BACKBONE = ("backbone",)
    HALF_PRECISION = False

    def __init__(self, config: DeformableDetrConfig, num_classes: int):
        super().__init__()
        dim, layers = config.dim, config.decoder_layers
        self.config = config
        self.backbone = backbone_of(config)
        self.pyramid = Pyramid(self.backbone.channels, dim, config.levels)
        self.encoder = encoder_of(config)
        self.propose = nn.Sequential(init_xavier(nn.Linear(dim, dim)), nn.LayerNorm(dim))
        self.proposal_classes = init_class_prior(nn.Linear(dim, num_classes))
        self.proposal_boxes = init_zero_last(Mlp(dim, dim, 4, depth=3))
        self.query = nn.Sequential(init_xavier(nn.Linear(2 * dim, 2 * dim)), nn.LayerNorm(2 * dim))
        self.decoder = decoder_of(config)
        self.classes = nn.ModuleList(init_class_prior(nn.Linear(dim, num_classes)) for _ in range(layers))
        self.boxes = nn.ModuleList(init_zero_last(Mlp(dim, dim, 4, depth=3)) for _ in range(layers))

    def forward(self, images: Tensor, padding: Tensor | None = None, targets=None) -> QueryOutput:
        memory = self.encoder(*self.pyramid(self.backbone(images, padding), padding))
        first, unusable = token_boxes(memory)  # [B, S, 4], [B, S]
        features = self.propose(memory.features.masked_fill(unusable.unsqueeze(-1), 0.0))
        boxes = refine(self.proposal_boxes(features), first)
        # In the paper an unusable token starts at infinity before the sigmoid, and stays there.
        proposals = Prediction(
            self.proposal_classes(features), boxes.masked_fill(unusable.unsqueeze(-1), 1.0)
        )
        chosen = top_tokens(proposals.logits[..., 0], self.config.queries, unusable)

        # Gradient reaches the proposals through their own loss alone.
        reference = pick(proposals.boxes, chosen).detach()  # [B, Q, 4]
        query_position, content = self.query(sine_of_coordinates(reference, self.config.dim // 2)).chunk(
            2, -1
        )
        predictions = []
        for layer, to_classes, to_boxes in zip(self.decoder, self.classes, self.boxes, strict=True):
            content = layer(content, query_position, reference, memory)
            boxes = refine(to_boxes(content), reference)
            predictions.append(Prediction(to_classes(content), boxes))
            reference = boxes.detach()
        return QueryOutput(tuple(predictions), proposals)


def backbone_of(config: DeformableDetrConfig) -> backbones.Backbone:
    stages = (2, 3, 4)[-min(config.levels, 3) :]
    frozen = 1 if config.pretrained else None
    return backbones.build(config.backbone, stages, frozen=frozen, dilated=config.dilated)


def encoder_of(config: DeformableDetrConfig) -> DeformableEncoder:
    return DeformableEncoder(config.encoder_layers, *sizes_of(config))


def decoder_of(config: DeformableDetrConfig) -> nn.ModuleList:
    return nn.ModuleList(DeformableDecoderLayer(*sizes_of(config)) for _ in range(config.decoder_layers))


def sizes_of(config: DeformableDetrConfig) -> tuple[int, int, int, int, int, float]:
    """What a layer of encoder or decoder is made with, in its order."""
    return config.dim, config.levels, config.heads, config.points, config.feed_forward, config.dropout


def criterion(numbers: LossNumbers = LossNumbers()) -> SetCriterion:
    """The paper's loss (appendix A.4): DETR's with focal classes, 2 in the matching and in the sum."""
    return SetCriterion(FocalLoss())


def two_stage_criterion(numbers: LossNumbers = LossNumbers()) -> SetCriterion:
    """The same; proposals of all tokens learn only that something is there (appendix A.4)."""
    return SetCriterion(FocalLoss(), proposals="foreground")
