"""How the heads of detectors start."""

from __future__ import annotations

import math
from typing import TypeVar

from torch import nn

from .transformer import Mlp

_PRIOR = 0.01

Layer = TypeVar("Layer", nn.Linear, nn.Conv2d)


def init_class_prior(head: nn.Linear) -> nn.Linear:
    """Every class starts at probability 0.01 (focal loss, Lin et al. 2017, arXiv 1708.02002, section 3.3)."""
    nn.init.constant_(head.bias, -math.log((1 - _PRIOR) / _PRIOR))
    return head


def init_zero_last(head: Mlp) -> Mlp:
    """A box head that starts by changing nothing: its last layer is 0."""
    nn.init.zeros_(head.last.weight)
    nn.init.zeros_(head.last.bias)
    return head


def init_small_boxes(head: Mlp) -> Mlp:
    """A box head after `init_zero_last` whose boxes start at sigmoid(-2), an eighth of the picture, wide and high."""
    nn.init.constant_(head.last.bias[2:], -2.0)
    return head


def init_xavier(layer: Layer) -> Layer:
    nn.init.xavier_uniform_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


def xavier(mlp: Mlp) -> Mlp:
    """A perceptron inside a transformer starts as the rest of it does: matrices Xavier-uniform."""
    for layer in mlp.layers.children():
        if isinstance(layer, nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
    return mlp
