"""`train`: from what was asked to a run, and back."""

# pyright: strict

from __future__ import annotations

import math
import os
import shlex
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

from ..data.dataset import DetectionData
from ..detector import Detector
from ..errors import ConfigError, counted
from ..preprocess import Size
from ..progress import duration
from .asked import Asked, read_asked
from .beginning import Beginning, begin
from .interrupt import Interrupts
from .limits import plain_errors
from .loop import Run
from .opening import Data
from .plan import make_plan
from .processes import start_processes, stop_processes
from .recipe import Recipe


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

    def __repr__(self) -> str:  # what a notebook shows
        return str(self)

    def __str__(self) -> str:
        measured = self.metrics
        ap = f"AP {measured['ap']:.3f}, AP50 {measured['ap50']:.3f}" if measured else "not validated"
        lines = [f"{counted(self.epochs, 'epoch')} in {duration(self.seconds)}: {ap}", f"Best: {self.best}"]
        divided = self.out / "split.json"
        if divided.exists():
            again = shlex.join(["hsvdet", "val", str(self.best), "--data", str(divided)])
            lines.append(f"The images set aside: {divided} ({again})")
        return "\n".join(lines)

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
    detector: Detector | Beginning | str | os.PathLike[str] | Callable[[DetectionData], Detector],
    data: Data,
    out: str | os.PathLike[str],
    *,
    weights: str | os.PathLike[str] | None = None,
    size: Size | None = None,
    epochs: int | None = None,
    batch: int | None = None,
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
    val_fraction: float = 0.0,
    resume: bool = False,
    recipe: str | Recipe | None = None,
    options: Mapping[str, Any] | None = None,
    save_every: float = 300.0,
    progress: bool = True,
) -> TrainResult:
    """Train a detector; at the end it holds the best weights, as `best.safetensors` does.

    detector: a model's name or a checkpoint, made for the classes of the data; or one whose labels are the data's, by
    name; or what makes one of the training data, when they are read. weights: of a model by name, what it starts from,
    as of `warm_start`. size: of its input, (height, width) or one number for both; the model's or checkpoint's own if
    not given.
    data: a path that `read_data` understands, or DetectionData for training and validation (or None).
    out: a folder for checkpoints, state, curves and log (docs/training.md lists the files). epochs: the
    recipe's, if None. batch: images per forward pass, over all processes; by default 16, or the recipe's
    nominal batch if that is smaller. accumulate: batches per optimizer step; by default as many as the
    nominal batch asks for. precision: fp32, bf16 or fp16. device,
    devices, nodes: where; under torchrun the processes are those it started. seed: of everything random but
    the weights given. fraction: share of the training images to use. workers: processes that load images.
    val_split: None to train without validation. val_fraction: set this share of the training split aside for
    validation, by chance (`data.division.divide`), where the data have no validation split; `out`/split.json is a
    data set with both parts. resume: continue the run in `out`, with `epochs` to another end if given. recipe: by
    name, or the model's own. options: numbers of the recipe that differ, such as {"mosaic": 0.5}. save_every: seconds
    between saved states within an epoch; 0 saves after each step. progress: lines on stderr.

    A detector whose `start` is "trained" learns slower (recipe). Its category_ids become those of the data set.

    Raises ConfigError, DataError; SaveError when the disk is full; NonFiniteError, after saving the state
    before the step; Interrupted after Ctrl-C or SIGTERM, with the run saved.
    """
    started = time.monotonic()
    begun = asked = None
    make: Detector | Callable[[DetectionData], Detector]
    if callable(detector) or isinstance(detector, Beginning):
        if weights is not None or size is not None:
            raise ConfigError("weights and size are for a model by its name; a detector brings its own.")
    else:
        detector = begin(detector, weights=weights, size=size)
    if isinstance(detector, Beginning):
        begun, make = detector, partial(detector.create, seed=seed)
    else:
        make = detector
    if begun is not None and isinstance(data, str | os.PathLike) and not isinstance(recipe, Recipe):
        asked = Asked(
            begun=begun, data=os.path.abspath(os.path.expanduser(data)), epochs=epochs, batch=batch,
            accumulate=accumulate, precision=precision, device=str(device), devices=devices, nodes=nodes, seed=seed,
            fraction=fraction, workers=workers, split=split, val_split=val_split, val_fraction=val_fraction,
            recipe=recipe, options=dict(options) if options else None, save_every=save_every,
        )  # fmt: skip
    plan = make_plan(
        make, data, out, recipe=recipe, options=options, epochs=epochs, batch=batch, accumulate=accumulate,
        precision=precision, seed=seed, fraction=fraction, split=split, val_split=val_split, val_fraction=val_fraction,
        workers=workers, save_every=save_every, asked=asked,
    )  # fmt: skip
    fabric = start_processes(device, devices, nodes, precision)
    try:
        with Interrupts() as interrupts, plain_errors(plan.batch, plan.accumulate, interrupts):
            metrics = Run(fabric, plan, interrupts, progress).run(resume)
    finally:
        stop_processes()
    return TrainResult(
        out=plan.out,
        best=plan.out / "best.safetensors",
        last=plan.out / "last.safetensors",
        epochs=plan.epochs,
        metrics=metrics,
        seconds=time.monotonic() - started,
    )


def resume(out: str | os.PathLike[str], *, epochs: int | None = None, progress: bool = True) -> TrainResult:
    """Continue the run in `out` as its run.json says it was asked for. A run that has ended stays as it is.

    epochs: to another end than it was begun for, sooner or later, also where it has ended; from here on it has the
    schedule of a run of so many epochs. Raises ConfigError where `out` does not say what was asked for, or has begun
    more epochs; and as `train`.
    """
    asked = read_asked(out)
    parameters = {item.name: getattr(asked, item.name) for item in fields(asked)}
    if epochs is not None:
        parameters["epochs"] = epochs
    return train(parameters.pop("begun"), out=out, resume=True, progress=progress, **parameters)
