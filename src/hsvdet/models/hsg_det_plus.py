"""HSG-Det, the recommended form. This project, 2026. HSG-Det (hsg_det.py) plus what was learned since its design.

Queries start from the best cells of the one-to-one dense head, distinct already (after DDQ, Zhang et al. 2023,
arXiv 2303.12776); each also reads the maps around its box (Deformable DETR, arXiv 2010.04159); they see the image
before they see one another; and layers of their own decide which of them repeat another (MDS-DETR, arXiv
2605.23507), so that the layers before it may learn many queries for an object.

Every query keeps the number of its cell, and answers in its place: the answer is the dense head's, with as many cells
as there are queries answered better. No suppression is needed, and where there are more objects than queries the dense
head's answers stand.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..boxes import refine
from ..criteria.dual import DeduplicatedCriterion, DualCriterion
from ..criteria.numbers import LossNumbers
from ..layers.attention import MultiHeadAttention
from ..layers.deduplication import Deduplication
from ..layers.deformable import DeformableAttention
from ..layers.initialise import init_class_prior, init_zero_last
from ..layers.position import sine_of_coordinates
from ..layers.pyramid import Tokens
from ..layers.queries import on_maps, pick, top_tokens
from ..layers.token_extractor import ExtractedTokens
from ..layers.transformer import FeedForward, Mlp
from ..structures import DenseOutput, DualOutput, Prediction, QueryOutput
from . import yolov8
from .hsg_det import STRIDES, HsgDetConfig, HsgTrunk

# A box without width gives its query no place to look from.
_SMALLEST = 1e-3


@dataclass(frozen=True, kw_only=True)
class HsgDetPlusConfig(HsgDetConfig):
    """queries: 500 where pictures hold more than about 200 objects. balanced_queries: as many are asked in mode
    "balanced". points: places on each map that a query looks at around its box; 0 for none. share: of the query's
    score in the answer of its cell, the rest being the dense head's.
    """

    queries: int = 300
    balanced_queries: int = 50
    points: int = 4
    share: float = 0.7
    bins: int = 1

    @property
    def queries_beside_dense(self) -> int:
        return {"edge": 0, "balanced": self.balanced_queries}.get(self.mode, self.queries)


class HsgDetPlus(HsgTrunk):
    """images [B, 3, H, W], padding [B, H, W] bool or None, to DualOutput; in mode "edge" to DenseOutput.

    The last of the query's layers is the deduplication; its boxes are those of the layer before. temperatures: what
    logits of the dense and of the query head are divided by where they meet; 1 until they are fitted
    (training/temperatures.py). Cells without a query keep the dense head's scores.
    """

    MODES = ("edge", "balanced", "full")
    temperatures: Tensor

    def __init__(self, config: HsgDetPlusConfig, num_classes: int):
        super().__init__(config, num_classes)
        dim = config.dim
        self.queries, self.balanced_queries, self.share = (
            config.queries,
            config.balanced_queries,
            config.share,
        )
        self.start = nn.Sequential(nn.Linear(dim, dim), nn.LayerNorm(dim))
        self.query_position = Mlp(dim, dim, dim, depth=2)
        self.decoder = nn.ModuleList(
            LocalDecoderLayer(dim, config.heads, 4 * dim, config.points) for _ in range(config.decoder_layers)
        )
        self.norm = nn.LayerNorm(dim)
        self.classes = init_class_prior(nn.Linear(dim, num_classes))
        self.boxes = init_zero_last(Mlp(dim, dim, 4, depth=3))
        self.deduplication = Deduplication(dim)
        self.kept_classes = init_class_prior(nn.Linear(dim, num_classes))
        self.register_buffer("temperatures", torch.ones(2))

    def forward(
        self, images: Tensor, padding: Tensor | None = None, targets=None
    ) -> DualOutput | DenseOutput:
        dense, cells, tokens = self.see(images, padding)
        if tokens is None:
            return dense
        count = self.queries if self.training or self.mode == "full" else self.balanced_queries
        best = dense.prediction.logits.amax(-1)
        parents = top_tokens(best, count, cells.padding)
        content = self.start(pick(cells.features, parents))
        reference = pick(dense.prediction.boxes, parents).detach().clamp(_SMALLEST, 1.0)
        empty = None if cells.padding is None else cells.padding.gather(1, parents)
        query = QueryOutput(self.decode(content, reference, cells, tokens, empty))
        answer = merge(dense.prediction, query.answer, parents, self.temperatures, self.share)
        return DualOutput(answer, dense, query, dense.cells, parents, tokens.selections)

    @property
    def head_shares(self) -> tuple[float, float]:
        """Of the dense and of the query head in a score."""
        return 1 - self.share, self.share

    def heads(self, images: Tensor, padding: Tensor | None = None) -> tuple[Prediction, Tensor]:
        """The answer of all queries and other cells with temperatures of 1; and the logits that it is made of, [B, A,
        C, 2], those of the dense head and of the query head, which are NaN where no query answers."""
        mode, self.mode = self.mode, "full"
        try:
            output = self(images, padding)
        finally:
            self.mode = mode
        dense, query, parents = output.dense.prediction, output.query.answer, output.parents
        answer = merge(dense, query, parents, torch.ones_like(self.temperatures), self.share)
        own = dense.logits.float()
        row = parents.unsqueeze(-1).expand_as(query.logits)
        asked = torch.full_like(own, torch.nan).scatter(1, row, query.logits.float())
        return answer, torch.stack([own, asked], -1)

    def decode(
        self,
        content: Tensor,
        reference: Tensor,
        cells: Tokens,
        tokens: ExtractedTokens,
        empty: Tensor | None,
    ) -> tuple[Prediction, ...]:
        """content: [B, Q, D]. reference: [B, Q, 4] boxes. empty: [B, Q] bool, queries of cells of padding, which
        nobody looks at. The predictions of every layer, and of the deduplication."""
        mask = None if empty is None else empty.unsqueeze(1)
        start, predictions = reference, []
        for layer in self.decoder:
            query_position = self.query_position(sine_of_coordinates(reference, self.config.dim // 4))
            content = layer(content, query_position, reference, cells, tokens, mask)
            normed = self.norm(content)
            change = self.boxes(normed)
            # As in RT-DETR, a prediction passes gradient to the layer before, from whose box it starts.
            predictions.append(Prediction(self.classes(normed), refine(change, start)))
            start = refine(change, reference)
            reference = start.detach()
        logits, boxes = (part.detach() for part in predictions[-1])
        kept = self.deduplication(content, boxes, logits, empty)
        return *predictions, Prediction(self.kept_classes(kept), boxes)


class LocalDecoderLayer(nn.Module):
    """Attention to tokens, to the maps around each query's box, among queries, feed-forward; each
    x <- x + f(LayerNorm(x)). points: on each map; 0 for no attention to the maps."""

    EXPLAINED = {"self_attention": None, "cross_attention": None, "local_attention": None}

    def __init__(self, dim: int, heads: int, feed_forward: int, points: int):
        super().__init__()
        self.norm_cross = nn.LayerNorm(dim)
        self.cross_attention = MultiHeadAttention(dim, heads)
        self.norm_local = nn.LayerNorm(dim) if points else None
        self.local_attention = DeformableAttention(dim, len(STRIDES), heads, points) if points else None
        self.norm_self = nn.LayerNorm(dim)
        self.self_attention = MultiHeadAttention(dim, heads)
        self.norm_feed_forward = nn.LayerNorm(dim)
        self.feed_forward = FeedForward(dim, feed_forward)

    def forward(
        self,
        content: Tensor,
        query_position: Tensor,
        reference: Tensor,
        cells: Tokens,
        tokens: ExtractedTokens,
        mask: Tensor | None,
    ) -> Tensor:
        """content, query_position: [B, Q, D]. reference: [B, Q, 4] boxes, fractions of the picture. mask: [B, 1, Q]
        bool, queries that nobody looks at. Returns the content."""
        memory = tokens.features
        content = content + self.cross_attention(
            self.norm_cross(content) + query_position, memory + tokens.position, memory, tokens.mask
        )
        if self.norm_local is not None and self.local_attention is not None:
            content = content + self.local_attention(
                self.norm_local(content) + query_position,
                on_maps(reference, cells),
                cells.features,
                cells.sizes,
                cells.padding,
            )
        normed = self.norm_self(content)
        placed = normed + query_position
        content = content + self.self_attention(placed, placed, normed, mask)
        return content + self.feed_forward(self.norm_feed_forward(content))


def merge(
    dense: Prediction, query: Prediction, parents: Tensor, temperatures: Tensor, share: float
) -> Prediction:
    """The dense head's [B, A, ...] answer with those of the queries [B, Q, ...] in place of their parents' [B, Q].

    A query brings its box, and a score s_dense^(1 - share) s_query^share in each class.
    """
    own = dense.logits.float()
    score = (1 - share) * _log_sigmoid(pick(own, parents) / temperatures[0])
    score = score + share * _log_sigmoid(query.logits.float() / temperatures[1])
    logits = score - (-score.expm1()).clamp(min=1e-7).log()
    row = parents.unsqueeze(-1)
    return Prediction(
        own.scatter(1, row.expand_as(logits), logits),
        dense.boxes.scatter(1, row.expand_as(query.boxes), query.boxes),
    )


def _log_sigmoid(logits: Tensor) -> Tensor:
    # torch's own becomes log(sigmoid(x)) in a graph, which is minus infinity below -88.
    return logits.clamp(max=0.0) - (1 + (-logits.abs()).exp()).log()


def criterion(numbers: LossNumbers = LossNumbers()) -> DualCriterion:
    """That of a one-to-one dense head; and queries that are deduplicated."""
    return DualCriterion(yolov8.e2e_criterion(numbers), DeduplicatedCriterion())
