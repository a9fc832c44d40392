"""Numbers of a reference: answers of some queries to a batch of pictures, with how the weights are drawn."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

FOLDER = Path(__file__).parents[1] / "golden"


class Golden(NamedTuple):
    spec: dict
    queries: np.ndarray
    logits: np.ndarray
    boxes: np.ndarray

    def compare(self, net, images: list[torch.Tensor]) -> None:
        """Run a batch of images of several sizes and compare the queries that were kept."""
        size = [max(image.shape[axis] for image in images) for axis in (1, 2)]
        batch, padding = torch.zeros(len(images), 3, *size), torch.ones(len(images), *size, dtype=torch.bool)
        for i, image in enumerate(images):
            batch[i, :, : image.shape[1], : image.shape[2]] = image
            padding[i, : image.shape[1], : image.shape[2]] = False
        with torch.inference_mode():
            answer = net.eval()(batch, padding).answer
        assert sum(p.numel() for p in net.parameters()) == self.spec["parameters"]
        for got, expected, name in (
            (answer.logits, self.logits, "logits"),
            (answer.boxes, self.boxes, "pred_boxes"),
        ):
            kept = np.stack([got[i].numpy()[queries] for i, queries in enumerate(self.queries)])
            np.testing.assert_allclose(
                kept, expected, rtol=0, atol=self.spec["tolerance"][name], err_msg=name
            )


def golden(name: str) -> Golden:
    file = np.load(FOLDER / f"{name}.npz")
    return Golden(json.loads(str(file["spec"])), file["queries"], file["logits"], file["boxes"])
