"""The batches of a run: those learned from, and those validated on."""

# pyright: strict

from __future__ import annotations

import os
from functools import partial
from typing import TYPE_CHECKING

from ..data.loader import EvaluationLoader, EvaluationSet, TrainingLoader, TrainingSet
from ..devices import default_workers
from .plan import Plan

if TYPE_CHECKING:
    from lightning.fabric import Fabric


def training_loader(fabric: Fabric, plan: Plan) -> TrainingLoader:
    """This process's part of every batch, augmented as the recipe says."""
    images = TrainingSet(
        plan.training_data,
        plan.detector.preprocess,
        partial(plan.recipe.augmentation, epochs=plan.epochs),
        plan.seed,
        cache="ram",
        cache_gibibytes=_memory_for_pictures() / fabric.world_size,
    )
    return TrainingLoader(
        images,
        plan.batch,
        # A last batch of a few images has statistics of a few images; it is left out where it is small.
        drop_last=0 < len(images) % plan.batch < plan.batch / 2,
        rank=fabric.global_rank,
        world=fabric.world_size,
        workers=_workers(fabric, plan),
        pin_memory=fabric.device.type == "cuda",
        normalise=False,
    )


def validation_loader(fabric: Fabric, plan: Plan) -> EvaluationLoader | None:
    """This process's part of the validation images, as they are; None where there are none."""
    if plan.validation_data is None:
        return None
    return EvaluationLoader(
        EvaluationSet(plan.validation_data, plan.detector.preprocess),
        min(16, max(1, plan.batch // fabric.world_size)),
        rank=fabric.global_rank,
        world=fabric.world_size,
        workers=_workers(fabric, plan),
        pin_memory=fabric.device.type == "cuda",
        normalise=False,
    )


def _workers(fabric: Fabric, plan: Plan) -> int:
    return default_workers(fabric.device, fabric.world_size) if plan.workers is None else plan.workers


def _memory_for_pictures() -> float:
    """GiB to keep decoded pictures in: a quarter of what is free, up to 8."""
    try:
        free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    except (ValueError, OSError, AttributeError):
        free = 4.0
    return min(8.0, free / 4)
