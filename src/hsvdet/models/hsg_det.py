"""HSG-Det: Hybrid Sparse-Global Detection. This project, 2026.

A dense head for what is near a cell, and a query head for the whole picture. Attention is dear where there are many
cells, so it sees the coarsest map whole, and of every map only the tokens that a learned score finds worth it; the
queries of a transformer decoder read these. Written here as the design describes it, in the allocation that keeps both
of its totals: 38.5 M parameters and 570 GFLOPs at 1088x1920 in the large form. What is recommended instead is in
hsg_det_plus.py.

The design counts P4 as 67x120 cells at 1080p, which no stride gives: images are padded to multiples of 32. Its queries
are learned and know no cell of the dense head; so the answer is the union of both heads, which find the same objects
again, and is read with suppression.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .. import backbones
from ..boxes import refine
from ..criteria.class_losses import MatchabilityLoss
from ..criteria.dual import DualCriterion
from ..criteria.numbers import LossNumbers
from ..criteria.set import SetCriterion, SetWeights
from ..errors import ConfigError
from ..layers.conv import ConvNormAct, double
from ..layers.csp import C2f, PyramidPooling
from ..layers.dense_head import OneToOneConfig, OneToOneHead, separable_tower
from ..layers.global_block import GlobalBlock
from ..layers.initialise import init_class_prior, init_zero_last
from ..layers.position import sine_of_coordinates
from ..layers.pyramid import Tokens, tile_maps
from ..layers.token_extractor import ExtractedTokens, TokenExtractor
from ..layers.tokens import content_extents
from ..layers.transformer import Mlp, PreNormDecoderLayer, PreNormEncoderLayer
from ..structures import DenseOutput, DualOutput, Prediction, QueryOutput
from . import yolov8

STRIDES = (8, 16, 32)


@dataclass(frozen=True, kw_only=True)
class HsgDetConfig(OneToOneConfig):
    """Channels of the backbone are (64, 128, 256, 512, 1024) x `width`, blocks are repeated `depth` x (3, 6, 3, 4)
    and x 2 in the neck. backbone: another one instead, see `backbones.build`; "" for its own.

    dim: D of the neck's maps, tokens and queries. tokens, context, token_mass: see layers/token_extractor.py.
    feedback: whether attended tokens are added to the neck's maps before the dense head reads them.
    bins, twin_bins, detached: see layers/dense_head.py. mode: what gives the answer in evaluation, see
    `HsgTrunk.answer_by`.
    """

    AFTER_TRAINING = ("mode",)

    backbone: str = ""
    width: float = 1.0
    depth: float = 1.0
    dim: int = 256
    heads: int = 8
    fusion_layers: int = 4
    decoder_layers: int = 6
    queries: int = 200
    tokens: int = 256
    context: int = 8
    token_mass: float = 0.0
    feedback: bool = False
    bins: int = 16
    mode: str = "full"

    @property
    def queries_beside_dense(self) -> int:
        """How many queries answer in its mode beside the dense head, which alone answers for objects beyond them."""
        return 0 if self.mode == "edge" else self.queries


# The design names only the large form. Widths and decoders of the others: its allocation; depths: YOLOv8's; layers
# of the fusion: by depth, but two, so that what one token learns of another reaches a third.
VARIANTS: dict[str, dict[str, Any]] = {
    "n": dict(width=0.25, depth=1 / 3, dim=128, heads=4, fusion_layers=2, decoder_layers=3),
    "s": dict(width=0.50, depth=1 / 3, dim=192, heads=6, fusion_layers=2, decoder_layers=3),
    "m": dict(width=0.75, depth=2 / 3, dim=256, heads=8, fusion_layers=3, decoder_layers=4),
    "l": dict(),
}


class HsgTrunk(nn.Module):
    """What both forms share: images [B, 3, H, W] (H, W multiples of 32, values 0..1) to maps, tokens, and the answer
    of the dense head."""

    BACKBONE = ("stem", "stage3", "stage4", "stage5", "whole")
    NECK = ("lateral", "top_down4", "top_down3", "down3", "bottom_up4", "down4", "bottom_up5")
    MODES: tuple[str, ...] = ("edge", "full")
    HALF_PRECISION = False

    def __init__(self, config: HsgDetConfig, num_classes: int):
        super().__init__()
        c1, c2, c3, c4, c5 = (round(base * config.width) for base in (64, 128, 256, 512, 1024))
        if c1 < 1:
            raise ConfigError(f"width expects a number that leaves at least a channel; got {config.width:g}.")
        n2, n3, n4, n6 = (max(1, round(n * config.depth)) for n in (2, 3, 4, 6))
        dim = config.dim
        self.config = config
        if config.backbone:
            self.backbone = backbones.build(config.backbone)
            self.BACKBONE, (c3, c4, c5) = ("backbone", "whole"), self.backbone.channels
        else:
            self.stem = nn.Sequential(ConvNormAct(3, c1, 3, 2), ConvNormAct(c1, c2, 3, 2))
            self.stage3 = nn.Sequential(
                C2f(c2, c2, n3, residual=True), ConvNormAct(c2, c3, 3, 2), C2f(c3, c3, n6, residual=True)
            )
            self.stage4 = nn.Sequential(ConvNormAct(c3, c4, 3, 2), C2f(c4, c4, n3, residual=True))
            self.stage5 = nn.Sequential(
                ConvNormAct(c4, c5),
                ConvNormAct(c5, c5, 3, 2, groups=c5),
                C2f(c5, c5, n4, residual=True, half=c5 // 4),
                PyramidPooling(c5),
            )
        self.whole = GlobalBlock(c5)
        self.lateral = nn.ModuleList(ConvNormAct(channels, dim) for channels in (c3, c4, c5))
        self.top_down4 = C2f(2 * dim, dim, n2, residual=False)
        self.top_down3 = C2f(2 * dim, dim, n2, residual=False)
        self.down3 = ConvNormAct(dim, dim, 3, 2)
        self.bottom_up4 = C2f(2 * dim, dim, n2, residual=False)
        self.down4 = ConvNormAct(dim, dim, 3, 2)
        self.bottom_up5 = C2f(2 * dim, dim, n2, residual=False)
        self.extractor = TokenExtractor(dim, STRIDES, config.tokens, config.context, config.token_mass)
        self.fusion = nn.ModuleList(
            PreNormEncoderLayer(dim, config.heads, 4 * dim) for _ in range(config.fusion_layers)
        )
        self.feedback = nn.Parameter(torch.zeros(len(STRIDES), dim)) if config.feedback else None
        self.head = OneToOneHead((dim,) * 3, num_classes, config, class_tower=separable_tower)
        self.answer_by(config.mode)

    def answer_by(self, mode: str) -> None:
        """What gives the answer in evaluation: "edge", the dense head alone, which is all that is computed then; or
        "full". Training always has all. Raises ConfigError for a mode that there is not."""
        if mode not in self.MODES:
            raise ConfigError(f"mode expects one of {', '.join(self.MODES)}; got {mode!r}.")
        self.mode = mode

    def maps(self, images: Tensor, padding: Tensor | None) -> list[Tensor]:
        """Three maps [B, D, h, w] of strides 8, 16 and 32."""
        if self.config.backbone:
            c3, c4, c5 = self.backbone(images, padding)
        else:
            c3 = self.stage3(self.stem(images))
            c4 = self.stage4(c3)
            c5 = self.stage5(c4)
        c5 = self.whole(c5, padding)
        p3, p4, p5 = (lateral(level) for lateral, level in zip(self.lateral, (c3, c4, c5), strict=True))
        p4 = self.top_down4(torch.cat([double(p5), p4], 1))
        p3 = self.top_down3(torch.cat([double(p4), p3], 1))
        p4 = self.bottom_up4(torch.cat([self.down3(p3), p4], 1))
        p5 = self.bottom_up5(torch.cat([self.down4(p4), p5], 1))
        return [p3, p4, p5]

    def fuse(self, maps: list[Tensor], cells: Tokens) -> ExtractedTokens:
        """The best tokens of all maps, having seen one another."""
        tokens = self.extractor(maps, cells)
        features = tokens.features
        for layer in self.fusion:
            features = layer(features, tokens.position, tokens.mask)
        return tokens._replace(features=features)

    def feed_back(self, maps: list[Tensor], tokens: ExtractedTokens, gates: Tensor) -> list[Tensor]:
        """The maps with the tokens, times gates [L, D], added where they were taken from."""
        features = tokens.features
        if tokens.mask is not None:
            features = features.masked_fill(tokens.mask.transpose(1, 2), 0.0)
        fed, start = [], 0
        for level, gate, chosen in zip(maps, gates, tokens.chosen, strict=True):
            added = (features[:, start : start + chosen.shape[1]] * gate).transpose(1, 2).to(level.dtype)
            start += chosen.shape[1]
            query_position = chosen.unsqueeze(1).expand_as(added)
            fed.append(
                level + torch.zeros_like(level).flatten(2).scatter(2, query_position, added).view_as(level)
            )
        return fed

    def see(
        self, images: Tensor, padding: Tensor | None
    ) -> tuple[DenseOutput, Tokens, ExtractedTokens | None]:
        """The dense head's answer, the cells of all maps, and tokens, or None where the dense head is all."""
        extents, maps, tokens = content_extents(images, padding), self.maps(images, padding), None
        cells = tile_maps(maps, padding, extents, STRIDES)
        alone = self.mode == "edge" and not self.training
        if self.feedback is not None:
            tokens = self.fuse(maps, cells)
            maps = self.feed_back(maps, tokens, self.feedback)
            cells = tile_maps(maps, padding, extents, STRIDES)
        elif not alone:
            tokens = self.fuse(maps, cells)
        return self.head(maps, images, padding), cells, None if alone else tokens


class HsgDet(HsgTrunk):
    """images [B, 3, H, W], padding [B, H, W] bool or None, to DualOutput; in mode "edge" to DenseOutput.

    The answer is the union of both heads: logits [B, A + Q, C], those of the anchors first.
    """

    def __init__(self, config: HsgDetConfig, num_classes: int):
        super().__init__(config, num_classes)
        dim = config.dim
        self.content = nn.Parameter(torch.randn(config.queries, dim))
        self.anchors = nn.Parameter(torch.randn(config.queries, 4))  # before the sigmoid
        self.query_position = Mlp(dim, dim, dim, depth=2)
        self.decoder = nn.ModuleList(
            PreNormDecoderLayer(dim, config.heads, 4 * dim) for _ in range(config.decoder_layers)
        )
        self.norm = nn.LayerNorm(dim)
        self.classes = init_class_prior(nn.Linear(dim, num_classes))
        self.boxes = init_zero_last(Mlp(dim, dim, 4, depth=3))
        self.temperature = nn.Parameter(torch.zeros(1))  # its logarithm

    def forward(
        self, images: Tensor, padding: Tensor | None = None, targets=None
    ) -> DualOutput | DenseOutput:
        dense, _, tokens = self.see(images, padding)
        if tokens is None:
            return dense
        content, anchors = (x.expand(images.shape[0], -1, -1) for x in (self.content, self.anchors.sigmoid()))
        query = QueryOutput(self.decode(content, anchors, tokens))
        answer = Prediction(
            *(torch.cat(parts, 1) for parts in zip(dense.prediction, query.answer, strict=True))
        )
        cells = torch.cat([dense.cells, dense.cells.new_full(query.answer.boxes.shape[:2], -1)], 1)
        return DualOutput(answer, dense, query, cells, None, tokens.selections)

    def decode(self, content: Tensor, reference: Tensor, tokens: ExtractedTokens) -> tuple[Prediction, ...]:
        """content: [B, Q, D]. reference: [B, Q, 4] boxes. The predictions of every layer."""
        predictions = []
        for layer in self.decoder:
            query_position = self.query_position(sine_of_coordinates(reference, self.config.dim // 4))
            content = layer(content, query_position, tokens.features, tokens.position, tokens.mask)
            normed = self.norm(content)
            boxes = refine(self.boxes(normed), reference)
            predictions.append(Prediction(self.classes(normed) * (-self.temperature).exp(), boxes))
            reference = boxes.detach()
        return tuple(predictions)


def criterion(numbers: LossNumbers = LossNumbers()) -> DualCriterion:
    """That of a one-to-one dense head; and queries matched one to one in every layer."""
    queries = SetCriterion(MatchabilityLoss(), weights=SetWeights(class_=1.0))
    return DualCriterion(yolov8.e2e_criterion(numbers), queries)
