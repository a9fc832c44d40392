"""An ONNX model as a TensorRT engine. An engine belongs to the GPU and the TensorRT version that built it."""

# pyright: reportMissingImports=false
# tensorrt is of an extra, and need not be here.

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..errors import ConfigError
from ..files import write_atomically
from ..preprocess import Preprocess
from ..runtime.artifact import ArtifactHeader
from .graph import ExportGraph

if TYPE_CHECKING:
    import onnx

# Images that one call may hold, and their sides in pixels: least, usual, most.
_BATCH = (1, 1, 16)
_SIDES = (32, None, 4320)  # usual: the network's own


def build(
    path: Path,
    graph: ExportGraph,
    preprocess: Preprocess,
    header: ArtifactHeader,
    images: Sequence[np.ndarray],
) -> None:
    """The artifact. images: to calibrate on, for int8. Raises OSError, and ConfigError as `to_tensorrt`."""
    from .export_onnx import quantised

    write_atomically(path, to_tensorrt(quantised(graph, preprocess, header, images), preprocess.size))


def to_tensorrt(model: onnx.ModelProto, size: tuple[int, int]) -> bytes:
    """size: (height, width) of the usual image. The precision is what the graph says, layer by layer ("strongly
    typed"), so what must stay float32 does. Raises ConfigError with TensorRT's words where it cannot build."""
    import tensorrt

    logger = tensorrt.Logger(tensorrt.Logger.WARNING)
    try:
        builder = tensorrt.Builder(logger)
    except TypeError:  # how its bindings say that there is none
        builder = None
    if builder is None:
        raise ConfigError("TensorRT found no NVIDIA GPU here; an engine is built on the GPU it is for.")
    network = builder.create_network(1 << int(tensorrt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = tensorrt.OnnxParser(network, logger)
    if not parser.parse(model.SerializeToString()):
        reasons = "; ".join(parser.get_error(i).desc() for i in range(parser.num_errors))
        raise ConfigError(
            f"TensorRT does not read this model: {reasons}. The ONNX artifact runs on GPUs too."
        )
    profile = builder.create_optimization_profile()
    shapes = [
        (batch, side or size[0], side or size[1], 3) for batch, side in zip(_BATCH, _SIDES, strict=True)
    ]
    profile.set_shape("images", *shapes)
    config = builder.create_builder_config()
    config.add_optimization_profile(profile)
    engine = builder.build_serialized_network(network, config)
    if engine is None:
        raise ConfigError("TensorRT could not build an engine; its own messages are above.")
    return bytes(engine)
