"""Which parameters learn how fast, and which decay."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ..errors import CheckpointError
from .recipe import Recipe

Role = Literal["backbone", "sampling", "gate"]


def roles(net: nn.Module) -> dict[str, Role | None]:
    """What each parameter, by its name, is for learning rates, as modules declare it; None for most.

    A network names the children that make its backbone in BACKBONE; any module says of its own parameters and
    children in LEARNING_RATES, such as {"gate": "gate"}. The innermost declaration counts.
    """
    declared: dict[str, Role] = dict.fromkeys(getattr(net, "BACKBONE", ()), "backbone")
    for prefix, module in net.named_modules():
        for name, role in getattr(module, "LEARNING_RATES", {}).items():
            declared[f"{prefix}.{name}" if prefix else name] = role
    found: dict[str, Role | None] = {}
    for name, _ in net.named_parameters():
        path = name
        while path not in declared and path:
            path = path.rpartition(".")[0]
        found[name] = declared.get(path)
    return found


def parameter_groups(net: nn.Module, recipe: Recipe, trained_backbone: bool) -> list[dict[str, Any]]:
    """AdamW's groups of the parameters that learn, each once: {"params", "names", "scale", "weight_decay"}.

    Only weight matrices and convolution kernels decay, not biases, norms, embeddings or registers, unless the
    recipe says `decay_all`; gates never do. scale: of the learning rate, by `roles`, as the recipe's `gate_rate`,
    `sampling_rate` and, with a trained backbone, `backbone_rate` say.
    """
    scales: dict[Role | None, float] = {
        None: 1.0,
        "backbone": recipe.backbone_rate if trained_backbone else 1.0,
        "sampling": recipe.sampling_rate,
        "gate": recipe.gate_rate,
    }
    role_of = roles(net)
    groups: dict[tuple[float, float], dict[str, Any]] = {}
    for name, parameter in net.named_parameters():
        if not parameter.requires_grad:
            continue
        owner, _, own_name = name.rpartition(".")
        decays = recipe.decay_all or _is_matrix(net.get_submodule(owner), own_name, parameter)
        if role_of[name] == "gate":
            decays = False
        key = scales[role_of[name]], recipe.weight_decay if decays else 0.0
        group = groups.setdefault(key, {"params": [], "names": [], "scale": key[0], "weight_decay": key[1]})
        group["params"].append(parameter)
        group["names"].append(name)
    return list(groups.values())


def _is_matrix(module: nn.Module, own_name: str, parameter: Tensor) -> bool:
    return own_name.endswith("weight") and parameter.ndim > 1 and not isinstance(module, nn.Embedding)


def make_optimizer(
    net: nn.Module, recipe: Recipe, warm: bool, trained_backbone: bool = False
) -> torch.optim.AdamW:
    """warm: all of the weights were trained before, the backbone's with them."""
    rate = recipe.warm_learning_rate if warm else recipe.learning_rate
    groups = parameter_groups(net, recipe, warm or trained_backbone)
    return torch.optim.AdamW(groups, lr=rate, betas=(recipe.beta1, recipe.beta2), fused=True)


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """AdamW's moments and step counts, by "parameter name/what"."""
    return {
        f"{name}/{key}": value
        for group in optimizer.param_groups
        for name, parameter in zip(group["names"], group["params"], strict=True)
        for key, value in optimizer.state[parameter].items()
    }


def load_optimizer_tensors(
    optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor], path: str
) -> None:
    """The inverse. Moments are laid out in memory as their parameters are: the fused step relies on it.

    path: for messages. Raises CheckpointError for a tensor that AdamW does not keep, and where one of three is missing.
    """
    named = {
        name: parameter
        for group in optimizer.param_groups
        for name, parameter in zip(group["names"], group["params"], strict=True)
    }
    known = {f"{name}/{what}" for name in {key.rpartition("/")[0] for key in tensors} for what in _KEPT}
    wrong = sorted(known ^ tensors.keys())
    for key, value in () if wrong else tensors.items():
        name, _, what = key.rpartition("/")
        parameter = named.get(name)
        if parameter is None or not _is_kept(what, value, parameter):
            wrong = [key]
            break
        if what != "step":
            value = torch.empty_like(parameter).copy_(value)
        optimizer.state[parameter][what] = value.to(parameter.device)
    if wrong:
        raise CheckpointError(
            f"{path}: {wrong[0]} of the optimizer's state is missing, or is not what this run keeps. Copy it again, or"
            " train anew."
        )


_KEPT = ("step", "exp_avg", "exp_avg_sq")


def _is_kept(what: str, value: Tensor, parameter: Tensor) -> bool:
    expected = torch.Size() if what == "step" else parameter.shape
    kind = torch.float32 if what == "step" else parameter.dtype
    if value.shape != expected or value.dtype != kind or not value.isfinite().all():
        return False
    return what == "exp_avg" or bool((value >= 0).all())


def gates(net: nn.Module) -> list[Tensor]:
    """The parameters that are gates."""
    role_of = roles(net)
    return [parameter for name, parameter in net.named_parameters() if role_of[name] == "gate"]


def warmup_length(recipe: Recipe, steps: int, steps_per_epoch: int) -> int:
    """Steps of the warm-up, at least one."""
    longest = min(recipe.warmup_epochs * steps_per_epoch, recipe.warmup_steps, recipe.warmup_share * steps)
    return max(1, round(longest))


def rate_factor(step: int, steps: int, warmup: int, recipe: Recipe) -> float:
    """Of the highest learning rate, for step 0..steps-1: a line up to 1 at the end of the warm-up; half a
    cosine down to `final_rate` at `cosine_until`, constant after; or, with a `drop`, 1 until there."""
    if step < warmup:
        return (step + 1) / warmup
    if recipe.drop:
        return 1.0 if step < round(recipe.drop * steps) else recipe.final_rate
    end = max(warmup + 1, round(recipe.cosine_until * steps))
    progress = min(1.0, (step - warmup) / (end - warmup))
    return recipe.final_rate + (1 - recipe.final_rate) * 0.5 * (1 + math.cos(math.pi * progress))
