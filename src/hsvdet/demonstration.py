"""The whole path in a few minutes, with nothing downloaded: draw scenes, train, evaluate, detect."""

# pyright: strict, reportUnknownMemberType=false
# PyTorch's own types leave some of its functions untyped.

from __future__ import annotations

import csv
import dataclasses
import logging
import math
import os
import shlex
import shutil
import sys
import time
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import torch

from .data.loader import subset
from .data.read import read_data
from .data.scenes import DEMO, LABELS, write_scenes
from .detector import Detector, create
from .errors import ConfigError, counted
from .prediction.predictor import predict
from .progress import duration
from .progress import progress as shown_progress
from .training import train
from .validation import val

MODEL = "hsv-det-n"
EPOCHS = 8  # that it takes to learn the scenes
MOST_EPOCHS = 100  # of a demo that was given more time
BATCH = 8
MINUTES = 6.0
# Of the time there is; the rest is for the start of Python, and for a machine that becomes slower than it was measured.
SHARE = 0.85
# 400 steps are too few for what pays in 40,000: mixing images, stages and a slow average.
OPTIONS = {
    "learning_rate": 2e-3,
    "nominal_batch": BATCH,
    "integrate": 0,
    "settle": 0,
    "mosaic": 0,
    "mixup": 0,
    "copy_paste": 0,
    "scale": 0.2,
    "ema_ramp": 100,
    "ema_decay_small": 0.995,
}


@dataclass(frozen=True)
class DemoReport:
    """ap, ap50: on the validation split. epochs, training_scenes: of the training; fitted: why it was shortened to
    these, in a sentence, or "". The paths: what there is to look at. try_it: a command for a shell. seconds: of
    everything."""

    scenes: str
    checkpoint: str
    curves: str
    evaluation: str
    pictures: str
    epochs: int
    training_scenes: int
    fitted: str
    ap: float
    ap50: float
    seconds: float
    try_it: str
    table: str

    def to_json(self) -> dict[str, Any]:
        return {name: value for name, value in dataclasses.asdict(self).items() if name != "table"}

    def __str__(self) -> str:
        return (
            f"{self.table}\n\n"
            f"{MODEL} after {counted(self.epochs, 'epoch')} of {self.training_scenes} scenes,"
            f" {duration(self.seconds)} in all: AP {self.ap:.3f}, AP50 {self.ap50:.3f}\n"
            + (f"{self.fitted}\n" if self.fitted else "")
            + f"Scenes it learned from: {self.scenes}\n"
            f"Curves of the training: {self.curves}\n"
            f"Report of the evaluation: {self.evaluation}\n"
            f"Pictures of unseen scenes, with what it found: {self.pictures}\n"
            f"Checkpoint: {self.checkpoint}\n\n"
            "It knows drawn scenes like these only, nothing of photographs. Try it on one:\n"
            f"{self.try_it}"
        )


class Speed(NamedTuple):
    """Of this machine, in seconds. image: of a training step, for each of its images. between: of what follows the
    steps of an epoch (validation, saving). once: of what a training takes beside its epochs."""

    image: float
    between: float
    once: float

    def seconds(self, epochs: int, scenes: int) -> float:
        """Of a training and what comes after it: the validation of its best weights, the evaluation, the pictures."""
        return self.once + epochs * scenes * self.image + (epochs + 2.5) * self.between


class Amount(NamedTuple):
    epochs: int
    scenes: int


def demo(
    out: str | os.PathLike[str] = "runs/demo",
    *,
    minutes: float | None = None,
    device: str = "auto",
    progress: bool = True,
) -> DemoReport:
    """Train `hsv-det-n` on built-in scenes, evaluate it, and detect in scenes it has not seen.

    out: a folder; out/scenes is drawn once, each demo has its own out/run-1, out/run-2, ... minutes: that it may take.
    It looks how fast the machine is, and trains as many epochs as there is time for; where that is less than one, on
    fewer scenes. By default 8 epochs (three minutes on two free cores), or as many as 6 minutes allow. Raises
    ConfigError, and DataError or SaveError when `out` cannot be written.
    """
    if minutes is not None and not (isinstance(minutes, Real) and 0 < minutes < math.inf):
        raise ConfigError(f"minutes expects a number above 0, got {minutes!r}.")
    start = time.perf_counter()
    log = logging.getLogger("hsvdet")
    folder = Path(out)
    log.info(
        "1/4 Drawing %d crowded scenes into %s", DEMO["train"] + DEMO["val"] + DEMO["test"], folder / "scenes"
    )
    scenes = write_scenes(folder / "scenes", **DEMO, workers=os.cpu_count() or 1, progress=progress)
    run = next(path for number in range(1, 1_000_000) if not (path := folder / f"run-{number}").exists())
    log.info("2/4 Measuring how fast this machine trains")
    with shown_progress("measuring", None, "", shown=progress):
        speed = measured(scenes, device)
    left = SHARE * 60 * (minutes or MINUTES) - (time.perf_counter() - start)
    amount = fitting(speed, left, EPOCHS if minutes is None else MOST_EPOCHS)
    whole = time.perf_counter() - start + speed.seconds(EPOCHS, DEMO["train"])
    fitted = ""
    if amount < Amount(EPOCHS, DEMO["train"]):
        fitted = (
            f"As there were {minutes or MINUTES:g} minutes, it learned less than it should: {EPOCHS} epochs of"
            f" {DEMO['train']} scenes, which find more, take about {duration(whole)} on this machine"
            f" (--minutes {math.ceil(whole / 60 / SHARE)})."
        )
    log.info(
        "Training %s for %s of %d scenes into %s: about %s with what follows%s",
        MODEL,
        counted(amount.epochs, "epoch"),
        amount.scenes,
        run,
        duration(speed.seconds(*amount)),
        f"; all {EPOCHS} epochs would take {duration(whole)}" if fitted else "",
    )
    detector = _new()
    trained = train(
        detector,
        scenes,
        run,
        epochs=amount.epochs,
        fraction=amount.scenes / DEMO["train"],
        batch=BATCH,
        device=device,
        options=OPTIONS,
        progress=progress,
    )
    log.info("3/4 Evaluating on %d scenes", DEMO["val"])
    evaluation = val(
        detector, scenes, device=device, progress=progress
    )  # run/val has the same as a report, from the training
    log.info("4/4 Detecting in %d unseen scenes", DEMO["test"])
    unseen = [record.path for record in read_data(scenes, "test").records]
    predict(detector, unseen, run / "pictures", device=device, progress=progress)
    return DemoReport(
        scenes=str(scenes),
        checkpoint=str(trained.best),
        curves=str(run / "curves.png"),
        evaluation=str(run / "val"),
        pictures=str(run / "pictures"),
        epochs=amount.epochs,
        training_scenes=amount.scenes,
        fitted=fitted,
        ap=round(evaluation.ap, 4),
        ap50=round(evaluation.ap50, 4),
        seconds=round(time.perf_counter() - start, 1),
        try_it=shlex.join(
            [*_command(), "predict", str(trained.best), unseen[0], "--out", str(run / "again")]
        ),
        table=evaluation.table(),
    )


def measured(scenes: Path, device: str) -> Speed:
    """By a short training of which nothing is kept, as it will be: it is the second epoch that counts, when all is
    loaded."""
    training, validation = read_data(scenes, "train"), read_data(scenes, "val")
    few = subset(training, min(1.0, 5 * BATCH / len(training)))
    looked_at = subset(validation, min(1.0, 3 * BATCH / len(validation)))
    start = time.perf_counter()
    with TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        trained = train(
            _new(),
            (few, looked_at),
            folder,
            epochs=2,
            batch=BATCH,
            device=device,
            options=OPTIONS,
            progress=False,
        )
        with (trained.out / "results.csv").open(newline="", encoding="utf-8") as file:
            rows = [
                {name: float(value) for name, value in row.items() if value} for row in csv.DictReader(file)
            ]
    whole = time.perf_counter() - start
    image = 1 / rows[-1]["images_per_second"]
    between = rows[-1]["seconds"] - len(few) * image
    return Speed(
        image,
        max(0.0, between) * len(validation) / len(looked_at),
        max(0.0, whole - sum(row["seconds"] for row in rows)),
    )


def fitting(speed: Speed, seconds: float, most: int) -> Amount:
    """The most training that is done in so many seconds, with all that comes after it; at least an epoch of a few
    scenes."""
    scenes = DEMO["train"]
    epoch = speed.seconds(1, scenes) - speed.seconds(0, scenes)
    epochs = math.floor((seconds - speed.seconds(0, scenes)) / epoch)
    if epochs >= 1:
        return Amount(min(epochs, most), scenes)
    few = math.floor((seconds - speed.seconds(1, 0)) / speed.image)
    return Amount(1, min(scenes, max(4 * BATCH, few)))


def _new() -> Detector:
    torch.manual_seed(0)
    return create(MODEL, LABELS, size=DEMO["size"])


def _command() -> list[str]:
    """What starts the command line in the shell of whoever reads it."""
    found = shutil.which("hsvdet")
    if found is not None and Path(found).parent == Path(sys.executable).parent:
        return ["hsvdet"]
    return [sys.executable, "-m", "hsvdet"]
