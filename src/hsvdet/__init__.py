"""Object detection whose results people can check: HSV-DET, HSG-Det and the DETR lineage in PyTorch.

    import hsvdet

    hsvdet.train("hsv-det-n", data="street", out="runs/street")
    detector = hsvdet.load("runs/street/best.safetensors")
    print(detector("street.jpg"))

A name is imported when it is first used: `import hsvdet` alone costs a few milliseconds, not PyTorch.
"""

# pyright: strict

from importlib import import_module
from typing import TYPE_CHECKING

from .telemetry import switch_off

if TYPE_CHECKING:
    __version__: str

    from .benchmarking.race import benchmark
    from .benchmarking.suppression import benchmark_nms
    from .catalogue import model_table
    from .certificate import Certificate, certify
    from .comparison import Comparison, compare
    from .conversion.foreign import convert
    from .data.check import check_data
    from .data.convert import convert_data
    from .data.merge import merge_data
    from .data.read import read_data
    from .data.scenes import write_scenes
    from .data.split import split_data
    from .demonstration import demo
    from .deploy.export import export
    from .detector import Detector, create
    from .draw import draw_detections
    from .errors import CheckpointError, ConfigError, DataError, HsvdetError
    from .evaluate import Evaluation
    from .explainer import explain
    from .loading import load
    from .prediction.predictor import predict, stream
    from .preprocess import Preprocess
    from .profiler import profile
    from .result import Detection, Result
    from .structures import Detections, Prediction
    from .training import resume, train
    from .training.backbone_weights import start_backbone
    from .training.suppressor import with_suppressor
    from .training.warm_start import warm_start
    from .validation import val

switch_off()  # before anything that reports is imported

_HOME = {
    "benchmark": "benchmarking.race",
    "benchmark_nms": "benchmarking.suppression",
    "Comparison": "comparison",
    "compare": "comparison",
    "convert": "conversion.foreign",
    "start_backbone": "training.backbone_weights",
    "warm_start": "training.warm_start",
    "with_suppressor": "training.suppressor",
    "check_data": "data.check",
    "convert_data": "data.convert",
    "merge_data": "data.merge",
    "read_data": "data.read",
    "write_scenes": "data.scenes",
    "split_data": "data.split",
    "demo": "demonstration",
    "Certificate": "certificate",
    "certify": "certificate",
    "export": "deploy.export",
    "Detector": "detector",
    "create": "detector",
    "load": "loading",
    "draw_detections": "draw",
    "CheckpointError": "errors",
    "ConfigError": "errors",
    "DataError": "errors",
    "HsvdetError": "errors",
    "Evaluation": "evaluate",
    "explain": "explainer",
    "predict": "prediction.predictor",
    "stream": "prediction.predictor",
    "Preprocess": "preprocess",
    "model_table": "catalogue",
    "profile": "profiler",
    "Detection": "result",
    "Result": "result",
    "Detections": "structures",
    "Prediction": "structures",
    "resume": "training",
    "train": "training",
    "val": "validation",
}

__all__ = [
    "Certificate",
    "CheckpointError",
    "Comparison",
    "ConfigError",
    "DataError",
    "Detection",
    "Detections",
    "Detector",
    "Evaluation",
    "HsvdetError",
    "Prediction",
    "Preprocess",
    "Result",
    "benchmark",
    "benchmark_nms",
    "certify",
    "check_data",
    "compare",
    "convert",
    "convert_data",
    "create",
    "demo",
    "draw_detections",
    "export",
    "explain",
    "load",
    "merge_data",
    "model_table",
    "predict",
    "profile",
    "read_data",
    "resume",
    "split_data",
    "start_backbone",
    "stream",
    "train",
    "val",
    "warm_start",
    "with_suppressor",
    "write_scenes",
]


if not TYPE_CHECKING:  # which would then believe in any name

    def __getattr__(name: str):
        if name == "__version__":
            from importlib.metadata import version

            return version("hsvdet")
        if name not in _HOME:
            raise AttributeError(f"module 'hsvdet' has no attribute {name!r}")
        value = getattr(import_module(f".{_HOME[name]}", __name__), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, "__version__"})
