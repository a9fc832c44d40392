"""`hsvdet explain`: pictures of what a detector looked at."""

from __future__ import annotations

from typing import Annotated

import typer

from .answer import Answer
from .options import Checkpoint, Device, Iou, Json, Options


def parse_points(text: str) -> list[tuple[float, float]]:
    """ "120,80" or "120,80 300,200.5" to (x, y) each."""
    points = []
    try:
        for point in text.split():
            x, y = point.split(",")
            points.append((float(x), float(y)))
    except ValueError:
        points = []
    if not points:
        raise typer.BadParameter(
            f"points x,y in pixels such as 120,80, apart by blanks, were expected; got {text!r}."
        )
    return points


def explain(
    checkpoint: Checkpoint,
    out: Annotated[str, typer.Option(help="A new folder for the pictures and explanation.json.")],
    images: Annotated[
        list[str] | None,
        typer.Argument(metavar="IMAGE", help="Images, folders, 'patterns*', URLs; none with --data."),
    ] = None,
    points: Annotated[
        list[list] | None,
        typer.Option(
            parser=parse_points,
            metavar="x,y",
            help="Whose attention to show, in pixels; the best detections if not given.",
        ),
    ] = None,
    top: Annotated[int, typer.Option(min=1, max=50, help="How many detections to explain.")] = 5,
    layer: Annotated[
        int | None, typer.Option(min=1, help="Of encoder and decoder; the last if not given.")
    ] = None,
    heads: Annotated[bool, typer.Option("--heads", help="Also draw every head for itself.")] = False,
    score: Annotated[float, typer.Option(min=0, max=1, help="Weaker detections are left out.")] = 0.25,
    iou: Iou = 0.7,
    options: Options = None,
    data: Annotated[
        str | None, typer.Option(help="A data set, over which the boxes of query slots are mapped.")
    ] = None,
    split: Annotated[str, typer.Option(help="Which part of the data set.")] = "val",
    slots: Annotated[int, typer.Option(min=1, help="How many query slots to draw.")] = 20,
    device: Device = "auto",
    json: Json = False,
) -> Answer:
    """Draw what a detector looked at: attention, sampling points, selected tokens, answering cells, query slots."""
    from ..explainer import explain

    explanation = explain(
        checkpoint,
        images or [],
        out,
        points=[point for group in points or () for point in group],
        top=top,
        layer=layer,
        heads=heads,
        score=score,
        iou=iou,
        options=dict(options or ()),
        data=data,
        split=split,
        slots=slots,
        device=device,
    )
    return Answer(explanation.to_json(), str(explanation))
