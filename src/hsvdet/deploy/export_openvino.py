"""An ONNX model as an OpenVINO one: NAME.xml and NAME.bin."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from ..runtime.artifact import KEY, ArtifactHeader

if TYPE_CHECKING:
    import onnx
    import openvino


@contextmanager
def unreported() -> Iterator[None]:
    """OpenVINO's converter and NNCF report each use to their makers over the network, except from CI jobs."""
    before = os.environ.get("CI")
    os.environ["CI"] = "true"
    try:
        yield
    finally:
        if before is None:
            del os.environ["CI"]
        else:
            os.environ["CI"] = before


def to_openvino(model: onnx.ModelProto) -> openvino.Model:
    """The same inputs, outputs and precision. Raises RuntimeError where OpenVINO does not know an operator."""
    import openvino

    with unreported():
        converted = openvino.convert_model(BytesIO(model.SerializeToString()))
    for name, port in zip([value.name for value in model.graph.output], converted.outputs, strict=True):
        port.tensor.set_names({name})
    return converted


def write_openvino(path: Path, model: openvino.Model, header: ArtifactHeader) -> None:
    """Both files, each whole or not at all; the .xml last, so that what it names is there. Raises OSError."""
    import openvino

    model.set_rt_info(json.dumps(header.to_json(), ensure_ascii=False, allow_nan=False), [KEY])
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
        written = Path(folder) / path.name
        # The graph says what is float16 and what is not; compression would take the islands too.
        openvino.save_model(model, written, compress_to_fp16=False)
        for suffix in (".bin", ".xml"):
            os.replace(written.with_suffix(suffix), path.with_suffix(suffix))
