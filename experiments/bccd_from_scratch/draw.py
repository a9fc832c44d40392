"""The curves of this experiment: `python draw.py`, beside the csv files, writes curves.png."""

import csv
from pathlib import Path

import numpy as np
from matplotlib import pyplot

HERE = Path(__file__).parent
SEEDS = (0, 1, 2)


def column(run: str, of: str) -> list[float]:
    with open(HERE / f"{run}.csv") as file:
        return [float(row[of]) for row in csv.DictReader(file)]


def main() -> None:
    figure, (quality, gates) = pyplot.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
    for model, colour in (("yolov8-n", "tab:blue"), ("hsv-det-n", "tab:orange")):
        runs = np.array([column(f"{model}-seed{seed}", "ap") for seed in SEEDS])
        epochs = np.arange(1, runs.shape[1] + 1)
        quality.plot(epochs, runs.mean(0), color=colour, label=model)
        quality.fill_between(epochs, runs.min(0), runs.max(0), color=colour, alpha=0.2, linewidth=0)
    quality.set(xlabel="epoch", ylabel="AP", title="validation: mean, least and largest of three seeds")
    for level, style in (("P5", "-"), ("P4", "--")):
        for seed in SEEDS:
            values = column(f"hsv-det-n-seed{seed}", f"gate/{level}")
            gates.plot(
                epochs,
                values,
                style,
                color="tab:orange",
                alpha=0.5 + 0.15 * seed,
                label=level if not seed else None,
            )
    gates.set(xlabel="epoch", ylabel="mean |gate|", title="hsv-det-n: how far its blocks open")
    for axes in (quality, gates):
        axes.legend(fontsize=7, frameon=False)
        axes.set_ylim(bottom=0)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(HERE / "curves.png", dpi=90)


if __name__ == "__main__":
    main()
