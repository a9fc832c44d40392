"""The network under training, and one step of it: objective, sum, backward, step, average.

It knows no model, no file and no data set: a window of batches goes in, losses come out.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from .. import models
from ..checkpoint import load_tensors
from ..criteria.criterion import count_objects
from ..errors import ConfigError, NonFiniteError
from ..structures import Batch
from .ema import AveragedNet
from .gradient import StepGradient
from .not_finite import NotFinite
from .objective import FailedElsewhere, Objective, tell_progress
from .optimizer import (
    gates,
    load_optimizer_tensors,
    make_optimizer,
    optimizer_tensors,
    rate_factor,
    warmup_length,
)
from .plan import Plan
from .processes import largest
from .record.state import Position, SavedState

if TYPE_CHECKING:
    from lightning.fabric import Fabric

MOST_OVERFLOWS = 25  # fp16 steps in a row that the gradient scaler may skip


class Step(NamedTuple):
    """losses, and notes, what was noted beside them: by name. signal: the number any process was stopped by, or 0."""

    losses: dict[str, Tensor]
    notes: dict[str, Tensor]
    signal: int


class Learner:
    """net: the network itself; average: of its weights; optimizer and schedule, for `plan.epochs` epochs of
    `steps_per_epoch` steps. With several processes, each has the weights of rank 0 from here on."""

    def __init__(self, fabric: Fabric, plan: Plan, steps_per_epoch: int):
        recipe, device = plan.recipe, fabric.device
        self.fabric, self.plan, self.recipe, self.device = fabric, plan, recipe, device
        self.rank = fabric.global_rank
        self.steps = steps_per_epoch * plan.epochs
        self.warmup = warmup_length(recipe, self.steps, steps_per_epoch)
        self.highest_rate = recipe.warm_learning_rate if plan.warm else recipe.learning_rate

        # Channels last: a tenth faster on the CPU, and what tensor cores want.
        net = plan.detector.net.to(device).to(memory_format=torch.channels_last)
        if recipe.sync_norm and fabric.world_size > 1:
            if device.type != "cuda":
                raise ConfigError("sync_norm expects CUDA devices. Leave it out.")
            net = nn.SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(net))
        self.net = net
        self.wrapped, self.optimizer = fabric.setup(
            net, make_optimizer(net, recipe, plan.warm, plan.trained_backbone)
        )
        criterion = models.find(plan.detector.name).criterion(recipe).to(device)
        self.objective = Objective(self.wrapped, criterion, device, plan.detector.preprocess)
        decay = recipe.ema_decay if self.steps >= 10 * recipe.ema_ramp else recipe.ema_decay_small
        self.average = AveragedNet(net, decay, recipe.ema_ramp)
        self._gates = gates(net)
        self._norms = [
            (module, module.momentum)
            for module in net.modules()
            if isinstance(module, nn.modules.batchnorm._BatchNorm)
        ]
        self._keeps_statistics = plan.warm and plan.batch // fabric.world_size < recipe.frozen_norm_batch
        self._buffers = [buffer for buffer in net.buffers() if buffer.numel()]
        self._buffers_before = [buffer.clone() for buffer in self._buffers]
        self._overflows = 0

    def rate(self, step: int, scale: float = 1.0) -> float:
        """The learning rate of a step, counted from 0, of the parameters with that scale."""
        return self.highest_rate * scale * rate_factor(step, self.steps, self.warmup, self.recipe)

    def training_mode(self) -> None:
        self.wrapped.train()
        if self._keeps_statistics:
            for module, _ in self._norms:
                module.eval()

    def step(self, window: list[Batch], position: Position, signal: int) -> Step:
        """One optimizer step over the batches of a window, the first being number `position.batch` of its epoch.

        signal: the number of one that this process received, or 0. Raises NotFinite, in every process.
        """
        _copy(self._buffers, self._buffers_before)
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate(position.step, group["scale"])
        self._tell_progress(position.step)
        try:
            return self._step(window, position, signal)
        except NotFinite:
            _copy(self._buffers_before, self._buffers)
            raise

    def _step(self, window: list[Batch], position: Position, signal: int) -> Step:
        gradient, norm = self._gradient(window, position)
        losses = gradient.losses()
        total = torch.stack(list(losses.values())).sum()
        # One look at the device for both, and in several processes one exchange.
        finite = torch.stack([total.isfinite(), norm.isfinite()]).tolist()
        bad_loss, bad_norm, any_signal = largest(
            [float(not finite[0]), float(not finite[1]), float(signal)], self.device
        )
        self._overflows = self._overflows + 1 if bad_norm else 0
        scaled = self.plan.precision == "fp16"
        if bad_loss or (bad_norm and (not scaled or self._overflows > MOST_OVERFLOWS)):
            raise NotFinite(gradient.losses_alone(), float(norm))
        self.optimizer.step()  # fp16: skipped by the scaler where the gradient overflowed
        self.optimizer.zero_grad(set_to_none=True)
        if not bad_norm:
            with torch.no_grad():
                for gate in self._gates:
                    gate.clamp_(-self.recipe.gate_limit, self.recipe.gate_limit)
            self.average.update()
        return Step(losses, gradient.notes(), int(any_signal))

    def _gradient(self, window: list[Batch], position: Position) -> tuple[StepGradient, Tensor]:
        """Into the parameters, clipped; and its norm before."""
        gradient = StepGradient(self.fabric, self.net, len(window))
        counts = count_objects([target for batch in window for target in batch.targets], self.device)
        for number, batch in enumerate(window):
            last = number == len(window) - 1
            # Keyed, not carried on: right in every process, and nothing to save.
            torch.manual_seed(_seed(self.plan.seed, position.epoch, position.batch + number, self.rank))
            self._set_norm_momentum(position.step * self.plan.accumulate + number)
            with self.fabric.no_backward_sync(self.wrapped, enabled=not last):
                try:
                    parts = self.objective(batch, counts)
                except NonFiniteError as error:
                    raise NotFinite(gradient.losses_alone(), complaint=str(error)) from None
                except FailedElsewhere:
                    raise NotFinite(gradient.losses_alone()) from None
                gradient.finish(parts) if last else gradient.add(parts)
        norm = self.fabric.clip_gradients(
            self.wrapped, self.optimizer, max_norm=self.recipe.clip, error_if_nonfinite=False
        )
        assert norm is not None  # it is for `max_norm`
        return gradient, norm

    def _set_norm_momentum(self, batches: int) -> None:
        """Running statistics of a new network start as the mean over the batches seen, not from 0 and 1: else
        these are still felt after a hundred steps, and every short run validates badly."""
        if not self.plan.warm:
            for module, momentum in self._norms:
                if momentum is not None:  # else PyTorch itself takes the mean, always
                    module.momentum = max(momentum, 1 / (batches + 1))

    def _tell_progress(self, step: int) -> None:
        tell_progress(step / self.steps, self.net, self.average.net, self.objective.criterion)

    def finish(self) -> None:
        """The networks are to be as at the end of the run."""
        tell_progress(1.0, self.net, self.average.net)

    def tensors(self) -> dict[str, dict[str, Tensor]]:
        """What a state on disk holds of it, with `numbers`."""
        return {
            "net": self.net.state_dict(),
            "average": self.average.net.state_dict(),
            "optimizer": optimizer_tensors(self.optimizer.optimizer),
        }

    def not_finite(self) -> str | None:
        """The first tensor with NaN or infinity that a checkpoint or a state would hold, in words; None of none. A loss
        can be finite where these are not: running statistics and averages are not part of it."""
        for what, named in (("weights", self.net.state_dict()), ("average", self.average.net.state_dict())):
            for name, tensor in named.items():
                if tensor.is_floating_point() and not tensor.isfinite().all():
                    return f"{name} of the {what}"
        return None

    def numbers(self) -> dict[str, Any]:
        scaler = self._scaler()
        return {
            "average_steps": self.average.steps,
            "scaler": scaler.state_dict() if scaler is not None else None,
        }

    def restore(self, state: SavedState, path: str) -> None:
        """path: for messages."""
        load_tensors(self.net, state.tensors["net"], path)
        load_tensors(self.average.net, state.tensors["average"], path)
        load_optimizer_tensors(self.optimizer.optimizer, state.tensors["optimizer"], path)
        self.average.steps = state.header["average_steps"]
        scaler = self._scaler()
        if scaler is not None and state.header["scaler"] is not None:
            scaler.load_state_dict(state.header["scaler"])
        # As after the last step: what is next may be its epoch's validation.
        self._tell_progress(max(0, state.position.step - 1))

    def _scaler(self) -> torch.amp.GradScaler | None:
        return getattr(self.fabric.strategy.precision, "scaler", None)


def _copy(sources: list[Tensor], to: list[Tensor]) -> None:
    if sources:  # a network may have no buffers
        torch._foreach_copy_(to, sources)  # pyright: ignore[reportPrivateImportUsage] it has no other name


def _seed(*key: int) -> int:
    return int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0])
