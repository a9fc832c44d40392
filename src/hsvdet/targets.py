"""Every runtime that artifacts are made for, in one table. A new one is a row here, deploy/export_NAME.py, which
builds its artifacts, and, where hsvdet can run them itself, runtime/run_NAME.py."""

# pyright: strict

from __future__ import annotations

from os import PathLike
from pathlib import Path
from typing import Literal, NamedTuple, get_args

Precision = Literal["fp32", "bf16", "fp16", "int8"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)

_ONNX = ("onnx", "onnxscript", "onnxruntime")  # what makes the graph that others are made from


class Target(NamedTuple):
    """name: as `--to` has it. title: in sentences. suffix: of its artifacts, NAME.suffix. precisions: that it can have.
    packages: that an export needs. runs: those that running needs; none where hsvdet does not run it. beside:
    suffix of a second file that belongs to it. holds_header: whether a file says itself what it is; others have
    NAME.suffix.json. one_canvas: whether its shapes are fixed, canvas and a batch of one included. folder: whether an
    artifact is one. threads: whether their number can be set."""

    name: str
    title: str
    suffix: str
    precisions: tuple[str, ...]
    packages: tuple[str, ...]
    runs: tuple[str, ...] = ()
    beside: str | None = None
    holds_header: bool = False
    one_canvas: bool = False
    folder: bool = False
    threads: bool = False


TARGETS = {
    target.name: target
    for target in (
        Target(
            "onnx", "ONNX Runtime", ".onnx", ("fp32", "fp16", "int8"), _ONNX, ("onnxruntime",),
            holds_header=True, threads=True,
        ),
        Target(
            "openvino", "OpenVINO", ".xml", PRECISIONS, (*_ONNX, "openvino"), ("openvino",),
            beside=".bin", holds_header=True, threads=True,
        ),
        Target("tensorrt", "TensorRT", ".engine", ("fp32", "fp16", "int8"), (*_ONNX, "tensorrt")),
        Target("coreml", "Core ML", ".mlpackage", ("fp32",), ("coremltools",), one_canvas=True, folder=True),
        Target("executorch", "ExecuTorch", ".pte", ("fp32",), ("executorch",), ("executorch",), one_canvas=True),
    )
}  # fmt: skip

RUNNABLE = tuple(target for target in TARGETS.values() if target.runs)


def target_of(path: str | PathLike[str]) -> Target | None:
    """The target whose artifacts are called so, or None."""
    suffix = Path(path).suffix
    return next((target for target in TARGETS.values() if target.suffix == suffix), None)


def listed(targets: tuple[Target, ...], last: str = "or") -> str:
    """ "NAME.onnx (ONNX Runtime), NAME.xml (OpenVINO) or NAME.pte (ExecuTorch)"."""
    names = [f"NAME{target.suffix} ({target.title})" for target in targets]
    return f"{', '.join(names[:-1])} {last} {names[-1]}" if len(names) > 1 else names[0]
