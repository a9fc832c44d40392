"""The curves of this experiment: `python draw.py`, beside the csv files, writes curves.png."""

import csv
from pathlib import Path

from matplotlib import pyplot
from matplotlib.ticker import MaxNLocator

HERE = Path(__file__).parent
SEVERAL_SCALES = ("rt-detr-tiny", "deformable-detr-two-stage-tiny")
ONE_SCALE = ("dab-detr-tiny", "dn-detr-tiny")
PANELS = (
    ("ap", SEVERAL_SCALES, "AP", "validation, from scratch"),
    ("loss/giou", ONE_SCALE, "2 (1 - GIoU)", "training, matched queries"),
    ("instability", ONE_SCALE, "IS", "queries that changed their object"),
)


def column(name: str, of: str) -> list[float]:
    with open(HERE / f"{name}.csv") as file:
        return [float(row[of] or "nan") for row in csv.DictReader(file)]


def main() -> None:
    figure, panels = pyplot.subplots(1, len(PANELS), figsize=(11, 3.2), layout="constrained")
    for axes, (what, names, unit, title) in zip(panels, PANELS, strict=True):
        for name in names:
            axes.plot(column(name, "epoch"), column(name, what), label=name)
        axes.set(xlabel="epoch", ylabel=unit, title=title)
        axes.set_ylim(bottom=0)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.legend(fontsize=7, frameon=False)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(HERE / "curves.png", dpi=90)


if __name__ == "__main__":
    main()
