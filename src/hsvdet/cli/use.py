"""Weights in use: `hsvdet val`, `predict`, `convert`, and the demo of it all."""

from __future__ import annotations

from typing import Annotated

import typer

from .answer import Answer
from .options import (
    Checkpoint,
    DataPath,
    Device,
    InferencePrecision,
    Iou,
    Json,
    MaxDetections,
    MultiLabel,
    Options,
    Precision,
    RequireCertificate,
    Size,
    TrustedKey,
    Workers,
)


def val(
    checkpoint: Checkpoint,
    data: DataPath,
    split: Annotated[str, typer.Option(help="Which part of the data set.")] = "val",
    batch: Annotated[int, typer.Option(min=1, help="Images at a time.")] = 16,
    device: Device = "auto",
    workers: Workers = None,
    score: Annotated[float, typer.Option(min=0, max=1, help="Weaker detections are left out.")] = 0.001,
    iou: Iou = 0.7,
    max_detections: MaxDetections = None,
    multi_label: MultiLabel = False,
    precision: Annotated[Precision, typer.Option(help="fp16 needs a GPU.")] = Precision.fp32,
    options: Options = None,
    diagnose: Annotated[
        bool,
        typer.Option(
            "--diagnose", help="Also: what perfect deduplication of the same predictions would give."
        ),
    ] = False,
    require_certificate: RequireCertificate = False,
    trusted_key: TrustedKey = None,
    out: Annotated[str | None, typer.Option(help="A folder for the report: numbers and pictures.")] = None,
    json: Json = False,
) -> Answer:
    """Evaluate a checkpoint or an artifact: COCO's AP, recall at one false positive an image, crowding, confusion."""
    from ..validation import val

    evaluation = val(
        checkpoint,
        data,
        split=split,
        batch=batch,
        device=device,
        workers=workers,
        score=score,
        iou=iou,
        max_detections=max_detections,
        multi_label=multi_label,
        precision=precision.value,
        options=dict(options or ()),
        diagnose=diagnose,
        require_certificate=require_certificate,
        trusted_key=trusted_key,
        out=out,
    )
    report = f"\n\nReport: {out}" if out else ""
    return Answer(evaluation.to_json(), evaluation.table() + report)


def predict(
    checkpoint: Checkpoint,
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="SOURCE...",
            help="Images, videos, folders (with all below), 'patterns*', camera numbers, URLs (http, rtsp, ...).",
        ),
    ],
    out: Annotated[str, typer.Option(help="A new folder for pictures, detections.json and images.json.")],
    score: Annotated[float, typer.Option(min=0, max=1, help="Weaker detections are left out.")] = 0.25,
    iou: Iou = 0.7,
    max_detections: MaxDetections = None,
    batch: Annotated[int, typer.Option(min=1, help="Images at a time.")] = 16,
    size: Size = None,
    options: Options = None,
    device: Device = "auto",
    precision: Annotated[
        InferencePrecision, typer.Option(help="auto: bf16 where the device is fast at it, else fp32.")
    ] = InferencePrecision.auto,
    compile: Annotated[
        bool, typer.Option("--compile", help="With torch.compile: slow at the first image of each size.")
    ] = False,
    require_certificate: RequireCertificate = False,
    trusted_key: TrustedKey = None,
    pictures: Annotated[bool, typer.Option(help="Draw, or write JSON only.")] = True,
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Continue a run in --out that was cut off: same command, and this."),
    ] = False,
    json: Json = False,
) -> Answer:
    """Detect objects in images, videos, cameras and URLs: pictures, and COCO-style JSON."""
    from ..prediction.predictor import predict

    report = predict(
        checkpoint,
        sources,
        out,
        score=score,
        iou=iou,
        max_detections=max_detections,
        batch=batch,
        size=size,
        options=dict(options or ()),
        device=device,
        precision=precision.value,
        compile=compile,
        require_certificate=require_certificate,
        trusted_key=trusted_key,
        pictures=pictures,
        resume=resume,
        progress=True,
    )
    return Answer(report.to_json(), str(report))


def convert(
    foreign: Annotated[
        str, typer.Argument(metavar="FOREIGN", help="Published weights; nothing in them is run.")
    ],
    out: Annotated[str, typer.Argument(metavar="OUT", help="The checkpoint to write (.safetensors).")],
    model: Annotated[str | None, typer.Option(help="Which model it must be; found out if not given.")] = None,
    labels: Annotated[str | None, typer.Option(help="Class names, a,b,c; the file's if not given.")] = None,
    size: Size = None,
    json: Json = False,
) -> Answer:
    """Published weights into a checkpoint."""
    from ..conversion.foreign import convert

    names = [name.strip() for name in labels.split(",")] if labels else None
    report = convert(foreign, out, model=model, labels=names, size=size)
    return Answer(report.to_json(), str(report))


def demo(
    out: Annotated[
        str, typer.Option(help="A folder; each demo has its own run-1, run-2, ... in it.")
    ] = "runs/demo",
    minutes: Annotated[
        float | None,
        typer.Option(
            min=1,
            help="That it may take; if not given, 8 epochs, or as many as this machine does in 6 minutes.",
        ),
    ] = None,
    device: Device = "auto",
    json: Json = False,
) -> Answer:
    """Draw a data set of crowded scenes, train hsv-det-n on it, evaluate it, and detect in unseen scenes."""
    from ..demonstration import demo

    report = demo(out, minutes=minutes, device=device)
    return Answer(report.to_json(), str(report))
