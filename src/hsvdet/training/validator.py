"""The averaged weights on the validation split, by all processes together."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import nn

from ..data.loader import EvaluationLoader
from ..devices import move
from ..errors import NonFiniteError
from ..evaluate import Evaluation
from ..layers.sparse_global import SparseGlobal
from ..structures import Batch
from ..validation import evaluate_found, find_all
from .plan import Plan
from .processes import gather, same_as_first
from .record.state import Row

if TYPE_CHECKING:
    from lightning.fabric import Fabric

_COLUMNS = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large", "ar100")


class Validator:
    """Each process answers for a part of `plan.validation_data`; rank 0 puts the parts together."""

    def __init__(self, fabric: Fabric, plan: Plan, loader: EvaluationLoader):
        self.plan, self.loader = plan, loader
        self.rank, self.device = fabric.global_rank, fabric.device
        self.images = loader.images  # for this process

    def __call__(self, net: nn.Module, after_each: Callable[[int], None]) -> Evaluation | None:
        """Of `net`, on rank 0; None on the others. after_each: called after each batch, with its number of images.

        Raises NonFiniteError naming an image of which `net` made NaN, in every process.
        """
        # Each process has running statistics of its own images; those of rank 0 are the ones that are saved.
        same_as_first(list(net.buffers()))
        try:
            found = find_all(
                self.plan.detector,
                net,
                self.loader,
                device=self.device,
                precision="fp32" if self.plan.precision == "fp32" else "bf16",
                after_each=after_each,
            )
        except NonFiniteError as error:
            found = error
        everything = gather(found)
        for part in everything:
            if isinstance(part, NonFiniteError):
                raise part
        if self.rank:
            return None
        return evaluate_found(self.loader.dataset.data, everything)

    def diagnose(self, net: nn.Module) -> dict[str, float]:
        """What the sparse global blocks of `net` do to the first batch."""
        first = next(iter(self.loader))
        return diagnose_blocks(net, move(first, self.device, self.plan.detector.preprocess))


def columns(evaluation: Evaluation) -> Row:
    """What results.csv says of an evaluation; None for what is not defined, as AP without objects."""
    measured = {name: evaluation.stats[name] for name in _COLUMNS}
    return {name: value if math.isfinite(value) else None for name, value in measured.items()}


@torch.no_grad()
def diagnose_blocks(net: nn.Module, batch: Batch) -> dict[str, float]:
    """What each sparse global block does to a batch: "gate/P5", "change/P5", "attention_change/P5",
    "entropy/P5" (layers/sparse_global.py, Diagnosis). `net` is left in evaluation mode."""
    blocks = {
        name.rsplit(".", 1)[-1]: module
        for name, module in net.named_modules()
        if isinstance(module, SparseGlobal)
    }
    if not blocks:
        return {}
    inputs: dict[str, tuple] = {}

    def keep(name: str):
        return lambda module, arguments: inputs.update({name: arguments})

    hooks = [module.register_forward_pre_hook(keep(name)) for name, module in blocks.items()]
    try:
        net.eval()(batch.images, batch.padding, batch.targets)
    finally:
        for hook in hooks:
            hook.remove()
    found = {name: module.diagnose(*inputs[name]) for name, module in blocks.items()}
    return {
        f"{what}/{name}": float(getattr(diagnosis, what))
        for what in ("gate", "change", "attention_change", "entropy")
        for name, diagnosis in found.items()
    }
