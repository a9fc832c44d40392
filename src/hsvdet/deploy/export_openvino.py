"""An ONNX model as an OpenVINO one: NAME.xml and NAME.bin."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..preprocess import Preprocess
from ..runtime.artifact import ArtifactHeader
from ..runtime.containers import KEY, open_onnx
from ..telemetry import unreported
from .graph import ExportGraph

if TYPE_CHECKING:
    import onnx
    import openvino


def build(
    path: Path,
    graph: ExportGraph,
    preprocess: Preprocess,
    header: ArtifactHeader,
    images: Sequence[np.ndarray],
) -> None:
    """The artifact. images: to calibrate on, for int8. Raises OSError."""
    from .export_onnx import in_floats

    model = to_openvino(in_floats(graph, preprocess, header))
    if header.precision == "int8":
        from .quantise import quantise_openvino

        model = quantise_openvino(model, images, header.float32)
    write_openvino(path, model, header)


def to_openvino(model: onnx.ModelProto) -> openvino.Model:
    """The same inputs, outputs and precision. Raises RuntimeError where OpenVINO does not know an operator."""
    with unreported():
        import openvino

    opened = open_onnx(
        model.SerializeToString()
    )  # without a header: the converter would keep it beside the new one
    with unreported():
        converted = openvino.convert_model(BytesIO(opened.before + opened.after))
    for name, port in zip([value.name for value in model.graph.output], converted.outputs, strict=True):
        port.tensor.set_names({name})
    return converted


def write_openvino(path: Path, model: openvino.Model, header: ArtifactHeader) -> None:
    """Both files, each whole or not at all; the .xml last, so that what it names is there. Raises OSError."""
    with unreported():
        import openvino

    model.set_rt_info(json.dumps(header.to_json(), ensure_ascii=False, allow_nan=False), [KEY])
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
        written = Path(folder) / path.name
        # The graph says what is float16 and what is not; compression would take the islands too.
        openvino.save_model(model, written, compress_to_fp16=False)
        for suffix in (".bin", ".xml"):
            os.replace(written.with_suffix(suffix), path.with_suffix(suffix))
