"""From the export to the user: an artifact has its name only once it is certified."""

from __future__ import annotations

import os
from pathlib import Path

from .artifact import sidecar


def rejected_path(path: Path) -> Path:
    """NAME.rejected.SUFFIX: what an artifact is called until it is certified, and stays called where it is not."""
    return path.with_name(f"{path.stem}.rejected{path.suffix}")


def hand_over(path: Path) -> None:
    """Give the artifact at `rejected_path(path)`, with its certificate, the name it was asked for, instead of one
    that may be there; what an earlier rejection left is gone with it. Raises OSError."""
    rejected = rejected_path(path)
    # The artifact itself comes last: once it has its name, all that belongs to it has too.
    for of in (_certificate_json, _certificate_picture, _weights, sidecar, Path):
        if of(rejected).exists():
            os.replace(of(rejected), of(path))


def certificate_files(path: Path) -> tuple[Path, Path]:
    """Where the certificate of an artifact is: JSON and picture."""
    return _certificate_json(path), _certificate_picture(path)


def _certificate_json(path: Path) -> Path:
    return path.with_name(f"{path.name}.certificate.json")


def _certificate_picture(path: Path) -> Path:
    return path.with_name(f"{path.name}.certificate.png")


def _weights(path: Path) -> Path:
    """OpenVINO's second file."""
    return path.with_suffix(".bin")
