"""Which tokens of a map are worth the dear operations: rankings, fixed and learned. In float32 always."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import ConfigError
from .precision import layer_norm, linear, without_autocast

SELECTORS = ("energy", "l2", "l1", "mean", "random", "learned", "oracle", "all")


def rank_tokens(selector: str, x: Tensor, salience: Tensor | None) -> Tensor:
    """x: [B, C, H, W] to a score for each token [B, H, W], higher is taken first, for selectors without weights.

    salience: [B, H, W], what "oracle" ranks by; ConfigError where it is missing.
    """
    x = x.float()  # a square of a half-precision feature overflows
    match selector:
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
        case "oracle" if salience is not None:
            return salience
        case "oracle":
            raise ConfigError(
                "selector oracle ranks tokens by the objects and expects targets; none came."
                " Use it with data that has boxes, or choose another selector."
            )
        case _:
            raise ConfigError(f"selector {selector} does not rank tokens.")


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
        with without_autocast(x):
            tokens = layer_norm(self.norm, x.float().permute(0, 2, 3, 1))
            return linear(self.score, F.silu(linear(self.reduce, tokens))).squeeze(-1)
