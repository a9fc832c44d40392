"""A training step of a network beside the same step of its reference: pairs, losses and gradients."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hsvdet.criteria.matching import match
from hsvdet.criteria.set import SetCriterion
from hsvdet.structures import Prediction, Target

# Our names of the losses of a layer, to the reference's.
LOSSES = {"class": "loss_ce", "l1": "loss_bbox", "giou": "loss_giou"}
# Our prefix of the losses of each of six decoder layers, to the reference's suffix; the last one is the answer.
DECODER = {"": "", **{f"layer{n}/": f"_{n}" for n in range(5)}}

# The same of noised queries.
DENOISED = {"denoised5/": "", **{f"denoised{n}/": f"_{n}" for n in range(5)}}


def targets_of(train: Mapping[str, Any]) -> list[Target]:
    return [Target(torch.tensor(t["labels"]), torch.tensor(t["boxes"])) for t in train["targets"]]


def compare_pairs(
    predictions: Iterable[Prediction], pairs: Sequence, targets: list[Target], criterion: SetCriterion
) -> None:
    """Each prediction is matched as in `pairs`: of each image (queries, objects)."""
    for prediction, expected in zip(predictions, pairs, strict=True):
        found = match(prediction, targets, criterion.class_loss, criterion.costs)
        for i, (queries, objects) in enumerate(expected):
            assert found.query[found.image == i].tolist() == queries
            assert found.target[found.image == i].tolist() == objects


def compare_losses(
    losses: Mapping[str, Tensor], expected: Mapping[str, float], names: Mapping[str, str], rel: float = 5e-5
) -> None:
    """names: of the reference's losses, by ours. expected: weighted, by the reference's names."""
    for ours, theirs in names.items():
        assert losses[ours].item() == pytest.approx(expected[theirs], rel=rel), theirs


def of_layers(layers: Mapping[str, str], prefix: str = "") -> dict[str, str]:
    """Names of the reference's losses by ours. layers: as DECODER. prefix: of the reference's names."""
    return {
        f"{before}{ours}": f"{prefix}{theirs}{after}"
        for before, after in layers.items()
        for ours, theirs in LOSSES.items()
    }


def weighted(losses: Mapping[str, float], weights: Mapping[str, float] | None = None) -> dict[str, float]:
    """The reference's losses, each times its weight; if none are given, times those of DN-DETR and DINO."""
    if weights is None:
        of_kind = {"ce": 1.0, "bbox": 5.0, "giou": 2.0}
        weights = {key: of_kind[kind] for key in losses for kind in of_kind if kind in key.split("_")}
    return {key: value * weights[key] for key, value in losses.items() if key in weights}


def compare_gradients(
    net: nn.Module,
    terms: Iterable[Tensor],
    norms: Mapping[str, float],
    names: Callable[[str], Iterable[str]],
    rel: float = 1e-3,
    abs: float | None = None,
) -> None:
    """Of the sum of `terms`, the norm of the gradient of each of the reference's parameters. names: ours, of the
    parameters that one of the reference's became."""
    net.zero_grad()
    sum(terms).backward(retain_graph=True)
    parameters = dict(net.named_parameters())
    for key, norm in norms.items():
        found = torch.stack([parameters[name].grad.norm() for name in names(key)]).norm().item()
        assert found == pytest.approx(norm, rel=rel, abs=abs), key
