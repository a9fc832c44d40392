"""The commands: each is a public function of hsvdet with the same parameters, and an example in its help.

PyTorch is imported inside them, so that `hsvdet --help` does not wait for it.
"""

from __future__ import annotations

import dataclasses
import logging
import os
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from . import Answer
from .values import parse_settings, parse_size

if TYPE_CHECKING:
    from ..data.dataset import DetectionData
    from ..detector import Detector


def _app(help_: str, **options: Any) -> typer.Typer:
    return typer.Typer(
        help=help_,
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
        **options,
    )


def _example(*lines: str) -> str:
    return "\b\nExample:\n" + "\n".join(f"  {line}" for line in lines)


app = _app(
    "Object detection whose results people can check: HSV-DET and YOLOv8 in PyTorch.",
    epilog=_example("hsvdet demo", "hsvdet train --help"),
    invoke_without_command=True,
)
data_app = _app("Look into data sets (COCO, YOLO, Pascal VOC, IDD), and convert them.")
app.add_typer(data_app, name="data")


class Precision(StrEnum):
    fp32 = "fp32"
    bf16 = "bf16"
    fp16 = "fp16"


class Format(StrEnum):
    coco = "coco"
    yolo = "yolo"
    voc = "voc"


Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout, nothing else.")]
DataPath = Annotated[
    str, typer.Option("--data", help="A data set: its folder, COCO .json or YOLO data.yaml.")
]
Size = Annotated[
    tuple | None,
    typer.Option(
        "--size", parser=parse_size, metavar="HxW", help="Input height x width; one number = square."
    ),
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")]
Workers = Annotated[int | None, typer.Option(min=0, help="Processes that load images; chosen if not given.")]
Iou = Annotated[float, typer.Option(min=0, max=1, help="Overlap above which the weaker box is suppressed.")]
Limit = Annotated[int, typer.Option(min=1, help="Most detections per image.")]
Checkpoint = Annotated[str, typer.Argument(metavar="CKPT", help="A checkpoint (.safetensors) of hsvdet.")]


def _print_version(wanted: bool) -> None:
    if wanted:
        from .. import __version__

        print(__version__)
        raise typer.Exit


@app.callback()
def _hsvdet(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    if context.invoked_subcommand is None:
        print(context.get_help())


@app.command(epilog=_example("hsvdet models"))
def models(json: Json = False) -> Answer:
    """List every model: family, parameters, GFLOPs, licence of its design, what it needs."""
    from ..profiler import model_table

    rows = model_table()
    family, name = (max(len(getattr(row, key)) for row in rows) for key in ("family", "name"))
    lines = [
        f"{'family':{family}}  {'model':{name}}  {'parameters':>12}  {'GFLOPs':>8}  {'at':9}  {'licence':10}  note"
    ]
    for row in rows:
        height, width = row.size
        lines.append(
            f"{row.family:{family}}  {row.name:{name}}  {row.parameters:12,}  {row.gflops:8.2f}"
            f"  {f'{height}x{width}':9}  {row.licence:10}  {row.note}".rstrip()
        )
    lines.append(
        "GFLOPs: 2 per multiply-add, for 80 classes. The licence is the design's; weights have their own."
    )
    return Answer({"models": [row.to_json() for row in rows]}, "\n".join(lines))


@app.command(epilog=_example("hsvdet profile hsv-det-m --size 1088x1920 --classes 12"))
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


@data_app.command(
    "check", epilog=_example("hsvdet data check street/", "hsvdet data check street/data.yaml --json")
)
def check_data(
    path: Annotated[str, typer.Argument(help="The data set's folder, COCO .json or YOLO data.yaml.")],
    split: Annotated[str | None, typer.Option(help="Only this split; all if not given.")] = None,
    decode: Annotated[bool, typer.Option(help="Open every image, the way to find broken ones.")] = True,
    json: Json = False,
) -> Answer:
    """Say what is in a data set and what is wrong with it, by file. Exit code 1: something must be repaired."""
    from ..data.check import check_data

    report = check_data(path, split, decode)
    return Answer(report.to_json(), report.summary(), 0 if report.ok else 1)


@data_app.command("convert", epilog=_example("hsvdet data convert street/ street-coco/ --to coco"))
def convert_data(
    src: Annotated[str, typer.Argument(help="A data set of any known format.")],
    dst: Annotated[str, typer.Argument(help="A new or empty folder.")],
    to: Annotated[Format, typer.Option(help="The format to write.")],
    split: Annotated[str | None, typer.Option(help="Only this split; all if not given.")] = None,
    link: Annotated[bool, typer.Option("--link", help="Link the images instead of copying them.")] = False,
    json: Json = False,
) -> Answer:
    """Write a data set anew in another format, images included."""
    from ..data.convert import convert_data

    report = convert_data(src, dst, to.value, split, "link" if link else "copy")
    lines = [f"{report['out']} ({report['format']}), {len(report['labels'])} classes"]
    for name, counts in report["splits"].items():
        lines.append(f"{name}: " + ", ".join(f"{what.replace('_', ' ')} {n}" for what, n in counts.items()))
    return Answer(report, "\n".join(lines))


@app.command(
    epilog=_example(
        "hsvdet train hsv-det-n --data street/ --out runs/street --size 640 --epochs 100",
        "hsvdet train hsv-det-n --data street/ --out runs/warm --weights yolov8n.pt --set mosaic=0.5",
        "hsvdet train hsv-det-n --data street/ --out runs/street --size 640 --epochs 100 --resume",
    )
)
def train(
    model: Annotated[
        str,
        typer.Argument(metavar="MODEL|CKPT", help="A name of `hsvdet models`, or a checkpoint to train on."),
    ],
    data: DataPath,
    out: Annotated[str, typer.Option(help="A new folder for the run; with --resume, the run's.")],
    weights: Annotated[
        str | None, typer.Option(help="Start from these: a checkpoint, or published weights (.pt).")
    ] = None,
    size: Size = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="The recipe's if not given.")] = None,
    batch: Annotated[int, typer.Option(min=1, help="Images per forward pass, over all devices.")] = 16,
    accumulate: Annotated[
        int | None,
        typer.Option(min=1, help="Batches per step; by the recipe's nominal batch if not given."),
    ] = None,
    precision: Annotated[Precision, typer.Option(help="fp16 needs a GPU.")] = Precision.fp32,
    device: Device = "auto",
    devices: Annotated[int, typer.Option(min=1, help="Devices on each node.")] = 1,
    nodes: Annotated[int, typer.Option(min=1, help="Machines; torchrun tells by itself.")] = 1,
    seed: Annotated[int, typer.Option(min=0, help="Of everything random.")] = 0,
    fraction: Annotated[float, typer.Option(help="Share of the training images to use.")] = 1.0,
    workers: Workers = None,
    split: Annotated[str, typer.Option(help="What to train on.")] = "train",
    val_split: Annotated[str, typer.Option(help="What to validate on; none for no validation.")] = "val",
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue the run in --out: same command, and this.")
    ] = False,
    recipe: Annotated[
        str | None, typer.Option(help="plain, three-stage or query; the model's own if not given.")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="NAME=VALUE", help="Change a number of the model (k=0.25) or recipe (mosaic=0)."
        ),
    ] = None,
    json: Json = False,
) -> Answer:
    """Train a detector on a data set, validating it after every epoch."""
    from ..data.read import read_data
    from ..training import train

    plan = _plan(model, weights, size, recipe, settings or [])
    training_data = read_data(data, split)
    validation_data = None if val_split == "none" else read_data(data, val_split, labels=training_data.labels)
    detector = plan.create(training_data, seed)
    result = train(
        detector,
        (training_data, validation_data),
        out,
        epochs=epochs,
        batch=batch,
        accumulate=accumulate,
        precision=precision.value,
        device=device,
        devices=devices,
        nodes=nodes,
        seed=seed,
        fraction=fraction,
        workers=workers,
        resume=resume,
        recipe=recipe,
        options=plan.recipe_options,
    )
    ap = (
        f"AP {result.metrics['ap']:.3f}, AP50 {result.metrics['ap50']:.3f}"
        if result.metrics
        else "not validated"
    )
    return Answer(
        result.to_json(), f"{result.epochs} epochs in {result.seconds:.0f} s: {ap}\nBest: {result.best}"
    )


class _Plan(NamedTuple):
    """A detector to be made when the classes are known, and the numbers of the recipe that differ."""

    model: str
    options: dict[str, Any]
    size: tuple[int, int] | None
    weights: str | None
    recipe_options: dict[str, Any]

    def create(self, data: DetectionData, seed: int) -> Detector:
        """With the data's classes; begun with the weights, if there are any."""
        import torch

        from ..conversion import warm_start
        from ..detector import create

        torch.manual_seed(seed)
        detector = create(
            self.model, data.labels, size=self.size, category_ids=data.category_ids, options=self.options
        )
        if self.weights is not None:
            logging.getLogger("hsvdet").info("%s", warm_start(detector, self.weights))
        return detector


def _plan(
    model: str,
    weights: str | None,
    size: tuple[int, int] | None,
    recipe: str | None,
    settings: list[str],
) -> _Plan:
    """Everything that can be refused before the data are read. A checkpoint given as the model says which
    model it is, with what configuration and size, and is the weights to start from."""
    from .. import models
    from ..checkpoint import read_header
    from ..detector import override
    from ..errors import CheckpointError, ConfigError
    from ..preprocess import Preprocess
    from ..training import find_recipe

    changes: dict[str, Any] = {}
    if model not in models.MODELS and (os.path.exists(model) or model.endswith((".safetensors", ".pt"))):
        if weights is not None:
            raise ConfigError(f"{model} is a checkpoint and brings its weights: leave --weights out.")
        header, weights = read_header(model), model
        try:
            model, changes = header["model"], header["config"]
            size = size or Preprocess(**header["preprocess"]).size
        except (LookupError, TypeError) as error:
            raise CheckpointError(f"{weights}: its header does not say what model it is ({error}).") from None
    entry = models.find(model)
    config = override(entry.config, changes)
    options, recipe_options = parse_settings(settings, config, find_recipe(recipe or entry.recipe))
    override(config, options)
    if size is not None:
        dataclasses.replace(entry.preprocess, size=size)
    return _Plan(model, {**changes, **options}, size, weights, recipe_options)


@app.command(epilog=_example("hsvdet val runs/street/best.safetensors --data street/ --out runs/street/val"))
def val(
    checkpoint: Checkpoint,
    data: DataPath,
    split: Annotated[str, typer.Option(help="Which part of the data set.")] = "val",
    batch: Annotated[int, typer.Option(min=1, help="Images at a time.")] = 16,
    device: Device = "auto",
    workers: Workers = None,
    score: Annotated[float, typer.Option(min=0, max=1, help="Weaker detections are left out.")] = 0.001,
    iou: Iou = 0.7,
    limit: Limit = 300,
    precision: Annotated[Precision, typer.Option(help="fp16 needs a GPU.")] = Precision.fp32,
    out: Annotated[str | None, typer.Option(help="A folder for the report: numbers and pictures.")] = None,
    json: Json = False,
) -> Answer:
    """Evaluate a checkpoint: COCO's AP, classes, occlusion, confusion, duplicates."""
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
        limit=limit,
        precision=precision.value,
        out=out,
    )
    report = f"\n\nReport: {out}" if out else ""
    return Answer(evaluation.to_json(), evaluation.table() + report)


@app.command(
    epilog=_example(
        "hsvdet predict best.safetensors street.jpg films/ --out runs/street-seen",
        "hsvdet predict best.safetensors 'night/**/*.png' https://example.org/a.jpg --out runs/night",
        "hsvdet predict best.safetensors 0 --out runs/camera      (Ctrl-C ends a camera)",
    )
)
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
    limit: Limit = 300,
    batch: Annotated[int, typer.Option(min=1, help="Images at a time.")] = 16,
    size: Size = None,
    device: Device = "auto",
    pictures: Annotated[bool, typer.Option(help="Draw, or write JSON only.")] = True,
    json: Json = False,
) -> Answer:
    """Detect objects in images, videos, cameras and URLs: pictures, and COCO-style JSON."""
    from ..predictor import predict

    report = predict(
        checkpoint,
        sources,
        out,
        score=score,
        iou=iou,
        limit=limit,
        batch=batch,
        size=size,
        device=device,
        pictures=pictures,
        progress=True,
    )
    return Answer(report.to_json(), str(report))


@app.command(
    epilog=_example(
        "hsvdet convert yolov8n.pt yolov8n.safetensors",
        "hsvdet convert tensors.safetensors yolov8n.safetensors --model yolov8-n --labels car,person",
    )
)
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
    from ..conversion import convert

    names = [name.strip() for name in labels.split(",")] if labels else None
    report = convert(foreign, out, model=model, labels=names, size=size)
    return Answer(report.to_json(), str(report))


@app.command(epilog=_example("hsvdet demo"))
def demo(
    out: Annotated[
        str, typer.Option(help="A folder; what an earlier demo left there is replaced.")
    ] = "runs/demo",
    device: Device = "auto",
    json: Json = False,
) -> Answer:
    """Draw a data set of crowded scenes, train hsv-det-n on it, evaluate it, and detect in unseen scenes."""
    from ..demonstration import demo

    report = demo(out, device=device)
    return Answer(report.to_json(), str(report))
