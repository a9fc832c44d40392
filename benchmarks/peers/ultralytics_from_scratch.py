"""The peer's half of benchmarks/from_scratch.py. Run in an environment of its own: pip install ultralytics

    python benchmarks/peers/ultralytics_from_scratch.py --data DIR --out runs/peer --seeds 0 1 2

DIR is a data set in the YOLO layout (`hsvdet data convert SRC DIR --to yolo`). Trains YOLOv8n from its yaml with
the package's own defaults (optimizer "auto", all its augmentation), then writes what its best and its last
weights find on the validation split, in COCO's result format, for one evaluator to judge all.
The package is AGPL-3.0 and is used here as a program; nothing of it is part of hsvdet.
"""

import argparse
import shutil
from pathlib import Path

import torch


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--model", default="yolov8n.yaml")
    parser.add_argument("--size", type=int, default=320)
    parser.add_argument("--epochs", type=int, default=50)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    from ultralytics import YOLO

    config = arguments.data / "data.yaml"
    out = arguments.out.resolve()
    common = dict(data=str(config), imgsz=arguments.size, batch=arguments.batch, device="cpu", workers=1)
    for seed in arguments.seeds:
        name = f"seed{seed}"
        if not (out / name / "weights" / "best.pt").exists():
            YOLO(arguments.model).train(
                **common, epochs=arguments.epochs, seed=seed, pretrained=False, project=str(out), name=name,
                exist_ok=True, plots=False, verbose=False, amp=False,
            )  # fmt: skip
        for which in ("best", "last"):
            weights = out / name / "weights" / f"{which}.pt"
            result = YOLO(weights).val(
                **common, save_json=True, plots=False, project=str(out), name=f"{name}_{which}", exist_ok=True
            )
            found = out / f"{name}_{which}.json"
            shutil.copy(Path(result.save_dir) / "predictions.json", found)
            print(f"{found}: its own evaluator says AP {result.box.map:.4f}, AP50 {result.box.map50:.4f}")


if __name__ == "__main__":
    main()
