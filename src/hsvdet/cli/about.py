"""`hsvdet models` and `hsvdet profile`: what a model is and what it costs."""

from __future__ import annotations

from typing import Annotated

import typer

from .answer import Answer
from .options import Json, Size


def models(json: Json = False) -> Answer:
    """List every model: family, parameters, GFLOPs, licence of its design, what it needs."""
    from ..catalogue import model_table

    rows = model_table()
    family, name = (max(len(getattr(row, key)) for row in rows) for key in ("family", "name"))
    lines = [
        f"{'family':{family}}  {'model':{name}}  {'parameters':>12}  {'GFLOPs':>8}  {'at':9}  {'licence':10}"
        f"  {'AP':4}  note"
    ]
    for row in rows:
        at = f"{row.size[0]}x{row.size[1]}"
        ap = "" if row.weights is None else row.weights.ap
        lines.append(
            f"{row.family:{family}}  {row.name:{name}}  {row.parameters:12,}  {row.gflops:8.2f}  {at:9}"
            f"  {row.licence:10}  {ap:4}  {row.note}".rstrip()
        )
    lines.append(
        "GFLOPs: 2 per multiply-add, for 80 classes. The licence is the design's; weights have their own. AP: on COCO,"
        " as published, of the weights that the name stands for: hsvdet predict rt-detr-r18 street.jpg --out found."
    )
    return Answer({"models": [row.to_json() for row in rows]}, "\n".join(lines))


def profile(
    model: Annotated[
        str, typer.Argument(metavar="MODEL|CKPT", help="A name of `hsvdet models`, or a checkpoint.")
    ],
    size: Size = None,
    classes: Annotated[int | None, typer.Option(min=1, help="Number of classes; 80 if not given.")] = None,
    json: Json = False,
) -> Answer:
    """Count parameters, GFLOPs by part, peak activation memory, and the share of attention."""
    from ..profiler import profile

    found = profile(model, size=size, classes=classes)
    return Answer(found.to_json(), found.table())
