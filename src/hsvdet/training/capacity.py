"""Whether a model has enough queries for the images it is to learn: an object beyond them is never learned."""

# pyright: strict

from __future__ import annotations

import logging
from typing import Any

import numpy as np

from ..data.dataset import DetectionData
from ..errors import ConfigError, counted

log = logging.getLogger("hsvdet")

MOST_LOST = 0.1  # of all objects


def queries_of(config: Any) -> int | None:
    """How many objects a model of this configuration can find in an image; None where a dense head answers."""
    if hasattr(config, "queries_beside_dense"):
        return None
    queries = getattr(config, "queries", None)
    return queries and queries * max(1, getattr(config, "patterns", 0))


def check_capacity(name: str, config: Any, data: DetectionData) -> None:
    """Warns when some images have more objects than the model has queries; raises ConfigError when so many
    have that over a tenth of all objects could not be found. Crowd regions do not count."""
    queries = queries_of(config)
    if queries is None:
        return
    counts = np.array([int((~record.crowd).sum()) for record in data.records])
    crowded = counts > queries
    if not crowded.any():
        return
    lost = (counts[crowded] - queries).sum() / counts.sum()
    text = (
        f"{name} finds at most {counted(queries, 'object')} in an image; {crowded.sum():,} of {len(counts):,} training"
        f" images have more, up to {counts.max()} in {data.records[counts.argmax()].path}: {lost:.1%} of all objects"
        f" cannot be learned. Train with more queries (queries={_enough(config, counts)}), or cut such images up."
    )
    if lost > MOST_LOST:
        raise ConfigError(text)
    log.warning("%s", text)


def _enough(config: Any, counts: np.ndarray) -> int:
    """For every image, in hundreds."""
    patterns = max(1, getattr(config, "patterns", 0))
    return int(-(-counts.max() // (100 * patterns)) * 100)
