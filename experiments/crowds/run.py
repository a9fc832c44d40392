"""Who finds what is hidden: detectors without non-maximum suppression beside YOLOv8 with it, in the built-in crowds.

    python experiments/crowds/run.py OUT [--arms yolov8-n yolov8-n-dedup ...] [--seeds 0 1 2] [--epochs 40]

Draws 1,000 scenes of 256x256 to train on, 200 to validate and 400 to test. Every arm trains with its own recipe for the
same number of epochs; `yolov8-n-dedup` is the `yolov8-n` of the same seed, left as it is, with a suppressor that learns
for its own recipe's epochs more (--suppressor-epochs). The IoU of YOLOv8's suppression is the one of THRESHOLDS that
finds most of the occluded objects in the validation scenes, for each seed anew.

Writes OUT/results.csv, a row for each arm, seed and split; finished arms are not repeated, interrupted ones continued.
Prints means, and the differences from yolov8-n, seed by seed. OUT/runs holds the runs.
"""

import argparse
import csv
import statistics
from functools import partial
from pathlib import Path

import torch

from hsvdet import create, read_data, train, val, with_suppressor
from hsvdet.data.scenes import write_scenes
from hsvdet.evaluate import Evaluation

BASE = "yolov8-n"
THRESHOLDS = (0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8)
SPLITS = ("val", "test")
FIGURES = ("ap", "ap50", "all", "0-.1", ".1-.3", ".3-.5", ".5-.7", ".7-.9", ".5-.9", "duplicates")
FIELDS = ("arm", "seed", "split", "suppressed_at", *FIGURES)


def figures(evaluation: Evaluation) -> dict[str, float]:
    """AP; recall at one false positive an image of all and by occlusion; detections for each object that is found."""
    recalls = evaluation.recalls
    found = [
        evaluation.ap,
        evaluation.ap50,
        recalls.recall_at_fppi1,
        *(part.recall_at_fppi1 for part in recalls.occlusion[:5]),
        recalls.occluded.recall_at_fppi1,
        evaluation.duplicates_after.mean,
    ]
    return {name: round(value, 4) for name, value in zip(FIGURES, found, strict=True)}


class Experiment:
    def __init__(self, options: argparse.Namespace):
        self.options = options
        self.size = (options.size, options.size)
        self.scenes = write_scenes(
            options.out / "scenes",
            train=options.scenes,
            val=options.scenes // 5,
            test=2 * options.scenes // 5,
            size=self.size,
        )

    def checkpoint(self, arm: str, seed: int) -> Path:
        """The best weights of an arm, trained if they are not there yet."""
        run = self.options.out / "runs" / f"{arm}-seed{seed}"
        done = run / "done"
        best = run / "best.safetensors"
        if done.exists():
            return best
        epochs = self.options.epochs
        if arm == f"{BASE}-dedup":
            start = self.checkpoint(BASE, seed)
            torch.manual_seed(seed)
            detector, epochs = with_suppressor(start), self.options.suppressor_epochs
        else:
            detector = partial(self._new, arm, seed)
        train(
            detector,
            self.scenes,
            run,
            epochs=epochs,
            seed=seed,
            precision=self.options.precision,
            workers=self.options.workers,
            resume=run.exists(),
        )
        done.touch()
        return best

    def _new(self, arm: str, seed: int, data):
        torch.manual_seed(seed)
        return create(arm, data.labels, size=self.size, category_ids=data.category_ids)

    def rows(self, arm: str, seed: int) -> list[dict]:
        best = self.checkpoint(arm, seed)
        judge = partial(val, best, self.scenes, workers=0)
        threshold = None
        if arm == BASE:
            threshold = max(
                THRESHOLDS, key=lambda iou: judge(split="val", iou=iou).recalls.occluded.recall_at_fppi1
            )
        rows = []
        for split in SPLITS:
            found = judge(split=split) if threshold is None else judge(split=split, iou=threshold)
            rows.append(
                {"arm": arm, "seed": seed, "split": split, "suppressed_at": threshold} | figures(found)
            )
        return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("--arms", nargs="+", default=[BASE, f"{BASE}-dedup"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--suppressor-epochs", type=int, help="the recipe's if not given")
    parser.add_argument("--scenes", type=int, default=1000)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--workers", type=int)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    experiment, file = Experiment(options), options.out / "results.csv"
    read_data(experiment.scenes, "test")  # found out before hours of training
    known = list(csv.DictReader(file.open())) if file.exists() else []
    for seed in options.seeds:
        for arm in options.arms:
            if not any(row["arm"] == arm and int(row["seed"]) == seed for row in known):
                known += experiment.rows(arm, seed)
                with file.open("w", newline="") as stream:
                    writer = csv.DictWriter(stream, FIELDS)
                    writer.writeheader()
                    writer.writerows(known)
    for split in SPLITS:
        print(f"\n{split}: mean over seeds (difference from {BASE} of each seed in .5-.9)")
        print(" ".join(["arm".ljust(20), *(name.rjust(10) for name in FIGURES)]))
        base = {int(row["seed"]): row for row in known if row["arm"] == BASE and row["split"] == split}
        for arm in options.arms:
            rows = [row for row in known if row["arm"] == arm and row["split"] == split]
            means = [statistics.mean(float(row[name]) for row in rows) for name in FIGURES]
            paired = [
                float(row[".5-.9"]) - float(base[int(row["seed"])][".5-.9"])
                for row in rows
                if int(row["seed"]) in base
            ]
            gains = ", ".join(f"{100 * gain:+.1f}" for gain in paired)
            print(" ".join([arm.ljust(20), *(f"{mean:10.3f}" for mean in means)]), f"  ({gains})")


if __name__ == "__main__":
    main()
