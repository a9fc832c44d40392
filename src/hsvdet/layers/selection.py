"""Which tokens of a map are worth the expensive operations: rankings, fixed and learned. In float32 always."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import ConfigError
from .precision import layer_norm, linear, without_autocast


class TokenSelector(nn.Module):
    """A map of `channels`, [B, C, H, W], to a score for each token, [B, H, W] float32; higher is taken first.

    The second argument of `forward`, salience [B, H, W], is for those that rank by objects.

    needs_targets: it ranks by objects, which a network has only where there are annotations. repeatable: the
    same map is always ranked the same. learned: its scores are logits, which are trained by a loss of their own
    (criteria/selection.py) and weigh what the selected tokens receive. takes_all: nothing is ranked, all tokens
    are selected. ranking: in words, after "the tokens are selected, ".
    """

    needs_targets = False
    repeatable = True
    learned = False
    takes_all = False
    ranking = ""

    def __init__(self, channels: int):
        super().__init__()

    def forward(self, x: Tensor, salience: Tensor | None = None) -> Tensor:
        raise NotImplementedError

    def multiply_adds(self, tokens: int) -> int:
        """Of the matrices it multiplies that many tokens with."""
        return 0


class Energy(TokenSelector):
    ranking = "those of the largest squared norm"

    def forward(self, x: Tensor, salience: Tensor | None = None) -> Tensor:
        return x.float().square().sum(1)  # a square of a half-precision feature overflows


class Norm(TokenSelector):
    ranking = "those of the largest norm"

    def forward(self, x: Tensor, salience: Tensor | None = None) -> Tensor:
        return x.float().square().sum(1).sqrt()


class AbsoluteSum(TokenSelector):
    ranking = "those of the largest l1 norm"

    def forward(self, x: Tensor, salience: Tensor | None = None) -> Tensor:
        return x.float().abs().sum(1)


class Mean(TokenSelector):
    ranking = "those of the largest mean"

    def forward(self, x: Tensor, salience: Tensor | None = None) -> Tensor:
        return x.float().mean(1)


class Chance(TokenSelector):
    repeatable = False
    ranking = "by chance"

    def forward(self, x: Tensor, salience: Tensor | None = None) -> Tensor:
        return torch.rand(x.shape[0], *x.shape[2:], device=x.device)


class Oracle(TokenSelector):
    """The objects themselves: an upper bound. Raises ConfigError without salience."""

    needs_targets = True
    ranking = "those where objects are"

    def forward(self, x: Tensor, salience: Tensor | None = None) -> Tensor:
        if salience is None:
            raise ConfigError(
                "selector oracle ranks tokens by the objects and expects targets; none came."
                " Use it with data that has boxes, or choose another selector."
            )
        return salience


class AllTokens(TokenSelector):
    takes_all = True
    ranking = "all of them"

    def forward(self, x: Tensor, salience: Tensor | None = None) -> Tensor:
        return torch.zeros(x.shape[0], *x.shape[2:], device=x.device)


class TokenScorer(TokenSelector):
    """A learned logit a token: layer norm, C to `width` (C/4), SiLU, 1."""

    HALF_PRECISION = False

    learned = True
    ranking = "those of the largest learned score"

    def __init__(self, channels: int, width: int | None = None):
        super().__init__(channels)
        width = width or channels // 4
        self.norm = nn.LayerNorm(channels)
        self.reduce = nn.Linear(channels, width)
        self.score = nn.Linear(width, 1)
        nn.init.zeros_(self.score.weight)
        nn.init.zeros_(self.score.bias)

    def forward(self, x: Tensor, salience: Tensor | None = None) -> Tensor:
        with without_autocast(x):
            tokens = layer_norm(self.norm, x.float().permute(0, 2, 3, 1))
            return linear(self.score, F.silu(linear(self.reduce, tokens))).squeeze(-1)

    def multiply_adds(self, tokens: int) -> int:
        return tokens * (self.reduce.weight.numel() + self.score.weight.numel())


def kept_cells(scores: Tensor, index: Tensor | None, padding: Tensor | None) -> Tensor:
    """Which cells of a map were selected and are picture, [B, h, w] bool, of `scores` [B, h, w]. index: [B, k] of the
    selected cells, None for all. padding: which of these are none, [B, k] bool or, of all, [B, h, w]; None of none."""
    if index is None:
        return torch.ones_like(scores, dtype=torch.bool) if padding is None else ~padding
    real = torch.ones_like(index, dtype=torch.bool) if padding is None else ~padding
    return torch.zeros_like(scores, dtype=torch.bool).flatten(1).scatter(1, index, real).view_as(scores)


# By the name in a configuration.
SELECTORS: dict[str, type[TokenSelector]] = {
    "energy": Energy,
    "l2": Norm,
    "l1": AbsoluteSum,
    "mean": Mean,
    "random": Chance,
    "learned": TokenScorer,
    "oracle": Oracle,
    "all": AllTokens,
}


def selectors_of(net: nn.Module) -> list[TokenSelector]:
    """All token selectors of a network; none in most."""
    return [module for module in net.modules() if isinstance(module, TokenSelector)]
