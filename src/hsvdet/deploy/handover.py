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
    belonging = zip(certificate_files(rejected), certificate_files(path), strict=True)
    for old, new in (*belonging, *zip(parts(rejected)[::-1], parts(path)[::-1], strict=True)):
        if old.exists():
            os.replace(old, new)


def parts(path: Path) -> list[Path]:
    """The files an artifact consists of: its own, and what it cannot be used without. Not all need be there."""
    return [path, path.with_suffix(".bin") if path.suffix == ".xml" else sidecar(path)]


def certificate_files(path: Path) -> tuple[Path, Path]:
    """Where the certificate of an artifact is: JSON and picture."""
    return tuple(path.with_name(f"{path.name}.certificate.{kind}") for kind in ("json", "png"))
