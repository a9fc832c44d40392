"""NAME.xml through openvino."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import CheckpointError, ConfigError
from ..telemetry import unreported
from .artifact import Artifact, Run

if TYPE_CHECKING:
    import openvino

Settings = dict[str, str | int]


def start(artifact: Artifact, threads: int | None) -> Run:
    path = artifact.path
    try:
        with unreported():
            import openvino
    except ImportError:
        raise ConfigError(f"{path}: an OpenVINO artifact needs openvino: pip install openvino") from None
    core = openvino.Core()
    # By itself OpenVINO computes in bfloat16 where the CPU has it, and boxes then move by pixels.
    half = artifact.header.precision == "bf16" and "BF16" in core.get_property(
        "CPU", "OPTIMIZATION_CAPABILITIES"
    )
    hint = "bf16" if half else "f32"
    settings: Settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": hint}
    if threads is not None:
        settings["INFERENCE_NUM_THREADS"] = threads
    try:
        model = core.read_model(path)
    except RuntimeError as error:
        reason = str(error).strip().split("\n")[0]
        raise CheckpointError(f"{path}: not an OpenVINO model that can be run ({reason}).") from None
    # A graph for single images is up to 3 % faster. (Not for one height and width too: where an image is as large as
    # its canvas, 2026.4 then divides by zero, and the process is gone.)
    shapes = {True: [1, -1, -1, 3], False: [-1, -1, -1, 3]}
    started: dict[bool, Run] = {}

    def run(images: np.ndarray) -> Sequence[np.ndarray]:
        single = len(images) == 1
        if single not in started:
            graph = model.clone()
            graph.reshape({"images": shapes[single]})
            started[single] = (
                _in_halves(core, graph, settings, path) if half else _whole(core, graph, settings)
            )
        return started[single](images)

    return run


def _whole(core: openvino.Core, graph: openvino.Model, settings: Settings) -> Run:
    request = core.compile_model(graph, "CPU", settings).create_infer_request()

    def run(images: np.ndarray) -> list[np.ndarray]:
        request.infer({"images": images})
        return _answer(request)

    return run


def _in_halves(core: openvino.Core, graph: openvino.Model, settings: Settings, path: Path) -> Run:
    """Images to the canvas in float32, and from there in bfloat16.

    Where the canvas is made in bfloat16, too, 2026.4 seems to write beyond its memory into the weights of the first
    convolution: after images of some sizes a compiled network answers wrongly for good (docs/certificate.md). Besides,
    resizing is exact in float32.
    """
    import openvino
    from openvino import opset13

    make: Any = openvino.Model  # of its typed constructors pyright can bind none

    def canvas_of(model: openvino.Model) -> openvino.Output:
        for node in model.get_ordered_ops():
            for output in node.outputs():
                if "canvas" in output.get_names():
                    return output
        raise CheckpointError(f"{path}: an OpenVINO artifact has a tensor called canvas; this one has none.")

    first = make([canvas_of(graph)], graph.get_parameters(), "canvas").clone()
    canvas = canvas_of(graph)
    taken = opset13.parameter(canvas.get_partial_shape(), canvas.get_element_type(), name="taken")
    for reader in canvas.get_target_inputs():
        reader.replace_source_output(taken.output(0))
    rest = make(graph.outputs, [*graph.get_parameters(), taken], "network")
    resize = core.compile_model(
        first, "CPU", settings | {"INFERENCE_PRECISION_HINT": "f32"}
    ).create_infer_request()
    network = core.compile_model(rest, "CPU", settings).create_infer_request()

    def run(images: np.ndarray) -> list[np.ndarray]:
        resize.infer({"images": images})
        network.infer({"images": images, "taken": resize.get_output_tensor(0)})
        return _answer(network)

    return run


def _answer(request: openvino.InferRequest) -> list[np.ndarray]:
    # Copies: the request's own memory is written again by the next call.
    return [np.array(request.get_tensor(name).data) for name in ("boxes", "scores", "labels", "count")]
