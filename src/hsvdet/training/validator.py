"""The averaged weights on the validation split, by all processes together."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from ..data.loader import EvaluationLoader
from ..devices import move
from ..errors import NonFiniteError
from ..evaluate import Evaluation, merge_by_image
from ..layers.sparse_global import SparseGlobal
from ..structures import Batch
from ..validation import evaluate_found, find_all
from .plan import Plan
from .processes import gather, same_as_first
from .record.state import Row
from .temperatures import Answers, answers_of_heads, fit_temperatures

if TYPE_CHECKING:
    from lightning.fabric import Fabric

_COLUMNS = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large", "ar100")
_SELECTED = ("precision", "lift", "coverage", "coverage_small", "coverage_occluded", "border")


class Validator:
    """Each process answers for a part of `plan.validation_data`; rank 0 puts the parts together."""

    def __init__(self, fabric: Fabric, plan: Plan, loader: EvaluationLoader):
        self.plan, self.loader = plan, loader
        self.rank, self.device = fabric.global_rank, fabric.device
        self.images = loader.images  # for this process
        self.precision = "fp32" if plan.precision == "fp32" else "bf16"

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
                precision=self.precision,
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

    def fit_temperatures(self, net: Any) -> list[float] | None:
        """Of `net`, and into it, in every process alike; None of a network that has none. It is the same net in all."""
        if not hasattr(net, "temperatures"):
            return None
        try:
            found = answers_of_heads(
                self.plan.detector, net, self.loader, device=self.device, precision=self.precision
            )
        except NonFiniteError as error:
            found = error
        everything: list[dict[int | str, Answers]] = []
        for part in gather(found):
            if isinstance(part, NonFiniteError):
                raise part
            everything.append(part)
        fitted = fit_temperatures(self.loader.dataset.data, merge_by_image(everything), net.head_shares)
        net.temperatures.copy_(torch.tensor(fitted))
        return fitted

    def diagnose(self, net: nn.Module) -> dict[str, float]:
        """What the sparse global blocks of `net` do to the first batch."""
        first = next(iter(self.loader))
        return diagnose_blocks(net, move(first, self.device, self.plan.detector.preprocess))


def columns(evaluation: Evaluation) -> Row:
    """What results.csv says of an evaluation; None for what is not defined, as AP without objects. Of learned token
    selectors, by the stride of their map, or all: "selected_precision/32" and so on."""
    measured = {name: evaluation.stats[name] for name in _COLUMNS}
    for row in evaluation.selections:
        where = "all" if row.stride is None else row.stride
        measured |= {f"selected_{what}/{where}": getattr(row, what) for what in _SELECTED}
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
