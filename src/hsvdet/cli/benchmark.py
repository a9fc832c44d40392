"""`hsvdet benchmark`: how fast, and what suppression costs."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from .answer import Answer
from .options import Checkpoint, Device, InferencePrecision, Json, MaxDetections, MultiLabel, Size


class WithDefault(TyperGroup):
    """A group whose first command is meant where none of the others is named."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        default, *others = self.commands
        if not args or args[0] not in others:
            args = [default, *args]
        return super().parse_args(ctx, args)

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[Any, Any, list[str]]:
        name, command, rest = super().resolve_command(ctx, args)
        return None if name == next(iter(self.commands)) else name, command, rest


def benchmark(
    contenders: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="MODEL|CKPT|ARTIFACT...",
            help="Names of `hsvdet models`, checkpoints, artifacts (.onnx, .xml).",
        ),
    ] = None,
    peer: Annotated[
        list[str] | None, typer.Option(help="A command that starts a contender of another library.")
    ] = None,
    size: Size = None,
    batch: Annotated[int, typer.Option(min=1, help="Images at a time.")] = 1,
    device: Device = "auto",
    precision: Annotated[
        InferencePrecision, typer.Option(help="auto: bf16 where the device is fast at it, else fp32.")
    ] = InferencePrecision.auto,
    threads: Annotated[int | None, typer.Option(min=1, help="PyTorch's own choice if not given.")] = None,
    runs: Annotated[int, typer.Option(min=1, help="Rounds that count; each runs every contender once.")] = 20,
    warmup: Annotated[int, typer.Option(min=0, help="Rounds before them.")] = 3,
    compile: Annotated[bool, typer.Option("--compile", help="With torch.compile.")] = False,
    cuda_graph: Annotated[bool, typer.Option("--cuda-graph", help="Replay a CUDA graph.")] = False,
    from_pixels: Annotated[
        bool, typer.Option("--from-pixels", help="From uint8 images to detections; always so with artifacts.")
    ] = False,
    json: Json = False,
) -> Answer:
    """Time networks in turn, at 640x640 or --size: median, p95, images/s, memory, GFLOP/s, ratio to the first."""
    from ..benchmarking.race import benchmark

    found = benchmark(
        contenders or (),
        peers=peer or (),
        size=size or (640, 640),
        batch=batch,
        device=device,
        precision=precision.value,
        threads=threads,
        runs=runs,
        warmup=warmup,
        compile=compile,
        cuda_graph=cuda_graph,
        from_pixels=from_pixels,
    )
    return Answer(found.to_json(), found.table())


def nms(
    checkpoint: Checkpoint,
    data: Annotated[
        str | None, typer.Option(help="A data set, for AP and recall; drawn scenes if not given.")
    ] = None,
    split: Annotated[str, typer.Option(help="Which part of the data set.")] = "val",
    score: Annotated[
        list[float] | None, typer.Option(min=0, max=1, help="A score threshold, as often as needed.")
    ] = None,
    iou: Annotated[
        list[float] | None, typer.Option(min=0, max=1, help="A threshold of overlap, as often as needed.")
    ] = None,
    max_detections: MaxDetections = None,
    multi_label: MultiLabel = False,
    size: Size = None,
    device: Device = "auto",
    precision: Annotated[
        InferencePrecision, typer.Option(help="auto: bf16 where the device is fast at it, else fp32.")
    ] = InferencePrecision.auto,
    json: Json = False,
) -> Answer:
    """Time non-maximum suppression over thresholds; with a data set also AP and recall in crowds, and of Soft-NMS."""
    from ..benchmarking.suppression import OVERLAPS, SCORES, benchmark_nms

    found = benchmark_nms(
        checkpoint,
        data,
        split=split,
        scores=score or SCORES,
        ious=iou or OVERLAPS,
        max_detections=max_detections,
        multi_label=multi_label,
        size=size,
        device=device,
        precision=precision.value,
    )
    return Answer(found.to_json(), found.table())
