"""The exponential moving average of the weights: what is validated and saved."""

from __future__ import annotations

import copy
import math

import torch
from torch import nn


class AveragedNet:
    """A second network whose parameters and floating buffers follow those of `net`, from its first step on.

    After t steps: average += (1 - d) (weights - average), d = decay (1 - exp(-t / ramp)): nearly a copy at
    first, slower later. Running statistics of batch normalisation are averaged as the weights they belong to
    are; integers (its counters) are copied. Make it when `net` is on its device.
    """

    def __init__(self, net: nn.Module, decay: float, ramp: float):
        self.decay, self.ramp, self.steps = decay, ramp, 0
        self.net = copy.deepcopy(net).eval().requires_grad_(False)
        source, average = net.state_dict(), self.net.state_dict()
        pairs = [(average[name], source[name]) for name in average]
        self._averages = [pair for pair in pairs if pair[0].is_floating_point()]
        self._copies = [pair for pair in pairs if not pair[0].is_floating_point()]

    @torch.no_grad()
    def update(self) -> None:
        self.steps += 1
        decay = self.decay * (1 - math.exp(-self.steps / self.ramp))
        averages, sources = zip(*self._averages, strict=True)
        torch._foreach_lerp_(averages, sources, 1 - decay)  # pyright: ignore[reportPrivateImportUsage] it has no other name
        for average, source in self._copies:
            average.copy_(source)
