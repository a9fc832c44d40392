"""Where half precision would change the answer: full precision inside autocast."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def without_autocast(x: Tensor) -> AbstractContextManager:
    """Autocast off for the device of `x`; the meta device, where models are only counted, knows none."""
    return nullcontext() if x.device.type == "meta" else torch.autocast(x.device.type, enabled=False)


def linear(layer: nn.Linear, x: Tensor) -> Tensor:
    """`layer` in the precision of `x`, whatever its weights are kept in."""
    bias = None if layer.bias is None else layer.bias.to(x.dtype)
    return F.linear(x, layer.weight.to(x.dtype), bias)


def layer_norm(layer: nn.LayerNorm, x: Tensor) -> Tensor:
    """`layer` computed in float32, the answer in the precision of `x`."""
    with without_autocast(x):
        weight, bias = layer.weight.float(), layer.bias.float()
        return F.layer_norm(x.float(), layer.normalized_shape, weight, bias, layer.eps).to(x.dtype)
