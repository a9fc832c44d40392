"""What losses are divided by, agreed between processes."""

from __future__ import annotations

import torch.distributed as dist
from torch import Tensor


def mean_over_processes(value: Tensor) -> Tensor:
    """The mean over all processes of a scalar tensor; the value itself without torch.distributed.

    Gradients are averaged over processes, so a local sum divided by this mean gives the gradient of the
    global sum divided by the global value.
    """
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return value
    total = value.detach().clone()
    dist.all_reduce(total)
    return total / dist.get_world_size()
