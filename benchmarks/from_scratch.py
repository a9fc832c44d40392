"""Training from scratch on a small data set, beside a peer: same size, epochs, batch; one evaluator for all.

    python benchmarks/from_scratch.py --data DIR --out runs/scratch --models yolov8-n hsv-det-n --seeds 0 1 2 \\
        [--peer runs/peer]

Trains each model with each seed (a finished run is not repeated, an interrupted one is resumed), evaluates best
and last weights on the validation split, and prints AP per seed, means and standard deviations. --peer: a folder
of benchmarks/peers/ultralytics_from_scratch.py, whose detections are judged by the same evaluator.
"""

import argparse
import json
import statistics
from pathlib import Path

import torch

import hsvdet
from hsvdet.data.read import read_data
from hsvdet.evaluate import evaluate_detections
from hsvdet.structures import Detections


def of_peer(data, path):
    """The evaluation of COCO results whose image_id is a file's stem and category_id a label from 0 or 1 on."""
    ids = {Path(record.path).stem: record.id for record in data.records}
    rows = json.loads(path.read_text())
    first = min(row["category_id"] for row in rows)
    found = {record.id: [] for record in data.records}
    for row in rows:
        found[ids[str(row["image_id"])]].append(row)
    detections = {}
    for image, here in found.items():
        here.sort(key=lambda row: -row["score"])
        boxes = torch.tensor([row["bbox"] for row in here], dtype=torch.float32).view(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        scores = torch.tensor([row["score"] for row in here], dtype=torch.float32)
        labels = torch.tensor([row["category_id"] - first for row in here], dtype=torch.int64)
        detections[image] = Detections(boxes, scores, labels)
    return evaluate_detections(data, detections)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--models", nargs="+", default=["yolov8-n", "hsv-det-n"])
    parser.add_argument("--size", type=int, default=320)
    parser.add_argument("--epochs", type=int, default=50)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--recipe", help="instead of each model's own")
    parser.add_argument("--peer", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    data = read_data(arguments.data, "val")
    rows = {}
    for model in arguments.models:
        for seed in arguments.seeds:
            out = arguments.out / f"{model}_seed{seed}"
            if not (out / "done.json").exists():
                torch.manual_seed(seed)
                detector = hsvdet.create(model, data.labels, size=(arguments.size, arguments.size))
                hsvdet.train(
                    detector, arguments.data, out, epochs=arguments.epochs, batch=arguments.batch, seed=seed,
                    workers=arguments.workers, recipe=arguments.recipe, device="cpu",
                    resume=(out / "resume.safetensors").exists(),
                )  # fmt: skip
                both = {
                    which: hsvdet.val(
                        out / f"{which}.safetensors", data, device="cpu", multi_label=True
                    ).to_json()
                    for which in ("best", "last")
                }
                (out / "done.json").write_text(json.dumps(both))
            for which, numbers in json.loads((out / "done.json").read_text()).items():
                rows.setdefault((model, which), []).append((numbers["ap"], numbers["ap50"]))
    if arguments.peer:
        for which in ("best", "last"):
            for path in sorted(arguments.peer.glob(f"seed*_{which}.json")):
                evaluation = of_peer(data, path)
                rows.setdefault(("peer", which), []).append((evaluation.ap, evaluation.ap50))
    print(f"{'model':14s} {'weights':8s} {'AP by seed':32s} {'mean':>6s} {'sd':>6s}   {'AP50':>6s}")
    for (model, which), values in sorted(rows.items(), key=lambda item: item[0][1]):
        ap = [value[0] for value in values]
        spread = statistics.stdev(ap) if len(ap) > 1 else float("nan")
        each = " ".join(f"{value:.4f}" for value in ap)
        ap50 = statistics.mean(value[1] for value in values)
        print(f"{model:14s} {which:8s} {each:32s} {statistics.mean(ap):6.4f} {spread:6.4f}   {ap50:6.4f}")


if __name__ == "__main__":
    main()
