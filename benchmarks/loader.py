"""Images per second that the training loader gives, and where the time goes.

    python benchmarks/loader.py --data ../shared/data/bccd [--sizes 320 640] [--batch 16] [--seconds 6]

Prints CPU milliseconds per image of every step on one thread (best of five), then images per second of the
whole way (file or cache to a normalised batch) with 0, 1 and 2 workers: per second of the clock, and per second
of processor time of all processes together, which other work on the machine hardly changes. The augmentation
is YOLOv8's: mosaic of four, scale .5, translate .1, HSV .015 / .7 / .4, flip .5.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable

import numpy as np
import torch

from hsvdet.data.augmentation import Augmentation
from hsvdet.data.batch import normalised, stack
from hsvdet.data.images import read_image
from hsvdet.data.loader import Key, TrainingLoader, TrainingSet
from hsvdet.data.mosaic import CopyPasteBoxes, MixUp, Mosaic
from hsvdet.data.read import read_data
from hsvdet.data.transforms import ColourJitter, HorizontalFlip, Letterbox, RandomAffine
from hsvdet.preprocess import Preprocess

YOLOV8 = Augmentation(
    mosaic=1.0, scale=0.5, translate=0.1, hue=0.015, saturation=0.7, brightness=0.4, flip=0.5
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--sizes", type=int, nargs="+", default=[320, 640])
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=6.0, help="of measuring, per line")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    data = read_data(arguments.data, "train")
    for side in arguments.sizes:
        preprocess = Preprocess(size=(side, side))
        print(f"\n{len(data)} images of {arguments.data}, network input {side}x{side}")
        print_steps(data, preprocess)
        print_throughput(data, preprocess, arguments.batch, arguments.seconds)


def print_steps(data, preprocess: Preprocess) -> None:
    dataset = TrainingSet(data, preprocess, lambda epoch: YOLOV8, cache="ram")
    plain = TrainingSet(data, preprocess, lambda epoch: Augmentation(), cache="ram")
    rng = np.random.default_rng(0)

    def another():
        return dataset._read(int(rng.integers(len(data))), rng)

    for index in range(len(data)):
        dataset._read(index, rng)
    placed = [plain[Key(0, index, preprocess.size)] for index in range(min(16, len(data)))]
    batch = stack(placed, preprocess)
    affine = RandomAffine(preprocess=preprocess, scale=0.5, translate=0.1)
    turning = RandomAffine(preprocess=preprocess, scale=0.5, translate=0.1, rotate=10)
    jitter = ColourJitter(hue=0.015, saturation=0.7, brightness=0.4)
    steps: dict[str, Callable] = {
        "decode": lambda: read_image(data.records[int(rng.integers(len(data)))].path),
        "letterbox": lambda: Letterbox(preprocess)(another()),
        "scale, translate": lambda: affine(another(), rng),
        "scale, translate, rotate": lambda: turning(another(), rng),
        "mosaic, scale, translate": lambda: Mosaic(affine)(another(), another, rng),
        "mosaic, scale, translate, rotate": lambda: Mosaic(turning)(another(), another, rng),
        "mix-up (the blend)": lambda: MixUp()(placed[0], placed[1], rng),
        "copy-paste (the pasting)": lambda: CopyPasteBoxes()(placed[0], placed[-1], rng),
        "colour": lambda: jitter(placed[0], rng),
        "flip": lambda: HorizontalFlip(1.0)(placed[0], rng),
        "to a batch, per image": lambda: stack(placed, preprocess),
        "normalise, per image": lambda: normalised(batch, preprocess),
        "all before the batch, cached": lambda: dataset[
            Key(int(rng.integers(1000)), int(rng.integers(len(data))), preprocess.size)
        ],
    }
    for name, step in steps.items():
        per_call = cpu_seconds(step) / (len(placed) if name.endswith("per image") else 1)
        print(f"  {name:34s} {per_call * 1e3:7.2f} ms {1 / per_call:8.0f} /s")


def cpu_seconds(step: Callable, calls: int = 40) -> float:
    step()
    best = float("inf")
    for _ in range(5):
        start = time.process_time()
        for _ in range(calls):
            step()
        best = min(best, (time.process_time() - start) / calls)
    return best


def print_throughput(data, preprocess: Preprocess, batch: int, seconds: float) -> None:
    for cache in (None, "ram"):
        for workers in (0, 1, 2):
            dataset = TrainingSet(data, preprocess, lambda epoch: YOLOV8, cache=cache)
            before = processor_seconds()
            loader = TrainingLoader(dataset, batch, workers=workers)
            list(loader)  # starts the workers, fills the cache
            images, epochs, start = 0, 0, time.perf_counter()
            while time.perf_counter() - start < seconds:
                images += sum(len(made.images) for made in loader)
                epochs += 1
            rate = images / (time.perf_counter() - start)
            del loader  # ends the workers: only then is their processor time known
            per_core = (images + images // epochs) / (processor_seconds() - before)
            print(f"  workers {workers}, cache {cache or 'none':4s} {rate:6.0f} /s {per_core:6.0f} /s/core")


def processor_seconds() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


if __name__ == "__main__":
    main()
