"""Sparse DETR: Efficient End-to-End Object Detection with Learnable Sparsity. Roh et al., 2022,
https://arxiv.org/abs/2111.14330

Deformable DETR (deformable_detr.py), two-stage, whose encoder updates only a share rho of the tokens: most are
background, and stay as the backbone gave them, to be looked at. A scoring network chooses; it learns to find the tokens
at which the decoder looks in the end. Encoder layers learn to detect, too, without which deep ones do not learn.

Deviations: tokens of padding, and those whose box would touch the edge of the picture, are proposed only when there are
no others. The mean that the scoring network sees is over padding, too, as in the authors' networks, so that an answer
depends a little on how much of it there is.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.types import IntLikeType

from ..boxes import refine
from ..criteria.class_losses import FocalLoss
from ..criteria.criterion import Part, StepCounts
from ..criteria.normaliser import mean_over_processes
from ..criteria.numbers import LossNumbers
from ..criteria.selection import attended_loss, attended_share
from ..criteria.set import SetCriterion
from ..errors import ConfigError
from ..layers.deformable import attention_received
from ..layers.deformable_transformer import DeformableDecoderLayer, DeformableEncoderLayer
from ..layers.initialise import init_class_prior, init_xavier, init_zero_last
from ..layers.position import sine_of_coordinates
from ..layers.precision import layer_norm, linear, without_autocast
from ..layers.pyramid import Pyramid, Tokens
from ..layers.queries import content_of, on_maps, pick, token_boxes, token_centres, top_tokens
from ..layers.transformer import Mlp
from ..structures import Prediction, QueryOutput, Selection, Target
from .deformable_detr import DeformableDetrConfig, backbone_of, decoder_of, sizes_of
from .tiny import TINY_PYRAMID


@dataclass(frozen=True, kw_only=True)
class SparseDetrConfig(DeformableDetrConfig):
    """The paper's numbers (section 4). rho: the share of the tokens that are updated, above 0 and at most 1; a trained
    network works with others than its own, too: fewer are faster."""

    AFTER_TRAINING = ("rho",)

    rho: float = 0.3

    def __post_init__(self):
        if not 0 < self.rho <= 1:
            raise ConfigError(f"rho expects a share of the tokens above 0 and at most 1; got {self.rho:g}.")


VARIANTS: dict[str, dict[str, Any]] = {
    **{f"sparse-detr-r50-rho{percent}": dict(rho=percent / 100) for percent in (10, 20, 30, 40, 50)},
    "sparse-detr-tiny": TINY_PYRAMID,
}


class SparseDetr(nn.Module):
    """images [B, 3, H, W] normalised, padding [B, H, W] bool, to QueryOutput. Class logits are for sigmoids.

    Its proposals are those of all tokens; its selections, one a map, say which tokens were kept. In training it has
    predictions of the encoder's layers, too, in the order of the tokens' scores.
    """

    BACKBONE = ("backbone",)
    HALF_PRECISION = False
    train_only = ("encoder_classes", "encoder_boxes")

    def __init__(self, config: SparseDetrConfig, num_classes: int):
        super().__init__()
        dim, layers, seen = config.dim, config.decoder_layers, config.encoder_layers - 1
        self.config = config
        self.backbone = backbone_of(config)
        self.pyramid = Pyramid(self.backbone.channels, dim, config.levels)
        # What scores and what proposes look at the same projection of the tokens, before and after the encoder.
        self.propose = nn.Sequential(init_xavier(nn.Linear(dim, dim)), nn.LayerNorm(dim))
        self.score = ScoringNetwork(dim)
        self.encoder = SparseEncoder(config)
        self.encoder_classes = nn.ModuleList(_class_head(dim, num_classes) for _ in range(seen))
        self.encoder_boxes = nn.ModuleList(_box_head(dim) for _ in range(seen))
        self.proposal_classes = _class_head(dim, num_classes)
        self.proposal_boxes = _box_head(dim)
        self.query_position = nn.Sequential(init_xavier(nn.Linear(2 * dim, dim)), nn.LayerNorm(dim))
        self.decoder = decoder_of(config)
        self.classes = nn.ModuleList(_class_head(dim, num_classes) for _ in range(layers))
        self.boxes = nn.ModuleList(_box_head(dim) for _ in range(layers))
        self.rho = Fraction(config.rho).limit_denominator(1000)  # whole numbers count alike everywhere

    def forward(self, images: Tensor, padding: Tensor | None = None, targets=None) -> QueryOutput:
        tokens, position = self.pyramid(self.backbone(images, padding), padding)
        first, unusable = token_boxes(tokens)  # [B, S, 4], [B, S]
        edge = unusable.unsqueeze(-1)
        scores = self.score(self.propose((tokens.features + position).masked_fill(edge, 0.0)))
        if tokens.padding is not None:
            scores = scores.masked_fill(tokens.padding, scores.min())
        count, most = self._numbers(tokens)
        chosen = top_tokens(scores, most, tokens.padding)  # [B, k]
        taken = torch.arange(chosen.shape[1], device=chosen.device) < count  # [B or 1, k]
        memory, seen = self.encoder(tokens, position, chosen, taken)
        encoder = []
        if self.training:
            start, outside = pick(first, chosen), pick(edge, chosen)
            for content, to_classes, to_boxes in zip(
                seen[:-1], self.encoder_classes, self.encoder_boxes, strict=True
            ):
                boxes = refine(to_boxes(content), start).masked_fill(outside, 1.0)
                encoder.append(Prediction(to_classes(content), boxes))

        features = self.propose(memory.features.masked_fill(edge, 0.0))
        boxes = refine(self.proposal_boxes(features), first).masked_fill(edge, 1.0)
        proposals = Prediction(self.proposal_classes(features), boxes)
        best = top_tokens(proposals.logits.amax(-1), self.config.queries, unusable)
        # Through their boxes no gradient reaches the proposals, but a query is its token (Efficient DETR, Yao et al.
        # 2021, arXiv 2104.01318).
        reference, content = pick(boxes, best).detach(), content_of(memory, best)
        query_position = self.query_position(sine_of_coordinates(reference, self.config.dim // 2))
        predictions, attended = [], torch.zeros_like(scores)
        decoder = cast("Iterable[DeformableDecoderLayer]", self.decoder)
        for layer, to_classes, to_boxes in zip(decoder, self.classes, self.boxes, strict=True):
            content = layer.self_attend(content, query_position)
            if self.training:
                with torch.no_grad():
                    locations, weights = layer.cross_attention.locate(
                        content + query_position,
                        on_maps(reference, memory),
                        memory.features,
                        memory.sizes,
                        memory.padding,
                    )
                    attended = attended + attention_received(locations, weights, memory.sizes)
            content = layer.cross_attend(content, query_position, reference, memory)
            boxes = refine(to_boxes(content), reference)
            predictions.append(Prediction(to_classes(content), boxes))
            reference = boxes.detach()
        kept = torch.zeros_like(unusable).scatter(1, chosen, taken.expand_as(chosen))
        selections = self._selections(tokens, scores, kept, attended if self.training else None)
        return QueryOutput(tuple(predictions), proposals, selections=selections, encoder=tuple(encoder))

    def _numbers(self, tokens: Tokens) -> tuple[Tensor, IntLikeType]:
        """How many tokens are kept: of each image, [B or 1, 1], and the most of them, an integer or a symbol."""
        share, whole = self.rho.numerator, self.rho.denominator
        everything = tokens.features.shape[1] * share // whole + 1
        if tokens.padding is None:
            return torch.full((1, 1), everything, device=tokens.features.device), everything
        real = (~tokens.padding).sum(1, keepdim=True)
        count = torch.minimum(real * share // whole + 1, real)
        # A graph is for any padding, so in it as many tokens as without take part, and those too many change nothing.
        if torch.compiler.is_exporting() or torch.jit.is_tracing():  # pyright: ignore[reportPrivateImportUsage] documented
            return count, everything
        return count, int(count.max())

    def _selections(
        self, tokens: Tokens, scores: Tensor, kept: Tensor, attended: Tensor | None
    ) -> tuple[Selection, ...]:
        if attended is not None and tokens.padding is not None:
            attended = attended.masked_fill(tokens.padding, -1.0)
        counts = [height * width for height, width in tokens.sizes]

        def maps(values: Tensor) -> list[Tensor]:
            parts = zip(values.split(counts, 1), tokens.sizes, strict=True)
            return [part.unflatten(1, size) for part, size in parts]

        strides = [self.backbone.strides[0] << level for level in range(len(counts))]
        received = [None] * len(counts) if attended is None else maps(attended)
        return tuple(map(Selection, maps(scores), strides, maps(kept), received))


class ScoringNetwork(nn.Module):
    """Tokens [B, S, D] to a logit each, [B, S] float32 (appendix A.4): from half of what it makes of a token, and the
    mean of the other half over all tokens, which tells it of the picture."""

    def __init__(self, dim: int):
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.embed = init_xavier(nn.Linear(dim, dim))
        self.first = init_xavier(nn.Linear(dim, dim // 2))
        self.second = init_xavier(nn.Linear(dim // 2, dim // 4))
        self.last = init_xavier(nn.Linear(dim // 4, 1))

    def forward(self, tokens: Tensor) -> Tensor:
        with without_autocast(tokens):
            x = F.gelu(linear(self.embed, layer_norm(self.norm, tokens.float())))
            own, other = x.chunk(2, -1)
            x = torch.cat([own, other.mean(1, keepdim=True).expand_as(own)], -1)
            x = F.gelu(linear(self.second, F.gelu(linear(self.first, x))))
            return linear(self.last, x).squeeze(-1)


class SparseEncoder(nn.Module):
    """Deformable encoder layers in which the chosen tokens look at all, and they alone change (section 3.1)."""

    def __init__(self, config: SparseDetrConfig):
        super().__init__()
        self.layers = nn.ModuleList(
            DeformableEncoderLayer(*sizes_of(config)) for _ in range(config.encoder_layers)
        )

    def forward(
        self, tokens: Tokens, position: Tensor, chosen: Tensor, taken: Tensor
    ) -> tuple[Tokens, list[Tensor]]:
        """tokens, position: as `Pyramid` gives them. chosen: [B, k] int64. taken: [B or 1, k] bool, False for those of
        them that are one too many in their image. Returns the tokens after the last layer, and the features of the
        chosen after each, [B, k, D]."""
        reference = on_maps(pick(token_centres(tokens), chosen), tokens)
        own_position = pick(position.expand(chosen.shape[0], -1, -1), chosen)
        content, seen = pick(tokens.features, chosen), []
        row, unchanged, taken = chosen.unsqueeze(-1).expand_as(content), content, taken.unsqueeze(-1)
        for layer in self.layers:
            content = layer(content, own_position, reference, tokens)
            seen.append(content)
            changed = content.where(taken, unchanged).to(tokens.features.dtype)
            tokens = tokens._replace(features=tokens.features.scatter(1, row, changed))
        return tokens, seen


def _class_head(dim: int, num_classes: int) -> nn.Linear:
    return init_class_prior(nn.Linear(dim, num_classes))


def _box_head(dim: int) -> Mlp:
    return init_zero_last(Mlp(dim, dim, 4, depth=3))


class SparseDetrCriterion(SetCriterion):
    """Deformable DETR's losses, of all tokens as proposals and of encoder layers, too; and in training "selector", by
    which the scoring network learns: the mean over images of `attended_loss`. Noted beside them is "kept_attention",
    how much of the decoder's attention falls on tokens that were kept."""

    def __init__(self):
        super().__init__(FocalLoss())

    def parts(self, output: QueryOutput, targets: list[Target], step: StepCounts) -> dict[str, Part]:
        parts = super().parts(output, targets, step)
        if all(selection.attended is not None for selection in output.selections):
            images = mean_over_processes(output.answer.boxes.new_tensor(float(len(step.images))))
            parts["selector"] = Part(attended_loss(output.selections).sum() / images)
            agreement = attended_share(output.selections).detach().sum()
            parts["kept_attention"] = Part(agreement / images, learned=False)
        return parts


def criterion(numbers: LossNumbers = LossNumbers()) -> SparseDetrCriterion:
    """The paper's loss (section 3.3)."""
    return SparseDetrCriterion()
