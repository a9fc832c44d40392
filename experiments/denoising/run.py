"""DAB-DETR beside DN-DETR where both learn: eight pictures, the same seeds; instability and AP by epoch.

    python experiments/denoising/run.py OUT [--seeds 0 1 2 3 4 5] [--epochs 60]

Writes OUT/MODEL-seedN.csv (the runs' results.csv; a finished one is not repeated), OUT/curves.png, and prints when
each was above AP50 0.9 first, and its mean instability. The data and the settings are those of benchmarks/overfit.py.
"""

import argparse
import csv
import shutil
import statistics
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import torch

from hsvdet import create, train, write_scenes

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
from overfit import AS_THEY_ARE, BATCH, PICTURES, REPEATS, first_pictures  # noqa: E402

MODELS = {"dab-detr-tiny": "tab:blue", "dn-detr-tiny": "tab:orange"}
SIZE = 128


def rows_of(path: Path) -> list[dict[str, float]]:
    with path.open(newline="") as file:
        return [
            {key: float(value) for key, value in row.items() if value and key} for row in csv.DictReader(file)
        ]


def draw(runs: dict[tuple[str, int], list[dict[str, float]]], path: Path) -> None:
    figure, panels = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
    for (model, _), rows in runs.items():
        for panel, column in zip(panels, ("ap50", "instability"), strict=True):
            points = [(row["epoch"], row[column]) for row in rows if column in row]
            panel.plot(*zip(*points, strict=True), color=MODELS[model], alpha=0.6, label=model)
    for panel, title in zip(panels, ("AP50", "Instability of matching"), strict=True):
        panel.set(title=title, xlabel="epoch")
        panel.grid(alpha=0.3)
        handles = dict(zip(*reversed(panel.get_legend_handles_labels()), strict=True))
        panel.legend(handles.values(), handles.keys())
    figure.savefig(path, dpi=90)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4, 5])
    parser.add_argument("--epochs", type=int, default=60)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    runs = {}
    with tempfile.TemporaryDirectory() as folder:
        place = write_scenes(
            Path(folder) / "scenes", train=PICTURES, val=0, test=0, size=(SIZE, SIZE), objects=(1, 2)
        )
        data = first_pictures(place)
        for seed in arguments.seeds:
            for model in MODELS:
                path = arguments.out / f"{model}-seed{seed}.csv"
                if not path.exists():
                    torch.manual_seed(seed)
                    run = Path(folder) / path.stem
                    train(
                        create(model, data.labels, size=(SIZE, SIZE)),
                        (replace(data, records=data.records * REPEATS), data), run, epochs=arguments.epochs,
                        batch=BATCH, accumulate=1, workers=0, seed=seed, options=AS_THEY_ARE, progress=False,
                    )  # fmt: skip
                    shutil.copyfile(run / "results.csv", path)
                runs[model, seed] = rows = rows_of(path)
                above = next((int(row["epoch"]) for row in rows if row.get("ap50", 0) > 0.9), None)
                mean = statistics.mean(row["instability"] for row in rows if "instability" in row)
                print(
                    f"{path.stem:24} AP50 > 0.9 after epoch {above}; mean instability {mean:.3f}", flush=True
                )
    draw(runs, arguments.out / "curves.png")


if __name__ == "__main__":
    main()
