"""Network and criterion as one: a batch to its part in the losses of a step."""

# pyright: strict, reportUnknownMemberType=false
# PyTorch's own types leave some of its functions untyped.

from __future__ import annotations

import torch
from torch import nn

from ..criteria.criterion import Criterion, Part, StepCounts
from ..devices import move
from ..errors import NonFiniteError
from ..preprocess import Preprocess
from ..structures import Batch, Output
from .processes import largest, several


class FailedElsewhere(Exception):
    """Another process has predictions that are not finite, so no process can go on; those here are finite."""


class Objective:
    """objective(batch, step) is what a batch adds to the weighted losses of its step, by name; what is learned is
    their sum.

    net: (images, padding, targets) to an Output, as wrapped for several processes. criterion: has `parts`
    (criteria/criterion.py). Something else to learn, such as another network's answers, is another objective.
    """

    def __init__(self, net: nn.Module, criterion: Criterion, device: torch.device, preprocess: Preprocess):
        self.net, self.criterion, self.device, self.preprocess = net, criterion, device, preprocess

    def __call__(self, batch: Batch, step: StepCounts) -> dict[str, Part]:
        """Raises NonFiniteError where predictions cannot be matched with objects, and then FailedElsewhere in
        all other processes: they would wait for this one for ever."""
        images, padding, targets, _ = move(batch, self.device, self.preprocess)
        output = self.net(images, padding, targets)
        check_together(output, self.device)
        return self.criterion.parts(output, targets, step)


def tell_progress(progress: float, *modules: nn.Module) -> None:
    """Networks and criteria may have one method `at(progress)`, for all that changes over a run: weights of
    losses, temperatures, numbers of proposals. progress: in [0, 1], the share of the steps that are done.

    It is called before each step, and with 1 at the end. What `at` sets must follow from `progress` alone, so that
    a resumed run is the same run; a network that was never told, such as a loaded one, is as at 1.
    """
    for module in modules:
        at = getattr(module, "at", None)
        if at is not None:
            at(progress)


def check_together(output: Output, device: torch.device) -> None:
    """Raises NonFiniteError in processes with a prediction that is not finite, FailedElsewhere in the others if
    there are such. In one process nothing is checked: the matching, or the loss, tells as well."""
    if not several():
        return
    parts = [
        (f"{name}.{part}", tensor)
        for name, prediction in output.predictions()
        for part, tensor in prediction._asdict().items()
    ]
    finite = torch.stack([tensor.isfinite().all() for _, tensor in parts]).cpu()  # one look at the device
    bad = [name for (name, _), fine in zip(parts, finite, strict=True) if not fine]
    if not largest([float(len(bad))], device)[0]:
        return
    if not bad:
        raise FailedElsewhere
    raise NonFiniteError(
        f"{bad[0]} holds NaN or infinity, so it cannot be matched with objects. Lower the learning rate, or train"
        " with --precision fp32."
    )
