"""Eight pictures learned by heart: the quickest proof that targets, losses, averaging and evaluation agree.

    python benchmarks/overfit.py [MODEL] [--epochs 120] [--size 192]

Exits with 1 where AP50 stays below 0.9. About two minutes of one core for yolov8-n.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import torch

from hsvdet.data.read import read_data
from hsvdet.data.scenes import LABELS, write_scenes
from hsvdet.detector import create
from hsvdet.training import train

# Images as they are: what is learned is what is validated. Weights are followed closely.
PLAIN_IMAGES = dict.fromkeys(("mosaic", "scale", "translate", "hue", "saturation", "brightness", "flip"), 0.0)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?", default="yolov8-n")
    parser.add_argument("--epochs", type=int, default=120)
    parser.add_argument("--size", type=int, default=192)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        size = (arguments.size, arguments.size)
        scenes = write_scenes(root / "scenes", train=8, val=0, test=0, size=size, objects=(1, 2))
        data = read_data(scenes, "train", labels=LABELS)
        torch.manual_seed(0)
        detector = create(arguments.model, LABELS, size=size)
        result = train(
            detector, (data, data), root / "run", epochs=arguments.epochs, batch=4, accumulate=1, workers=0,
            recipe="plain", options=PLAIN_IMAGES,
        )  # fmt: skip
    print(f"{arguments.model}: AP {result.metrics['ap']:.3f}  AP50 {result.metrics['ap50']:.3f}")
    return 0 if result.metrics["ap50"] >= 0.9 else 1


if __name__ == "__main__":
    sys.exit(main())
