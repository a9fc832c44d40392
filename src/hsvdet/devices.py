"""Where to compute, in which precision, and bringing batches there."""

# pyright: strict

from __future__ import annotations

import os
from contextlib import AbstractContextManager, nullcontext

import torch

from .data.batch import normalised
from .errors import ConfigError
from .preprocess import Preprocess
from .structures import Batch

HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}


def find_device(name: str | torch.device) -> torch.device:
    """The device called "cpu", "cuda", "cuda:1" (or "1") or "mps", if it is there; "auto"
    takes CUDA, else Apple's, else the CPU. Raises ConfigError."""
    cuda, mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    if str(name) == "auto":
        return torch.device("cuda" if cuda else "mps" if mps else "cpu")
    try:
        device = torch.device(int(str(name)) if str(name).isdigit() else name)
    except RuntimeError:
        raise ConfigError(f"device expects auto, cpu, cuda, cuda:N or mps; got {str(name)!r}.") from None
    there = {"cpu": True, "cuda": cuda, "mps": mps}.get(device.type, False)
    if not there:
        raise ConfigError(f"device {device} is not available here. Use auto or cpu.")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(f"device {device} is not there: this machine has {torch.cuda.device_count()} GPUs.")
    return device


def default_workers(device: torch.device, processes: int = 1) -> int:
    """Processes that load images: as many as keep a GPU fed; on the CPU, which does the training too, one."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if device.type == "cpu":
        return min(1, cores - 1)
    return min(8, max(1, cores // processes))


def move(batch: Batch, device: torch.device, preprocess: Preprocess) -> Batch:
    """A batch on the device, images normalised there, channels last in memory."""
    images = batch.images.to(device, non_blocking=True)
    padding = None if batch.padding is None else batch.padding.to(device, non_blocking=True)
    targets = [target.to(device, non_blocking=True) for target in batch.targets]
    moved = normalised(Batch(images, padding, targets, batch.infos), preprocess)
    return moved._replace(images=moved.images.contiguous(memory_format=torch.channels_last))


def autocast(device: torch.device, precision: str) -> AbstractContextManager[object, bool | None]:
    """For inference in "fp32", "bf16" or "fp16"."""
    if precision == "fp32":
        return nullcontext()
    if precision not in HALF:
        raise ConfigError(f"precision expects one of fp32, {', '.join(HALF)}; got {precision!r}.")
    if precision == "fp16" and device.type == "cpu":
        raise ConfigError("precision fp16 needs a GPU. Use bf16 or fp32 on the CPU.")
    return torch.autocast(device.type, HALF[precision])
