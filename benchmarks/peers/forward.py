"""What the contenders of other libraries have in common. Not run by itself.

hsvdet is not installed in their environments; of it they use one file that needs only Python.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "src"))

from hsvdet.benchmarking.contender import Contender  # noqa: E402


def race(document: str, networks: Callable) -> None:
    """networks: (name, height, width) to an nn.Module of [B, 3, H, W] in 0..1, or a function."""
    contender = Contender()
    parser = argparse.ArgumentParser(description=document, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--size", default="640x640")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", choices=["auto", "fp32", "bf16", "fp16"], default="auto")
    parser.add_argument("--channels-last", action="store_true")
    arguments = parser.parse_args()
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    device = torch.device("cpu" if arguments.device == "auto" else arguments.device)
    height, width = (int(side) for side in arguments.size.split("x"))
    layout = torch.channels_last if arguments.channels_last else torch.contiguous_format
    # "auto" is what the library does by itself: float32.
    half = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(arguments.precision)
    net = networks(arguments.model, height, width).eval().to(device, memory_format=layout)
    images = torch.rand(arguments.batch, 3, height, width, device=device).contiguous(memory_format=layout)

    @torch.inference_mode()
    def forward():
        with torch.autocast(device.type, half, enabled=half is not None):
            net(images)
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    with FlopCounterMode(display=False) as counter:
        forward()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    where = f"cpu ({torch.get_num_threads()} threads)" if device.type == "cpu" else arguments.device
    how = [
        where,
        arguments.precision if half else "fp32",
        *(["channels last"] if arguments.channels_last else []),
    ]
    contender.serve(
        arguments.model,
        ", ".join(how),
        forward,
        gflops=counter.get_total_flops() / 1e9,
        peak_memory=(lambda: torch.cuda.max_memory_allocated(device)) if device.type == "cuda" else None,
    )
