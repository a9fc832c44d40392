"""Detect from an exported artifact, without PyTorch: numpy, Pillow, and onnxruntime or openvino are enough
(ExecuTorch's own Python runtime brings PyTorch with it).

    from hsvdet import runtime

    detect = runtime.load("street.onnx")
    boxes, scores, labels = detect("street.jpg")
    print([detect.labels[i] for i in labels])
"""

# pyright: strict

from .runner import Runner, load

__all__ = ["Runner", "load"]
