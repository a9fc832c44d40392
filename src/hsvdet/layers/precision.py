"""Where half precision would change the answer: full precision inside autocast, and what modules say of themselves.

`HALF_PRECISION = True` on a class says that what is computed in it may be rounded to half precision or to 8 bits:
convolutions, matrix products, and what adds and activates them. False says that it may not. A class that says
nothing is what the module around it is; the network says it for all that is left. Normalisation is never rounded.
`not_8_bits` on a class names those of its submodules that half precision may round, but not 8 bits.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torchvision.ops import FrozenBatchNorm2d


def without_autocast(x: Tensor) -> AbstractContextManager[object, bool | None]:
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


def may_be_half(net: nn.Module, prefix: str = "") -> set[str]:
    """Names of the modules of `net`, itself included, that may be computed in half precision. prefix: of the names."""
    said = {"": False}
    for name, module in net.named_modules(
        remove_duplicate=False
    ):  # a shared layer is in a graph by each name
        around = said[name.rpartition(".")[0]]
        norm = isinstance(module, nn.LayerNorm | nn.GroupNorm | _BatchNorm | FrozenBatchNorm2d)
        said[name] = not norm and getattr(module, "HALF_PRECISION", around)
    return {".".join(filter(None, (prefix, name))) for name, half in said.items() if half}


def may_be_8_bits(net: nn.Module, prefix: str = "") -> set[str]:
    """Of the modules that `may_be_half`, those that may be computed in 8 bits."""
    not_8_bits = [
        ".".join(filter(None, (prefix, name, part)))
        for name, module in net.named_modules(remove_duplicate=False)
        for part in getattr(module, "not_8_bits", ())
    ]
    return {name for name in may_be_half(net, prefix) if not within(name, not_8_bits)}


def within(name: str, modules: Iterable[str]) -> bool:
    """Whether the module `name`, or one around it, is among these."""
    return any(name == module or name.startswith(f"{module}.") for module in modules)
