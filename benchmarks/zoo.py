"""Counts every model anew: writes the rows of src/hsvdet/catalogue.py, which `hsvdet models` lists, and docs/zoo.md,
which sets our figures beside the published ones. About two and a half minutes of one
core.

    python benchmarks/zoo.py
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from hsvdet.catalogue import ROWS, ModelRow, Row, model_table
from hsvdet.models import MODELS
from hsvdet.profiler import GIGA, catalogue_row, profile

ROOT = Path(__file__).resolve().parent.parent
CATALOGUE, ZOO = ROOT / "src/hsvdet/catalogue.py", ROOT / "docs/zoo.md"


class Published(NamedTuple):
    """As printed: millions of parameters, operations in the unit of the source, COCO AP, and the source. None: not
    printed there."""

    parameters: float | None
    operations: float | None
    ap: float
    source: str


YOLOV8 = "[YOLOv8 documentation](https://docs.ultralytics.com/models/yolov8/)"
DETR = "[DETR](https://arxiv.org/abs/2005.12872), table 1"
DEFORMABLE = "[Deformable DETR](https://arxiv.org/abs/2010.04159), table 1"
DEFORMABLE_REPOSITORY = "[its repository](https://github.com/fundamentalvision/Deformable-DETR)"
DAB = "[DAB-DETR](https://arxiv.org/abs/2201.12329), table 2"
DN = "[DN-DETR](https://arxiv.org/abs/2203.01305), table 1"
DINO = "[DINO](https://arxiv.org/abs/2203.03605), table 1 (12 epochs)"
EFFICIENT = "[Efficient DETR](https://arxiv.org/abs/2104.01318), table 1"
LITE_REPOSITORY = "[its repository](https://github.com/IDEA-Research/Lite-DETR)"
SPARSE = "[Sparse DETR](https://arxiv.org/abs/2111.14330), table 1"
SMCA = "[SMCA-DETR's repository](https://github.com/gaopengcuhk/SMCA-DETR), single scale"
ANCHOR = "[Anchor DETR's repository](https://github.com/megvii-research/AnchorDETR)"
RT_DETR = "[RT-DETR](https://arxiv.org/abs/2304.08069), table 2"
RT_DETR_SCALED = "[RT-DETR](https://arxiv.org/abs/2304.08069), table of the scaled models"

PUBLISHED = {
    "yolov8-n": Published(3.2, 8.7, 37.3, YOLOV8),
    "yolov8-s": Published(11.2, 28.6, 44.9, YOLOV8),
    "yolov8-m": Published(25.9, 78.9, 50.2, YOLOV8),
    "yolov8-l": Published(43.7, 165.2, 52.9, YOLOV8),
    "yolov8-x": Published(68.2, 257.8, 53.9, YOLOV8),
    "detr-r50": Published(41, 86, 42.0, DETR),
    "detr-r101": Published(60, 152, 43.5, DETR),
    "detr-r50-dc5": Published(41, 187, 43.3, DETR),
    "detr-r101-dc5": Published(60, 253, 44.9, DETR),
    "smca-detr-r50": Published(None, None, 41.0, SMCA),
    "conditional-detr-r50": Published(44, 90, 40.9, DAB),
    "conditional-detr-r50-dc5": Published(44, 195, 43.8, DAB),
    "dab-detr-r50": Published(44, 94, 42.2, DAB),
    "dab-detr-r50-3pat": Published(44, 100, 42.6, DAB),
    "dab-detr-r50-dc5": Published(44, 202, 44.5, DAB),
    "dab-detr-r50-dc5-3pat": Published(44, 216, 45.7, DAB),
    "dn-detr-r50": Published(44, 94, 44.1, DN),
    "dn-detr-r50-dc5": Published(44, 202, 46.3, DN),
    "anchor-detr-r50": Published(None, None, 42.1, ANCHOR),
    "anchor-detr-r50-dc5": Published(None, 172, 44.3, ANCHOR),
    "anchor-detr-r101": Published(None, None, 43.5, ANCHOR),
    "anchor-detr-r101-dc5": Published(None, None, 45.1, ANCHOR),
    "deformable-detr-r50": Published(40, 173, 43.8, DEFORMABLE),
    "deformable-detr-r50-single-scale": Published(34, 78, 39.4, DEFORMABLE_REPOSITORY),
    "deformable-detr-r50-single-scale-dc5": Published(34, 128, 41.5, DEFORMABLE_REPOSITORY),
    "deformable-detr-r50-refine": Published(40, 173, 45.4, DEFORMABLE),
    "deformable-detr-r50-two-stage": Published(40, 173, 46.2, DEFORMABLE),
    "dino-r50": Published(47, 279, 49.0, DINO),
    "dino-r50-5scale": Published(47, 860, 49.4, DINO),
    "lite-dino-r50-h3l1-2p1x3": Published(None, None, 50.4, LITE_REPOSITORY),
    "lite-dino-r50-h3l1-6p1x1": Published(None, None, 50.2, LITE_REPOSITORY),
    "lite-dino-r50-h2l2-2p1x3": Published(None, None, 49.9, LITE_REPOSITORY),
    "efficient-detr-r50": Published(32, 159, 44.2, EFFICIENT),
    "sparse-detr-r50-rho10": Published(40.9, 105.4, 45.3, SPARSE),
    "sparse-detr-r50-rho20": Published(40.9, 112.9, 45.6, SPARSE),
    "sparse-detr-r50-rho30": Published(40.9, 120.5, 46.0, SPARSE),
    "sparse-detr-r50-rho40": Published(40.9, 128.0, 46.2, SPARSE),
    "sparse-detr-r50-rho50": Published(40.9, 135.6, 46.3, SPARSE),
    "rt-detr-r18": Published(20, 60.7, 46.5, RT_DETR_SCALED),
    "rt-detr-r34": Published(31, 92.7, 48.9, RT_DETR_SCALED),
    "rt-detr-r50-m": Published(36, 100.1, 51.3, RT_DETR_SCALED),
    "rt-detr-r50": Published(42, 136, 53.1, RT_DETR),
    "rt-detr-r101": Published(76, 259, 54.3, RT_DETR),
}
# By the decoder layer that gives the answer: GFLOPs and AP.
DEPTHS = {
    "rt-detr-r50-m": {
        2: (98.4, 50.3),
        3: (100.1, 51.3),
        4: (101.8, 51.8),
        5: (103.5, 52.1),
        6: (105.2, 52.2),
    },
    "rt-detr-r34": {2: (89.3, 47.4), 3: (91.0, 48.5), 4: (92.7, 48.9)},
    "rt-detr-r18": {2: (59.0, 45.5), 3: (60.7, 46.5)},
}
# Operations that their papers count once per multiply-add.
MULTIPLY_ADDS = (
    "DETR",
    "SMCA-DETR",
    "Conditional DETR",
    "DAB-DETR",
    "DN-DETR",
    "Anchor DETR",
    "Deformable DETR",
    "DN-Deformable-DETR",
    "DINO",
    "Lite-DINO",
    "Efficient DETR",
    "Sparse DETR",
)

HEAD = """# The models and what they cost

Written by `python benchmarks/zoo.py`; not to be edited by hand. `hsvdet models` prints our columns, and `hsvdet
profile MODEL --size HxW --classes N` counts any model at any size, part by part.

**Ours** are counted at the input size named, for 80 classes: convolutions and matrix products, two operations per
multiply-add, attention included; normalisation, activations, softmax and the reading of sampling points are not.
Parameters include layers that are kept fixed, but not the numbers of frozen normalisation (0.1 to 0.2 M).

**Published** operations are in the unit of their source. The papers from DETR to DINO print as "FLOPs" *one* per
multiply-add, as a mean over the first 100 pictures of COCO val, resized to a shorter side of 800: most are smaller
than 800x1333. "Same unit" is our figure in that unit, at the full size, so it lies above the published one, most
where attention is among all cells of a map. At 800x1066, the commonest shape, `detr-r50` takes {commonest:.0f} G, of
{published} G published. YOLOv8 and RT-DETR print two operations per multiply-add at 640x640, as we do.

**AP** is that of COCO val2017 as published, reached with the published weights; nothing in this column was measured
here. What was measured here is in [experiments](../experiments/).
"""

HSV_DET = """
## HSV-DET at 1088x1920

As its description writes it; as it is executed, which projects only the selected tokens; and after `deploy()`, which
folds the block into the convolutions that follow ([fold.md](fold.md)). The same with YOLOv8, whose graph it extends.

| model | parameters | GFLOPs | as executed | folded | parameters, folded |
|---|---:|---:|---:|---:|---:|
"""
RT_DETR_NOTE = """
Heads for boxes of proposals run on the tokens that are chosen, not on all. That is 2.1 GFLOPs less than the published
RT-DETR (300 of 8,400 tokens) and 5.6 less than the published DINO (900 of 22,223), with the same answer.

## RT-DETR, by depth of the decoder

Any decoder layer may give the answer, without training again: `--set answer_layer=N` with `val`,
`predict` and `export`. GFLOPs at 640x640; parameters are those of the whole model.

| model | layers | GFLOPs | published | AP, published |
|---|---:|---:|---:|---:|
"""


def catalogue(rows: dict[str, Row]) -> str:
    """The text of catalogue.py with these rows."""
    before, start, _ = CATALOGUE.read_text().partition("ROWS: dict[str, Row] = {\n")
    lines = [f'    "{name}": Row({_written(row)}),\n' for name, row in rows.items()]
    return f"{before}{start}{''.join(lines)}}}  # fmt: skip\n"


def _written(row: Row) -> str:
    """Its values, without those that most rows have."""
    written = [f'"{row.of}"', f'"{row.family}"', f"{row.parameters:_}", f"{row.operations:_}", str(row.size)]
    for name, usual in Row._field_defaults.items():
        if getattr(row, name) != usual:
            written.append(f'{name}="{getattr(row, name)}"')
    return ", ".join(written)


def family_tables() -> str:
    """From `hsvdet models`; nothing is counted."""
    families: dict[str, list[ModelRow]] = {}
    for row in model_table():
        families.setdefault(row.family, []).append(row)
    lines = []
    for family, rows in families.items():
        once = family in MULTIPLY_ADDS
        unit, rule = (" same unit |", "---:|") if once else ("", "")
        lines += [
            f"\n## {family}\n",
            f"| model | input | parameters | published | GFLOPs |{unit} published | AP, published | source |",
            f"|---|---|---:|---:|---:|{rule}---:|---:|---|",
        ]
        for row in rows:
            known = PUBLISHED.get(row.name)
            size, ours = f"{row.size[0]}x{row.size[1]}", [f"{row.gflops:.2f}"]
            if once:
                ours.append(f"{row.gflops / 2:.1f} G")
            theirs, millions = ["", "", row.note], ""
            if known:
                theirs = [_printed(known.operations, "G"), f"{known.ap:.1f}", known.source]
                millions = _printed(known.parameters, "M")
            parameters = [f"{row.parameters:,}", millions]
            lines.append(f"| {' | '.join([f'`{row.name}`', size, *parameters, *ours, *theirs])} |")
    return "\n".join(lines) + "\n"


def _printed(number: float | None, unit: str) -> str:
    return "" if number is None else f"{number:g} {unit}"


def wide_table() -> str:
    lines = []
    for name in MODELS:
        if not name.startswith(("yolov8-", "hsv-det-")):
            continue
        cost = profile(name, size=(1088, 1920))
        numbers = [f"{cost.gflops:.3f}", f"{cost.gflops_executed:.3f}", f"{cost.gflops_folded:.3f}"]
        lines.append(
            f"| `{name}` | {cost.parameters:,} | {' | '.join(numbers)} | {cost.parameters_folded:,} |\n"
        )
    return HSV_DET + "".join(lines)


def depth_table() -> str:
    lines = []
    for name, depths in DEPTHS.items():
        for layer, (gflops, ap) in depths.items():
            ours = catalogue_row(_with(MODELS[name], answer_layer=layer)).operations / GIGA
            lines.append(f"| `{name}` | {layer} | {ours:.1f} | {gflops:.1f} | {ap:.1f} |\n")
    return RT_DETR_NOTE + "".join(lines) + f"\nPublished: {RT_DETR_SCALED}.\n"


def markdown() -> str:
    commonest = catalogue_row(_with(MODELS["detr-r50"], size=(800, 1066))).operations / 2 / GIGA
    head = HEAD.format(commonest=commonest, published=PUBLISHED["detr-r50"].operations)
    return head + family_tables() + wide_table() + depth_table()


def _with(entry, *, size: tuple[int, int] | None = None, **numbers):
    preprocess = replace(entry.preprocess, size=size) if size else entry.preprocess
    return entry._replace(config=replace(entry.config, **numbers), preprocess=preprocess)


if __name__ == "__main__":
    counted = {name: catalogue_row(entry) for name, entry in MODELS.items()}
    CATALOGUE.write_text(catalogue(counted))
    # What `hsvdet models` prints from now on; this process has read the rows of before.
    ROWS.clear()
    ROWS.update(counted)
    ZOO.write_text(markdown())
