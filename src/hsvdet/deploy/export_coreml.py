"""A detector as a Core ML package."""

# pyright: reportMissingImports=false
# coremltools is of an extra, and need not be here.

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from ..errors import ConfigError
from ..preprocess import Preprocess
from ..runtime.artifact import ArtifactHeader
from ..runtime.containers import KEY
from .graph import ExportGraph, Rows
from .on_canvas import OnCanvas, example


def build(
    path: Path,
    graph: ExportGraph,
    preprocess: Preprocess,
    header: ArtifactHeader,
    images: Sequence[np.ndarray],
) -> None:
    """The artifact: canvas [1, 3, h, w] float32, content [4] and size [2] int32 to `Rows`; images have no use here.
    Raises ConfigError with coremltools' words where it cannot convert."""
    import coremltools

    names = ("canvas", "content", "size")
    inputs = example(preprocess, torch.int32)
    try:
        # Traced: coremltools knows more operators this way than of exported programs.
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            traced = torch.jit.trace(OnCanvas(graph, preprocess).eval(), inputs, check_trace=False)
        model = coremltools.convert(
            traced,
            inputs=[
                coremltools.TensorType(name=name, shape=value.shape, dtype=value.numpy().dtype.type)
                for name, value in zip(names, inputs, strict=True)
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
