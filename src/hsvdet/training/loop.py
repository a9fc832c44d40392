"""The training loop. It knows no model: forward, criterion, sum, backward, step; then average, validate, save."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import logging
import math
import os
import signal
import time
from collections.abc import Callable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .. import models
from ..checkpoint import read_checkpoint
from ..data.batch import normalised
from ..data.dataset import DetectionData
from ..data.loader import EvaluationLoader, EvaluationSet, TrainingLoader, TrainingSet, subset
from ..data.read import available_splits, read_data
from ..detector import Detector, load_tensors
from ..devices import default_workers, move
from ..errors import ConfigError, HsvdetError, Interrupted, NonFiniteError, SaveError
from ..evaluate import Evaluation, evaluate_detections, merge_by_image, write_report
from ..structures import Batch
from ..validation import check_labels, find_all
from .ema import AveragedNet
from .interrupt import Interrupts
from .log import (
    Board,
    Curves,
    Progress,
    diagnose_blocks,
    versions,
    write_json,
    write_results,
    write_training_pictures,
)
from .optimizer import gates, load_optimizer_tensors, make_optimizer, optimizer_tensors
from .processes import average_in_place, gather, largest, same_as_first, start_processes, stop_processes
from .recipe import Recipe, find_recipe
from .schedule import rate_factor, warmup_length
from .state import Position, State, check_settings, read_state, write_state

log = logging.getLogger("hsvdet")

RANDOM = "random initialisation"  # Detector.source of a network that never learned
MOST_OVERFLOWS = 25  # fp16 steps in a row that the gradient scaler may skip

Data = str | os.PathLike[str] | DetectionData | tuple[DetectionData, DetectionData | None]


@dataclass(frozen=True, kw_only=True)
class TrainResult:
    """best, last: checkpoints, with averaged weights. epochs: that were trained. metrics: COCO's numbers of
    `best` on the validation split (empty without one). seconds: of this run, without those before a resume."""

    out: Path
    best: Path
    last: Path
    epochs: int
    metrics: dict[str, float]
    seconds: float

    def to_json(self) -> dict[str, Any]:
        plain = {name: value if math.isfinite(value) else None for name, value in self.metrics.items()}
        return {
            "out": str(self.out),
            "best": str(self.best),
            "last": str(self.last),
            "epochs": self.epochs,
            "metrics": plain,
            "seconds": round(self.seconds, 1),
        }


def train(
    detector: Detector,
    data: Data,
    out: str | os.PathLike[str],
    *,
    epochs: int | None = None,
    batch: int = 16,
    accumulate: int | None = None,
    precision: str = "fp32",
    device: str = "auto",
    devices: int = 1,
    nodes: int = 1,
    seed: int = 0,
    fraction: float = 1.0,
    workers: int | None = None,
    split: str = "train",
    val_split: str | None = "val",
    resume: bool = False,
    recipe: str | Recipe | None = None,
    options: Mapping[str, Any] | None = None,
    save_every: float = 300.0,
    progress: bool = True,
) -> TrainResult:
    """Train a detector; at the end it holds the best weights, as `best.safetensors` does.

    data: a path that `read_data` understands, or DetectionData for training and validation (or None).
    out: a folder for checkpoints, state, curves and log (docs/training.md lists the files). epochs: the
    recipe's, if None. batch: images per forward pass, over all processes. accumulate: batches per optimizer
    step; by default as many as the recipe's nominal batch asks for. precision: fp32, bf16 or fp16. device,
    devices, nodes: where; under torchrun the processes are those it started. seed: of everything random but
    the weights given. fraction: share of the training images to use. workers: processes that load images.
    val_split: None to train without validation. resume: continue the run in `out`. recipe: by name, or the
    model's own. options: numbers of the recipe that differ, such as {"mosaic": 0.5}. save_every: seconds
    between saved states within an epoch; 0 saves after each step. progress: lines on stderr.

    A detector whose `source` is not "random initialisation" is warm: it learns slower (recipe). Its labels
    are the data's, by name; its category_ids become those of the data set.

    Raises ConfigError, DataError; SaveError when the disk is full; NonFiniteError, after saving the state
    before the step; Interrupted after Ctrl-C or SIGTERM, with the run saved.
    """
    out = Path(out)
    numbers = find_recipe(recipe or models.find(detector.name).recipe, options)
    epochs = numbers.epochs if epochs is None else epochs
    if epochs < 1 or batch < 1 or (accumulate is not None and accumulate < 1):
        raise ConfigError("epochs, batch and accumulate expect numbers from 1 on.")
    if detector.source == RANDOM and getattr(detector.config, "pretrained", False):
        raise ConfigError(
            f"{detector.name} keeps the normalisation of a trained backbone, and its backbone is random. Start from"
            " trained weights (weights), or train all of it (pretrained=false)."
        )
    if detector.folded is not None:
        raise ConfigError(
            "train expects a detector with its layers apart; this one is deployed. Train the one it was made of."
        )
    training_data, validation_data = _open_data(detector, data, split, val_split)
    training_data = subset(training_data, fraction, seed) if fraction != 1 else training_data
    warm = detector.source != RANDOM
    accumulate = accumulate or numbers.accumulation(batch)
    settings = {
        "model": detector.name,
        "config": dataclasses.asdict(detector.config),
        "labels": list(detector.labels),
        "preprocess": detector.preprocess.to_json(),
        "recipe": dataclasses.asdict(numbers),
        "epochs": epochs,
        "batch": batch,
        "accumulate": accumulate,
        "precision": precision,
        "seed": seed,
        "warm": warm,
        "fraction": fraction,
        "data": {
            "train": _fingerprint(training_data),
            "val": validation_data and _fingerprint(validation_data),
        },
    }
    fabric = start_processes(device, devices, nodes, precision)
    try:
        with Interrupts() as interrupts:
            run = _Run(
                fabric, detector, training_data, validation_data, out, numbers, settings, workers, save_every,
                interrupts, progress,
            )  # fmt: skip
            with _plain_errors(batch, accumulate, interrupts):
                return run.run(resume)
    finally:
        stop_processes()


class _Run:
    """One run: its parts, its position, and its history (one row an epoch)."""

    def __init__(
        self, fabric, detector, training_data, validation_data, out, recipe, settings, workers, save_every,
        interrupts, progress,
    ):  # fmt: skip
        self.fabric, self.detector, self.out, self.recipe, self.settings = (
            fabric,
            detector,
            out,
            recipe,
            settings,
        )
        self.training_data, self.validation_data = training_data, validation_data
        self.rank, self.world, self.device = fabric.global_rank, fabric.world_size, fabric.device
        self.epochs, self.batch, self.accumulate = (
            settings[name] for name in ("epochs", "batch", "accumulate")
        )
        self.seed, self.warm = settings["seed"], settings["warm"]
        self.save_every, self.interrupts = save_every, interrupts
        workers = default_workers(self.device, self.world) if workers is None else workers

        cuda = self.device.type == "cuda"
        images = TrainingSet(
            training_data,
            detector.preprocess,
            partial(recipe.augmentation, epochs=self.epochs),
            self.seed,
            cache="ram",
            cache_gibibytes=_memory_for_pictures() / self.world,
        )
        self.loader = TrainingLoader(
            images,
            self.batch,
            rank=self.rank,
            world=self.world,
            workers=workers,
            # A last batch of a few images has statistics of a few images; it is left out where it is small.
            drop_last=0 < len(images) % self.batch < self.batch / 2,
            pin_memory=cuda,
            normalise=False,
        )
        self.validation_loader = None
        if validation_data is not None:
            self.validation_loader = EvaluationLoader(
                EvaluationSet(validation_data, detector.preprocess),
                min(16, max(1, self.batch // self.world)),
                rank=self.rank,
                world=self.world,
                workers=workers,
                pin_memory=cuda,
                normalise=False,
            )
        self.steps_per_epoch = math.ceil(len(self.loader) / self.accumulate)
        self.steps = self.steps_per_epoch * self.epochs
        self.warmup = warmup_length(recipe, self.steps, self.steps_per_epoch)

        # Channels last: a tenth faster on the CPU, and what tensor cores want.
        net = detector.net.to(self.device, memory_format=torch.channels_last)
        if recipe.sync_norm and self.world > 1:
            if not cuda:
                raise ConfigError("sync_norm expects CUDA devices. Leave it out.")
            net = nn.SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(net))
        self.net, self.started_from = net, detector.source
        self.criterion = models.find(detector.name).criterion().to(self.device)
        # Several processes have the weights of rank 0 from here on.
        self.wrapped, self.optimizer = fabric.setup(net, make_optimizer(net, recipe, self.warm))
        decay = recipe.ema_decay if self.steps >= 10 * recipe.ema_ramp else recipe.ema_decay_small
        self.average = AveragedNet(net, decay, recipe.ema_ramp)
        self.gates = gates(net)
        self.norms = [
            (module, module.momentum)
            for module in net.modules()
            if isinstance(module, nn.modules.batchnorm._BatchNorm)
        ]
        self.buffers = [buffer for buffer in net.buffers() if buffer.numel()]
        self.buffers_before = [buffer.clone() for buffer in self.buffers]

        self.position = Position()
        self.history: list[dict[str, float | int | None]] = []
        self.losses: dict[str, Tensor] = {}  # sums over the batches of the epoch under way, float64
        self.seconds, self.overflows, self.saved = 0.0, 0, time.monotonic()
        self.stop_signal = 0  # what every process agreed to stop for
        self.progress = Progress(self.epochs, len(self.loader), progress and self.rank == 0)
        self.curves = Curves(out / "curves.png")
        self.board: Board | None = None

    # The run

    def run(self, resume: bool) -> TrainResult:
        started = time.monotonic()
        if self._agree(lambda: self._open_folder(resume)):
            self._restore()
        try:
            self._describe()
            while self.position.epoch < self.epochs:
                self._train_epoch()
                self._finish_epoch()
            metrics = self._finish()
        finally:
            self.progress.stop()
            if self.board is not None:
                self.board.close()
        return TrainResult(
            out=self.out,
            best=self.out / "best.safetensors",
            last=self.out / "last.safetensors",
            epochs=self.epochs,
            metrics=metrics,
            seconds=time.monotonic() - started,
        )

    def _train_epoch(self) -> None:
        """From the position to the end of the epoch's batches."""
        epoch, done, _ = self.position
        if done >= len(self.loader):
            return  # resumed before its validation
        self.loader.load_state_dict({"epoch": epoch, "batches": done})
        self._training_mode()
        self.progress.start(epoch, done)
        since = time.monotonic()
        window: list[Batch] = []
        for batch in self.loader:
            window.append(batch)
            if len(window) < self.accumulate and done + len(window) < len(self.loader):
                continue
            self._picture(epoch, done, window[0])
            self._step(window)
            done += len(window)
            window = []
            self.position = Position(epoch, done, self.position.step + 1)
            now = time.monotonic()
            self.seconds, since = self.seconds + now - since, now
            if now - self.saved >= self.save_every:
                self._save()
            self._stop_if_asked()
        self.progress.stop()

    def _step(self, window: list[Batch]) -> None:
        """One optimizer step over the batches of a window."""
        epoch, done, step = self.position
        torch._foreach_copy_(self.buffers_before, self.buffers)
        factor = rate_factor(step, self.steps, self.warmup, self.recipe)
        for group in self.optimizer.param_groups:
            group["lr"] = self._highest_rate() * group["scale"] * factor
        terms: list[dict[str, Tensor]] = []
        for number, batch in enumerate(window):
            # Keyed, not carried on: right in every process, and nothing to save.
            torch.manual_seed(_seed(self.seed, epoch, done + number, self.rank))
            self._set_norm_momentum(step * self.accumulate + number)
            with self.fabric.no_backward_sync(self.wrapped, enabled=number < len(window) - 1):
                losses = self._losses(batch)
                self.fabric.backward(sum(losses.values()) / len(window))
            terms.append({name: value.detach() for name, value in losses.items()})
        norm = self.fabric.clip_gradients(
            self.wrapped, self.optimizer, max_norm=self.recipe.clip, error_if_nonfinite=False
        )
        total = torch.stack([torch.stack(list(losses.values())).sum() for losses in terms])
        # One look at the device for both, and in several processes one exchange.
        sound = torch.stack([total.isfinite().all(), norm.isfinite()]).tolist()
        bad_loss, bad_norm, signal_number = largest(
            [float(not sound[0]), float(not sound[1]), float(self.interrupts.received)], self.device
        )
        self.stop_signal = int(signal_number)
        self.overflows = self.overflows + 1 if bad_norm else 0
        scaled = self.settings["precision"] == "fp16"
        if bad_loss or (bad_norm and (not scaled or self.overflows > MOST_OVERFLOWS)):
            self._give_up(window, terms, float(norm))
        self.optimizer.step()  # fp16: skipped by the scaler where the gradient overflowed
        self.optimizer.zero_grad(set_to_none=True)
        if not bad_norm:
            with torch.no_grad():
                for gate in self.gates:
                    gate.clamp_(-self.recipe.gate_limit, self.recipe.gate_limit)
            self.average.update()
        for losses in terms:
            for name, value in losses.items():
                if name not in self.losses:
                    self.losses[name] = torch.zeros((), dtype=torch.float64, device=self.device)
                self.losses[name] += value
        self.progress.advance(total[-1], len(window))

    def _losses(self, batch: Batch) -> dict[str, Tensor]:
        images, padding, targets, _ = move(batch, self.device, self.detector.preprocess)
        return self.criterion(self.wrapped(images, padding, targets), targets)

    def _training_mode(self) -> None:
        self.wrapped.train()
        per_process = self.batch // self.world
        if self.warm and per_process < self.recipe.frozen_norm_batch:
            for module, _ in self.norms:
                module.eval()

    def _set_norm_momentum(self, batches: int) -> None:
        """Running statistics of a new network start as the mean over the batches seen, not from 0 and 1: else
        these are still felt after a hundred steps, and every short run validates badly."""
        if not self.warm:
            for module, momentum in self.norms:
                module.momentum = max(momentum, 1 / (batches + 1))

    def _highest_rate(self) -> float:
        return self.recipe.warm_learning_rate if self.warm else self.recipe.learning_rate

    # The end of an epoch

    def _finish_epoch(self) -> None:
        epoch = self.position.epoch
        started = time.monotonic()
        evaluation = self._validate() if self.validation_loader is not None else None
        row: dict[str, float | int | None] = {"epoch": epoch + 1}
        row["learning_rate"] = self._highest_rate() * rate_factor(
            self.position.step - 1, self.steps, self.warmup, self.recipe
        )
        for name, total in sorted(self.losses.items()):  # by name: a state on disk knows no other order
            row[f"loss/{name}"] = average_in_place(total / len(self.loader)).item()
        if self.rank == 0:
            self._record(row, evaluation, started)
        self.losses = {}
        self.seconds = 0.0
        self.position = Position(epoch + 1, 0, self.position.step)
        if self.rank == 0:
            # The state first: what is written after it can be written again from it.
            self._save()
            write_results(self.out / "results.csv", self.history)
            if self.board is not None:
                self.board.add(row)
            self.curves.draw(self.history)
        self.stop_signal = int(largest([float(self.interrupts.received)], self.device)[0])
        self._stop_if_asked()

    def _record(self, row: dict, evaluation: Evaluation | None, started: float) -> None:
        """Complete the row, add it to the history, and save the checkpoints."""
        before = [past["ap"] for past in self.history if past.get("ap") is not None]
        best = True
        if evaluation is not None:
            names = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large", "ar100")
            measured = {name: evaluation.stats[name] for name in names}
            row |= {name: value if math.isfinite(value) else None for name, value in measured.items()}
            best = not before or (row["ap"] is not None and row["ap"] > max(before))
        if self.validation_loader is not None:
            row |= self._diagnose()
        seconds = time.monotonic() - started
        row["images_per_second"] = self.batch * len(self.loader) / max(self.seconds, 1e-9)
        row["seconds"] = self.seconds + seconds
        self.history.append(row)
        self._save_checkpoint("last", row)
        if best:
            self._save_checkpoint("best", row)
        per_epoch = np.mean([past["seconds"] for past in self.history[-5:]])
        self.progress.line(row, best and evaluation is not None, per_epoch * (self.epochs - row["epoch"]))

    def _validate(self) -> Evaluation | None:
        """Of the averaged weights, on rank 0; None on the others."""
        self.progress.note("validating")
        # Each process has running statistics of its own images; those of rank 0 are the ones that are saved.
        same_as_first(list(self.average.net.buffers()))
        found = find_all(
            self.detector,
            self.average.net,
            self.validation_loader,
            device=self.device,
            precision="fp32" if self.settings["precision"] == "fp32" else "bf16",
            between=self._stop_within_validation,
        )
        everything = gather(found)
        if self.rank:
            return None
        return evaluate_detections(
            self.validation_data,
            merge_by_image(part.detections for part in everything),
            candidates=merge_by_image(part.candidates for part in everything),
        )

    def _diagnose(self) -> dict[str, float]:
        first = next(iter(self.validation_loader))
        return diagnose_blocks(self.net, move(first, self.device, self.detector.preprocess))

    def _finish(self) -> dict[str, float]:
        """The best weights into the detector, their report into out/val; their metrics."""
        self._agree(lambda: True)  # no process reads `best` before rank 0 has written it
        tensors, header = read_checkpoint(self.out / "best.safetensors")
        for net in (self.detector.net, self.average.net):
            load_tensors(net.eval(), tensors, "best.safetensors")
        self.detector.source, self.detector.extra = self._source(), {"training": header["training"]}
        evaluation = self._validate() if self.validation_loader is not None else None
        if self.rank:
            return {}
        self.curves.draw(self.history, finished=True)
        metrics = {}
        if evaluation is not None:
            metrics = dict(evaluation.stats)
            try:
                write_report(evaluation, self.out / "val")
            except OSError as error:
                raise SaveError(
                    f"{self.out / 'val'} cannot be written: {error.strerror or error}."
                ) from error
        self.progress.say(f"Done. Best weights: {self.out / 'best.safetensors'}")
        return metrics

    # Files

    def _open_folder(self, resume: bool) -> bool:
        """Whether there is a run to go on with. Refuses what would overwrite one, or change its settings."""
        state = self.out / "resume.safetensors"
        if resume and state.is_file():
            check_settings(state, read_state(state).settings, self.settings)
            return True
        if any(
            (self.out / name).exists() for name in ("resume.safetensors", "last.safetensors", "results.csv")
        ):
            raise ConfigError(
                f"{self.out} already holds a run. Continue it with resume, or choose another folder."
            )
        try:
            self.out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise SaveError(f"{self.out} cannot be made: {error.strerror or error}.") from error
        if resume:  # killed before its first state, or not begun
            self.progress.say(f"{self.out} holds nothing to resume; starting from the beginning.")
        return False

    def _describe(self) -> None:
        """run.json, the log files, and a first state, so that a run can be resumed from its first step on."""
        if self.rank:
            return
        write_json(
            self.out / "run.json",
            {
                "settings": self.settings,
                "device": str(self.device),
                "processes": self.world,
                "images": {
                    "train": len(self.training_data),
                    "val": len(self.validation_data) if self.validation_data is not None else 0,
                },
                "steps": self.steps,
                "warmup_steps": self.warmup,
                "versions": versions(),
            },
        )
        self.board = Board(self.out / "tensorboard", self.position.epoch + 1)
        if self.history:
            write_results(self.out / "results.csv", self.history)
        if self.position == Position():
            self._save()
        validated = len(self.validation_data) if self.validation_data is not None else "no"
        self.progress.say(
            f"{self.detector.name}: {len(self.training_data)} images to train on, {validated} to validate;"
            f" {self.epochs} epochs of {self.steps_per_epoch} steps on {self.device}"
            + (f" x {self.world}" if self.world > 1 else "")
        )

    def _state(self) -> State:
        scaler = getattr(self.fabric.strategy.precision, "scaler", None)
        return State(
            {
                "net": self.net.state_dict(),
                "average": self.average.net.state_dict(),
                "optimizer": optimizer_tensors(self.optimizer.optimizer),
                "losses": self.losses,
            },
            self.position,
            self.settings,
            {
                "history": self.history,
                "seconds": self.seconds,
                "average_steps": self.average.steps,
                "scaler": scaler.state_dict() if scaler is not None else None,
            },
        )

    def _save(self, name: str = "resume.safetensors") -> None:
        if self.rank == 0:
            write_state(self.out / name, self._state())
        self.saved = time.monotonic()

    def _restore(self) -> None:
        path = self.out / "resume.safetensors"
        state = read_state(path)
        load_tensors(self.net, state.tensors["net"], str(path))
        load_tensors(self.average.net, state.tensors["average"], str(path))
        load_optimizer_tensors(self.optimizer.optimizer, state.tensors["optimizer"])
        self.losses = {name: value.to(self.device) for name, value in state.tensors["losses"].items()}
        self.position, self.history = state.position, state.header["history"]
        self.seconds = state.header["seconds"]
        self.average.steps = state.header["average_steps"]
        if state.header["scaler"] is not None:
            self.fabric.strategy.precision.scaler.load_state_dict(state.header["scaler"])
        epoch, batch, _ = self.position
        self.progress.say(
            f"Resuming {self.out} at epoch {epoch + 1}, batch {batch + 1} of {len(self.loader)}."
        )

    def _save_checkpoint(self, name: str, row: Mapping[str, Any]) -> None:
        trained = dataclasses.replace(
            self.detector, net=self.average.net, source=self._source(), extra={"training": dict(row)}
        )
        path = self.out / f"{name}.safetensors"
        try:
            trained.save(path)
        except OSError as error:
            raise SaveError(
                f"{path} cannot be written: {error.strerror or error}. What was there before is unharmed."
                " Make room, then continue with resume."
            ) from error

    def _source(self) -> str:
        start = "" if not self.warm else f", starting from: {self.started_from}"
        return (
            f"trained with hsvdet on {self.training_data.root.name} ({len(self.training_data)} images){start}"
        )

    def _picture(self, epoch: int, done: int, batch: Batch) -> None:
        """train_batch.jpg at the start, and another when the augmentation changes."""
        if self.rank or done:
            return
        if epoch == 0:
            name = "train_batch.jpg"
        elif self.recipe.stage(epoch, self.epochs) != self.recipe.stage(epoch - 1, self.epochs):
            name = f"train_batch_{self.recipe.stage(epoch, self.epochs)}.jpg"
        else:
            return
        shown = normalised(batch, self.detector.preprocess)
        write_training_pictures(self.out / name, shown, self.detector.labels, self.detector.preprocess)

    # Ways out

    def _stop_within_validation(self) -> None:
        if (
            self.world == 1
        ):  # several processes finish it: they could not agree without waiting for each other
            self.stop_signal = self.interrupts.received
            self._stop_if_asked()

    def _stop_if_asked(self) -> None:
        number = self.interrupts.received if self.world == 1 else self.stop_signal
        if not number:
            return
        self._save()
        name = "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name
        raise Interrupted(
            f"Stopped by {name} in epoch {self.position.epoch + 1} of {self.epochs}; the run is saved."
            f" Continue with resume, on {self.out}.",
            number,
        )

    def _give_up(self, window: list[Batch], terms: list[dict[str, Tensor]], norm: float) -> None:
        """Save the state before this step, and name the losses and images of it."""
        torch._foreach_copy_(self.buffers, self.buffers_before)
        self._save("nonfinite.safetensors")
        here = [
            ({name: value.item() for name, value in losses.items()}, [info.path for info in batch.infos])
            for losses, batch in zip(terms, window, strict=True)
        ]
        batches = [item for part in gather(here) for item in part]
        bad = [item for item in batches if not all(map(math.isfinite, item[0].values()))] or batches
        losses = ", ".join(f"{name} {value:.4g}" for name, value in bad[0][0].items())
        paths = [path for _, names in bad for path in names]
        raise NonFiniteError(
            f"Epoch {self.position.epoch + 1}, step {self.position.step + 1}: the loss or its gradient is not finite"
            f" (losses: {losses}; gradient norm {norm:.4g}). The state before this step is in"
            f" {self.out / 'nonfinite.safetensors'}. A lower learning_rate, or precision fp32, often helps; or look"
            f" at its images: {', '.join(paths)}"
        )

    def _agree(self, check: Callable[[], bool]) -> bool:
        """What a check says on rank 0, to every process; if it fails, every process raises its error."""
        answer: bool | HsvdetError = False
        if self.rank == 0:
            try:
                answer = check()
            except HsvdetError as error:
                answer = error
        answer = self.fabric.broadcast(answer)
        if isinstance(answer, HsvdetError):
            raise answer
        return answer


def _open_data(
    detector: Detector, data: Data, split: str, val_split: str | None
) -> tuple[DetectionData, DetectionData | None]:
    if isinstance(data, DetectionData):
        data = (data, None)
    if isinstance(data, tuple):
        training, validation = data
    else:
        if val_split is not None and available_splits(data) == ("all",):
            # It would answer to any name, and the run would be judged by what it learned from.
            log.warning("%s is not divided into splits: all of it is trained on, none validates.", data)
            val_split = None
        training = read_data(data, split, labels=detector.labels)
        validation = read_data(data, val_split, labels=detector.labels) if val_split is not None else None
    for part in (training, validation):
        if part is not None:
            check_labels(detector, part)
    detector.category_ids = tuple(training.category_ids)
    return training, validation


def _fingerprint(data: DetectionData) -> dict[str, Any]:
    """Images and annotations of a split, without its place: a data set may be moved."""
    digest = hashlib.sha256()
    for record in data.records:
        digest.update(str(record.id).encode())
        for part in (record.boxes, record.labels, record.crowd):
            digest.update(np.ascontiguousarray(part).tobytes())
    return {"images": len(data), "sha256": digest.hexdigest()[:16]}


def _seed(*key: int) -> int:
    return int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0])


def _memory_for_pictures() -> float:
    """GiB to keep decoded pictures in: a quarter of what is free, up to 8."""
    try:
        free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    except (ValueError, OSError, AttributeError):
        free = 4.0
    return min(8.0, free / 4)


@contextmanager
def _plain_errors(batch: int, accumulate: int, interrupts: Interrupts):
    """What PyTorch raises for the machine's limits, in words that help."""
    try:
        yield
    except torch.cuda.OutOfMemoryError:
        raise HsvdetError(
            f"The GPU's memory does not hold a batch of {batch}. Try batch {max(1, batch // 2)} with accumulate"
            f" {accumulate * 2}, precision bf16, or a smaller size."
        ) from None
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        if interrupts.received:  # sent to the whole process group: those that load images died of it at once
            raise Interrupted(
                "Stopped by a signal. Continue from the last saved step with resume.", interrupts.received
            ) from None
        raise HsvdetError(
            "A process that loads images was ended by the system, most often for lack of memory. Continue with"
            " resume and fewer workers."
        ) from error
