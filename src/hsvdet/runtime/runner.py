"""Detect from an exported artifact, without PyTorch: numpy, Pillow, and onnxruntime or openvino are enough
(ExecuTorch's own Python runtime brings PyTorch with it).

    from hsvdet import runtime

    detect = runtime.load("street.onnx")
    boxes, scores, labels = detect("street.jpg")
    print([detect.labels[i] for i in labels])

What the artifact does not have inside: reading image files.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from os import PathLike
from pathlib import Path

import numpy as np

from ..data.pixels import PixelSource, name_of, read_pixels
from ..errors import CheckpointError, ConfigError, NonFiniteError
from ..structures import Detections
from .artifact import KEY, ArtifactHeader, existing, parse_header, read_header

# uint8 [B, H, W, 3] to boxes, scores, labels, count, as the artifact gives them.
Run = Callable[[np.ndarray], Sequence[np.ndarray]]

SUFFIXES = (".onnx", ".xml", ".pte")


def load(path: str | PathLike[str], *, threads: int | None = None) -> Runner:
    """An artifact of `hsvdet export`, ready to run: NAME.onnx through onnxruntime, NAME.xml through openvino,
    NAME.pte through executorch.

    threads: of one call; the runtime's own choice if not given. Raises CheckpointError for a file that is not an
    artifact of hsvdet, ConfigError where the runtime it needs is not installed.
    """
    path = existing(path)
    start = dict(zip(SUFFIXES, (_start_onnx, _start_openvino, _start_executorch), strict=True)).get(
        path.suffix
    )
    if start is None:
        raise CheckpointError(
            f"{path}: expected an artifact NAME.onnx, NAME.xml (OpenVINO) or NAME.pte (ExecuTorch); others are run"
            " by the programs they are for."
        )
    if threads is not None and threads < 1:
        raise ConfigError(f"threads expects a number from 1 on; got {threads}.")
    run, header = start(path, threads)
    return Runner(run, header)


class Runner:
    """Call it as a `Detector`. header: what the artifact says about itself. labels: class names, index = label.
    category_ids: the id of each class in the data set the model was trained on."""

    def __init__(self, run: Run, header: ArtifactHeader):
        self.run, self.header = run, header
        self.labels, self.category_ids = header.labels, header.category_ids

    def __call__(
        self,
        images: PixelSource | Sequence[PixelSource],
        *,
        score: float | None = None,
        iou: float | None = None,
        max_detections: int | None = None,
        batch: int = 16,
        names: Sequence[str] | None = None,
    ) -> Detections | list[Detections]:
        """Detect objects on one image or a list of them: Detections of numpy arrays, a list for a list.

        images: path, Pillow image, or array [H, W, 3] uint8 RGB. score: the artifact's own if not given; not below
        its floor. iou: is the artifact's; another is refused. max_detections: at most the artifact's. Images
        of one size are run together, at most `batch` of them.
        names: of the images, for errors; their paths, or numbers in the list, if not given.
        Raises ConfigError, DataError naming the image that cannot be read, and NonFiniteError naming one of which the
        network made NaN or infinity.
        """
        if not isinstance(images, list | tuple):
            return self([images], score=score, iou=iou, max_detections=max_detections, names=names)[0]
        header = self.header
        score = header.score if score is None else score
        most = header.max_detections if max_detections is None else max_detections
        if not header.floor <= score <= 1:
            raise ConfigError(
                f"score expects {header.floor:g} to 1, the artifact has nothing weaker; got {score}. Export again"
                " with a lower --score."
            )
        if not 1 <= most <= header.max_detections:
            raise ConfigError(
                f"max_detections expects 1 to {header.max_detections}, the rows of the artifact; got {most}. Export"
                " again with --max-detections."
            )
        if iou is not None and header.iou is not None and iou != header.iou:
            raise ConfigError(
                f"iou is part of the artifact, {header.iou:g}; got {iou}. Export again with --iou {iou}."
            )
        names = names or [name_of(image, number) for number, image in enumerate(images)]
        groups: dict[tuple[int, ...], list[int]] = {}
        arrays = [read_pixels(image) for image in images]
        for number, array in enumerate(arrays):
            groups.setdefault(array.shape, []).append(number)
        results: list[Detections | None] = [None] * len(arrays)
        for numbers in groups.values():
            for start in range(0, len(numbers), batch):
                chunk = numbers[start : start + batch]
                boxes, scores, labels, count = self.run(np.stack([arrays[i] for i in chunk]))
                for row, i in enumerate(chunk):
                    if count[row] < 0:
                        raise NonFiniteError(
                            f"{names[i]}: the artifact's answer is not finite."
                            f" Numbers overflow in it ({header.precision}), or its weights had diverged: export"
                            " again, with --precision fp32 or from sound weights."
                        )
                    # Not by the artifact's own count: `score` may be another.
                    found = min(int((scores[row] > score).sum()), most)
                    results[i] = Detections(boxes[row, :found], scores[row, :found], labels[row, :found])
        return results


def _start_onnx(path: Path, threads: int | None) -> tuple[Run, ArtifactHeader]:
    try:
        import onnxruntime
    except ImportError:
        raise ConfigError(f"{path}: an ONNX artifact needs onnxruntime: pip install onnxruntime") from None
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if threads is not None:
        options.intra_op_num_threads = threads
    try:
        session = onnxruntime.InferenceSession(path, options, providers=onnxruntime.get_available_providers())
    except Exception as error:  # ONNX Runtime has an exception class for every status, and no common one
        reason = str(error).strip().split("\n")[0]
        raise CheckpointError(f"{path}: not an ONNX model that can be run ({reason}).") from None
    header = parse_header(session.get_modelmeta().custom_metadata_map.get(KEY), path)
    return lambda images: session.run(None, {"images": images}), header


def _start_openvino(path: Path, threads: int | None) -> tuple[Run, ArtifactHeader]:
    try:
        import openvino
    except ImportError:
        raise ConfigError(f"{path}: an OpenVINO artifact needs openvino: pip install openvino") from None
    header = read_header(path)
    core = openvino.Core()
    # By itself OpenVINO computes in bfloat16 where the CPU has it, and boxes then move by pixels.
    half = header.precision == "bf16" and "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    hint = "bf16" if half else "f32"
    settings: dict[str, str | int] = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": hint}
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
    requests: dict[bool, openvino.InferRequest] = {}

    def run(images: np.ndarray) -> list[np.ndarray]:
        single = len(images) == 1
        if single not in requests:
            graph = model.clone()
            graph.reshape({"images": shapes[single]})
            requests[single] = core.compile_model(graph, "CPU", settings).create_infer_request()
        request = requests[single]
        request.infer({"images": images})
        # Copies: the request's own memory is written again by the next call.
        return [np.array(request.get_tensor(name).data) for name in ("boxes", "scores", "labels", "count")]

    return run, header


def _start_executorch(path: Path, threads: int | None) -> tuple[Run, ArtifactHeader]:
    try:
        import torch
        from executorch.runtime import Runtime
    except ImportError:
        raise ConfigError(
            f"{path}: an ExecuTorch artifact needs executorch: pip install executorch"
        ) from None
    from ..preprocess import Preprocess

    if threads is not None:
        raise ConfigError(
            "threads is for ONNX and OpenVINO; ExecuTorch's Python runtime chooses its own number."
        )
    header = read_header(path)
    preprocess = Preprocess(**{**header.preprocess, "size": header.size})
    try:
        detect = Runtime.get().load_program(path).load_method("forward")
    except RuntimeError as error:
        reason = str(error).strip().split("\n")[0]
        raise CheckpointError(f"{path}: not an ExecuTorch program that can be run ({reason}).") from None

    def run(images: np.ndarray) -> list[np.ndarray]:
        size = torch.tensor(images.shape[1:3])
        rows = []
        for image in images:  # the program's shapes are fixed, and so is a batch of one
            canvas, content = preprocess.place(torch.from_numpy(image).permute(2, 0, 1))
            outputs = detect.execute([canvas[None].float(), torch.tensor(content), size])
            rows.append([output.numpy().copy() for output in outputs])  # the program's own memory otherwise
        return [np.concatenate(parts) for parts in zip(*rows, strict=True)]

    return run, header
