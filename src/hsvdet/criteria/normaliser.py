"""What losses are divided by: totals over all batches of an optimizer step, in all processes.

So the gradient of a step does not depend on how its images are spread over batches and processes. A criterion is
used in two ways: criterion(output, targets) are the losses of a batch that is a step by itself, and
`criterion.parts(output, targets, step)` what a batch adds to those of a step of several.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import torch
import torch.distributed as dist
from torch import Tensor

from ..structures import Target


class Total(NamedTuple):
    """A total that only predictions tell, so that it is known when the last batch of a step was seen.

    name: the same in all batches. value: what this batch adds, a scalar without gradient. Their sum counts as at
    least 1.
    """

    name: str
    value: Tensor


class Part(NamedTuple):
    """What a batch adds to a loss of its step. value: weighted, a scalar. total: what the sum of the values is
    still to be divided by; None where they are divided already, by what the targets of the step tell."""

    value: Tensor
    total: Total | None = None


class StepCounts(NamedTuple):
    """What targets tell of a step. images: the number of objects in each image of all its batches, in this process.
    objects: all of them in the mean process, a scalar; over all processes at least 1."""

    images: list[int]
    objects: Tensor


class StepCriterion(Protocol):
    def parts(self, output: Any, targets: list[Target], step: StepCounts) -> dict[str, Part]: ...


def count_objects(targets: Sequence[Target], device: torch.device) -> StepCounts:
    """targets: of all batches of the step, in this process."""
    images = [len(target.labels) for target in targets]
    return StepCounts(images, mean_over_processes(torch.tensor(float(sum(images)), device=device), least=1))


def losses_of(criterion: StepCriterion, output: Any, targets: list[Target]) -> dict[str, Tensor]:
    """Of a batch that is a step by itself: what a criterion gives when it is called."""
    parts = criterion.parts(output, targets, count_objects(targets, output.answer.boxes.device))
    return divided(parts, totals([parts]))


def under(prefix: str, parts: Mapping[str, Part]) -> dict[str, Part]:
    """Losses and totals of a criterion that is part of another, with a prefix to their names."""
    return {
        f"{prefix}{name}": Part(value, total and total._replace(name=f"{prefix}{total.name}"))
        for name, (value, total) in parts.items()
    }


def weighted(weight: float, parts: Mapping[str, Part]) -> dict[str, Part]:
    return {name: part._replace(value=weight * part.value) for name, part in parts.items()}


def totals(batches: Sequence[Mapping[str, Part]]) -> dict[str, Tensor]:
    """By name, over the batches of a step and over all processes, as `mean_over_processes` gives them."""
    found: dict[str, Tensor] = {}
    for parts in batches:
        of_batch = {part.total.name: part.total.value for part in parts.values() if part.total is not None}
        for name, value in of_batch.items():
            found[name] = found[name] + value if name in found else value
    return {name: mean_over_processes(value, least=1) for name, value in found.items()}


def divided(parts: Mapping[str, Part], totals: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {
        name: value if total is None else value / totals[total.name] for name, (value, total) in parts.items()
    }


def mean_over_processes(value: Tensor, least: float | None = None) -> Tensor:
    """The mean over all processes of a scalar tensor; the value itself without torch.distributed.

    least: the sum over all processes is taken to be no smaller than this, as it would be in one process.

    Gradients are averaged over processes, so a local sum divided by this mean gives the gradient of the
    global sum divided by the global value.
    """
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return value if least is None else value.clamp(min=least)
    total = value.detach().clone()
    dist.all_reduce(total)
    return (total if least is None else total.clamp(min=least)) / dist.get_world_size()
