"""NAME.pte through executorch, whose Python runtime brings PyTorch with it."""

# pyright: reportMissingImports=false
# executorch is of an extra, and need not be here.

from __future__ import annotations

import numpy as np

from ..errors import CheckpointError, ConfigError
from .artifact import Artifact, Run


def start(artifact: Artifact, threads: int | None) -> Run:
    path, header = artifact.path, artifact.header
    try:
        import torch
        from executorch.runtime import Runtime
    except ImportError:
        raise ConfigError(
            f"{path}: an ExecuTorch artifact needs executorch: pip install executorch"
        ) from None
    from ..preprocess import Preprocess

    try:
        preprocess = Preprocess.from_json({**header.preprocess, "size": header.size})
    except ConfigError as error:
        raise CheckpointError(
            f"{path}: its hsvdet header's preprocess is not what it must be: {error}"
        ) from None
    try:
        detect = Runtime.get().load_program(path).load_method("forward")
    except RuntimeError as error:
        reason = str(error).strip().split("\n")[0]
        raise CheckpointError(f"{path}: not an ExecuTorch program that can be run ({reason}).") from None

    def run(images: np.ndarray) -> list[np.ndarray]:
        size = torch.tensor(images.shape[1:3])
        rows = []
        for image in images:  # the program's shapes are fixed, and so is a batch of one
            canvas, content = preprocess.to_canvas(torch.from_numpy(image).permute(2, 0, 1))
            # The program reads memory row by row, whatever strides a tensor has: a resized image has an image's.
            canvas = canvas[None].float().contiguous()
            outputs = detect.execute([canvas, torch.tensor(content), size])
            rows.append([output.numpy().copy() for output in outputs])  # the program's own memory otherwise
        return [np.concatenate(parts) for parts in zip(*rows, strict=True)]

    return run
