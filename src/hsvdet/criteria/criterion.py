"""What every criterion is: weighted losses by name, and how a step of several batches shares what they are divided by.

Losses are sums divided by totals over all batches of an optimizer step, in all processes, so that its gradient does not
depend on how its images are spread over batches and processes.
"""

# pyright: strict

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from ..structures import Prediction, Target
from .matching import Match
from .normaliser import mean_over_processes


class Total(NamedTuple):
    """A total that only predictions tell, so that it is known when the last batch of a step was seen.

    name: the same in all batches. value: what this batch adds, a scalar without gradient. Their sum counts as at
    least 1.
    """

    name: str
    value: Tensor


class Part(NamedTuple):
    """What a batch adds to a loss of its step. value: weighted, a scalar. total: what the sum of the values is
    still to be divided by; None where they are divided already, by what the targets of the step tell. learned: False
    for what is only noted beside the losses, such as a share of right choices: without gradient, and no part of their
    sum."""

    value: Tensor
    total: Total | None = None
    learned: bool = True


class StepCounts(NamedTuple):
    """What targets tell of a step. images: the number of objects in each image of all its batches, in this process.
    objects: all of them in the mean process, a scalar; over all processes at least 1."""

    images: list[int]
    objects: Tensor


class Criterion(nn.Module):
    """criterion(output, targets) is a dict of weighted losses, by name: of a batch that is a step by itself.

    A criterion says `parts`: what a batch adds to the losses of its step, and to what is noted beside them. matches:
    whether it pairs the predictions of the answer with objects one to one, and so has `pairs`.
    """

    matches: ClassVar[bool] = False

    def forward(self, output: Any, targets: list[Target]) -> dict[str, Tensor]:
        parts = self.parts(output, targets, count_objects(targets, output.answer.boxes.device))
        return divided(learned(parts), totals([parts]))

    def parts(self, output: Any, targets: list[Target], step: StepCounts) -> dict[str, Part]:
        raise NotImplementedError

    def pairs(self, answer: Prediction, targets: list[Target]) -> Match:
        """The pairs of the answer by which it is trained. Raises NonFiniteError."""
        raise NotImplementedError

    def at(self, progress: float) -> None:
        """progress: the share of the run that is done, 0 to 1; for what moves over it."""


def count_objects(targets: Sequence[Target], device: torch.device) -> StepCounts:
    """targets: of all batches of the step, in this process."""
    images = [len(target.labels) for target in targets]
    return StepCounts(images, mean_over_processes(torch.tensor(float(sum(images)), device=device), least=1))


def under(prefix: str, parts: Mapping[str, Part]) -> dict[str, Part]:
    """Losses and totals of a criterion that is part of another, with a prefix to their names."""
    return {
        f"{prefix}{name}": part._replace(
            total=part.total and part.total._replace(name=f"{prefix}{part.total.name}")
        )
        for name, part in parts.items()
    }


def weighted(weight: float, parts: Mapping[str, Part]) -> dict[str, Part]:
    return {name: part._replace(value=weight * part.value) for name, part in parts.items()}


def learned(parts: Mapping[str, Part]) -> dict[str, Part]:
    """Those that are losses."""
    return {name: part for name, part in parts.items() if part.learned}


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
        name: value if total is None else value / totals[total.name]
        for name, (value, total, _) in parts.items()
    }
