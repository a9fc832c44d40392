"""NAME.onnx through onnxruntime."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..errors import CheckpointError, ConfigError
from .artifact import KEY, ArtifactHeader, Run, parse_header


def start(path: Path, threads: int | None) -> tuple[Run, ArtifactHeader]:
    try:
        import onnxruntime
    except ImportError:
        raise ConfigError(f"{path}: an ONNX artifact needs onnxruntime: pip install onnxruntime") from None
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if threads is not None:
        options.intra_op_num_threads = threads
    try:
        session = onnxruntime.InferenceSession(path, options, providers=onnxruntime.get_available_providers())
    except Exception as error:  # ONNX Runtime has an exception class for every status, and no common one
        reason = str(error).strip().split("\n")[0]
        raise CheckpointError(f"{path}: not an ONNX model that can be run ({reason}).") from None
    header = parse_header(session.get_modelmeta().custom_metadata_map.get(KEY), path)

    def run(images: np.ndarray) -> list[np.ndarray]:
        return [np.asarray(part) for part in session.run(None, {"images": images})]

    return run, header
