"""Which precision an artifact really has: what its graph says, whatever its header does."""

from __future__ import annotations

import re

from ..runtime.artifact import Artifact

# <layer ... type="Const" ...> <data element_type="f16" ...>
_HALF_CONSTANT = re.compile(rb'<data element_type="f16"')
_QUANTISED = re.compile(rb'<layer [^>]*type="FakeQuantize"')


def precision_of(artifact: Artifact) -> str:
    """fp32, bf16, fp16 or int8. bf16 is no property of a graph: OpenVINO is asked for it, by the header. Programs of
    other runtimes are exported in fp32 alone, and judged by that."""
    match artifact.path.suffix:
        case ".onnx":
            return _of_onnx(artifact.content)
        case ".xml":
            if _QUANTISED.search(artifact.content):
                return "int8"
            if _HALF_CONSTANT.search(artifact.content):
                return "fp16"
            return "bf16" if artifact.header.precision == "bf16" else "fp32"
        case _:
            return "fp32"


def _of_onnx(content: bytes) -> str:
    import onnx

    model = onnx.load_model_from_string(content)
    nodes = [*model.graph.node, *(node for function in model.functions for node in function.node)]
    if any(node.op_type in ("QuantizeLinear", "DynamicQuantizeLinear") for node in nodes):
        return "int8"
    half = onnx.TensorProto.FLOAT16
    casts = (
        a.i == half for node in nodes if node.op_type == "Cast" for a in node.attribute if a.name == "to"
    )
    return "fp16" if any(casts) or any(w.data_type == half for w in model.graph.initializer) else "fp32"
