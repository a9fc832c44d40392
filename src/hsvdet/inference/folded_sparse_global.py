"""Gated sparse global attention without its dense path, which the convolutions that read the map take over.

docs/fold.md derives it. With G = diag(g), tokens as columns and S the selected ones, the block (layers/
sparse_global.py) gives y = M x off S, M = I + G Wo Wv. Instead of y, its folded form gives z = M^-1 y, so

    z = x off S,   z_S = x_S + U (r A V - Wv x_S)   with U = M^-1 G Wo,   r = the routing weight or 1

and a convolution with weights W that read y reads z with W M: nothing is left to do off S.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..layers.precision import linear
from ..layers.sparse_global import SparseAttention, SparseGlobal, SparseGlobalOutput, tokens_at

# Folding multiplies rounding by up to the condition of M. Up to 100 float32 stays well within 1e-6 and float16
# within 5e-3, at 1000 they do not (docs/fold.md). Initial weights with gates up to 2 give 1 to 16.
WORST_CONDITION = 100.0


class Folded(NamedTuple):
    """What becomes of a block. block: what stands in its place, None for nothing. matrix: [C, C] float64, to be
    multiplied into the convolutions that read the map, or None. condition: of M, the ratio of its largest to
    its smallest singular value."""

    block: FoldedSparseGlobal | None
    matrix: Tensor | None
    condition: float


class FoldedSparseGlobal(SparseAttention):
    """The work on the selected tokens that is left of `block`; for inference.

    output: [C, C] or, with one head, where the values are the tokens themselves, U Wv. matrix: [C, C], M, where
    it is applied here, by a 1x1 convolution, and not by the readers of the map.
    """

    def __init__(self, block: SparseGlobal, output: Tensor, matrix: Tensor | None = None):
        super().__init__(block.channels, block.stride, block.config)
        self.query, self.key, self.norm = block.query, block.key, block.norm
        if self.heads > 1:
            self.value = block.value
        if self.config.registers:
            self.registers = block.registers
        self.scorer = block.scorer
        self.output = nn.Linear(self.channels, self.channels, bias=False)
        self.output.weight = nn.Parameter(output)
        self.dense: nn.Module = nn.Identity()
        if matrix is not None:
            self.dense = nn.Conv2d(self.channels, self.channels, 1, bias=False)
            self.dense.weight = nn.Parameter(matrix[:, :, None, None])

    def forward(
        self, x: Tensor, padding: Tensor | None = None, salience: Tensor | None = None
    ) -> SparseGlobalOutput:
        """x: [B, C, H, W]. padding: [B, H, W] bool over the cells. salience: [B, H, W], oracle's ranking."""
        scores = self._logits(x)
        index = self._select(x, scores, padding, salience)
        delta = self._delta(x, scores, index, padding)
        height, width = x.shape[2:]
        z = self.dense(x).permute(0, 2, 3, 1)  # a view: the map's memory format stays what it is
        if index is None:
            z = z + delta.unflatten(1, (height, width))
        else:
            images = torch.arange(x.shape[0], device=x.device)[:, None]
            row = index // width
            cells = (images, row, index - row * width)
            z = z.index_put(cells, z[cells] + delta)
        return SparseGlobalOutput(z.permute(0, 3, 1, 2), scores)

    def _delta(
        self, x: Tensor, scores: Tensor | None, index: Tensor | None, padding: Tensor | None
    ) -> Tensor:
        """What the selected tokens receive: [B, k, C], 0 for padding."""
        queries, keys, values, allowed = self._attention_input(x, index, padding)
        with self._attention_precision(x):
            attended = F.scaled_dot_product_attention(queries, keys, values, allowed)  # [B, heads, k, d]
            if scores is not None:
                routing = 2 * tokens_at(scores.flatten(1), index).sigmoid()
                attended = attended * routing[:, None, :, None].to(attended.dtype)
            if self.config.dense_path == "value":
                attended = attended - values[:, :, : attended.shape[2]]
            delta = linear(self.output, attended.transpose(1, 2).flatten(2)).to(x.dtype)
        if padding is not None:
            # Filled, not multiplied: among nothing but padding attention has no answer.
            delta = delta.masked_fill(tokens_at(padding.flatten(1), index).unsqueeze(-1), 0)
        return delta

    def _values(self, tokens: Tensor) -> Tensor:
        return super()._values(tokens) if self.heads > 1 else self._split(tokens)


@torch.no_grad()
def fold_block(block: SparseGlobal) -> Folded:
    """block: in float64. Its layers go into the folded form, which is of no use to the block itself."""
    value = block.value.weight
    output = block.gate.view(-1, 1) * block.output.weight  # G Wo
    if block.config.dense_path == "identity":
        return Folded(FoldedSparseGlobal(block, _with_value(block, output)), None, 1.0)
    matrix = torch.eye(block.channels, dtype=value.dtype) + output @ value
    largest, smallest = torch.linalg.svdvals(matrix)[[0, -1]].tolist()
    condition = largest / smallest if smallest else math.inf
    if block.config.dense_path == "linear_control":  # M everywhere, and nothing to undo
        return Folded(None, matrix, condition)
    if not condition <= WORST_CONDITION:
        return Folded(FoldedSparseGlobal(block, _with_value(block, output), matrix), None, condition)
    output = torch.linalg.solve(matrix, output)
    return Folded(FoldedSparseGlobal(block, _with_value(block, output)), matrix, condition)


def _with_value(block: SparseGlobal, output: Tensor) -> Tensor:
    """With one head A (Wv x) = Wv (A x), so Wv joins the output matrix."""
    return output if block.heads > 1 else output @ block.value.weight
