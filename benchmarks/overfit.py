"""Eight pictures learned by heart: the quickest proof that targets, losses, averaging and evaluation agree.

    python benchmarks/overfit.py [MODEL ...] [--data PATH] [--size 128] [--epochs N]
    python benchmarks/overfit.py --all

Without --data the pictures are built-in scenes. Every model learns by its own recipe, but from the pictures as
they are; an epoch is each of them eight times, 16 steps of four. --all: the smallest model of every paper.
Prints a line a model, and exits with 1 where AP50 stays below 0.9. Two to five minutes of one core each.
"""

from __future__ import annotations

import argparse
import csv
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch

from hsvdet.data.dataset import DetectionData
from hsvdet.data.read import read_data
from hsvdet.data.scenes import write_scenes
from hsvdet.detector import create
from hsvdet.models import MODELS
from hsvdet.training import train

SMALLEST = [name for name in MODELS if name.endswith(("-tiny", "-n", "-n+"))]
PICTURES, REPEATS, BATCH = 8, 8, 4
# Enough for AP50 1.0 or nearly, of 16 steps each. Queries that look at one small map learn slowest, and most of
# all where nothing tells them where to look: the story of the papers, in small.
EPOCHS = {
    "DETR": 80,
    "SMCA-DETR": 60,
    "Conditional DETR": 60,
    "DAB-DETR": 60,
    "DN-DETR": 40,
    "Anchor DETR": 50,
    "YOLOv8": 40,
    "HSV-DET": 40,
    "HSG-Det": 40,
}
OTHERS = 10
# What is learned is what is validated.
AS_THEY_ARE = dict.fromkeys(
    ("mosaic", "mixup", "copy_paste", "multi_scale", "scale", "translate", "flip", "hue", "saturation", "brightness",
     "contrast"), 0.0,
)  # fmt: skip


def first_pictures(path: Path) -> DetectionData:
    data = read_data(path, "train")
    return replace(data, records=[record for record in data.records if len(record.boxes)][:PICTURES])


def overfit(
    name: str, data: DetectionData, out: Path, size: tuple[int, int], epochs: int
) -> tuple[dict, int | None]:
    """The metrics at the end, and the step after which AP50 was above 0.9 for the first time."""
    torch.manual_seed(0)
    result = train(
        create(name, data.labels, size=size), (replace(data, records=data.records * REPEATS), data), out,
        epochs=epochs, batch=BATCH, accumulate=1, workers=0, options=AS_THEY_ARE, progress=False,
    )  # fmt: skip
    with (out / "results.csv").open(newline="") as file:
        found = (row["epoch"] for row in csv.DictReader(file) if float(row["ap50"] or 0) > 0.9)
        epoch = next(found, None)
    return result.metrics, None if epoch is None else int(epoch) * PICTURES * REPEATS // BATCH


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", metavar="MODEL", help="yolov8-n if none is given")
    parser.add_argument("--all", action="store_true", help="the smallest model of every paper")
    parser.add_argument("--data", type=Path, help="a data set, whose first eight pictures with objects count")
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--epochs", type=int, help="by default what the family needs")
    arguments = parser.parse_args()
    names = SMALLEST if arguments.all else arguments.models or ["yolov8-n"]
    size, failed = (arguments.size, arguments.size), []
    print(f"{'model':32}{'AP':>7}{'AP50':>7}{'steps':>7}{'AP50 > 0.9 after':>18}{'CPU seconds':>13}")
    with tempfile.TemporaryDirectory() as folder:
        place = arguments.data or write_scenes(
            Path(folder) / "scenes", train=PICTURES, val=0, test=0, size=size, objects=(1, 2)
        )
        data = first_pictures(place)
        for name in names:
            start = time.process_time()
            epochs = arguments.epochs or EPOCHS.get(MODELS[name].family, OTHERS)
            metrics, step = overfit(name, data, Path(folder) / name, size, epochs)
            steps = epochs * PICTURES * REPEATS // BATCH
            print(
                f"{name:32}{metrics['ap']:7.3f}{metrics['ap50']:7.3f}{steps:7}{step or 'never':>18}"
                f"{time.process_time() - start:13.0f}",
                flush=True,
            )
            if not metrics["ap50"] > 0.9:
                failed.append(name)
    if failed:
        print(f"AP50 is not above 0.9: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
