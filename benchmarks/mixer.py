"""What mixes the cells of a map in RT-DETR's encoder, attention, beside what does in Mamba-DETR's, a state space: time
and memory by the number of cells, in PyTorch and as an ONNX artifact. A minute of one core, 5 GB of memory.

    python benchmarks/mixer.py [--runs 3]

Sizes are those of the published models (256 channels; 8 heads, or 4 and a state of 64). Cells: 400, 1,600 and 6,400 are
the maps of stride 32, 16 and 8 of 640 x 640; 8,160 that of stride 16 of 1088 x 1920. One thread, batch 1, float32.
Times are CPU seconds of the process, medians of runs that alternate, so that other work on the machine counts less.
Memory: in PyTorch the tensors that live together at the worst moment; of ONNX Runtime what the process takes for one
run (Linux).
"""

from __future__ import annotations

import argparse
import statistics
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from torch import Tensor, nn
from torch.export import Dim

from hsvdet.layers.attention import MultiHeadAttention
from hsvdet.models.mamba_detr import MambaDetrConfig, StateSpaceMixer
from hsvdet.profiler import peak_memory

MAPS = ((20, 20), (40, 40), (80, 80), (68, 120))


class Attention(nn.Module):
    """Of every cell to every other, as `StateSpaceMixer` takes and gives them; positions are the caller's."""

    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.attention = MultiHeadAttention(dim, heads)

    def forward(self, features: Tensor) -> Tensor:
        cells = features.flatten(2).transpose(1, 2)
        return self.attention(cells, cells, cells)


class Mamba(nn.Module):
    def __init__(self, config: MambaDetrConfig):
        super().__init__()
        self.mixer = StateSpaceMixer(config.neck, config.scan_heads, config.states, config.directions)

    def forward(self, features: Tensor) -> Tensor:
        return self.mixer(features, None)


def artifact(net: nn.Module, dim: int) -> bytes:
    """For maps of any size."""
    shapes = ({2: Dim("rows", min=2), 3: Dim("columns", min=2)},)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            net, (torch.rand(1, dim, 20, 24),), dynamo=True, dynamic_shapes=shapes, verbose=False
        )
    assert program is not None
    return program.model_proto.SerializeToString()


def resident(which: str) -> int:
    """VmRSS or VmHWM, the most of it so far, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(f"{which}:"))


def taken(run: Callable[[], Any]) -> int:
    """Bytes of the process at the worst moment of `run`, beyond those it had before."""
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM counts from here
    before = resident("VmRSS")
    run()
    return resident("VmHWM") - before


def seconds(run: Callable[[], Any]) -> float:
    start = time.process_time()
    run()
    return time.process_time() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    config = MambaDetrConfig()
    nets = {"attention": Attention(config.neck, config.heads).eval(), "Mamba": Mamba(config).eval()}
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.enable_cpu_mem_arena = False  # or it would keep what a larger map needed
    sessions = {
        name: onnxruntime.InferenceSession(artifact(net, config.neck), options) for name, net in nets.items()
    }
    print(
        "| cells | | ms | ratio | MB | as ONNX, ms | ratio | MB |\n|---:|---|---:|---:|---:|---:|---:|---:|"
    )
    for height, width in MAPS:
        features = torch.rand(1, config.neck, height, width)
        given = {"features": features.numpy()}
        runs: dict[tuple[str, str], Callable[[], Any]] = {}
        for name, net in nets.items():
            runs[name, "eager"] = partial(net, features)
            runs[name, "onnx"] = partial(sessions[name].run, None, given)
        with torch.inference_mode():
            for name in nets:  # the first runs, which do not count
                np.testing.assert_allclose(runs[name, "eager"](), runs[name, "onnx"]()[0], atol=1e-4)
            took = {key: [] for key in runs}
            for _ in range(arguments.runs):
                for key, run in runs.items():
                    took[key].append(1e3 * seconds(run))
            ms = {key: statistics.median(times) for key, times in took.items()}
            for name, net in nets.items():
                columns = []
                for how, memory in (
                    ("eager", peak_memory(net, features)),
                    ("onnx", taken(runs[name, "onnx"])),
                ):
                    ratio = ms["attention", how] / ms[name, how]
                    columns += [f"{ms[name, how]:.0f}", f"{ratio:.2f}", f"{memory / 1e6:.0f}"]
                print(f"| {height * width:,} | {name} | {' | '.join(columns)} |", flush=True)


if __name__ == "__main__":
    main()
