"""What labelled_classes are worth: a data set whose halves label different classes, merged, beside two others.

    python experiments/partial_labels/run.py CARDS OUT [--model yolov8-n] [--epochs 100] [--size 320] [--seeds 0 1 2]

CARDS: a data set with the splits train and val, all classes labelled (../shared/data/cards). Its training images are
divided in two by chance; one half keeps the boxes of every other class, the other half those of the rest. Trained on:

    full      every image with all its boxes: what could be reached
    merged    the halves, by `merge_data`: each image says which classes are labelled in it
    naive     the same boxes, and nothing said of what is missing: it trains as background

All are judged by the same validation images, all boxes of them. Writes OUT/ARM-seedN.csv (results.csv of the runs; a
finished one is not repeated), and prints the highest AP of each.
"""

import argparse
import json
import shutil
import statistics
import tempfile
from pathlib import Path

import numpy as np
import torch

from hsvdet import create, merge_data, read_data, train
from hsvdet.data.convert import convert_data

ARMS = ("full", "merged", "naive")


def half(content: dict, images: set[int], classes: set[int]) -> dict:
    """A COCO file with some of its images, categories, and the annotations that are of both."""
    return content | {
        "images": [image for image in content["images"] if image["id"] in images],
        "categories": [category for category in content["categories"] if category["id"] in classes],
        "annotations": [
            annotation
            for annotation in content["annotations"]
            if annotation["image_id"] in images and annotation["category_id"] in classes
        ],
    }


def without_marks(file: Path) -> None:
    content = json.loads(file.read_text())
    for image in content["images"]:
        image.pop("labelled_classes")
    file.write_text(json.dumps(content))


def make_arms(source: Path, folder: Path) -> dict[str, Path]:
    """The training sets, as COCO folders; images are links."""
    convert_data(source, folder / "full", "coco", split="train", copy="link")
    file = folder / "full" / "annotations" / "instances_train.json"
    content = json.loads(file.read_text())
    order = np.random.default_rng(0).permutation([image["id"] for image in content["images"]]).tolist()
    classes = [category["id"] for category in content["categories"]]
    parts = []
    for number in range(2):
        part = folder / f"half{number}"
        (part / "annotations").mkdir(parents=True)
        (part / "train").symlink_to(file.parents[1] / "train")
        kept = half(content, set(order[number::2]), set(classes[number::2]))
        (part / "annotations" / "instances_train.json").write_text(json.dumps(kept))
        parts.append(part)
    for arm in ("merged", "naive"):
        merge_data(parts, folder / arm, copy="link")
    without_marks(folder / "naive" / "annotations" / "instances_train.json")
    return {arm: folder / arm for arm in ARMS}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--model", default="yolov8-n")
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--size", type=int, default=320)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=ARMS)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    labels = read_data(options.data, "train").labels
    validation = read_data(options.data, "val", labels=labels)
    with tempfile.TemporaryDirectory() as temporary:
        arms = make_arms(options.data.absolute(), Path(temporary))
        for arm in options.arms:
            highest = []
            for seed in options.seeds:
                file = options.out / f"{arm}-seed{seed}.csv"
                if not file.exists():
                    training = read_data(arms[arm], "train", labels=labels)
                    torch.manual_seed(seed)
                    detector = create(options.model, labels, size=(options.size, options.size))
                    run = Path(temporary) / f"run-{arm}-{seed}"
                    result = train(detector, (training, validation), run, epochs=options.epochs, seed=seed)
                    shutil.copy(result.out / "results.csv", file)
                rows = [line.split(",") for line in file.read_text().splitlines()]
                column = rows[0].index("ap")
                highest.append(max(float(row[column]) for row in rows[1:] if row[column]))
            spread = f" +- {statistics.stdev(highest):.3f}" if len(highest) > 1 else ""
            print(
                f"{arm}: highest AP {statistics.mean(highest):.3f}{spread} over {len(highest)} seeds",
                flush=True,
            )


if __name__ == "__main__":
    main()
