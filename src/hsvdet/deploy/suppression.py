"""Non-maximum suppression as one operator with an answer of fixed shape, so that a graph can have it inside."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import torch
from onnxscript import opset18 as op
from torch import Tensor
from torchvision.ops import nms


@torch.library.custom_op("hsvdet::suppress", mutates_args=())
def suppress(
    boxes: Tensor, scores: Tensor, labels: Tensor, classes: int, iou: float, floor: float, limit: int
) -> Tensor:
    """Which boxes are kept: [B, K] bool. boxes: [B, K, 4] xyxy. scores, labels: [B, K].

    Greedy and exact, per class: the strongest box stays, those of its class that overlap it by more than `iou`
    go, and so on; nothing at or below `floor` is kept, nor more than `limit` of a class.
    """
    kept = torch.zeros_like(scores, dtype=torch.bool)
    for image in range(len(boxes)):
        for label in labels[image].unique():
            own = ((labels[image] == label) & (scores[image] > floor)).nonzero().squeeze(1)
            kept[image, own[nms(boxes[image, own], scores[image, own], iou)[:limit]]] = True
    return kept


@suppress.register_fake
def _(boxes, scores, labels, classes, iou, floor, limit):
    return torch.empty_like(scores, dtype=torch.bool)


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
