"""Is it the rounding or the runtime, where an artifact answers wrongly in bfloat16?

    python benchmarks/bfloat16.py ARTIFACT.onnx --data DIR [--split val]

ARTIFACT is an ONNX one in fp32. First AP in float32, and with every number that its network makes rounded to bfloat16,
each operation still computed in float32 by ONNX Runtime: that much is owed to the format, on any processor. Then, where
OpenVINO has bfloat16, the graph cut behind each convolution, matrix product and selection in turn, in OpenVINO's
bfloat16 and in its float32, on images of several sizes one after another: the first cut whose values are not alike for
the last of them is where it goes wrong. Values are compared in order of size, for a selection may take equal ones in
another order. The whole graph is in bfloat16 here; hsvdet.runtime makes the canvas in float32 (docs/certificate.md).
"""

from __future__ import annotations

import argparse
import logging
import tempfile
from io import BytesIO
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, shape_inference
from PIL import Image

from hsvdet import read_data, val
from hsvdet.data.pixels import read_pixels
from hsvdet.telemetry import unreported

CUT_BEHIND = (
    "Convolution",
    "MatMul",
    "TopK",
    "MVN",
    "Softmax",
    "Sigmoid",
    "Gelu",
    "GatherND",
    "GatherElements",
)
ALIKE = 0.99
SIZES = ((577, 385), (640, 169), (225, 480))  # width, height: those with which the fault was found


def rounded(model: onnx.ModelProto) -> tuple[onnx.ModelProto, int]:
    """The model with what its network makes rounded, and how many tensors these are. Before the first convolution
    an image is resized and normalised, which OpenVINO does in float32 too."""
    known = shape_inference.infer_shapes(model).graph
    kinds = {value.name: value.type.tensor_type.elem_type for value in [*known.value_info, *known.output]}
    copied = onnx.ModelProto.FromString(model.SerializeToString())
    outputs = {value.name for value in model.graph.output}
    network: set[str] = set()
    renamed: dict[str, str] = {}
    nodes = []
    for node in copied.graph.node:
        inside = node.op_type == "Conv" or any(name in network for name in node.input)
        node.input[:] = [renamed.get(name, name) for name in node.input]
        nodes.append(node)
        for name in node.output if inside else ():
            network.add(name)
            if kinds.get(name) == TensorProto.FLOAT and name not in outputs:
                half, renamed[name] = f"{name}/bfloat16", f"{name}/rounded"
                network.add(renamed[name])
                nodes.append(helper.make_node("Cast", [name], [half], to=TensorProto.BFLOAT16))
                nodes.append(helper.make_node("Cast", [half], [renamed[name]], to=TensorProto.FLOAT))
    del copied.graph.node[:]
    copied.graph.node.extend(nodes)
    return copied, len(renamed)


def likeness(one: np.ndarray, other: np.ndarray) -> float:
    """Cosine of their values in order of size; 0 where one has values that are not finite and the other has not."""
    if np.isfinite(one).all() != np.isfinite(other).all():
        return 0.0
    one, other = (np.sort(part[np.isfinite(part)].astype(np.float64), axis=None) for part in (one, other))
    scale = np.linalg.norm(one) * np.linalg.norm(other)
    return float(one @ other / scale) if scale else float(np.array_equal(one, other))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("artifact", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--split", default="val")
    options = parser.parse_args()
    model = onnx.load(options.artifact)
    data = read_data(options.data, options.split)

    print(f"AP {val(options.artifact, data).ap:.4f} in float32")
    emulated, count = rounded(model)
    logging.getLogger("hsvdet").setLevel(logging.ERROR)  # its certificate is of the graph as it was
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / options.artifact.name
        onnx.save(emulated, path)
        print(f"AP {val(path, data).ap:.4f} with {count} tensors of the graph rounded to bfloat16")

    with unreported():
        import openvino
    core = openvino.Core()
    if "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        print("OpenVINO has no bfloat16 on this processor: there is nothing of its own to compare.")
        return
    photograph = Image.fromarray(read_pixels(data.records[0].path))
    images = [np.asarray(photograph.resize(size))[None] for size in SIZES]
    with unreported():
        graph = openvino.convert_model(BytesIO(model.SerializeToString()))
    for node in graph.get_ordered_ops():
        if node.get_type_name() not in CUT_BEHIND:
            continue
        cut = openvino.Model([node.output(0)], graph.get_parameters(), "cut")
        answers = [
            [np.array(compiled({"images": image})[0]) for image in images][-1]
            for compiled in (
                core.compile_model(cut, "CPU", {"INFERENCE_PRECISION_HINT": hint}) for hint in ("f32", "bf16")
            )
        ]
        alike = likeness(*answers)
        if alike < ALIKE:
            name, shape = node.get_friendly_name(), list(answers[0].shape)
            print(
                f"{node.get_type_name()} {name}, {shape}: {alike:.3f} alike; all before it were over {ALIKE}"
            )
            return
    print(f"all cuts are over {ALIKE} alike")


if __name__ == "__main__":
    main()
