"""`suppression.suppress` in an ONNX graph."""

import numpy as np
import onnx_ir as ir
from onnxscript import opset18 as op


def suppress_onnx(boxes, scores, labels, classes: int, iou: float, floor: float, limit: int):
    """ONNX's own operator, which sorts and compares as above; each class is a row of scores of its own."""
    rows = op.Constant(value=ir.tensor(np.arange(classes)[:, None]))
    axis = op.Constant(value_ints=[1])
    own = op.Equal(op.Unsqueeze(labels, axis), rows)  # [B, C, K]
    table = op.Where(own, op.Unsqueeze(scores, axis), op.Constant(value_float=0.0))
    selected = op.NonMaxSuppression(
        boxes,
        table,
        op.Constant(value_ints=[limit]),
        op.Constant(value_floats=[iou]),
        op.Constant(value_floats=[floor]),
    )  # [M, 3]: image, class, box
    place = op.Gather(selected, op.Constant(value_ints=[0, 2]), axis=1)
    ones = op.Expand(op.Constant(value_float=1.0), op.Shape(selected, start=0, end=1))
    kept = op.ScatterND(op.Mul(scores, op.Constant(value_float=0.0)), place, ones)
    return op.Cast(kept, to=9)
