"""`hsvdet certify`: does an artifact detect what its checkpoint does?"""

from __future__ import annotations

from typing import Annotated

import typer

from ..targets import RUNNABLE, listed
from .answer import Answer
from .options import Checkpoint, Json


def certify(
    artifact: Annotated[
        str, typer.Argument(metavar="ARTIFACT", help=f"What `hsvdet export` wrote: {listed(RUNNABLE)}.")
    ],
    checkpoint: Checkpoint,
    data: Annotated[
        str | None,
        typer.Option(
            help="Your validation data: folder, COCO .json or data.yaml. Drawn scenes if not given."
        ),
    ] = None,
    split: Annotated[str, typer.Option(help="Which part of the data set.")] = "val",
    images: Annotated[int, typer.Option(min=1, help="Images compared detection by detection.")] = 12,
    evaluated: Annotated[int, typer.Option(min=1, help="Images AP is measured on.")] = 200,
    key: Annotated[
        str | None, typer.Option(metavar="PEM", help="An Ed25519 private key to sign the certificate with.")
    ] = None,
    json: Json = False,
) -> Answer:
    """Compare an artifact with its checkpoint, and write its certificate. Exit code 1: they differ."""
    from ..certificate import certify

    certificate = certify(
        checkpoint, artifact, data, split=split, images=images, evaluated=evaluated, key=key
    )
    return Answer(certificate.to_json(), str(certificate), 0 if certificate.passed else 1)
