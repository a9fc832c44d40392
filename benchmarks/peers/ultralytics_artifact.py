"""Ultralytics' own exports of its networks, random weights, in ONNX Runtime and OpenVINO. Environment of its own:
pip install -r benchmarks/peers/ultralytics.txt. AGPL-3.0, used as a program; nothing of it is part of hsvdet.

    hsvdet benchmark yolov8-n.onnx --peer 'PYTHON benchmarks/peers/ultralytics_artifact.py yolov8n --to onnx'

A run is the exported network on a float32 array that is ready for it; with --pixels, between the package's own
letterbox and suppression, from uint8 pixels to detections; with --predict, the package's own prediction with that
export, in settings of its choice. The export is made in --folder where it is not there yet.
"""

import argparse
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "src"))

from hsvdet.benchmarking.contender import Contender  # noqa: E402


def exported(name: str, to: str, size: tuple[int, int]) -> Path:
    """In the working directory, as the package names it."""
    path = Path(f"{name}.onnx" if to == "onnx" else f"{name}_openvino_model")
    if not path.exists():
        from ultralytics import YOLO

        YOLO(f"{name}.yaml").export(format=to, imgsz=list(size))
    return path


def network(path: Path, threads: int | None):
    """The network in the runtime and the settings that hsvdet's artifacts run with (src/hsvdet/runtime/runner.py)."""
    if path.suffix == ".onnx":
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or 0
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        (entry,) = session.get_inputs()
        return lambda images: session.run(None, {entry.name: images})[0]
    import openvino

    settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    if threads:
        settings["INFERENCE_NUM_THREADS"] = threads
    (graph,) = path.glob("*.xml")
    request = openvino.Core().compile_model(graph, "CPU", settings).create_infer_request()
    return lambda images: request.infer([images])[0]


def forward(path: Path, batch: int, size: tuple[int, int], threads: int | None):
    import numpy as np

    images = np.random.default_rng(0).random((batch, 3, *size), dtype=np.float32)
    answer = network(path, threads)
    return lambda: answer(images) is None


def from_pixels(path: Path, batch: int, size: tuple[int, int], threads: int | None):
    import numpy as np
    import torch
    from ultralytics.data.augment import LetterBox
    from ultralytics.utils.nms import non_max_suppression

    image = np.random.default_rng(0).integers(0, 255, (*size, 3), dtype=np.uint8)
    answer, letterbox = network(path, threads), LetterBox(size)

    def run():
        pictures = np.stack([letterbox(image=image) for _ in range(batch)]).transpose(0, 3, 1, 2)
        found = answer(np.ascontiguousarray(pictures, dtype=np.float32) / 255)
        non_max_suppression(torch.from_numpy(found), conf_thres=0.25, iou_thres=0.7)

    return run


def prediction(path: Path, batch: int, size: tuple[int, int]):
    import numpy as np
    from ultralytics import YOLO

    image = np.random.default_rng(0).integers(0, 255, (*size, 3), dtype=np.uint8)
    model = YOLO(path, task="detect")
    return lambda: model.predict([image] * batch, imgsz=list(size), device="cpu", verbose=False) and None


def main():
    contender = Contender()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model")
    parser.add_argument("--to", choices=["onnx", "openvino"], required=True)
    parser.add_argument("--pixels", action="store_true")
    parser.add_argument("--predict", action="store_true")
    parser.add_argument("--folder", type=Path, default=Path("."))
    parser.add_argument("--size", default="640x640")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--device", choices=["auto", "cpu"], default="cpu")
    parser.add_argument("--precision", choices=["auto", "fp32"], default="fp32")
    arguments = parser.parse_args()
    size = tuple(int(side) for side in arguments.size.split("x"))
    arguments.folder.mkdir(parents=True, exist_ok=True)
    os.chdir(arguments.folder)
    path = exported(arguments.model, arguments.to, size)
    runtime = {"onnx": "ONNX Runtime", "openvino": "OpenVINO"}[arguments.to]
    if arguments.predict:
        how = f"{runtime}, its own settings, from pixels to detections"
        run = prediction(path, arguments.batch, size)
    else:
        threads = f" ({arguments.threads} threads)" if arguments.threads else ""
        what, make = (
            ("from pixels to detections", from_pixels) if arguments.pixels else ("the network alone", forward)
        )
        how = f"{runtime}{threads}, fp32, {what}"
        run = make(path, arguments.batch, size, arguments.threads)
    contender.serve(path.name, how, run)


if __name__ == "__main__":
    main()
