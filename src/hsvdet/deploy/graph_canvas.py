"""`Preprocess.to_canvas` and `normalise` as an ONNX graph: uint8 images of any size to the network's canvas, bit for
bit what PyTorch makes of them.

Written in elementary operators, not with ONNX's Resize: its antialiasing in ONNX Runtime is up to 15 of 255 grey
levels away and three times slower, and TensorRT has none. Resizing goes first over columns, then over rows,
with weights of 15 bits, and rounds to whole grey levels after each, as Pillow does and PyTorch with uint8 images.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir
from onnx_ir.tape import Tape

from ..preprocess import Preprocess

OPSET = 18

Number = bool | int | float
Side = ir.Value | int
Operand = ir.Value | Number | Sequence[int]


def canvas_graph(preprocess: Preprocess, *, minimal: bool) -> ir.Model:
    """images [B, H, W, 3] uint8 RGB to canvas [B, 3, h, w] float32, content [4] int64 (left, top, width, height
    of the picture on the canvas) and size [2] int64 (H, W). minimal: each size of image has the smallest canvas
    that it fits (`Preprocess.geometry`), else all have `preprocess.size`."""
    images = ir.val("images", ir.DataType.UINT8, ("batch", "height", "width", 3))
    op = _Operators()
    size = op("Shape", images, start=1, end=3)
    height, width = (op("Squeeze", op("Slice", size, [i], [i + 1])) for i in (0, 1))
    new_height, new_width, canvas_height, canvas_width = _geometry(op, preprocess, height, width, minimal)
    left = top = 0
    if preprocess.resize == "letterbox":
        left = op("Div", op("Sub", canvas_width, new_width), 2)
        top = op("Div", op("Sub", canvas_height, new_height), 2)
    # An image as large as its canvas is that already. Then no row of it is resized, else no row is taken as it is;
    # what has no rows costs nothing. (With an If for this, OpenVINO 2026.4 answers wrongly for all images of a
    # batch but the first, not in every call.)
    fits = op("And", op("Equal", height, canvas_height), op("Equal", width, canvas_width))
    taken, resized = op("Where", fits, height, 0), op("Where", fits, 0, new_height)
    resize = _resize_antialiased if preprocess.antialias else _resize
    picture = resize(op, images, new_height, new_width, resized)
    if preprocess.resize in ("letterbox", "fit"):
        right = op("Sub", op("Sub", canvas_width, new_width), left)
        bottom = op("Sub", op("Sub", canvas_height, new_height), top)
        edges = op.stack(0, top, left, 0, 0, bottom, right, 0)
        picture = op("Pad", picture, edges, np.float32(preprocess.fill))
    as_it_is = op("Cast", op("Slice", images, [0], op.stack(taken), [1]), to=ir.DataType.FLOAT)
    flat = [op("Reshape", part, [0, -1]) for part in (as_it_is, picture)]
    # The canvas's size said aloud, so that the network's shapes are known when it is optimised.
    sides = [canvas_height, canvas_width] if minimal else preprocess.size
    pixels = op("Reshape", op("Concat", *flat, axis=1), op.stack(0, *sides, 3))
    canvas = op("Div", pixels, np.float32(255))
    if any(preprocess.mean) or set(preprocess.std) != {1.0}:
        mean, std = (np.array(x, np.float32) for x in (preprocess.mean, preprocess.std))
        canvas = op("Div", op("Sub", canvas, mean), std)
    # Last, since runtimes that compute channels last need not do it at all.
    canvas = op("Transpose", canvas, perm=[0, 3, 1, 2])
    content = op.stack(left, top, new_width, new_height)
    names = ("canvas_height", "canvas_width") if minimal else preprocess.size
    return op.model(
        [images],
        [
            (canvas, ir.val("canvas", ir.DataType.FLOAT, ("batch", 3, *names))),
            (content, ir.val("content", ir.DataType.INT64, (4,))),
            (size, ir.val("size", ir.DataType.INT64, (2,))),
        ],
    )


def _geometry(op: _Operators, preprocess: Preprocess, height: ir.Value, width: ir.Value, minimal: bool):
    """`Preprocess.geometry`: height and width of the picture and of its canvas, scalars int64."""
    most = preprocess.size
    if preprocess.resize == "stretch":
        return *most, *most
    # In double precision as Python computes it: halves must be rounded the same way.
    h, w = (op("Cast", side, to=ir.DataType.DOUBLE) for side in (height, width))
    if preprocess.resize == "shortest":
        short, long = float(min(most)), float(max(most))
        lower, upper = op("Min", h, w), op("Max", h, w)
        shrunk = op("Round", op("Div", op("Mul", lower, long), upper))
        short = op("Where", op("Greater", op("Mul", op("Div", upper, lower), short), long), shrunk, short)
        other = op("Max", op("Floor", op("Div", op("Mul", short, upper), lower)), 1.0)
        short = op("Max", short, 1.0)
        portrait = op("Greater", h, w)
        sides = [op("Where", portrait, a, b) for a, b in ((other, short), (short, other))]
        sides = [op("Cast", side, to=ir.DataType.INT64) for side in sides]
        return *sides, *sides
    ratio = op("Min", op("Div", float(most[0]), h), op("Div", float(most[1]), w))
    sides = [
        op(
            "Cast",
            op("Min", op("Max", op("Round", op("Mul", side, ratio)), 1.0), float(limit)),
            to=ir.DataType.INT64,
        )
        for side, limit in ((h, most[0]), (w, most[1]))
    ]
    if not minimal:
        return *sides, *most
    stride = preprocess.stride
    canvas = [op("Mul", op("Div", op("Add", side, stride - 1), stride), stride) for side in sides]
    return *sides, *canvas


def _resize(op: _Operators, images: ir.Value, height: Side, width: Side, rows: ir.Value) -> ir.Value:
    """Bilinear, half-pixel centres: [B, H, W, 3] uint8 to the first `rows` of [B, height, width, 3] float32, whole
    numbers.

    Only the pixels that are read are touched: the cost is that of the picture, not of the photograph.
    """
    pair, row_weights, row_unit = _neighbours(op, images, 1, height)
    rows = op.stack(rows)
    pair = [op("Slice", row, [0], rows) for row in pair]
    row_weights = op("Slice", row_weights, [0], rows, [1])
    columns, column_weights, column_unit = _neighbours(op, images, 2, width)
    # Pixels side by side are one long line: products of whole lines are what runtimes are fast at.
    column_weights = op("Reshape", op("Expand", op("Unsqueeze", column_weights, 2), [2, 1, 3]), [2, -1])
    line = op.stack(0, -1, op("Mul", op.constant(width), 3))
    passes = []
    for row in pair:
        pixels = op("Gather", images, row, axis=1)
        beside = [
            op("Cast", op("Reshape", op("Gather", pixels, column, axis=2), line), to=ir.DataType.FLOAT)
            for column in columns
        ]
        passes.append(_mix(op, beside, column_weights, column_unit))
    mixed = _mix(op, passes, op("Unsqueeze", row_weights, 2), row_unit)
    return op("Reshape", mixed, op.stack(0, -1, width, 3))


def _neighbours(op: _Operators, images: ir.Value, axis: int, length: Side):
    """The two places each of `length` new ones reads along `axis`; their weights [2, length] and the unit of these."""
    old = op("Squeeze", op("Shape", images, start=axis, end=axis + 1))
    # The place of new pixel i is ((2 i + 1) old / length - 1) / 2: in whole numbers, since OpenVINO has float32 only.
    whole = op("Mul", length, 2)
    place = op("Add", op("Mul", op("Range", 0, length, 1), 2), 1)
    place = op("Max", op("Sub", op("Mul", place, old), length), 0)
    share = op("Unsqueeze", op("Mod", place, whole), 0)
    shares = op("Concat", op("Sub", whole, share), share, axis=0)
    # As Pillow: the power of two at which the largest weight still has 15 bits.
    large = op(
        "GreaterOrEqual", op("Mul", op("ReduceMax", shares, keepdims=0), 2**16), op("Mul", whole, 2**16 - 1)
    )
    unit = op("Where", large, 2**14, 2**15)
    weights = op("Div", op("Add", op("Mul", shares, op("Mul", unit, 2)), whole), op("Mul", whole, 2))
    last = op("Sub", old, 1)
    first = op("Min", op("Div", place, whole), last)
    weights, unit = (op("Cast", value, to=ir.DataType.FLOAT) for value in (weights, unit))
    return (first, op("Min", op("Add", first, 1), last)), weights, unit


def _mix(op: _Operators, pair: Sequence[ir.Value], weights: ir.Value, unit: ir.Value) -> ir.Value:
    first, second = (op("Mul", part, op("Gather", weights, i, axis=0)) for i, part in enumerate(pair))
    return _rounded(op, op("Add", first, second), unit)


def _whole_weights(op: _Operators, weights: ir.Value) -> tuple[ir.Value, ir.Value]:
    """Weights 0..1, double, as whole numbers of a unit, float32: the power of two at which the largest still has
    15 bits, as in Pillow. Sums of their products with grey levels are then exact. The unit is float32 too."""
    largest = op("ReduceMax", weights, keepdims=0)
    bits = op("Floor", op("Div", op("Log", op("Div", 32767.5, largest)), math.log(2)))
    unit = op("Pow", 2.0, bits)
    whole = op("Floor", op("Add", op("Mul", weights, unit), 0.5))
    return op("Cast", whole, to=ir.DataType.FLOAT), op("Cast", unit, to=ir.DataType.FLOAT)


def _rounded(op: _Operators, total: ir.Value, unit: ir.Value) -> ir.Value:
    half = op("Mul", unit, np.float32(0.5))
    return op("Floor", op("Div", op("Add", total, half), unit))


def _resize_antialiased(
    op: _Operators, images: ir.Value, height: Side, width: Side, rows: ir.Value
) -> ir.Value:
    """As `_resize`, and shrinking reads all pixels, weighted by a triangle as wide as the new pixels are apart."""
    read = op("Mul", op("Min", rows, 1), op("Squeeze", op("Shape", images, start=1, end=2)))
    across = op("Slice", images, [0], op.stack(read), [1])
    across = op("Transpose", across, perm=[2, 0, 1, 3])  # W first: whole lines are read
    across = op("Cast", _weighted_sum(op, across, width, op.constant(width)), to=ir.DataType.UINT8)
    down = op("Transpose", across, perm=[2, 1, 0, 3])  # [H, B, width, 3]
    return op("Transpose", _weighted_sum(op, down, height, rows), perm=[1, 0, 2, 3])


def _weighted_sum(op: _Operators, lines: ir.Value, length: Side, first: ir.Value) -> ir.Value:
    """lines: [N, ...] uint8 to the first of [length, ...] float32, whole numbers; tap by tap, so that memory stays
    small."""
    old = op("Squeeze", op("Shape", lines, start=0, end=1))
    # In units of 1 / (2 length), whole numbers: OpenVINO has no doubles, and places in float32 are not exact enough.
    whole, support = op("Mul", length, 2), op("Mul", op("Max", old, length), 2)
    centre = op("Mul", op("Add", op("Mul", op("Range", 0, length, 1), 2), 1), old)
    start = op("Div", op("Max", op("Add", op("Sub", centre, support), length), 0), whole)
    taps = op("Add", op("Mul", op("Div", op("Add", support, op("Sub", whole, 1)), whole), 2), 1)
    tap = op("Unsqueeze", op("Range", 0, taps, 1), 1)
    place = op("Add", tap, op("Unsqueeze", start, 0))  # [taps, length]
    middle = op("Mul", op("Add", op("Mul", place, 2), 1), length)
    weight = op("Max", op("Sub", support, op("Abs", op("Sub", middle, op("Unsqueeze", centre, 0)))), 0)
    last = op("Sub", old, 1)
    weight = op("Cast", op("Where", op("Greater", place, last), 0, weight), to=ir.DataType.DOUBLE)
    weight = op("Div", weight, op("ReduceSum", weight, [0], keepdims=1))
    weight, unit = _whole_weights(op, weight)
    columns = op.stack(first)
    weight = op("Slice", weight, [0], columns, [1])
    weight = op("Unsqueeze", weight, [2, 3, 4])
    place = op("Slice", op("Min", place, last), [0], columns, [1])
    shape = op("Concat", columns, op("Shape", lines, start=1), axis=0)
    nothing = op("Expand", np.float32(0), shape)

    body = _Operators(op)
    number, running = ir.val("tap", ir.DataType.INT64, ()), ir.val("running", ir.DataType.BOOL, ())
    total = ir.val("total", ir.DataType.FLOAT, (None, None, None, None))
    read = body("Cast", body("Gather", lines, body("Gather", place, number, axis=0)), to=ir.DataType.FLOAT)
    more = body("Add", total, body("Mul", read, body("Gather", weight, number, axis=0)))
    more.type, more.shape = total.type, total.shape
    still = body("Identity", running)
    still.type, still.shape = running.type, running.shape
    graph = body.graph([number, running, total], [still, more])
    return _rounded(op, op("Loop", taps, True, nothing, body=graph), unit)


class _Operators:
    """`op("Add", a, 1)` records a node and gives its output; Python numbers become constants: whole ones int64,
    others double, numpy's their own type."""

    def __init__(self, outer: _Operators | None = None, name: str = "body"):
        self.tape = Tape()
        self.prefix = "preprocess" if outer is None else f"{outer.prefix}/{name}_{len(outer.tape.nodes)}"

    def __call__(self, kind: str, *operands: Operand | np.ndarray | np.generic, **attributes) -> ir.Value:
        values = [self.constant(operand) for operand in operands]
        name = f"{self.prefix}/{kind}_{len(self.tape.nodes)}"
        output = ir.Value(name=name)
        return self.tape.op(kind, values, attributes, name=name, output=output)

    def constant(self, value) -> ir.Value:
        if isinstance(value, ir.Value):
            return value
        name = f"{self.prefix}/constant_{len(self.tape.nodes)}"
        tensor = ir.tensor(np.asarray(value), name=name)
        return self.tape.op("Constant", [], {"value": tensor}, name=name, output=ir.Value(name=name))

    def stack(self, *scalars: ir.Value | int) -> ir.Value:
        parts = [self("Unsqueeze", s, 0) if isinstance(s, ir.Value) else self.constant([s]) for s in scalars]
        return self("Concat", *parts, axis=0)

    def graph(self, inputs: Sequence[ir.Value], outputs: Sequence[ir.Value]) -> ir.Graph:
        return ir.Graph(inputs, outputs, nodes=self.tape.nodes, opset_imports={"": OPSET}, name=self.prefix)

    def model(self, inputs: Sequence[ir.Value], outputs: Sequence[tuple[ir.Value, ir.Value]]) -> ir.Model:
        """outputs: what is computed, and the name and type it goes out with."""
        for value, output in outputs:
            self.tape.op("Identity", [value], name=f"{self.prefix}/{output.name}", output=output)
        return ir.Model(self.graph(inputs, [output for _, output in outputs]), ir_version=10)
