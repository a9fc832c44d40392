"""A detector as an ExecuTorch program, with XNNPACK."""

# pyright: reportMissingImports=false
# executorch is of an extra, and need not be here.

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..files import write_atomically
from ..preprocess import Preprocess
from ..runtime.artifact import ArtifactHeader
from .graph import ExportGraph
from .on_canvas import program


def build(
    path: Path,
    graph: ExportGraph,
    preprocess: Preprocess,
    header: ArtifactHeader,
    images: Sequence[np.ndarray],
) -> None:
    """The artifact; images have no use here. Raises OSError."""
    write_atomically(path, to_executorch(graph, preprocess))


def to_executorch(graph: ExportGraph, preprocess: Preprocess) -> bytes:
    """canvas [1, 3, h, w] float32, content [4] int64 and size [2] int64 to `Rows`."""
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    lowered = to_edge_transform_and_lower(program(graph, preprocess), partitioner=[XnnpackPartitioner()])
    return lowered.to_executorch().buffer
