"""A hash that ties a certificate to one set of weights, the same on every machine. That of the artifact is
`runtime.artifact.read_artifact`'s."""

from __future__ import annotations

import hashlib

import torch

from ..detector import Detector


def weights_sha256(detector: Detector) -> str:
    """Of names, types, shapes and values of all tensors, in the order of their names."""
    digest = hashlib.sha256()
    for name, tensor in sorted(detector.net.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)} ".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
