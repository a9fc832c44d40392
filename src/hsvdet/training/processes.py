"""Devices, precision and the processes of a run, on Lightning Fabric (docs/decisions/training-engine.md)."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

import torch
import torch.distributed as dist

from ..devices import find_device
from ..errors import ConfigError, HsvdetError

if TYPE_CHECKING:
    from lightning.fabric import Fabric

PRECISIONS: dict[str, Literal["32-true", "bf16-mixed", "16-mixed"]] = {
    "fp32": "32-true",
    "bf16": "bf16-mixed",
    "fp16": "16-mixed",
}


def start_processes(device: str, devices: int, nodes: int, precision: str) -> Fabric:
    """Fabric with all processes of the run started: those of `devices` x `nodes`, or those torchrun made."""
    chosen = find_device(device)
    if precision not in PRECISIONS:
        raise ConfigError(f"precision expects one of {', '.join(PRECISIONS)}; got {precision!r}.")
    if precision == "fp16" and chosen.type != "cuda":
        raise ConfigError(f"precision fp16 needs a CUDA device, got {chosen.type}. Use bf16 or fp32.")
    if devices < 1 or nodes < 1:
        raise ConfigError(f"devices and nodes expect numbers from 1 on; got {devices} and {nodes}.")
    if "LOCAL_WORLD_SIZE" in os.environ:  # torchrun has started the processes, and knows how many
        devices = int(os.environ["LOCAL_WORLD_SIZE"])
        nodes = int(os.environ["WORLD_SIZE"]) // devices
    several = devices * nodes > 1
    with warnings.catch_warnings():
        # Lightning's import meets deprecations of its own dependencies.
        warnings.simplefilter("ignore", DeprecationWarning)
        from lightning.fabric import Fabric
        from lightning.fabric.strategies.ddp import DDPStrategy
    for name in ("lightning.fabric", "lightning.pytorch"):
        logging.getLogger(name).setLevel(logging.WARNING)
    places: Any = devices
    if chosen.type == "cuda" and not several:
        places = [chosen.index or 0]
    fabric = Fabric(
        accelerator=chosen.type,
        devices=places,
        num_nodes=nodes,
        strategy=DDPStrategy(gradient_as_bucket_view=True) if several else "auto",
        precision=PRECISIONS[precision],
    )
    fabric.launch()
    return fabric


def agree(fabric: Fabric, check: Callable[[], bool]) -> bool:
    """What a check says on rank 0, to every process; if it fails, every process raises its error."""
    answer: bool | HsvdetError = False
    if fabric.global_rank == 0:
        try:
            answer = check()
        except HsvdetError as error:
            answer = error
    answer = fabric.broadcast(answer)
    if isinstance(answer, HsvdetError):
        raise answer
    return answer


def gather(item: Any) -> list[Any]:
    """The item of every process, in the order of ranks; any object. Every process must come."""
    if not several():
        return [item]
    items: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(items, item)
    return items


def largest(values: list[float], device: torch.device) -> list[float]:
    """The largest over all processes of each value."""
    if not several():
        return values
    tensor = torch.tensor(values, dtype=torch.float32, device=device)
    dist.all_reduce(tensor, dist.ReduceOp.MAX)
    return tensor.tolist()


def average_in_place(tensor: torch.Tensor) -> torch.Tensor:
    """The mean over all processes."""
    if several():
        dist.all_reduce(tensor)
        tensor /= dist.get_world_size()
    return tensor


def same_as_first(tensors: list[torch.Tensor]) -> None:
    """Give every process the tensors of rank 0, in place."""
    if several():
        for tensor in tensors:
            dist.broadcast(tensor, 0)


def stop_processes() -> None:
    """At the end of a run, so that the next one can start its own."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


def several() -> bool:
    """Whether this is one of several processes."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
