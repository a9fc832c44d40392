"""Gated sparse global attention: attention among the k strongest cells of a map, added to the map.

With x the map as N tokens, S the k selected ones, and no biases anywhere:

    D = x Wv Wo everywhere, but (A x Wv Wo) on S,   A = softmax(LN(x_S Wq) LN(x_S Wk)^T / sqrt(d))
    y = x + g D

Only selected tokens are projected to queries and keys, and the dense path is one C x C matrix, so the cost is
N C^2 + C^3 + 4 k C^2 + 2 k^2 C multiply-adds instead of the literal 4 N C^2 + 2 k^2 C. A map with at most k
tokens gets full attention, without selection. Padding is never selected, and never attended to.
"""

from __future__ import annotations

import math
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import ConfigError
from .position import rotate_2d, sincos_2d
from .precision import layer_norm, linear, without_autocast
from .selection import SELECTORS, TokenSelector, kept_cells
from .tokens import pooled_cells

GATES = ("none", "fixed", "scalar", "channel", "outproj_zero")


@dataclass(frozen=True, kw_only=True)
class SparseGlobalConfig:
    """Every choice of the block; the defaults are the seed's, read literally.

    k: tokens to select: a number, a ratio of the map's tokens (0 < k <= 1, a float), or "auto": a quarter of
      the tokens at stride 32, at every level.
    selector: what ranks tokens: the squared norm (energy; `l2` picks the same set), the l1 norm, the mean,
      chance, a learned score, the objects themselves (oracle, an upper bound), or no selection (all).
    gate: g = 1 (none), the constant `gate_value` (fixed), a learned number or vector from 0 (scalar,
      channel), or g = 1 with Wo starting at 0 (outproj_zero, after Fixup).
    dense_path: what unselected tokens receive: x Wv Wo (value), nothing (identity), or, as the control arm,
      that on all tokens and no attention at all (linear_control).
    heads: a number, or "auto": one for every 64 channels. position: what queries and keys know of place.
    context: side of a grid of average-pooled tokens that serve as extra keys and values; 0 for none.
    registers: learned extra keys and values (Darcet et al. 2023, arXiv 2309.16588).
    attention_dtype: float32 also under autocast, or the autocast type (native).
    """

    k: int | float | Literal["auto"] = 512
    selector: str = "energy"
    gate: str = "scalar"
    gate_value: float = 1.0
    dense_path: Literal["value", "identity", "linear_control"] = "value"
    heads: int | Literal["auto"] = 1
    position: Literal["none", "sincos", "rope"] = "none"
    context: int = 0
    registers: int = 0
    attention_dtype: Literal["float32", "native"] = "float32"

    def __post_init__(self):
        for name, allowed in {
            "selector": tuple(SELECTORS),
            "gate": GATES,
            "dense_path": ("value", "identity", "linear_control"),
            "position": ("none", "sincos", "rope"),
            "attention_dtype": ("float32", "native"),
        }.items():
            if getattr(self, name) not in allowed:
                raise ConfigError(f"{name} expects one of {', '.join(allowed)}; got {getattr(self, name)!r}.")
        ratio = isinstance(self.k, float)
        if self.k != "auto" and (
            not isinstance(self.k, int | float) or not (0 < self.k <= 1 if ratio else self.k > 0)
        ):
            raise ConfigError(f'k expects a number of tokens, a ratio in (0, 1], or "auto"; got {self.k!r}.')
        if self.heads != "auto" and (not isinstance(self.heads, int) or self.heads < 1):
            raise ConfigError(f'heads expects a number from 1 on, or "auto"; got {self.heads!r}.')
        if self.context < 0 or self.registers < 0:
            raise ConfigError(
                f"context and registers expect 0 or more; got {self.context} and {self.registers}."
            )


class SparseGlobalOutput(NamedTuple):
    """map: [B, C, H, W]. scores: [B, H, W] float32 logits of a learned selector, else None; kept: with them, [B, H, W]
    bool, the tokens it selected."""

    map: Tensor
    scores: Tensor | None
    kept: Tensor | None = None


class Diagnosis(NamedTuple):
    """What a block does to a batch, each a mean over images. Norms are Frobenius norms.

    change: |g D| / |x|, all tokens. attention_change: |g (A V - V) Wo| / |x| on the selected tokens, the part
    of it that attention causes. entropy: of the attention rows, as a fraction of that of a uniform row.
    selected: fraction of the map's tokens that were selected. gate: mean |g|.
    """

    gate: float
    change: float
    attention_change: float
    entropy: float
    selected: float


class AttentionInput(NamedTuple):
    """queries: [B, heads, k, d]. keys, values: [B, heads, k + extra, d], those of the selected tokens first.
    allowed: [B, 1, 1, k + extra] bool, False for padding, or None for all."""

    queries: Tensor
    keys: Tensor
    values: Tensor
    allowed: Tensor | None


class SparseAttention(nn.Module):
    """Which tokens of a map are selected, and what they are to attention: the block and its folded form
    (inference/folded_sparse_global.py) have this in common.

    channels: C of the map. stride: pixels per cell, which places tokens and sizes k "auto". A subclass has the
    layers `query`, `key`, `norm`, `value` and `scorer`, and `registers` where the configuration asks for them.
    """

    HALF_PRECISION = False

    query: nn.Linear
    key: nn.Linear
    value: nn.Linear
    norm: nn.LayerNorm
    registers: Tensor
    scorer: TokenSelector

    def __init__(self, channels: int, stride: int, config: SparseGlobalConfig):
        super().__init__()
        self.channels, self.stride, self.config = channels, stride, config
        self.heads = max(1, channels // 64) if config.heads == "auto" else config.heads
        if channels % self.heads:
            raise ConfigError(f"heads expects a divisor of the map's {channels} channels; got {self.heads}.")
        if config.position != "none" and channels // self.heads % 4:
            raise ConfigError(
                f"position needs a multiple of 4 channels a head; got {channels // self.heads}."
            )

    def tokens_selected(self, height: int, width: int) -> int:
        """k for a map of height x width cells: never more than there are."""
        total, k = height * width, self.config.k
        if self.scorer.takes_all:
            return total
        if isinstance(total, torch.SymInt):  # a graph for maps of any size
            if isinstance(k, float):
                raise ConfigError(f"k = {k:g} of the tokens is a number only for a canvas of one size.")
            k = _rounded(total * self.stride**2, 64**2) if k == "auto" else k
            symbol: Any = torch.sym_max(1, torch.sym_min(k, total))
            return symbol
        if k == "auto":
            k = total * (self.stride / 32) ** 2 / 4
        elif isinstance(k, float):
            k = k * total
        return min(max(1, round(k)), total)

    @torch.no_grad()
    def weights(
        self, x: Tensor, padding: Tensor | None = None, salience: Tensor | None = None
    ) -> tuple[Tensor | None, Tensor]:
        """Where a call of `forward` with the same arguments looks: the selected tokens, [B, k] best first, or None
        for all of them; and their attention [B, heads, k, k + extra], float32, whose rows sum to 1: to the
        selected tokens, then to the pooled and the learned ones. The selector "random" chooses anew."""
        index = self._select(x, self._logits(x), padding, salience)
        queries, keys, _, allowed = self._attention_input(x, index, padding)
        return index, _weights(queries, keys, allowed)

    def _logits(self, x: Tensor) -> Tensor | None:
        """[B, H, W] float32 of a learned selector."""
        return self.scorer(x) if self.scorer.learned else None

    def _select(
        self, x: Tensor, scores: Tensor | None, padding: Tensor | None, salience: Tensor | None
    ) -> Tensor | None:
        """[B, k] indices of the selected tokens, best first, or None for all of them. In float32."""
        k = self.tokens_selected(*x.shape[2:])
        if not isinstance(k, torch.SymInt) and k >= x.shape[2] * x.shape[3]:
            return None
        with torch.no_grad(), without_autocast(x):
            ranking = scores.detach() if scores is not None else self.scorer(x, salience)
            if padding is not None:
                ranking = ranking.masked_fill(padding, -torch.inf)
            return ranking.flatten(1).topk(k).indices

    def _attention_precision(self, x: Tensor):
        return without_autocast(x) if self.config.attention_dtype == "float32" else nullcontext()

    def _attention_input(self, x: Tensor, index: Tensor | None, padding: Tensor | None) -> AttentionInput:
        height, width = x.shape[2:]
        with self._attention_precision(x):
            tokens = tokens_at(x.flatten(2).transpose(1, 2), index)
            tokens = tokens.float() if self.config.attention_dtype == "float32" else tokens
            cell = torch.arange(height * width, device=x.device)[None] if index is None else index
            row = cell // width
            position = torch.stack([cell - row * width, row], -1) + 0.5  # [B or 1, k, 2] cells, (x, y)
            mask = None if padding is None else tokens_at(padding.flatten(1), index)
            extra = self._extra(x, padding, tokens.dtype)
            # Positions in units of 32 pixels, so that a model trained at one size works at another.
            scale = self.stride / 32
            queries = self._project(self.query, tokens, position * scale)
            keys = self._project(self.key, tokens, position * scale)
            values = self._values(tokens)
            if extra is not None:
                more, more_position, more_mask = extra
                keys = torch.cat([keys, self._project(self.key, more, more_position * scale)], 2)
                values = torch.cat([values, self._values(more)], 2)
                mask = None if mask is None else torch.cat([mask, more_mask], 1)
        return AttentionInput(queries, keys, values, None if mask is None else ~mask[:, None, None])

    def _project(self, layer: nn.Linear, tokens: Tensor, position: Tensor) -> Tensor:
        """To normalised queries or keys [B, heads, k, C / heads]."""
        if self.config.position == "sincos":
            tokens = tokens + sincos_2d(position, self.channels).to(tokens.dtype)
        projected = layer_norm(self.norm, self._split(linear(layer, tokens)))
        if self.config.position == "rope":
            projected = rotate_2d(projected, position)
        return projected

    def _values(self, tokens: Tensor) -> Tensor:
        return self._split(linear(self.value, tokens))

    def _split(self, tokens: Tensor) -> Tensor:
        return tokens.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def _extra(
        self, x: Tensor, padding: Tensor | None, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor, Tensor] | None:
        """Pooled and learned tokens [B, extra, C], their places in cells, and which are padding; None for none."""
        batch, _, height, width = x.shape
        tokens, places, mask = [], [], []
        if self.config.context:
            means, middles, empty = pooled_cells(x, padding, self.config.context)
            tokens.append(means.to(dtype))
            places.append(middles[None])
            mask.append(empty)
        if self.config.registers:
            tokens.append(self.registers.to(dtype).expand(batch, -1, -1))
            centre = x.new_tensor([width / 2, height / 2], dtype=torch.float32)
            places.append(centre.expand(1, self.config.registers, 2))
            mask.append(torch.zeros(batch, self.config.registers, dtype=torch.bool, device=x.device))
        if not tokens:
            return None
        return torch.cat(tokens, 1), torch.cat(places, 1), torch.cat(mask, 1)


class SparseGlobal(SparseAttention):
    """channels: C of the map. stride: pixels per cell, which places tokens and sizes k "auto"."""

    LEARNING_RATES = {"gate": "gate"}

    gate: Tensor

    def __init__(self, channels: int, stride: int, config: SparseGlobalConfig):
        super().__init__(channels, stride, config)
        self.query = nn.Linear(channels, channels, bias=False)
        self.key = nn.Linear(channels, channels, bias=False)
        self.value = nn.Linear(channels, channels, bias=False)
        self.output = nn.Linear(channels, channels, bias=False)
        self.norm = nn.LayerNorm(channels // self.heads)  # shared by queries and keys
        if config.gate == "scalar":
            self.gate = nn.Parameter(torch.zeros(1))
        elif config.gate == "channel":
            self.gate = nn.Parameter(torch.zeros(channels))
        else:
            self.register_buffer("gate", torch.tensor([config.gate_value if config.gate == "fixed" else 1.0]))
        if config.gate == "outproj_zero":
            nn.init.zeros_(self.output.weight)
        if config.registers:
            self.registers = nn.Parameter(torch.randn(config.registers, channels) * channels**-0.5)
        self.scorer = SELECTORS[config.selector](channels)
        if config.dense_path == "linear_control":
            # The same number of parameters as the arm it is compared with; what attention needs is unused.
            self.requires_grad_(False)
            for used in (self.value.weight, self.output.weight):
                used.requires_grad_(True)
            if config.gate in ("scalar", "channel"):
                self.gate.requires_grad_(True)

    def forward(
        self, x: Tensor, padding: Tensor | None = None, salience: Tensor | None = None
    ) -> SparseGlobalOutput:
        """x: [B, C, H, W]. padding: [B, H, W] bool over the cells. salience: [B, H, W], oracle's ranking."""
        if self.config.dense_path == "linear_control":
            return SparseGlobalOutput(self._add(x, self._dense(x)), None)
        scores = self._logits(x)
        index = self._select(x, scores, padding, salience)
        delta = self._attention_delta(x, scores, index, padding)  # [B, C, k]
        mask = None if padding is None else tokens_at(padding.flatten(1), index)
        kept = None if scores is None else kept_cells(scores, index, padding if index is None else mask)
        if index is None and mask is None:
            return SparseGlobalOutput(self._add(x, delta.reshape(x.shape)), scores, kept)
        dense = self._dense(x).flatten(2)
        at = None if index is None else index.unsqueeze(1).expand(-1, self.channels, -1)
        if mask is not None:  # an image with fewer than k real tokens: the rest are not selected
            delta = torch.where(mask.unsqueeze(1), dense if at is None else dense.gather(2, at), delta)
        delta = delta if at is None else dense.scatter(2, at, delta)
        return SparseGlobalOutput(self._add(x, delta.reshape(x.shape)), scores, kept)

    @torch.no_grad()
    def diagnose(self, x: Tensor, padding: Tensor | None = None, salience: Tensor | None = None) -> Diagnosis:
        """The same arithmetic as `forward`, measured."""
        added = self.forward(x, padding, salience).map - x
        gate, norm = self.gate.abs().mean().item(), x.float().norm()
        change = (added.float().norm() / norm).item()
        if self.config.dense_path == "linear_control":
            return Diagnosis(gate, change, 0.0, 1.0, 0.0)
        index = self._select(x, self._logits(x), padding, salience)
        queries, keys, values, allowed = self._attention_input(x, index, padding)
        weights, values = _weights(queries, keys, allowed), values.float()
        if allowed is None:
            allowed = weights.new_ones(len(x), 1, 1, weights.shape[3], dtype=torch.bool)
        tokens = weights.shape[2]
        real = allowed[:, 0, 0, :tokens, None]  # [B, k, 1]
        moved = (weights @ values - values[:, :, :tokens]).transpose(1, 2).flatten(2)
        moved = moved @ self.output.weight.float().T * self.gate.float() * real
        selected = tokens_at(x.flatten(2).transpose(1, 2), index).float() * real
        uniform = allowed.sum(-1, keepdim=True).clamp(min=2).log()
        entropy = -(weights * weights.clamp(min=1e-12).log()).sum(-1, keepdim=True) / uniform
        entropy = entropy.mean(1)[real].mean().item()
        fraction = tokens / (x.shape[2] * x.shape[3])
        return Diagnosis(gate, change, (moved.norm() / selected.norm()).item(), entropy, fraction)

    def _add(self, x: Tensor, delta: Tensor) -> Tensor:
        return x + (self.gate.view(1, -1, 1, 1) * delta).to(x.dtype)

    def _dense(self, x: Tensor) -> Tensor:
        """What a token receives that attention does not serve: [B, C, H, W]."""
        if self.config.dense_path == "identity":
            return torch.zeros_like(x)
        return F.conv2d(x, (self.output.weight @ self.value.weight)[:, :, None, None].to(x.dtype))

    def _attention_delta(
        self, x: Tensor, scores: Tensor | None, index: Tensor | None, padding: Tensor | None
    ) -> Tensor:
        """(A x Wv) Wo, before the gate, for the selected tokens: [B, C, k], in the type of `x`."""
        queries, keys, values, allowed = self._attention_input(x, index, padding)
        with self._attention_precision(x):
            attended = F.scaled_dot_product_attention(queries, keys, values, allowed)
        delta = linear(self.output, attended.transpose(1, 2).flatten(2)).to(x.dtype)
        if scores is not None:
            # Mixture-of-Depths routing weight: 1 at the start, and the way gradient reaches the scorer.
            delta = delta * (2 * tokens_at(scores.flatten(1), index).sigmoid()).unsqueeze(-1).to(x.dtype)
        return delta.transpose(1, 2)


def _rounded(number: int | torch.SymInt, divisor: int) -> Any:
    """`round(number / divisor)`, halves to even, without a comparison that would bind a graph to one size."""
    whole, rest = number // divisor, number % divisor
    return whole + torch.sym_max(0, (2 * rest + whole % 2 - 1) // divisor)


def tokens_at(tokens: Tensor, index: Tensor | None) -> Tensor:
    """tokens [B, N, ...] at index [B, k]; all of them for None."""
    if index is None:
        return tokens
    return tokens.gather(
        1, index if tokens.ndim == 2 else index.unsqueeze(-1).expand(-1, -1, tokens.shape[-1])
    )


def _weights(queries: Tensor, keys: Tensor, allowed: Tensor | None) -> Tensor:
    """softmax(q k^T / sqrt(d)) of an AttentionInput: [B, heads, k, k + extra], float32."""
    logits = queries.float() @ keys.float().transpose(-1, -2) / math.sqrt(queries.shape[-1])
    return (logits if allowed is None else logits.masked_fill(~allowed, -torch.inf)).softmax(-1)
