"""A detector as a program for phones and boards: ExecuTorch with XNNPACK, or Core ML.

Their programs have fixed shapes, so what comes in is an image that is on its canvas already: the placing, which
depends on its size, is the app's (`Preprocess.geometry`). The rest is inside.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
from torch import Tensor

from ..errors import ConfigError
from ..preprocess import Preprocess
from ..runtime.artifact import KEY, ArtifactHeader
from .graph import ExportGraph, Rows


class OnCanvas(torch.nn.Module):
    """`ExportGraph` from whole grey levels 0..255, float32 [1, 3, h, w], instead of normalised values."""

    def __init__(self, graph: ExportGraph, preprocess: Preprocess):
        super().__init__()
        self.detect = graph  # not "graph": the module of an exported program has that name for itself
        self.register_buffer("mean", torch.tensor(preprocess.mean).view(3, 1, 1))
        self.register_buffer("std", torch.tensor(preprocess.std).view(3, 1, 1))

    def forward(self, canvas: Tensor, content: Tensor, size: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.detect((canvas / 255 - self.mean) / self.std, content, size))


def to_executorch(graph: ExportGraph, preprocess: Preprocess) -> bytes:
    """canvas [1, 3, h, w] float32, content [4] int64 and size [2] int64 to `Rows`."""
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    lowered = to_edge_transform_and_lower(_program(graph, preprocess), partitioner=[XnnpackPartitioner()])
    return lowered.to_executorch().buffer


def write_coreml(path: Path, graph: ExportGraph, preprocess: Preprocess, header: ArtifactHeader) -> None:
    """As `to_executorch`, as a package; content and size int32. Raises ConfigError with coremltools' words where it
    cannot convert."""
    import json

    import coremltools

    names = ("canvas", "content", "size")
    example = _example(preprocess, torch.int32)
    try:
        # Traced: coremltools knows more operators this way than of exported programs.
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            traced = torch.jit.trace(OnCanvas(graph, preprocess).eval(), example, check_trace=False)
        model = coremltools.convert(
            traced,
            inputs=[
                coremltools.TensorType(name=name, shape=value.shape, dtype=value.numpy().dtype.type)
                for name, value in zip(names, example, strict=True)
            ],
            outputs=[coremltools.TensorType(name=name) for name in Rows._fields],
            minimum_deployment_target=coremltools.target.iOS17,
            compute_precision=coremltools.precision.FLOAT32,
        )
    except (NotImplementedError, RuntimeError, TypeError, ValueError) as error:
        reason = str(error).strip().split("\n")[0]
        raise ConfigError(
            f"coremltools {coremltools.__version__} does not convert {header.model}: {reason}"
        ) from None
    model.user_defined_metadata[KEY] = json.dumps(header.to_json(), ensure_ascii=False)
    model.save(str(path))


def _program(graph: ExportGraph, preprocess: Preprocess) -> torch.export.ExportedProgram:
    with torch.no_grad():
        return torch.export.export(OnCanvas(graph, preprocess).eval(), _example(preprocess, torch.int64))


def _example(preprocess: Preprocess, whole: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """canvas, content and size of an image that fills its canvas."""
    height, width = preprocess.size
    content, size = [0, 0, width, height], [height, width]
    return (
        torch.zeros(1, 3, height, width),
        torch.tensor(content, dtype=whole),
        torch.tensor(size, dtype=whole),
    )
