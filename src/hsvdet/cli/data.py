"""`hsvdet data`: look into data sets, convert, merge and split them."""

from __future__ import annotations

from typing import Annotated

import typer

from ..errors import counted
from .answer import Answer
from .options import Format, Json


def check_data(
    path: Annotated[str, typer.Argument(help="The data set's folder, COCO .json or YOLO data.yaml.")],
    split: Annotated[str | None, typer.Option(help="Only this split; all if not given.")] = None,
    decode: Annotated[bool, typer.Option(help="Open every image, the way to find broken ones.")] = True,
    json: Json = False,
) -> Answer:
    """Say what is in a data set and what is wrong with it, by file. Exit code 1: something must be repaired."""
    from ..data.check import check_data

    report = check_data(path, split, decode, progress=True)
    return Answer(report.to_json(), report.summary(), 0 if report.ok else 1)


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
    lines = [f"{report['out']} ({report['format']}), {counted(len(report['labels']), 'class')}"]
    for name, counts in report["splits"].items():
        lines.append(f"{name}: " + ", ".join(f"{what.replace('_', ' ')} {n}" for what, n in counts.items()))
    return Answer(report, "\n".join(lines))


def merge_data(
    sources: Annotated[list[str], typer.Argument(help="Two data sets or more, of any known format.")],
    out: Annotated[str, typer.Option(help="A new or empty folder.")],
    link: Annotated[bool, typer.Option("--link", help="Link the images instead of copying them.")] = False,
    json: Json = False,
) -> Answer:
    """Write one data set from several, in COCO form. Each image says which classes are labelled in it."""
    from ..data.merge import merge_data

    report = merge_data(sources, out, "link" if link else "copy")
    classes = counted(len(report["labels"]), "class")
    lines = [f"{report['out']} (coco), {classes}: {', '.join(report['labels'])}"]
    for source in report["sources"]:
        images = counted(source["images"], "image")
        lines.append(f"from {source['path']}: {images}, labelled {', '.join(source['labels'])}")
    for name, counts in report["splits"].items():
        shared = f", {counts['joined']} that were in several" if counts["joined"] else ""
        images, boxes = counted(counts["images"], "image"), counted(counts["boxes"], "box")
        lines.append(f"{name}: {images}{shared}, {boxes}")
    return Answer(report, "\n".join([*lines, *report["remarks"]]))


def split_data(
    path: Annotated[str, typer.Argument(help="A data set without validation split, of any known format.")],
    out: Annotated[
        str,
        typer.Option(help="A new .json file, a data set with the splits train and val; no image is moved."),
    ],
    val_fraction: Annotated[float, typer.Option(help="Share of the images to set aside.")] = 0.2,
    seed: Annotated[int, typer.Option(min=0, help="Another seed sets other images aside.")] = 0,
    json: Json = False,
) -> Answer:
    """Set images aside for validation, those of one sequence together, as `train --val-fraction` does."""
    from ..data.split import split_data

    division = split_data(path, out, val_fraction, seed)
    images = {"train": len(division.training), "val": len(division.validation)}
    answer = {"out": out, "by": division.by, "fraction": val_fraction, "seed": seed, "images": images}
    return Answer(answer, f"{division}\nUse it as a data set: --data {out}")
