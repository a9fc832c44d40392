"""A detector as phones and boards run it. Their programs have fixed shapes, so what comes in is an image that is on its
canvas already: the placing, which depends on its size, is the app's (`Preprocess.geometry`). The rest is inside.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..preprocess import Preprocess
from .graph import ExportGraph


class OnCanvas(torch.nn.Module):
    """`ExportGraph` from whole grey levels 0..255, float32 [1, 3, h, w], instead of normalised values."""

    mean: Tensor
    std: Tensor

    def __init__(self, graph: ExportGraph, preprocess: Preprocess):
        super().__init__()
        self.detect = graph  # not "graph": the module of an exported program has that name for itself
        self.register_buffer("mean", torch.tensor(preprocess.mean).view(3, 1, 1))
        self.register_buffer("std", torch.tensor(preprocess.std).view(3, 1, 1))

    def forward(self, canvas: Tensor, content: Tensor, size: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.detect((canvas / 255 - self.mean) / self.std, content, size))


def program(graph: ExportGraph, preprocess: Preprocess) -> torch.export.ExportedProgram:
    with torch.no_grad():
        return torch.export.export(OnCanvas(graph, preprocess).eval(), example(preprocess, torch.int64))


def example(preprocess: Preprocess, whole: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """canvas, content and size of an image that fills its canvas."""
    height, width = preprocess.size
    content, size = [0, 0, width, height], [height, width]
    return (
        torch.zeros(1, 3, height, width),
        torch.tensor(content, dtype=whole),
        torch.tensor(size, dtype=whole),
    )
