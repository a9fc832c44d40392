"""`hsvdet export`: a checkpoint as a file for runtimes without PyTorch."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from ..targets import TARGETS, Precision
from .answer import Answer
from .options import Checkpoint, Iou, Json, MaxDetections, Options, Size

# Choices for typer, out of the table; type checkers want them spelled out.
Target = StrEnum("Target", {name: name for name in TARGETS})


def export(
    checkpoint: Checkpoint,
    to: Annotated[Target, typer.Option(help="The runtime it is for.")],  # pyright: ignore[reportInvalidTypeForm]
    out: Annotated[
        str | None, typer.Option(help="The file to write; beside the checkpoint if not given.")
    ] = None,
    size: Size = None,
    options: Options = None,
    dynamic: Annotated[
        bool, typer.Option("--dynamic", help="The smallest canvas for each image, not one of --size.")
    ] = False,
    precision: Annotated[Precision, typer.Option(help="Of the trunk.")] = "fp32",
    calibrate: Annotated[
        str | None, typer.Option(metavar="DATA", help="Your images, for int8: a data set.")
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(help="Your validation data for the certificate; drawn scenes if not given."),
    ] = None,
    score: Annotated[float, typer.Option(min=0, max=1, help="Weaker detections are not counted.")] = 0.25,
    iou: Iou = 0.7,
    max_detections: MaxDetections = None,
    json: Json = False,
) -> Answer:
    """A checkpoint as an artifact with everything inside, certified. Exit code 1: it detects otherwise."""
    from ..deploy.export import export

    report = export(
        checkpoint,
        to.value,
        out,
        size=size,
        options=dict(options or ()),
        dynamic=dynamic,
        precision=precision,
        calibrate=calibrate,
        data=data,
        score=score,
        iou=iou,
        max_detections=max_detections,
    )
    return Answer(report.to_json(), str(report), 0 if report.passed else 1)
