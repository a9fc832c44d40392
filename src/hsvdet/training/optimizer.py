"""Which parameters learn how fast, and which decay."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..layers.sparse_global import SparseGlobal
from .recipe import Recipe


def parameter_groups(net: nn.Module, recipe: Recipe, warm: bool) -> list[dict[str, Any]]:
    """AdamW's groups of the parameters that learn, each once: {"params", "names", "scale", "weight_decay"}.

    Only weight matrices and convolution kernels decay: not biases, norms, gates, embeddings or registers.
    scale: of the learning rate; gates of sparse global blocks learn faster, and when the network is `warm`
    (its weights were trained before) its backbone learns slower. A network names the parts of its backbone
    in `BACKBONE`; else it is the module called backbone.
    """
    backbone = getattr(net, "BACKBONE", ("backbone",))
    groups: dict[tuple[float, float], dict[str, Any]] = {}
    seen: set[Tensor] = set()
    for prefix, module in net.named_modules():
        for own_name, parameter in module.named_parameters(recurse=False):
            if not parameter.requires_grad or parameter in seen:
                continue
            seen.add(parameter)
            name = f"{prefix}.{own_name}" if prefix else own_name
            scale = recipe.warm_backbone if warm and name.split(".")[0] in backbone else 1.0
            if isinstance(module, SparseGlobal) and own_name == "gate":
                scale = recipe.gate_rate
            decays = (
                own_name.endswith("weight") and parameter.ndim > 1 and not isinstance(module, nn.Embedding)
            )
            key = (scale, recipe.weight_decay if decays else 0.0)
            group = groups.setdefault(
                key, {"params": [], "names": [], "scale": key[0], "weight_decay": key[1]}
            )
            group["params"].append(parameter)
            group["names"].append(name)
    return list(groups.values())


def make_optimizer(net: nn.Module, recipe: Recipe, warm: bool) -> torch.optim.AdamW:
    rate = recipe.warm_learning_rate if warm else recipe.learning_rate
    groups = parameter_groups(net, recipe, warm)
    return torch.optim.AdamW(groups, lr=rate, betas=(recipe.beta1, recipe.beta2), fused=True)


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """AdamW's moments and step counts, by "parameter name/what"."""
    return {
        f"{name}/{key}": value
        for group in optimizer.param_groups
        for name, parameter in zip(group["names"], group["params"], strict=True)
        for key, value in optimizer.state[parameter].items()
    }


def load_optimizer_tensors(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """The inverse. Moments are laid out in memory as their parameters are: the fused step relies on it."""
    named = {
        name: parameter
        for group in optimizer.param_groups
        for name, parameter in zip(group["names"], group["params"], strict=True)
    }
    for key, value in tensors.items():
        name, what = key.rsplit("/", 1)
        parameter = named[name]
        if value.shape == parameter.shape:
            value = torch.empty_like(parameter).copy_(value)
        optimizer.state[parameter][what] = value.to(parameter.device)


def gates(net: nn.Module) -> list[Tensor]:
    """The learned gates of sparse global blocks."""
    return [
        module.gate
        for module in net.modules()
        if isinstance(module, SparseGlobal) and isinstance(module.gate, nn.Parameter)
    ]
