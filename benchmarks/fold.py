"""What the fold saves: YOLOv8, HSV-DET as its formula reads, as this library trains it, and deployed.

    python benchmarks/fold.py [--scales n s l] [--sizes 640x640 1088x1920 2176x3840] [--runs 7] [--threads 2]
                              [--device cpu] [--precision float32] [--channels-last] [--only-deployed]

End to end and block by block, batch 1. Runs alternate, so that a machine that slows down slows all; a ratio is the
median of those of each round. Blocks run by themselves on the maps that reach them in the network.
"""

import argparse
import copy
import statistics
import time
from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import hsvdet
from hsvdet.inference.allocator import keep_freed_memory
from hsvdet.layers.sparse_global import SparseGlobal, SparseGlobalOutput


class AsWritten(nn.Module):
    """The block as its formula reads: every token becomes query, key and value, and passes the output matrix."""

    def __init__(self, block: SparseGlobal):
        super().__init__()
        self.block = block

    def forward(self, x, padding=None, salience=None):
        block, k = self.block, self.block.tokens_selected(*x.shape[2:])
        tokens = x.flatten(2).transpose(1, 2)
        queries, keys = block.norm(block.query(tokens)), block.norm(block.key(tokens))
        values = block.value(tokens)
        place = x.float().square().sum(1).flatten(1).topk(k).indices.unsqueeze(-1).expand(-1, -1, x.shape[1])
        attended = F.scaled_dot_product_attention(
            *(part.gather(1, place) for part in (queries, keys, values))
        )
        mixed = block.output(values.scatter(1, place, attended))
        return SparseGlobalOutput(x + block.gate * mixed.transpose(1, 2).view_as(x), None)


def networks(scale: str) -> dict[str, nn.Module]:
    labels = [str(number) for number in range(80)]
    torch.manual_seed(0)
    yolov8, hsv_det = (hsvdet.create(f"{family}-{scale}", labels) for family in ("yolov8", "hsv-det"))
    for block in hsv_det.net.sparse_global.values():
        nn.init.constant_(block.gate, 0.5)
    written = copy.deepcopy(hsv_det.net)
    for name, block in list(written.sparse_global.items()):
        written.sparse_global[name] = AsWritten(block)
    return {
        "yolov8": yolov8.net,
        "yolov8 deployed": yolov8.deploy().net,
        "hsv-det as written": written,
        "hsv-det": hsv_det.net,
        "hsv-det deployed": hsv_det.deploy().net,
    }


class Measured(NamedTuple):
    """answer: of the run that warmed up. gflops: of one run. times: milliseconds of the runs after it."""

    answer: Any
    gflops: float
    times: list[float]


def measure(modules: dict[str, nn.Module], x: torch.Tensor, runs: int) -> dict[str, Measured]:
    """In turn, every second round in reverse order."""
    measured = {}
    for name, module in modules.items():
        with FlopCounterMode(display=False) as counter:
            answer = module(x)
        measured[name] = Measured(answer, counter.get_total_flops() / 1e9, [])
    for number in range(runs):
        for name in modules if number % 2 else reversed(modules):
            start = time.perf_counter()
            modules[name](x)
            if x.is_cuda:
                torch.cuda.synchronize()
            measured[name].times.append(1e3 * (time.perf_counter() - start))
    return measured


def report(title: str, measured: dict[str, Measured], base: dict[str, str]) -> None:
    """base: for each module, the one whose times its own are divided by, round by round."""
    for name, (_, gflops, times) in measured.items():
        pairs = zip(times, measured[base[name]].times, strict=True)
        ratio = statistics.median(own / other for own, other in pairs)
        cost = f"{gflops:9.3f} GFLOPs {statistics.median(times):10.2f} ms"
        print(f"{title:24s} {name:20s} {cost} {ratio:7.3f} x {base[name]}", flush=True)


def bases(names: Iterable[str]) -> dict[str, str]:
    return {name: "yolov8 deployed" if name.endswith("deployed") else "yolov8" for name in names}


def maps_before_blocks(net: nn.Module, images: torch.Tensor) -> dict[str, torch.Tensor]:
    maps: dict[str, torch.Tensor] = {}

    def keep(at):
        return lambda _, inputs: maps.update({at: inputs[0]})

    hooks = [block.register_forward_pre_hook(keep(at)) for at, block in net.sparse_global.items()]
    net(images)
    for hook in hooks:
        hook.remove()
    return maps


@torch.inference_mode()
def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scales", nargs="+", choices=list("nsmlx"), default=["n", "s", "l"])
    parser.add_argument("--sizes", nargs="+", default=["640x640", "1088x1920", "2176x3840"])
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--precision", choices=["float32", "bfloat16", "float16"], default="float32")
    parser.add_argument("--channels-last", action="store_true")
    parser.add_argument("--only-deployed", action="store_true", help="deployed networks, no blocks")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    keep_freed_memory()  # as inference does
    dtype = getattr(torch, arguments.precision)
    layout = torch.channels_last if arguments.channels_last else torch.contiguous_format
    place = torch.cuda.get_device_name() if arguments.device == "cuda" else f"{arguments.threads} threads"
    print(f"{place}, {arguments.precision}, {layout}, {arguments.runs} runs, torch {torch.__version__}")
    for scale in arguments.scales:
        nets = {
            name: net.eval().to(arguments.device, dtype, memory_format=layout)
            for name, net in networks(scale).items()
            if name.endswith("deployed") or not arguments.only_deployed
        }
        hsv_dets = {name: net for name, net in nets.items() if name.startswith("hsv-det")}
        for size in arguments.sizes:
            height, width = (int(side) for side in size.split("x"))
            images = torch.rand(1, 3, height, width, device=arguments.device, dtype=dtype)
            images = images.to(memory_format=layout)
            measured = measure(nets, images, arguments.runs)
            answers = [measured[name].answer.answer.logits for name in hsv_dets]
            for name, answer in zip(hsv_dets, answers, strict=True):
                error = ((answer - answers[0]).norm() / answers[0].norm()).item()
                if not error < (5e-2 if dtype == torch.bfloat16 else 5e-3):
                    parser.exit(1, f"{name} answers otherwise: relative error {error:.1e}\n")
            report(f"{scale} {size}", measured, bases(nets))
            if arguments.only_deployed:
                continue
            for at, level in maps_before_blocks(nets["hsv-det"], images).items():
                blocks = {name: net.sparse_global[at] for name, net in hsv_dets.items()}
                # As often as takes a second or so: blocks are a hundredth of the network.
                measured = measure(blocks, level, 5 * arguments.runs)
                report(f"{scale} {size} block {at}", measured, dict.fromkeys(blocks, "hsv-det as written"))


if __name__ == "__main__":
    main()
