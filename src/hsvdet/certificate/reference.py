"""What an artifact is measured by: the detector as it was trained, not deployed, in float32, image by image."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from .. import models
from ..detector import Detector
from ..errors import CheckpointError, HsvdetError, NonFiniteError
from ..structures import Prediction
from .matching import Found
from .ties import Candidates, Rules

# Detections an image to look at: the score is lowered until there are so many, if need be.
_WANTED = 20


class Answer(NamedTuple):
    """The network's answer to one image. size: (height, width) of the image. scale: see `Rules`."""

    prediction: Prediction
    size: tuple[int, int]
    scale: tuple[float, float]


class NetworkInput(NamedTuple):
    """images: [1, 3, H, W] float32. padding: [1, H, W] bool or None. scale: input pixels per pixel of the image
    (y, x)."""

    images: Tensor
    padding: Tensor | None
    scale: tuple[float, float]


class Reference:
    """minimal: whether the artifact leaves out padding as `Detector` does, or fills the whole canvas, as one of
    fixed size must."""

    def __init__(self, detector: Detector, *, iou: float, max_detections: int, minimal: bool):
        self.detector, self.iou, self.minimal = detector, iou, minimal
        self.max_detections = max_detections
        self.reading = models.find(detector.name).reading

    @torch.inference_mode()
    def answer(self, image: np.ndarray, *, noise: float = 0.0, seed: int = 0) -> Answer:
        """noise: the most by which values of the normalised image are off, at random."""
        given = network_input(self.detector, image, self.minimal)
        images = given.images
        if noise:
            chance = torch.Generator().manual_seed(seed)
            off = torch.rand(images.shape, generator=chance) * 2 - 1
            images = images + noise * off.to(images.device)
        answer = self.detector.net.eval()(images, given.padding).answer
        return Answer(answer, (image.shape[0], image.shape[1]), given.scale)

    def rules(self, answer: Answer, score: float) -> Rules:
        iou = self.iou if self.reading.suppresses else None
        return Rules(score, iou, self.max_detections, self.reading.one_class, answer.size, answer.scale)

    def detections(self, answer: Answer, score: float) -> Found:
        found = self.reading.detections(
            answer.prediction, [answer.size], score=score, iou=self.iou, max_detections=self.max_detections
        )
        return Found(*(part.cpu().numpy() for part in found[0]))

    def most(self, answer: Answer) -> int:
        """Detections there could be: a prediction each, or where it may have several classes, one for each."""
        _, predictions, classes = answer.prediction.logits.shape
        return predictions if self.reading.one_class else predictions * classes

    def candidates(self, answer: Answer, score: float) -> Candidates:
        alone = Prediction(*(part[0] for part in answer.prediction))
        found = self.reading.candidates(alone, answer.size, score=score)
        return Candidates(*(part.cpu().numpy() for part in found))


def network_input(detector: Detector, image: np.ndarray, minimal: bool) -> NetworkInput:
    """image: [H, W, 3] uint8. minimal: see `Preprocess.geometry`."""
    canvas, at = detector.preprocess.to_canvas(torch.from_numpy(image).permute(2, 0, 1), minimal=minimal)
    padding = torch.ones(1, *canvas.shape[-2:], dtype=torch.bool, device=detector.device)
    padding[:, at.top : at.top + at.height, at.left : at.left + at.width] = False
    images = detector.preprocess.normalise(canvas[None]).to(detector.device)
    scale = at.height / image.shape[0], at.width / image.shape[1]
    return NetworkInput(images, padding if padding.any() else None, scale)


def score_to_compare_at(reference: Reference, answers: Sequence[Answer], floor: float) -> float:
    """A threshold that leaves about _WANTED detections an image: 0.25, or lower; where scores lie far apart."""
    found = [reference.detections(answer, floor).scores for answer in answers]
    scores = np.sort(np.concatenate(found))[::-1].astype(np.float64)
    wanted = _WANTED * len(answers)
    if (scores > 0.25).sum() >= wanted or not len(scores):
        return max(0.25, floor)
    near = scores[int(wanted * 0.9) : int(wanted * 1.1) + 1]
    gaps = near[:-1] / np.maximum(near[1:], np.finfo(np.float32).tiny)
    if gaps.max(initial=1) < 1.0001:  # fewer detections than wanted, or scores that are all the same
        return floor
    return float(math.sqrt(near[gaps.argmax()] * near[gaps.argmax() + 1]))


# [H, W, 3] uint8 images and a score to Detections of each, of arrays or tensors.
Artifact = Callable[[Sequence[np.ndarray], float], Sequence[Any]]


def attempt(artifact: Artifact, images: Sequence[np.ndarray], score: float) -> Sequence[Any]:
    """Detections of each image, or the words in which the runtime refused them."""
    try:
        answers = artifact(images, score)
    except (CheckpointError, NonFiniteError) as error:
        return [str(error)] * len(images)
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
