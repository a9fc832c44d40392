"""The gradient of an optimizer step, from one batch of it after another."""

# pyright: strict

from __future__ import annotations

from functools import reduce
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ..criteria.criterion import Part, divided, learned, totals

if TYPE_CHECKING:
    from lightning.fabric import Fabric


class StepGradient:
    """Of the sum of a step's losses, into the parameters of `net`: `add` for each batch but the last, `finish` for
    that one. It is the gradient of all the batches as one, whatever the losses are divided by.

    A total that only predictions tell is not known before the last batch has been forward. Until then gradients
    are of sums, one for each such total: one backward pass per total and batch, and as many gradients in memory.
    """

    def __init__(self, fabric: Fabric, net: nn.Module, batches: int):
        self.fabric, self.batches = fabric, batches
        self._parameters = [parameter for parameter in net.parameters() if parameter.requires_grad]
        self._parts: list[dict[str, Part]] = []  # of the batches so far, without their graphs
        self._totals: dict[str, Tensor] = {}  # of the step, once it is known
        self._scales: dict[str, Tensor] = {}
        self._apart: dict[str | None, list[Tensor | None]] = {}

    def add(self, parts: dict[str, Part]) -> None:
        self._remember(parts)
        sums: dict[str | None, Tensor] = {}
        for value, total, _ in learned(parts).values():
            name = None
            if total is not None:
                name = total.name
                # About what it will be divided by, so that nothing overflows in half precision.
                scale = self._scales.setdefault(name, self.batches * total.value.clamp(min=1))
                value = value / scale
            if value.requires_grad:  # else it is of a part that does not learn
                sums[name] = sums[name] + value if name in sums else value
        for number, (name, value) in enumerate(sums.items(), 1):
            self._set(self._apart.get(name))
            self.fabric.backward(value, retain_graph=number < len(sums))
            self._apart[name] = [parameter.grad for parameter in self._parameters]

    def finish(self, parts: dict[str, Part]) -> None:
        self._remember(parts)
        self._totals = totals(self._parts)
        if self._apart:
            self._set(self._together())
        self.fabric.backward(reduce(torch.add, divided(learned(parts), self._totals).values()))

    def losses(self) -> dict[str, Tensor]:
        """Of the finished step, by name."""
        return self._sums([learned(parts) for parts in self._parts])

    def notes(self) -> dict[str, Tensor]:
        """What the finished step noted beside its losses, by name."""
        return self._sums(
            [{n: part for n, part in parts.items() if not part.learned} for parts in self._parts]
        )

    def losses_alone(self) -> list[dict[str, Tensor]]:
        """Of each batch so far, as if it were a step by itself and this the only process."""
        alone = [
            {total.name: total.value.clamp(min=1) for _, total, _ in parts.values() if total is not None}
            for parts in self._parts
        ]
        return [divided(learned(parts), own) for parts, own in zip(self._parts, alone, strict=True)]

    def _sums(self, batches: list[dict[str, Part]]) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        for parts in batches:
            for name, value in divided(parts, self._totals).items():
                found[name] = found[name] + value if name in found else value
        return found

    def _remember(self, parts: dict[str, Part]) -> None:
        self._parts.append({name: part._replace(value=part.value.detach()) for name, part in parts.items()})

    def _set(self, gradients: list[Tensor | None] | None) -> None:
        for number, parameter in enumerate(self._parameters):
            parameter.grad = None if gradients is None else gradients[number]

    def _together(self) -> list[Tensor | None]:
        """The gradients of the sums, each divided by its total."""
        joined: list[Tensor | None] = [None] * len(self._parameters)
        for name, gradients in self._apart.items():
            if name is not None:
                factor = self._scales[name] / self._totals[name]
                for gradient in gradients:
                    if gradient is not None:
                        gradient.mul_(factor)
            for number, gradient in enumerate(gradients):
                before = joined[number]
                if gradient is not None:
                    joined[number] = gradient if before is None else before.add_(gradient)
        return joined
