"""The whole path in a few minutes, with nothing downloaded: draw scenes, train, evaluate, detect."""

# pyright: strict, reportUnknownMemberType=false
# PyTorch's own types leave some of its functions untyped.

from __future__ import annotations

import dataclasses
import logging
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from .data.read import read_data
from .data.scenes import DEMO, LABELS, write_scenes
from .detector import create
from .prediction.predictor import predict
from .training import train
from .validation import val

MODEL = "hsv-det-n"
EPOCHS = 8
BATCH = 8
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
    """ap, ap50: on the validation split. The paths: what there is to look at. seconds: of everything."""

    scenes: str
    checkpoint: str
    curves: str
    evaluation: str
    pictures: str
    ap: float
    ap50: float
    seconds: float
    table: str

    def to_json(self) -> dict[str, Any]:
        return {name: value for name, value in dataclasses.asdict(self).items() if name != "table"}

    def __str__(self) -> str:
        return (
            f"{self.table}\n\n"
            f"{MODEL} after {EPOCHS} epochs, {self.seconds:.0f} s in all: AP {self.ap:.3f}, AP50 {self.ap50:.3f}\n"
            f"Scenes it learned from: {self.scenes}\n"
            f"Curves of the training: {self.curves}\n"
            f"Report of the evaluation: {self.evaluation}\n"
            f"Pictures of unseen scenes, with what it found: {self.pictures}\n"
            f"Checkpoint: {self.checkpoint}\n\n"
            f"Try it: hsvdet predict {self.checkpoint} IMAGE --out runs/seen"
        )


def demo(
    out: str | os.PathLike[str] = "runs/demo", *, device: str = "auto", progress: bool = True
) -> DemoReport:
    """Train `hsv-det-n` on built-in scenes, evaluate it, and detect in scenes it has not seen.

    out: a folder; out/scenes is drawn once, each demo has its own out/run-1, out/run-2, ... About three
    minutes on two cores. Raises DataError or SaveError when `out` cannot be written.
    """
    start = time.perf_counter()
    log = logging.getLogger("hsvdet")
    folder = Path(out)
    log.info(
        "1/4 Drawing %d crowded scenes into %s", DEMO["train"] + DEMO["val"] + DEMO["test"], folder / "scenes"
    )
    scenes = write_scenes(folder / "scenes", **DEMO, workers=os.cpu_count() or 1)
    run = next(path for number in range(1, 1_000_000) if not (path := folder / f"run-{number}").exists())
    log.info("2/4 Training %s for %d epochs into %s", MODEL, EPOCHS, run)
    torch.manual_seed(0)
    detector = create(MODEL, LABELS, size=DEMO["size"])
    trained = train(
        detector, scenes, run, epochs=EPOCHS, batch=BATCH, device=device, options=OPTIONS, progress=progress
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
        ap=round(evaluation.ap, 4),
        ap50=round(evaluation.ap50, 4),
        seconds=round(time.perf_counter() - start, 1),
        table=evaluation.table(),
    )
