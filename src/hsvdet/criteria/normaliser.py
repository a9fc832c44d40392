"""What losses are divided by, agreed between processes."""

from __future__ import annotations

import torch.distributed as dist
from torch import Tensor


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
