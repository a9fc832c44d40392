"""NAME.onnx through onnxruntime."""

from __future__ import annotations

import os

import numpy as np

from ..errors import CheckpointError, ConfigError
from .artifact import Artifact, Run


def start(artifact: Artifact, threads: int | None) -> Run:
    path = artifact.path
    try:
        import onnxruntime
    except ImportError:
        raise ConfigError(f"{path}: an ONNX artifact needs onnxruntime: pip install onnxruntime") from None
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    # An artifact is one file: weights beside it would be in no hash, and could be any file of this machine.
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", os.devnull)
    if threads is not None:
        options.intra_op_num_threads = threads
    try:
        session = onnxruntime.InferenceSession(
            artifact.content, options, providers=onnxruntime.get_available_providers()
        )
    except Exception as error:  # ONNX Runtime has an exception class for every status, and no common one
        reason = str(error).strip().split("\n")[0]
        raise CheckpointError(f"{path}: not an ONNX model that can be run ({reason}).") from None

    def run(images: np.ndarray) -> list[np.ndarray]:
        return [np.asarray(part) for part in session.run(None, {"images": images})]

    return run
