"""What the options of several commands share."""

from __future__ import annotations

import os
import sys
from enum import StrEnum
from typing import Annotated, Any

import typer

from .values import parse_option, parse_size


class Precision(StrEnum):
    fp32 = "fp32"
    bf16 = "bf16"
    fp16 = "fp16"


class InferencePrecision(StrEnum):
    auto = "auto"
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
Options = Annotated[
    list[tuple] | None,
    typer.Option(
        "--set",
        parser=parse_option,
        metavar="NAME=VALUE",
        help="What may change after training: rho of Sparse DETR, answer_layer of RT-DETR, mode of HSG-Det.",
    ),
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")]
Workers = Annotated[int | None, typer.Option(min=0, help="Processes that load images; chosen if not given.")]
Iou = Annotated[float, typer.Option(min=0, max=1, help="Overlap above which the weaker box is suppressed.")]
MaxDetections = Annotated[
    int | None, typer.Option(min=1, help="Of an image; the model's own number if not given.")
]
MultiLabel = Annotated[
    bool,
    typer.Option("--multi-label", help="A box counts with all its classes, as in most published tables."),
]
RequireCertificate = Annotated[
    bool,
    typer.Option(
        "--require-certificate", help="Run an artifact only if its certificate is sound and its own."
    ),
]
TrustedKey = Annotated[
    str | None,
    typer.Option(metavar="PEM", help="The public key that must have signed the artifact's certificate."),
]


def agreed(checkpoint: str) -> str:
    """The checkpoint. Of a name that stands for published weights which are not here yet, somebody at a terminal is
    asked first whether to fetch them."""
    from ..errors import ConfigError
    from ..hub import is_here
    from ..weights import PUBLISHED

    published = PUBLISHED.get(checkpoint)
    if published is None or os.path.exists(checkpoint) or not (sys.stdin.isatty() and sys.stderr.isatty()):
        return checkpoint
    if not is_here(published.address):
        if not typer.confirm(f"Fetch {published}?", err=True):
            raise ConfigError(f"{checkpoint}: nothing was fetched. Give a checkpoint of your own instead.")
    return checkpoint


Checkpoint = Annotated[
    str,
    typer.Argument(
        metavar="CKPT",
        parser=agreed,
        help="A checkpoint (.safetensors) of hsvdet, hf://owner/name, or a model with an AP in `hsvdet models`.",
    ),
]


def new_app(help_: str, *, completion: bool = False, **options: Any) -> typer.Typer:
    """completion: with --install-completion and --show-completion, for the shell."""
    return typer.Typer(
        help=help_,
        add_completion=completion,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
        **options,
    )


def example(*lines: str) -> str:
    return "\b\nExample:\n" + "\n".join(f"  {line}" for line in lines)
