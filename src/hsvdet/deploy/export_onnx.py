"""A detector as an ONNX model: the image's way to the canvas, the network, and the reading of its answer in one."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import torch
from onnxscript import opset18
from torch.export import Dim

from ..files import write_atomically
from ..layers.precision import may_be_half
from ..preprocess import Preprocess
from ..runtime.artifact import ArtifactHeader, set_onnx_header
from .graph import CANDIDATES, ExportGraph, Rows
from .graph_canvas import OPSET, canvas_graph
from .graph_half import to_half

# Annotated for onnxscript's own compiler; while a graph is made, each operator takes and gives values of it.
op: Any = opset18


def build(
    path: Path,
    graph: ExportGraph,
    preprocess: Preprocess,
    header: ArtifactHeader,
    images: Sequence[np.ndarray],
) -> None:
    """The artifact. images: to calibrate on, for int8. Raises OSError."""
    model = quantised(graph, preprocess, header, images)
    set_onnx_header(model, header)
    write_atomically(path, model.SerializeToString())


def quantised(
    graph: ExportGraph, preprocess: Preprocess, header: ArtifactHeader, images: Sequence[np.ndarray]
) -> onnx.ModelProto:
    """`to_onnx` in the precision of the header, int8 included."""
    model = in_floats(graph, preprocess, header)
    if header.precision != "int8":
        return model
    from .quantise import quantise_onnx

    return quantise_onnx(model, images, header.float32)


def in_floats(graph: ExportGraph, preprocess: Preprocess, header: ArtifactHeader) -> onnx.ModelProto:
    """`to_onnx` in float32, or for a header of fp16 in that."""
    half_but = header.float32 if header.precision == "fp16" else None
    return to_onnx(graph, preprocess, dynamic=header.dynamic, half_but=half_but)


def to_onnx(
    graph: ExportGraph,
    preprocess: Preprocess,
    *,
    dynamic: bool,
    half_but: Sequence[str] | None = None,
) -> onnx.ModelProto:
    """images [batch, height, width, 3] uint8 to boxes, scores, labels, count (`Rows`).

    dynamic: the canvas is as small as each size of image allows. half_but: float16 where modules allow it, but
    for these; None for float32 everywhere.
    """
    network = network_to_onnx(graph, preprocess, dynamic=dynamic)
    if half_but is not None:
        to_half(network, may_be_half(graph.net, "net"), half_but)
    network = ir.to_proto(network)
    canvas = ir.to_proto(canvas_graph(preprocess, minimal=dynamic))
    canvas.ir_version = network.ir_version
    names = ("canvas", "content", "size")
    return onnx.compose.merge_models(canvas, network, io_map=[(name, name) for name in names])


def network_to_onnx(graph: ExportGraph, preprocess: Preprocess, *, dynamic: bool) -> ir.Model:
    """The part after the canvas: canvas [batch, 3, h, w] float32, content [4], size [2] to `Rows`."""
    height, width = preprocess.size
    example = (
        torch.rand(2, 3, height, width),  # of two: a batch of one would be taken for a constant
        torch.tensor([0, 0, width, height]),
        torch.tensor([height, width]),
    )
    shapes = {0: Dim("batch")}
    if dynamic:
        # Of at least two cells of the coarsest map: a map of one would be taken for a constant.
        step, least = (preprocess.stride, 2) if preprocess.resize != "shortest" else (1, 65)
        shapes |= {axis: step * Dim(name, min=least) for axis, name in ((2, "rows"), (3, "columns"))}
    with torch.no_grad(), _quiet():
        program = torch.export.export(graph.eval(), example, dynamic_shapes=(shapes, None, None))
        model = torch.onnx.export(
            program,
            dynamo=True,
            opset_version=OPSET,
            verbose=False,
            input_names=["canvas", "content", "size"],
            output_names=list(Rows._fields),
            custom_translation_table={torch.ops.hsvdet.suppress.default: suppress_onnx},
        )
    assert model is not None  # it is with dynamo
    return model.model


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporter tells its own story; what goes wrong comes as an exception."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [log.level for log in loggers]
    try:
        for log in loggers:
            log.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for log, level in zip(loggers, levels, strict=True):
            log.setLevel(level)


def suppress_onnx(
    boxes: ir.Value, scores: ir.Value, labels: ir.Value, classes: int, iou: float, floor: float
) -> ir.Value:
    """ONNX's own operator, which sorts and compares as above; each class is a row of scores of its own."""
    rows = op.Constant(value=ir.tensor(np.arange(classes)[:, None]))
    axis = op.Constant(value_ints=[1])
    own = op.Equal(op.Unsqueeze(labels, axis), rows)  # [B, C, K]
    table = op.Where(own, op.Unsqueeze(scores, axis), op.Constant(value_float=0.0))
    selected = op.NonMaxSuppression(
        boxes,
        table,
        op.Constant(value_ints=[CANDIDATES]),  # all: what lies beyond the edges is left out only then
        op.Constant(value_floats=[iou]),
        op.Constant(value_floats=[floor]),
    )  # [M, 3]: image, class, box
    place = op.Gather(selected, op.Constant(value_ints=[0, 2]), axis=1)
    ones = op.Expand(op.Constant(value_float=1.0), op.Shape(selected, start=0, end=1))
    kept = op.ScatterND(op.Mul(scores, op.Constant(value_float=0.0)), place, ones)
    return op.Cast(kept, to=9)
