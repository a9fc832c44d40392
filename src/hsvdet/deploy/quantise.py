"""Eight-bit artifacts: weights and activations of convolutions as whole numbers, calibrated on the user's images.

Only convolutions are quantised, nearly all of a detector's arithmetic. In float32 stay, because a small error there
is not a small error in the answer, those of modules that may not be rounded (layers/precision.py), such as the last of
a head, whose answers are scores and distances, and the whole box branch of a one-to-one head; they also read what the
layer before them gave, not what was rounded for others. And what is no convolution: token selection and its attention
(a comparison of scores), normalisation, box arithmetic, suppression. ONNX files are
quantised by ONNX Runtime's own quantiser, OpenVINO models by NNCF. docs/certificate.md has the measurements.
"""

# pyright: reportMissingImports=false
# nncf is of an extra, and need not be here.

from __future__ import annotations

import logging
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from torch import nn

from ..certificate.divergence import scopes
from ..certificate.probes import spread
from ..data.dataset import DetectionData
from ..data.pixels import read_pixels
from ..errors import ConfigError
from ..layers.precision import may_be_8_bits, within
from ..layers.selection import TokenSelector

if TYPE_CHECKING:
    import onnx
    import openvino

IMAGES = 64
_FEWEST = 8
_ROUNDING = ("QuantizeLinear", "DequantizeLinear")


def calibration_images(data: DetectionData, count: int = IMAGES) -> list[np.ndarray]:
    """`count` images [H, W, 3] uint8, evenly spaced over the data. Raises ConfigError for fewer than 8, DataError."""
    if len(data) < _FEWEST:
        raise ConfigError(
            f"Calibration expects at least {_FEWEST} images, {IMAGES} are better; got {len(data)}."
        )
    return [read_pixels(record.path) for record in spread(data.records, count)]


def float32_layers(net: nn.Module) -> tuple[str, ...]:
    """The convolutions and token selectors of a deployed network that INT8 leaves in float32, as a graph names them
    ("net.head. ...")."""
    may = may_be_8_bits(net, "net")
    return tuple(
        name
        for name, module in net.named_modules(prefix="net")
        if isinstance(module, nn.Conv2d | TokenSelector) and name not in may
    )


def quantise_onnx(
    model: onnx.ModelProto, images: Sequence[np.ndarray], float32: Sequence[str]
) -> onnx.ModelProto:
    """A float32 ONNX artifact in INT8: activations of 256 levels from their least to their largest value, weights
    per output channel, as QuantizeLinear and DequantizeLinear around each convolution.

    images: to calibrate on, [H, W, 3] uint8; they go through the artifact's own preprocessing. float32: modules to
    leave as they are.
    """
    import onnx
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.calibrate import CalibrationDataReader

    class Images(CalibrationDataReader):
        left: Iterator = iter(images)

        def get_next(self) -> dict[str, np.ndarray] | None:  # pyright: ignore[reportIncompatibleMethodOverride] None is the end
            image = next(self.left, None)
            return None if image is None else {model.graph.input[0].name: image[None]}

    convolutions = [
        node.name
        for node in model.graph.node
        if node.op_type == "Conv" and scopes(node) and not _within(scopes(node), float32)
    ]
    _some(convolutions)
    merged = onnx.ModelProto()
    merged.CopyFrom(model)
    # Each domain once: the quantiser takes nothing else, and merged graphs have theirs twice.
    versions = {entry.domain: entry.version for entry in model.opset_import}
    del merged.opset_import[:]
    merged.opset_import.extend(onnx.helper.make_opsetid(*item) for item in versions.items())
    with tempfile.TemporaryDirectory(prefix="hsvdet-int8-") as folder, _quietly():
        path = Path(folder) / "int8.onnx"
        quantize_static(
            merged,
            path,
            Images(),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=["Conv"],
            nodes_to_quantize=convolutions,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
        )
        quantised = onnx.load(path)
    _read_unrounded(quantised, float32)
    return quantised


def _read_unrounded(model: onnx.ModelProto, float32: Sequence[str]) -> None:
    """The quantiser gives all that read a value the rounded one, once a single convolution of 8 bits is among them.
    Those that stay in float32 read it as it was, in place."""
    made_by = {output: node for node in model.graph.node for output in node.output}
    for node in (node for node in model.graph.node if _within(scopes(node), float32)):
        for i, name in enumerate(node.input):
            while (last := made_by.get(name)) is not None and last.op_type in _ROUNDING:
                node.input[i] = name = last.input[0]


def quantise_openvino(
    model: openvino.Model, images: Sequence[np.ndarray], float32: Sequence[str]
) -> openvino.Model:
    """A float32 OpenVINO artifact in INT8. Parameters as of `quantise_onnx`."""
    from ..telemetry import unreported

    with unreported():
        import nncf

    convolutions, left = [], []
    for node in model.get_ordered_ops():
        if node.get_type_name() in ("Convolution", "GroupConvolution"):
            weight = _constant_name(node.input_value(1).get_node())
            (left if _within((weight,), float32) else convolutions).append(node.get_friendly_name())
    _some(convolutions)
    others = {node.get_type_name() for node in model.get_ops()} - {"Convolution", "GroupConvolution"}
    with _quietly(), unreported():
        return nncf.quantize(
            model,
            nncf.Dataset([{"images": image[None]} for image in images]),
            preset=nncf.QuantizationPreset.MIXED,  # activations of SiLU are not symmetric
            subset_size=len(images),
            ignored_scope=nncf.IgnoredScope(names=left, types=sorted(others), validate=False),
        )


def _within(names: Sequence[str], modules: Sequence[str]) -> bool:
    return any(within(name, modules) for name in names)


def _constant_name(node: openvino.Node) -> str:
    """The name of the weight, which is that of its module and parameter, also behind a conversion of type."""
    while node.get_type_name() != "Constant" and node.get_input_size():
        node = node.input_value(0).get_node()
    return node.get_friendly_name()


def _some(convolutions: Sequence[str]) -> None:
    if not convolutions:
        raise ConfigError("INT8 expects a network with convolutions to quantise; this one has none.")


@contextmanager
def _quietly() -> Iterator[None]:
    """The quantisers report through the root logger and their own; what goes wrong comes as an exception."""
    loggers = [logging.getLogger(), logging.getLogger("nncf")]
    levels = [log.level for log in loggers]
    try:
        for log in loggers:
            log.setLevel(logging.ERROR)
        with redirect_stdout(sys.stderr):  # progress bars; stdout is for answers
            yield
    finally:
        for log, level in zip(loggers, levels, strict=True):
            log.setLevel(level)
