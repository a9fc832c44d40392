"""hsvdet's own contender in a race: a model, a checkpoint, an artifact, or the machine's peak.

python -m hsvdet.benchmarking.worker yolov8-n --size 640x640
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..errors import HsvdetError, counted
from ..targets import target_of
from .contender import Contender


def is_timed(name: str) -> bool:
    """Whether it is an artifact of a runtime whose threads can be set: others cannot be compared."""
    target = target_of(name)
    return target is not None and target.threads


def main() -> None:
    contender = Contender()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "model", nargs="?", help="a model, checkpoint or artifact; the machine's peak without"
    )
    parser.add_argument("--size", required=True)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--cuda-graph", action="store_true")
    parser.add_argument("--from-pixels", action="store_true")
    arguments = parser.parse_args()
    arguments.size = tuple(int(side) for side in arguments.size.split("x"))
    try:
        if arguments.model is None:
            contender.serve(**_peak(arguments))
        elif is_timed(arguments.model):
            contender.serve(**_artifact(arguments))
        else:
            contender.serve(**_detector(arguments))
    except (HsvdetError, OSError) as error:
        contender.say({"error": {"type": type(error).__name__, "message": str(error)}})
    except RuntimeError as error:  # out of memory, among others
        message = str(error).splitlines()[0] if str(error) else type(error).__name__
        contender.say({"error": {"type": type(error).__name__, "message": message}})


def _torch(arguments) -> Any:
    """(torch, device), with the threads that were asked for."""
    import torch

    from ..devices import find_device

    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    torch.set_grad_enabled(False)
    torch.manual_seed(0)
    return torch, find_device(arguments.device)


def _detector(arguments) -> dict[str, Any]:
    torch, device = _torch(arguments)
    from torch.utils.flop_counter import FlopCounterMode

    from .. import models
    from ..detector import create
    from ..loading import load

    height, width = arguments.size
    if arguments.model in models.MODELS or not Path(arguments.model).suffix:
        detector = create(arguments.model, [str(i) for i in range(80)], size=arguments.size)
    else:
        detector = load(arguments.model, "cpu")
    eager = detector.to(device).accelerate(arguments.precision)
    detector = detector.accelerate(arguments.precision, compile=True) if arguments.compile else eager
    images = torch.rand(arguments.batch, 3, height, width, device=device)
    images = detector.settings.arranged(images)

    @torch.inference_mode()
    def forward(of=detector):
        with of.settings.autocast(device):
            return of.net(images)

    with FlopCounterMode(display=False) as counter:
        forward(eager)
    how = detector.describe()
    run: Callable = forward
    if arguments.from_pixels:
        pixels = [torch.randint(0, 255, (3, height, width), dtype=torch.uint8)] * arguments.batch
        run = lambda: detector(pixels, batch=arguments.batch)  # noqa: E731
    elif arguments.cuda_graph:
        run, how = _captured(torch, forward), f"{how}, CUDA graph"
    name = arguments.model if arguments.model in models.MODELS else f"{detector.name} ({arguments.model})"
    served = {"name": name, "how": how, "gflops": counter.get_total_flops() / 1e9}
    return {**served, **_measured(torch, device, run)}


def _artifact(arguments) -> dict[str, Any]:
    import numpy as np

    from .. import runtime

    runner = runtime.load(arguments.model, threads=arguments.threads)
    image = np.random.default_rng(0).integers(0, 255, (*arguments.size, 3), dtype=np.uint8)
    pixels = [image] * arguments.batch
    target = target_of(arguments.model)
    assert target is not None  # or the runner would not have taken it
    threads = f" ({counted(arguments.threads, 'thread')})" if arguments.threads else ""
    return {
        "name": Path(arguments.model).name,
        "how": f"{target.title}{threads}",
        "run": lambda: runner(pixels, batch=arguments.batch),
    }


def _peak(arguments) -> dict[str, Any]:
    """The best of a large matrix product and a large convolution: what the machine can do in this precision."""
    torch, device = _torch(arguments)
    import time

    from ..devices import HALF
    from ..inference.settings import settings_for

    precision = settings_for(device, arguments.precision).precision
    options = {"dtype": HALF.get(precision, torch.float32), "device": device}
    side, channels = (4096, 512) if device.type == "cuda" else (1536, 256)
    matrix = torch.rand(side, side, **options)
    images = torch.rand(1, channels, 64, 64, **options).contiguous(memory_format=torch.channels_last)
    weights = torch.rand(channels, channels, 3, 3, **options).contiguous(memory_format=torch.channels_last)
    kernels = {
        lambda: matrix @ matrix: 2 * side**3,
        lambda: torch.nn.functional.conv2d(images, weights, padding=1): 2 * 9 * channels**2 * 64 * 64,
    }

    def run():
        speeds = []
        for kernel, operations in kernels.items():
            start = time.perf_counter()
            kernel()
            _finish(torch, device)
            speeds.append(operations / (time.perf_counter() - start) / 1e9)
        return {"gflops_per_second": max(speeds)}

    return {"name": "peak", "how": precision, "run": run}


def _measured(torch, device, run: Callable) -> dict[str, Any]:
    """run, to its end also on a GPU, and the memory that counts there."""
    if device.type != "cuda":
        return {"run": lambda: (run(), _finish(torch, device))}
    torch.cuda.reset_peak_memory_stats(device)
    return {
        "run": lambda: (run(), _finish(torch, device)),
        "peak_memory": lambda: torch.cuda.max_memory_allocated(device),
    }


def _finish(torch, device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def _captured(torch, forward: Callable) -> Callable:
    """The kernels of `forward`, recorded once and replayed without Python."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            forward()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        forward()
    return graph.replay


if __name__ == "__main__":
    main()
