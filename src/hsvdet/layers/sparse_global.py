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
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import ConfigError

SELECTORS = ("energy", "l2", "l1", "mean", "random", "learned", "oracle", "all")
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
            "selector": SELECTORS,
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
    """map: [B, C, H, W]. scores: [B, H, W] float32 logits of a learned selector, else None."""

    map: Tensor
    scores: Tensor | None


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


class SparseGlobal(nn.Module):
    """channels: C of the map. stride: pixels per cell, which places tokens and sizes k "auto"."""

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
        if config.selector == "learned":
            self.scorer = TokenScorer(channels)
        if config.dense_path == "linear_control":  # same parameters as the arm it is compared with, unused
            for unused in (self.query, self.key, self.norm):
                unused.requires_grad_(False)

    def tokens_selected(self, height: int, width: int) -> int:
        """k for a map of height x width cells: never more than there are."""
        total, k = height * width, self.config.k
        if self.config.selector == "all":
            return total
        if k == "auto":
            k = total * (self.stride / 32) ** 2 / 4
        elif isinstance(k, float):
            k = k * total
        return min(max(1, round(k)), total)

    def forward(
        self, x: Tensor, padding: Tensor | None = None, salience: Tensor | None = None
    ) -> SparseGlobalOutput:
        """x: [B, C, H, W]. padding: [B, H, W] bool over the cells. salience: [B, H, W], oracle's ranking."""
        scores = self.scorer(x) if self.config.selector == "learned" else None
        if self.config.dense_path == "linear_control":
            return SparseGlobalOutput(self._add(x, self._linear(x)), scores)
        index = self._select(x, scores, padding, salience)
        attended, _, _ = self._attend(x, index, padding)
        delta = F.linear(attended, self.output.weight.to(attended.dtype)).to(x.dtype)  # [B, k, C]
        if scores is not None:
            # Mixture-of-Depths routing weight: 1 at the start, and the way gradient reaches the scorer.
            routing = scores.flatten(1) if index is None else scores.flatten(1).gather(1, index)
            delta = delta * (2 * routing.sigmoid()).unsqueeze(-1).to(x.dtype)
        delta = delta.transpose(1, 2)
        if index is None:
            return SparseGlobalOutput(self._add(x, delta.reshape(x.shape)), scores)
        dense = self._linear(x) if self.config.dense_path == "value" else torch.zeros_like(x)
        where = index.unsqueeze(1).expand(-1, self.channels, -1)
        return SparseGlobalOutput(
            self._add(x, dense.flatten(2).scatter(2, where, delta.to(dense.dtype)).reshape(x.shape)), scores
        )

    @torch.no_grad()
    def diagnose(self, x: Tensor, padding: Tensor | None = None, salience: Tensor | None = None) -> Diagnosis:
        """The same arithmetic as `forward`, measured."""
        added = self.forward(x, padding, salience).map - x
        gate, norm = self.gate.abs().mean().item(), x.float().norm()
        change = (added.float().norm() / norm).item()
        if self.config.dense_path == "linear_control":
            return Diagnosis(gate, change, 0.0, 1.0, 0.0)
        scores = self.scorer(x) if self.config.selector == "learned" else None
        index = self._select(x, scores, padding, salience)
        attended, values, weights = self._attend(x, index, padding, want_weights=True)
        moved = (attended - values).float() @ self.output.weight.float().T * self.gate.float()
        selected = _gather(x.flatten(2).transpose(1, 2), index).float()
        entropy = -(weights * weights.clamp(min=1e-12).log()).sum(-1).mean() / math.log(
            weights.shape[-1] + 1e-9
        )
        fraction = selected.shape[1] / (x.shape[2] * x.shape[3])
        return Diagnosis(gate, change, (moved.norm() / selected.norm()).item(), entropy.item(), fraction)

    def _add(self, x: Tensor, delta: Tensor) -> Tensor:
        return x + (self.gate.view(1, -1, 1, 1) * delta).to(x.dtype)

    def _linear(self, x: Tensor) -> Tensor:
        return F.conv2d(x, (self.output.weight @ self.value.weight)[:, :, None, None].to(x.dtype))

    def _select(
        self, x: Tensor, scores: Tensor | None, padding: Tensor | None, salience: Tensor | None
    ) -> Tensor | None:
        """[B, k] indices of the selected tokens, best first, or None for all of them. In float32."""
        k = self.tokens_selected(*x.shape[2:])
        if k >= x.shape[2] * x.shape[3]:
            return None
        with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
            ranking = scores.detach() if scores is not None else self._rank(x.float(), salience)
            if padding is not None:
                ranking = ranking.masked_fill(padding, -torch.inf)
            return ranking.flatten(1).topk(k).indices

    def _rank(self, x: Tensor, salience: Tensor | None) -> Tensor:
        match self.config.selector:
            case "energy":
                return x.square().sum(1)
            case "l2":
                return x.square().sum(1).sqrt()
            case "l1":
                return x.abs().sum(1)
            case "mean":
                return x.mean(1)
            case "random":
                return torch.rand(x.shape[0], *x.shape[2:], device=x.device)
            case _:
                if salience is None:
                    raise ConfigError(
                        "selector oracle ranks tokens by the objects and expects targets; none came."
                        " Use it with data that has boxes, or choose another selector."
                    )
                return salience

    def _attend(self, x: Tensor, index: Tensor | None, padding: Tensor | None, want_weights: bool = False):
        """(A V, V [B, k, C], A or None) on the selected tokens; padded tokens keep their own value."""
        height, width = x.shape[2:]
        island = self.config.attention_dtype == "float32"
        with torch.autocast(x.device.type, enabled=False) if island else _nothing():
            tokens = x.flatten(2).transpose(1, 2)
            tokens = tokens.float() if island else tokens
            selected = _gather(tokens, index)
            place = torch.arange(height * width, device=x.device)[None] if index is None else index
            place = torch.stack([place % width, place // width], -1) + 0.5  # [B or 1, k, 2] cells, (x, y)
            hidden = None
            if padding is not None:
                hidden = padding.flatten(1) if index is None else padding.flatten(1).gather(1, index)
            extra, extra_place, extra_hidden = self._extra(x, padding, selected.dtype)
            # Places in units of 32 pixels, so that a model trained at one size works at another.
            place, extra_place = place * (self.stride / 32), extra_place * (self.stride / 32)
            query = self._project(self.query, selected, place)
            key = self._project(self.key, selected, place)
            value = self.value(selected)
            keys, values = key, self._split(value)
            if extra is not None:
                keys = torch.cat([keys, self._project(self.key, extra, extra_place)], 2)
                values = torch.cat([values, self._split(self.value(extra))], 2)
            allowed = None
            if hidden is not None:
                allowed = ~(hidden if extra is None else torch.cat([hidden, extra_hidden], 1))[:, None, None]
            weights = None
            if want_weights:
                logits = query @ keys.transpose(-1, -2) / math.sqrt(query.shape[-1])
                weights = (logits if allowed is None else logits.masked_fill(~allowed, -torch.inf)).softmax(
                    -1
                )
            attended = F.scaled_dot_product_attention(query, keys, values, allowed)
            attended = attended.transpose(1, 2).flatten(2)
            if hidden is not None:
                attended = torch.where(hidden.unsqueeze(-1), value, attended)
        return attended, value, weights

    def _project(self, layer: nn.Linear, tokens: Tensor, place: Tensor) -> Tensor:
        """To normalised queries or keys [B, heads, k, C / heads]."""
        if self.config.position == "sincos":
            tokens = tokens + sincos_2d(place, self.channels).to(tokens.dtype)
        projected = self.norm(self._split(layer(tokens)))
        if self.config.position == "rope":
            projected = rotate_2d(projected, place)
        return projected

    def _split(self, tokens: Tensor) -> Tensor:
        return tokens.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def _extra(self, x: Tensor, padding: Tensor | None, dtype: torch.dtype):
        """Pooled and learned tokens [B, extra, C], their places in cells, and which are padding."""
        batch, _, height, width = x.shape
        tokens, places, hidden = [], [], []
        if self.config.context:
            size = (min(self.config.context, height), min(self.config.context, width))
            real = x.new_ones(batch, 1, height, width) if padding is None else (~padding)[:, None].to(x.dtype)
            share = F.adaptive_avg_pool2d(real, size)
            pooled = F.adaptive_avg_pool2d(x * real, size) / share.clamp(min=1e-6)
            tokens.append(pooled.flatten(2).transpose(1, 2).to(dtype))
            y = (torch.arange(size[0], device=x.device) + 0.5) * (height / size[0])
            x_ = (torch.arange(size[1], device=x.device) + 0.5) * (width / size[1])
            grid = torch.stack([x_[None].expand(size), y[:, None].expand(size)], -1).reshape(1, -1, 2)
            places.append(grid)
            hidden.append(share.flatten(1) == 0)
        if self.config.registers:
            tokens.append(self.registers.to(dtype).expand(batch, -1, -1))
            centre = x.new_tensor([width / 2, height / 2], dtype=torch.float32)
            places.append(centre.expand(1, self.config.registers, 2))
            hidden.append(torch.zeros(batch, self.config.registers, dtype=torch.bool, device=x.device))
        if not tokens:
            return None, x.new_zeros(1, 0, 2), None
        return torch.cat(tokens, 1), torch.cat(places, 1), torch.cat(hidden, 1)


class TokenScorer(nn.Module):
    """[B, C, H, W] to one logit a token [B, H, W], float32: layer norm, C to C/4, SiLU, 1."""

    def __init__(self, channels: int):
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.reduce = nn.Linear(channels, channels // 4)
        self.score = nn.Linear(channels // 4, 1)
        nn.init.zeros_(self.score.weight)
        nn.init.zeros_(self.score.bias)

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            tokens = self.norm(x.float().permute(0, 2, 3, 1))
            return self.score(F.silu(self.reduce(tokens))).squeeze(-1)


def sincos_2d(place: Tensor, channels: int, temperature: float = 10000.0) -> Tensor:
    """Places [..., 2] (x, y) to [..., channels]: sines and cosines of x, then of y."""
    frequencies = torch.arange(channels // 4, device=place.device, dtype=torch.float32) / (channels // 4)
    angles = place.float().unsqueeze(-1) / temperature**frequencies  # [..., 2, C / 4]
    return torch.cat([angles.sin(), angles.cos()], -1).flatten(-2)


def rotate_2d(tokens: Tensor, place: Tensor, temperature: float = 100.0) -> Tensor:
    """Rotary position (Su et al. 2021, arXiv 2104.09864) in two axes.

    tokens: [B, heads, k, d]. place: [B or 1, k, 2]. The first half of the channels turns with x, the second
    with y.
    """
    quarter = tokens.shape[-1] // 4
    frequencies = torch.arange(quarter, device=place.device, dtype=torch.float32) / quarter
    angles = (place.float().unsqueeze(-1) / temperature**frequencies).unsqueeze(1)  # [B, 1, k, 2, d / 4]
    cos, sin = angles.cos().to(tokens.dtype), angles.sin().to(tokens.dtype)
    real, imaginary = tokens.unflatten(-1, (2, 2, quarter)).unbind(-2)  # each [B, heads, k, 2, d / 4]
    turned = torch.stack([real * cos - imaginary * sin, real * sin + imaginary * cos], -2)
    return turned.flatten(-3)


def _gather(tokens: Tensor, index: Tensor | None) -> Tensor:
    if index is None:
        return tokens
    return tokens.gather(1, index.unsqueeze(-1).expand(-1, -1, tokens.shape[-1]))


class _nothing:
    def __enter__(self):
        return None

    def __exit__(self, *_):
        return None
