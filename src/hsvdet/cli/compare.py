"""`hsvdet compare`: what one detector does otherwise than another, and how sure that is."""

from __future__ import annotations

from typing import Annotated

import typer

from .answer import Answer
from .options import DataPath, Device, Iou, Json, MaxDetections, Workers, agreed


def compare(
    detectors: Annotated[
        list[str],
        typer.Argument(
            metavar="A B...",
            parser=agreed,
            help="Checkpoints, artifacts, folders of runs, folders of seeds (runs in them). A is the reference.",
        ),
    ],
    data: DataPath,
    split: Annotated[str, typer.Option(help="Which part of the data set.")] = "val",
    batch: Annotated[int, typer.Option(min=1, help="Images at a time.")] = 16,
    device: Device = "auto",
    workers: Workers = None,
    score: Annotated[float, typer.Option(min=0, max=1, help="Weaker detections are left out.")] = 0.001,
    iou: Iou = 0.7,
    max_detections: MaxDetections = None,
    resampled: Annotated[int, typer.Option(min=100, help="How often the images are drawn again.")] = 1000,
    seed: Annotated[int, typer.Option(min=0, help="Of these draws: the same gives the same numbers.")] = 0,
    latency: Annotated[
        bool, typer.Option("--latency", help="Also time each, image by image in turn, with suppression.")
    ] = False,
    out: Annotated[
        str | None, typer.Option(help="A folder for comparison.json, comparison.txt and comparison.png.")
    ] = None,
    json: Json = False,
) -> Answer:
    """Compare detectors on the same images, paired over images and seeds: 95 % intervals, and what may be concluded."""
    from ..comparison import compare

    found = compare(
        *detectors,
        data=data,
        split=split,
        batch=batch,
        device=device,
        workers=workers,
        score=score,
        iou=iou,
        max_detections=max_detections,
        resampled=resampled,
        seed=seed,
        latency=latency,
        out=out,
    )
    report = f"\n\nReport: {out}" if out else ""
    return Answer(found.to_json(), found.table() + report)
