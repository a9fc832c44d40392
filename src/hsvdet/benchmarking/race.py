"""Contenders in turn, each in a process of its own: times, memory, and the ratio to the first.

Interleaved, so that a machine that slows down slows all: a round runs each once, every second round in reverse
order. The ratio is the median over rounds of a contender's time divided by the first one's in the same round.
"""

# pyright: strict

from __future__ import annotations

import dataclasses
import json
import shlex
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

from .. import errors
from ..errors import CheckpointError, ConfigError, HsvdetError
from .worker import is_timed


@dataclass(frozen=True)
class Row:
    """One contender. how: device, threads, precision, layout, in words. median_ms, p95_ms: of one run, `batch`
    images. memory_mb: the most memory of its process, libraries included (10^6 bytes); on a GPU, of its tensors.
    gflops: of one run, where known. share_of_peak: gflops_per_second as a share of the machine's measured peak.
    ratio: median time as a multiple of the first one's, with the quartiles of the rounds."""

    name: str
    how: str
    median_ms: float
    p95_ms: float
    images_per_second: float
    memory_mb: float
    gflops: float | None
    gflops_per_second: float | None
    share_of_peak: float | None
    ratio: float
    ratio_quartiles: tuple[float, float]


@dataclass(frozen=True)
class Benchmark:
    """from_pixels: whether a run is everything from uint8 images to detections, or the network alone.
    peak: GFLOP/s of the best of a matrix product and a convolution, measured in the same rounds, in `precision`."""

    size: tuple[int, int]
    batch: int
    runs: int
    warmup: int
    from_pixels: bool
    machine: str
    precision: str
    peak: float
    rows: tuple[Row, ...]

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    def _cells(self) -> list[list[str]]:
        titles = ["", "run as", "median ms", "p95 ms", "images/s", "peak MB", "GFLOP/s", "of peak", "ratio"]
        lines = [titles]
        for row in self.rows:
            speed = "" if row.gflops_per_second is None else f"{row.gflops_per_second:.0f}"
            share = "" if row.share_of_peak is None else f"{row.share_of_peak:.0%}"
            low, high = row.ratio_quartiles
            lines.append(
                [
                    row.name,
                    row.how,
                    f"{row.median_ms:.1f}",
                    f"{row.p95_ms:.1f}",
                    f"{row.images_per_second:.2f}",
                ]
                + [f"{row.memory_mb:.0f}", speed, share, f"{row.ratio:.3f} ({low:.3f}-{high:.3f})"]
            )
        return lines

    def _caption(self) -> str:
        what = "hsvdet from pixels to detections" if self.from_pixels else "the network alone"
        height, width = self.size
        return (
            f"{height}x{width}, batch {self.batch}, {what}; {self.runs} rounds after {self.warmup} to warm up;"
            f" {self.machine}; peak {self.peak:.0f} GFLOP/s in {self.precision}"
        )

    def table(self) -> str:
        """For people."""
        cells = self._cells()
        widths = [max(len(line[i]) for line in cells) for i in range(len(cells[0]))]
        lines = [
            "  ".join(
                text.ljust(width) if i < 2 else text.rjust(width)
                for i, (text, width) in enumerate(zip(line, widths, strict=True))
            ).rstrip()
            for line in cells
        ]
        return "\n".join([self._caption(), *lines])

    def markdown(self) -> str:
        head, *lines = self._cells()
        rows = [head, ["---"] * 2 + ["---:"] * (len(head) - 2), *lines]
        return "\n".join([f"{self._caption()}:", "", *(f"| {' | '.join(row)} |" for row in rows)])


def benchmark(
    contenders: Sequence[str | PathLike[str]],
    *,
    peers: Sequence[str] = (),
    size: tuple[int, int] = (640, 640),
    batch: int = 1,
    device: str = "auto",
    precision: str = "auto",
    threads: int | None = None,
    runs: int = 20,
    warmup: int = 3,
    compile: bool = False,
    cuda_graph: bool = False,
    from_pixels: bool = False,
) -> Benchmark:
    """Time models, checkpoints and artifacts beside one another, and beside other libraries.

    contenders: names of `hsvdet models` (random weights, 80 classes), checkpoints, artifacts of `hsvdet export`.
    They run as `predict` runs them (`Detector.accelerate`). peers: commands that start a contender of another
    library (benchmarks/peers/ has some, benchmarking/contender.py says how to write one); --size, --batch,
    --threads, --device and --precision are added to a command that does not set them itself. size: (height,
    width) of the images. threads: PyTorch's own choice if not given. runs, warmup: rounds that count, and before
    them. compile, cuda_graph: for hsvdet's own networks. from_pixels: time everything from uint8 images to
    detections; always so where there is an artifact, which has all of it inside. A peer's run is what its row says.
    Raises CheckpointError, and ConfigError, for a contender that fails too.
    """
    names = [str(contender) for contender in contenders]
    for name in names:
        _check(name)
    if not names and not peers:
        raise ConfigError("benchmark expects a model, a checkpoint, an artifact or a peer; got none.")
    if min(batch, runs, warmup + 1) < 1 or (threads is not None and threads < 1):
        raise ConfigError(
            f"batch, runs and threads expect 1 or more, warmup 0 or more; got {batch}, {runs}, {threads}, {warmup}."
        )
    from_pixels = from_pixels or any(map(is_timed, names))
    if from_pixels and cuda_graph:
        raise ConfigError("a CUDA graph holds the network alone; leave out artifacts and from_pixels.")
    common = {"--size": f"{size[0]}x{size[1]}", "--batch": str(batch), "--device": device}
    common |= {"--precision": precision} | ({"--threads": str(threads)} if threads else {})
    own = [sys.executable, "-m", "hsvdet.benchmarking.worker"]
    flags = {"--compile": compile, "--cuda-graph": cuda_graph, "--from-pixels": from_pixels}
    flags = [flag for flag, wanted in flags.items() if wanted]
    commands = [_with([*own, name, *flags], common) for name in names]
    commands += [_with(shlex.split(peer), common) for peer in peers]
    with ExitStack() as stack:
        # The machine's peak comes last: what cannot start is to be said at once.
        racers = [stack.enter_context(_Racer(command)) for command in [*commands, _with(own, common)]]
        for number in range(warmup + runs):
            if number == warmup:
                for racer in racers:
                    racer.answers.clear()
            for racer in racers if number % 2 else reversed(racers):
                racer.run()
        memory = [racer.finish() for racer in racers]
    *racers, yardstick = racers
    peak = max(answer["gflops_per_second"] for answer in yardstick.answers)
    first = racers[0].times
    rows = [_row(racer, first, batch, peak, mb) for racer, mb in zip(racers, memory[:-1], strict=True)]
    how = yardstick.introduction["how"]
    return Benchmark(
        (size[0], size[1]),
        batch,
        runs,
        warmup,
        from_pixels,
        _machine(device),
        how,
        round(peak, 1),
        tuple(rows),
    )


def _check(name: str) -> None:
    """Here, before any process is started: CheckpointError and ConfigError."""
    if is_timed(name):
        if not Path(name).is_file():
            raise CheckpointError(f"{name}: no such artifact.")
        return
    from .. import models  # and PyTorch
    from ..checkpoint import read_header

    if name in models.MODELS or not Path(name).suffix:
        models.find(name)
    else:
        read_header(name)


def _with(command: list[str], options: dict[str, str]) -> list[str]:
    return command + [
        part for name, value in options.items() if name not in command for part in (name, value)
    ]


def _row(racer: _Racer, first: list[float], batch: int, peak: float, memory: float) -> Row:
    times, gflops = racer.times, racer.introduction["gflops"]
    median = statistics.median(times)
    speed = None if gflops is None else round(1e3 * gflops / median, 1)
    ratios = [own / base for own, base in zip(times, first, strict=True)]
    quartiles = statistics.quantiles(ratios, n=4, method="inclusive") if len(ratios) > 1 else ratios * 3
    return Row(
        name=racer.introduction["name"],
        how=racer.introduction["how"],
        median_ms=round(median, 3),
        p95_ms=round(sorted(times)[max(0, -(-95 * len(times) // 100) - 1)], 3),
        images_per_second=round(1e3 * batch / median, 3),
        memory_mb=memory,
        gflops=gflops and round(gflops, 3),
        gflops_per_second=speed,
        share_of_peak=None if speed is None else round(speed / peak, 3),
        ratio=round(statistics.median(ratios), 4),
        ratio_quartiles=(round(quartiles[0], 4), round(quartiles[2], 4)),
    )


def _machine(device: str) -> str:
    import platform

    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        cpu = platform.processor() or platform.machine()
    return cpu if device in ("auto", "cpu") else f"{device}, {cpu}"


class _Racer:
    """The other end of a `Contender`."""

    def __init__(self, command: list[str]):
        self.command = command
        self.answers: list[dict[str, Any]] = []

    def __enter__(self) -> _Racer:
        self.messages = tempfile.TemporaryFile("w+", errors="replace")
        try:
            self.process = subprocess.Popen(
                self.command,
                text=True,
                encoding="utf-8",
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self.messages,
            )
            assert self.process.stdin and self.process.stdout  # pipes
            self.stdin, self.stdout = self.process.stdin, self.process.stdout
        except OSError as error:
            raise ConfigError(f"{self.command[0]}: cannot be started: {error.strerror}.") from None
        try:
            self.introduction = self._answer()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        for pipe in (self.stdin, self.stdout, self.messages):
            with suppress(OSError):  # what was to be written has no reader any more
                pipe.close()

    @property
    def times(self) -> list[float]:
        return [answer["ms"] for answer in self.answers]

    def run(self) -> None:
        with suppress(OSError):  # it has ended; its answer says why
            self.stdin.write("run\n")
            self.stdin.flush()
        self.answers.append(self._answer())

    def finish(self) -> float:
        """The most memory it had, in 10^6 bytes."""
        self.stdin.close()
        return self._answer()["memory_mb"]

    def _answer(self) -> dict[str, Any]:
        line = self.stdout.readline()
        try:
            answer = json.loads(line)
        except ValueError:
            self.messages.seek(0)
            last = [text for text in self.messages.read().splitlines() if text.strip()] or ["no message"]
            raise ConfigError(f"{shlex.join(self.command)}: a contender failed: {last[-1]}") from None
        if "error" in answer:
            kind = getattr(errors, answer["error"]["type"], None)
            if isinstance(kind, type) and issubclass(kind, HsvdetError):
                raise kind(answer["error"]["message"])
            raise ConfigError(f"{shlex.join(self.command)}: a contender failed: {answer['error']['message']}")
        return answer
