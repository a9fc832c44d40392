"""The picture of this experiment, crowds.jpg beside this file.

    python experiments/crowds/draw.py CHECKPOINT SCENES

On the left recall by occlusion, from results.csv beside this file. On the right, of a detector with a learned
suppressor and of the test scenes in SCENES, the one in which the suppressor finds most that suppression of the same
boxes does not find. Each has the score of its highest F1 on the validation scenes.
"""

import argparse
import csv
from pathlib import Path

import numpy as np
import torch
from matplotlib import pyplot
from matplotlib.patches import Rectangle

from hsvdet import create, load, read_data, val
from hsvdet.boxes import iou
from hsvdet.data.images import read_image

HERE = Path(__file__).parent
BINS = ("0-.1", ".1-.3", ".3-.5", ".5-.7", ".7-.9")
ARMS = {"yolov8-n": ("NMS", "#d55e00"), "yolov8-n-dedup": ("learned suppressor", "#0072b2")}
FOUND, MISSED = dict(color="#00c000", linewidth=1.2), dict(color="#ff0000", linewidth=2.4)


def chart(axes) -> None:
    with open(HERE / "results.csv") as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == "test"]
    for number, (arm, (name, colour)) in enumerate(ARMS.items()):
        runs = np.array([[100 * float(row[bin_]) for bin_ in BINS] for row in rows if row["arm"] == arm])
        place = np.arange(len(BINS)) + 0.4 * number - 0.2
        axes.bar(place, runs.mean(0), 0.38, color=colour, label=name)
        axes.plot(place, runs.T, ".", color="black", markersize=4)
    axes.set_xticks(range(len(BINS)), ["0-10", "10-30", "30-50", "50-70", "70-90"])
    axes.set(
        xlabel="% of the object that is hidden", ylabel="% found, one false positive an image", ylim=(0, 118)
    )
    axes.set_title("400 scenes, three seeds", fontsize=10)
    axes.set_yticks(range(0, 101, 20))
    axes.legend(frameon=False, loc="upper right", ncols=2)
    axes.spines[["top", "right"]].set_visible(False)


def dense_part(detector):
    """The detector before its suppressor, read by NMS."""
    name = detector.name.removesuffix("-dedup")
    dense = create(name, detector.labels, size=detector.preprocess.size, category_ids=detector.category_ids)
    own = dense.net.state_dict().keys()
    dense.net.load_state_dict({key: value for key, value in detector.net.state_dict().items() if key in own})
    return dense


def objects_found(record, result) -> np.ndarray:
    """[N] bool: the objects of a record that a detection of their class overlaps by IoU >= 0.5, each its own."""
    truth = torch.as_tensor(np.asarray(record.boxes, dtype=np.float32))
    overlap = iou(truth[:, None], result.boxes).numpy()
    overlap[np.asarray(record.labels)[:, None] != result.labels.numpy()] = 0
    found = np.zeros(len(truth), bool)
    for column in overlap.T:
        free = np.where(found, 0, column)
        if free.max(initial=0) >= 0.5:
            found[free.argmax()] = True
    return found


def show(axes, record, found: np.ndarray, name: str) -> None:
    axes.imshow(read_image(record.path).permute(1, 2, 0))
    for (left, top, right, bottom), seen in zip(record.boxes, found, strict=True):
        style = FOUND if seen else MISSED
        axes.add_patch(Rectangle((left, top), right - left, bottom - top, fill=False, **style))
    axes.set_title(f"{name}: {found.sum()} of {len(found)} found (red: missed)", fontsize=10)
    axes.set_axis_off()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("scenes", type=Path)
    options = parser.parse_args()
    suppressor = load(options.checkpoint)
    records = read_data(options.scenes, "test").records
    found = []
    for detector in (dense_part(suppressor), suppressor):
        score = val(detector, options.scenes, workers=0).operating.best.score
        found.append([objects_found(record, detector(record.path, score=score)) for record in records])
    nms, learned = found
    most = max(range(len(records)), key=lambda i: learned[i].sum() - nms[i].sum())
    figure, (left, middle, right) = pyplot.subplots(
        1, 3, figsize=(12, 4), layout="constrained", width_ratios=(1.15, 1, 1)
    )
    chart(left)
    show(middle, records[most], nms[most], ARMS["yolov8-n"][0])
    show(right, records[most], learned[most], ARMS["yolov8-n-dedup"][0])
    figure.savefig(HERE / "crowds.jpg", dpi=100)


if __name__ == "__main__":
    main()
