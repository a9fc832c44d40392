"""An artifact asked for detections: what it answers, or the words in which its runtime stops."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ...errors import HsvdetError
from .agreement import Found

# [H, W, 3] uint8 images and a score to Detections of each, of arrays or tensors.
Artifact = Callable[[Sequence[np.ndarray], float], Sequence[Any]]


def attempt(artifact: Artifact, images: Sequence[np.ndarray], score: float) -> Sequence[Any]:
    """Detections of each image, or the words in which the runtime refused them."""
    try:
        answers = artifact(images, score)
    except HsvdetError:
        raise
    except Exception as error:  # every runtime has its own
        reason = " ".join(str(error).split())
        return [f"the runtime stops: {reason[-200:] or type(error).__name__}"] * len(images)
    if len(answers) != len(images):
        return [f"{len(answers)} answers to {len(images)} images"] * len(images)
    return answers


def as_found(detections: Any) -> Found:
    return Found(*(np.asarray(part) for part in detections[:3]))
