"""Half precision where it is safe: what modules allow (layers/precision.py) in float16, all else in float32.

Float32 stay: normalisation and softmax, selection of tokens, positions, box arithmetic, the last layer of each head,
suppression, and every layer whose values come near the largest float16 on the images it was measured with.
"""

from __future__ import annotations

import ast
from collections.abc import Collection, Iterable, Sequence
from typing import TypeGuard

import numpy as np
import onnx_ir as ir
import torch
from onnx_ir.passes.common import RemoveUnusedNodesPass
from torch import Tensor, nn

from .graph import ExportGraph

# A quarter of 65504, the largest float16: other images may have larger values than those measured.
NEAR_OVERFLOW = 16_384.0

_ARITHMETIC = frozenset("Conv MatMul Gemm Add Mul Div Sigmoid Relu Erf AveragePool".split())
# These change no value: what comes in as float16 goes out as the same.
_MOVING = frozenset(
    "Concat MaxPool Resize Reshape Transpose Slice Split Squeeze Unsqueeze Expand Gather".split()
)


def layers_near_overflow(
    graph: ExportGraph, inputs: Iterable[tuple[Tensor, Tensor, Tensor]]
) -> tuple[str, ...]:
    """Modules of `graph` that read or give a value beyond NEAR_OVERFLOW, or have such a weight. inputs: of `graph`."""
    found = set()

    def watch(name: str, module: nn.Module):
        def hook(_, arguments, output):
            values = [x for x in (*arguments, output) if isinstance(x, Tensor) and x.is_floating_point()]
            if any(not x.abs().max() <= NEAR_OVERFLOW for x in values):
                found.add(name)

        return module.register_forward_hook(hook)

    for name, parameter in graph.net.named_parameters(prefix="net"):
        if not parameter.abs().max() <= NEAR_OVERFLOW:
            found.add(name.rpartition(".")[0])
    hooks = [watch(name, m) for name, m in graph.net.named_modules(prefix="net") if not list(m.children())]
    try:
        with torch.inference_mode():
            for arguments in inputs:
                graph(*arguments)
    finally:
        for hook in hooks:
            hook.remove()
    return tuple(sorted(found))


def to_half(model: ir.Model, may: Collection[str], float32: Sequence[str] = ()) -> None:
    """In place. may: modules that may be computed in float16 (`may_be_half`), as the graph names them. float32: those
    that stay as they are all the same; what adds or joins their values does too."""
    graph = model.graph
    kept = set(float32)
    parents = {name.rpartition(".")[0] for name in kept}
    half: set[ir.Value] = set()
    casts: dict[tuple[ir.Value, ir.DataType], ir.Value] = {}
    for node in list(graph):
        if _is_half(node, may, kept, parents, half):
            for index, value in enumerate(node.inputs):
                if _is_float(value, half) and value not in half and _follows_type(node, index):
                    node.replace_input_with(index, _cast(graph, node, value, ir.DataType.FLOAT16, casts))
            for value in node.outputs:
                value.dtype = ir.DataType.FLOAT16
                half.add(value)
        else:
            for index, value in enumerate(node.inputs):
                if value in half:
                    node.replace_input_with(index, _cast(graph, node, value, ir.DataType.FLOAT, casts))
    for index, value in enumerate(graph.outputs):
        if value in half:
            raise ValueError(f"output {index} of the graph is float16; post-processing is float32")
    RemoveUnusedNodesPass()(model)


def _is_half(
    node: ir.Node, may: Collection[str], kept: set[str], parents: set[str], half: set[ir.Value]
) -> bool:
    if node.op_type in _MOVING:
        moved = node.inputs if node.op_type == "Concat" else node.inputs[:1]
        return all(value in half for value in moved)
    scopes = ast.literal_eval(node.metadata_props.get("pkg.torch.onnx.name_scopes", "[]"))[:-1]
    if node.op_type not in _ARITHMETIC or not scopes or scopes[-1] in parents or kept & set(scopes):
        return False
    return scopes[-1] in may and _is_float(node.outputs[0], half)


def _is_float(value: ir.Value | None, half: set[ir.Value]) -> TypeGuard[ir.Value]:
    return value is not None and (value in half or value.dtype == ir.DataType.FLOAT)


def _follows_type(node: ir.Node, index: int) -> bool:
    return node.op_type not in _MOVING or index == 0 or node.op_type == "Concat"


def _cast(graph: ir.Graph, before: ir.Node, value: ir.Value, to: ir.DataType, casts) -> ir.Value:
    if (value, to) in casts:
        return casts[value, to]
    name = f"{value.name}/{to.name.lower()}"
    constant = value.const_value
    if constant is not None and value.is_initializer():
        array = np.clip(constant.numpy(), -65504, 65504).astype(np.float16)
        new = ir.Value(
            name=name, const_value=ir.tensor(array, name=name), type=ir.TensorType(to), shape=value.shape
        )
        graph.register_initializer(new)
    else:
        node = ir.node("Cast", [value], {"to": to.value}, name=name)
        new = node.outputs[0]
        new.name, new.type, new.shape = name, ir.TensorType(to), value.shape
        # As early as it can be: later nodes share it.
        producer = value.producer()
        graph.insert_before(before, node) if producer is None else graph.insert_after(producer, node)
    casts[value, to] = new
    return new
