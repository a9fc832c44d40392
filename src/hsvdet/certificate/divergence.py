"""Where an ONNX graph leaves the path of the network it was exported from: its values at the ends of modules
beside eager's, in the order of execution.

The exporter writes on each node which modules it came from. A value that leaves the nodes of a module, and has
the shape of the module's output, is that output; modules whose nodes were fused away are passed over.
"""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
import onnxruntime
import torch
from torch import Tensor, nn

from ..detector import Detector
from .reference import network_input

_SCOPES = "pkg.torch.onnx.name_scopes"
_FLOAT16_LARGEST = float(np.finfo(np.float16).max)
# Of the image as the network takes it: a grey level in one of a hundred pixels.
_INPUT_LIMIT = 1e-3
# Relative error from which a layer is not the same any more. Rounding stays far below, even where it selects other
# tokens; faults of weights or channels are of the order of 1.
LIMITS = {"fp32": 0.005, "fp16": 0.05, "int8": 0.5}
_NETWORK = "net."  # `ExportGraph` has the network under this name
_FLOATS = {onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16}


class Divergence(NamedTuple):
    """layer: a module of the network, or "preprocessing" or "post-processing". error: relative (Frobenius norm)
    at its output. finite: whether all values are numbers. what: in words."""

    layer: str
    error: float
    finite: bool
    what: str


class Inside(NamedTuple):
    """What looking into a graph shows. largest: None without float16. diverges: None where it was not looked for."""

    largest: Largest | None
    diverges: Divergence | None


class Largest(NamedTuple):
    """The largest absolute value among the float16 values of a graph. layer: where it arises."""

    layer: str
    value: float

    @property
    def overflows(self) -> bool:
        return not self.value <= _FLOAT16_LARGEST


def look_inside(
    detector: Detector,
    path: Path,
    images: Sequence[np.ndarray],
    *,
    dynamic: bool,
    precision: str,
    search: bool,
) -> Inside:
    """path: an ONNX artifact of `detector`. images: [H, W, 3] uint8, the one to search first. search: for the layer
    that diverges; without it, only what float16 has to hold is measured."""
    model = onnx.load(path)
    feeds = [{model.graph.input[0].name: image[None]} for image in images]
    peaks = [peak for feed in feeds if (peak := largest_float16(model, feed)) is not None]
    largest = max(peaks, key=lambda peak: (peak.overflows, peak.value), default=None)
    if not search and not (largest and largest.overflows):
        return Inside(largest, None)
    network = network_input(detector, images[0], dynamic)
    diverges = first_divergence(
        model, feeds[0], detector.deploy().net, network.images, network.padding, LIMITS[precision]
    )
    if largest is not None and largest.overflows and diverges.finite:
        what = f"a value of {largest.value:.4g} does not fit into float16"
        diverges = Divergence(largest.layer, float("inf"), False, what)
    return Inside(largest, diverges)


@torch.inference_mode()
def first_divergence(
    model: onnx.ModelProto,
    feed: Mapping[str, np.ndarray],
    net: nn.Module,
    images: Tensor,
    padding: Tensor | None,
    limit: float,
) -> Divergence:
    """net: the network the graph was made of, in the form it was exported in, float32. feed: the graph's inputs
    for one image, of which images and padding are the network's. limit: relative error from which a layer is
    another. Where all layers agree, it is what follows them: post-processing."""
    outputs = _module_outputs(net, images, padding)
    values = _values_of_modules(model, list(outputs))
    first = _first_input(model)
    wanted = [v for vs in values.values() for v in vs]
    if first is not None:
        wanted.insert(0, first)
    try:
        came = _run(model, feed, list(dict.fromkeys(wanted)))
    except Exception as error:  # ONNX Runtime has an exception class for every status
        return _stopped(model, str(error))
    if first is not None and first in came:
        found = _difference("preprocessing", came[first], images.cpu().numpy())
        if found.error > _INPUT_LIMIT:
            return found
    errors = []
    for layer, expected in outputs.items():
        # Several values of this shape may leave a module, and which is its answer is not written on them.
        same_shape = [came[v] for v in values.get(layer, ()) if v in came and came[v].shape == expected.shape]
        if same_shape:
            errors.append(
                min((_difference(layer, value, expected) for value in same_shape), key=lambda d: d.error)
            )
    for found in errors:
        if found.error > limit:
            return found
    largest = max(errors, key=lambda found: found.error, default=None)
    what = "what differs is done with the network's answer"
    if largest is not None:
        what += f"; the largest error of {len(errors)} layers is {largest.error:.2g}, in {largest.layer}"
    return Divergence("post-processing", 0.0, True, what)


def _stopped(model: onnx.ModelProto, reason: str) -> Divergence:
    """ONNX Runtime names the node that it could not compute."""
    named = re.search(r"Name:'([^']*)'", reason)
    node = next((node for node in model.graph.node if named and node.name == named[1]), None)
    layer = _layer_of(node) if node is not None else "the graph"
    return Divergence(layer, float("inf"), True, "the runtime cannot compute it")


def largest_float16(model: onnx.ModelProto, feed: Mapping[str, np.ndarray]) -> Largest | None:
    """None where the graph has no float16 values. A processor without float16 computes in float32 and hides
    what overflows in float16, so the values themselves are looked at."""
    typed = _with_types(model)
    kinds = {info.name: info.type.tensor_type.elem_type for info in typed.graph.value_info}
    halves = [name for name in _produced(model.graph) if kinds.get(name) == onnx.TensorProto.FLOAT16]
    if not halves:
        return None
    measured = onnx.ModelProto()
    measured.CopyFrom(model)
    del measured.graph.output[:]
    for i, name in enumerate(halves):
        measured.graph.node.extend(
            [
                onnx.helper.make_node("Cast", [name], [f"peak_{i}_float"], to=onnx.TensorProto.FLOAT),
                onnx.helper.make_node("Abs", [f"peak_{i}_float"], [f"peak_{i}_abs"]),
                onnx.helper.make_node("ReduceMax", [f"peak_{i}_abs"], [f"peak_{i}"], keepdims=0),
            ]
        )
        measured.graph.output.append(
            onnx.helper.make_tensor_value_info(f"peak_{i}", onnx.TensorProto.FLOAT, [])
        )
    peaks = [float(peak) for peak in _tensors(measured, feed, [f"peak_{i}" for i in range(len(halves))])]
    origin = {output: node for node in model.graph.node for output in node.output}
    for name, peak in zip(halves, peaks, strict=True):
        if not peak <= _FLOAT16_LARGEST:
            return Largest(_layer_of(origin[name]), peak)
    best = int(np.argmax(peaks))
    return Largest(_layer_of(origin[halves[best]]), peaks[best])


def scopes(node: onnx.NodeProto) -> tuple[str, ...]:
    """The modules a node came from, outermost first; none where a tool dropped them."""
    for entry in node.metadata_props:
        if entry.key == _SCOPES:
            try:
                return tuple(name for name in ast.literal_eval(entry.value)[:-1] if name)
            except (SyntaxError, ValueError):
                return ()
    return ()


def _layer_of(node: onnx.NodeProto) -> str:
    inside = scopes(node)
    return inside[-1].removeprefix(_NETWORK) if inside else node.name


def _module_outputs(net: nn.Module, images: Tensor, padding: Tensor | None) -> dict[str, np.ndarray]:
    """What each module answers, in the order they finish; those that answer with one tensor."""
    outputs: dict[str, np.ndarray] = {}

    def keep(name: str):
        def hook(module, arguments, output):
            if isinstance(output, tuple) and output and isinstance(output[0], Tensor):
                output = output[0]
            if isinstance(output, Tensor) and output.is_floating_point():
                # A copy: an activation may work in place.
                outputs[name] = output.to(torch.float32, copy=True).cpu().numpy()

        return hook

    handles = [module.register_forward_hook(keep(name)) for name, module in net.named_modules() if name]
    try:
        net(images, padding)
    finally:
        for handle in handles:
            handle.remove()
    return outputs


def _values_of_modules(model: onnx.ModelProto, modules: list[str]) -> dict[str, list[str]]:
    """For each module the values that leave its nodes."""
    graph = model.graph
    produced: defaultdict[str, list[str]] = defaultdict(list)
    read_by: defaultdict[str, list[set[str]]] = defaultdict(list)
    for node in graph.node:
        inside = set(scopes(node))
        for name in inside:
            produced[name].extend(output for output in node.output if output)
        for name in _reads(node):
            read_by[name].append(inside)
    for output in graph.output:
        read_by[output.name].append(set())
    return {
        module: [
            value
            for value in produced[_NETWORK + module]
            if any(_NETWORK + module not in inside for inside in read_by[value])
        ]
        for module in modules
        if _NETWORK + module in produced
    }


def _first_input(model: onnx.ModelProto) -> str | None:
    """What the network's first convolution reads: the image as the network takes it."""
    convolutions = (node for node in model.graph.node if node.op_type == "Conv" and scopes(node))
    return next((node.input[0] for node in convolutions), None)


def _run(model: onnx.ModelProto, feed: Mapping[str, np.ndarray], wanted: list[str]) -> dict[str, np.ndarray]:
    """The values of a graph by name, float32, those that are numbers with a fraction."""
    typed = _with_types(model)
    kinds = {
        info.name: info.type.tensor_type.elem_type
        for info in [*typed.graph.value_info, *typed.graph.input, *typed.graph.output]
    }
    wanted = [name for name in wanted if kinds.get(name) in _FLOATS]
    opened = onnx.ModelProto()
    opened.CopyFrom(model)
    del opened.graph.output[:]
    for name in wanted:
        opened.graph.output.append(onnx.helper.make_tensor_value_info(name, kinds[name], None))
    answers = _tensors(opened, feed, wanted)
    return {name: answer.astype(np.float32) for name, answer in zip(wanted, answers, strict=True)}


def _tensors(model: onnx.ModelProto, feed: Mapping[str, np.ndarray], wanted: list[str]) -> list[np.ndarray]:
    """Outputs of a graph, which ONNX Runtime types as anything that a graph may give."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return [np.asarray(answer) for answer in session.run(wanted, dict(feed))]


def _with_types(model: onnx.ModelProto) -> onnx.ModelProto:
    return onnx.shape_inference.infer_shapes(model, data_prop=False)


def _produced(graph: onnx.GraphProto) -> Iterator[str]:
    for node in graph.node:
        if node.op_type != "Constant":
            yield from (output for output in node.output if output)


def _reads(node: onnx.NodeProto) -> Iterator[str]:
    """Also what the branches of If and Loop read from outside."""
    yield from node.input
    for attribute in node.attribute:
        for graph in [attribute.g, *attribute.graphs]:
            for inner in graph.node:
                yield from _reads(inner)


def _difference(layer: str, came: np.ndarray, expected: np.ndarray) -> Divergence:
    if came.shape != expected.shape:
        what = f"gives {list(came.shape)}, eager {list(expected.shape)}"
        return Divergence(layer, float("inf"), True, what)
    broken = int((~np.isfinite(came)).sum())
    if broken:
        what = f"{broken} of {came.size} values are not finite"
        return Divergence(layer, float("inf"), False, what)
    norm = float(np.linalg.norm(expected.astype(np.float64)))
    error = float(np.linalg.norm(came.astype(np.float64) - expected)) / max(norm, 1e-12)
    return Divergence(layer, error, True, f"relative error {error:.3g}")
