"""A learned suppressor for a dense detector that is there already."""

# pyright: strict

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from os import PathLike
from typing import Any

from .. import models
from ..detector import Detector, create
from ..errors import ConfigError
from .warm_start import trained


def with_suppressor(
    detector: Detector | str | PathLike[str], options: Mapping[str, Any] | None = None
) -> Detector:
    """A new detector: `detector`, a YOLOv8 or HSV-DET, a checkpoint or published weights of one, with a suppressor
    behind its head that has not learned yet. `train` teaches it; the detector itself stays as it is, and is shared
    with the one given.

    options: numbers of the suppressor that differ, e.g. {"queries": 500} for crowds, or {"frozen_detector": False} to
    train both. Raises ConfigError for other detectors.
    """
    base = detector if isinstance(detector, Detector) else trained(detector)
    name = f"{base.name}-dedup"
    if name not in models.MODELS or base.folded is not None:
        raise ConfigError(
            f"A suppressor stands behind a dense head with suppression, as of yolov8-n or hsv-det-n, not deployed; got"
            f" {base.name}{' (deployed)' if base.folded is not None else ''}."
        )
    made = create(
        name,
        base.labels,
        size=base.preprocess.size,
        category_ids=base.category_ids,
        options={**dataclasses.asdict(base.config), **(options or {})},
    )
    made.net.load_state_dict({**made.net.state_dict(), **base.net.state_dict()})
    return dataclasses.replace(
        made,
        preprocess=base.preprocess,
        licence=base.licence,
        source=f"a suppressor behind: {base.source}",
        start=base.start,
    )
