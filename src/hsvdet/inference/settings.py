"""The fastest right way to run a detector on this machine: precision, memory layout, folding, compilation.

docs/inference.md says what is picked where, and what it costs in accuracy.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..devices import HALF, autocast
from ..errors import ConfigError, counted
from ..layers.precision import may_be_half

PRECISIONS = ("auto", "fp32", *HALF)


@dataclass(frozen=True)
class Settings:
    """How a network is run; as loaded: float32, in PyTorch's own layout, not compiled.

    precision: of convolutions and matrix products. Token selection, attention, normalisation and box
    arithmetic are float32 in all of them. channels_last: the memory layout of images and maps.
    """

    precision: str = "fp32"
    channels_last: bool = False
    compiled: bool = False

    def arranged(self, images: Tensor) -> Tensor:
        return images.contiguous(memory_format=torch.channels_last) if self.channels_last else images

    def autocast(self, device: torch.device) -> AbstractContextManager[object, bool | None]:
        return autocast(device, self.precision)

    def describe(self, device: torch.device, folded: bool) -> str:
        """One line for people: "cpu (2 threads), bf16, channels last, folded"."""
        where = f"cpu ({counted(torch.get_num_threads(), 'thread')})" if device.type == "cpu" else str(device)
        chosen = {"channels last": self.channels_last, "folded": folded, "compiled": self.compiled}
        return ", ".join([where, self.precision, *(name for name, there in chosen.items() if there)])


def fastest_precision(device: torch.device) -> str:
    """bf16 where the processor multiplies it faster than float32, else fp32.

    That is a CPU with AMX, one with AVX512-BF16 that is not Intel's, and a GPU from Ampere on. Intel's do half as many
    of these products at a time as others (a Xeon whose AMX was switched off took 1.5 times as long as in float32), and
    processors without them emulate bfloat16. float16 is never picked: it overflows at 65504.
    """
    if device.type == "cuda":
        return "bf16" if torch.cuda.get_device_capability(device) >= (8, 0) else "fp32"
    if device.type == "cpu":
        # Read from the processor, not measured: the same machine must give the same answer on a busy day.
        able = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
        intel = "intel" in str(able.get("cpu_name", "")).lower()
        return "bf16" if able.get("amx_bf16") or (able.get("avx512_bf16") and not intel) else "fp32"
    return "fp32"


def settings_for(device: torch.device, precision: str = "auto", compiled: bool = False) -> Settings:
    """precision: "auto" for `fastest_precision`, or one of fp32, bf16, fp16. Raises ConfigError."""
    if precision not in PRECISIONS:
        raise ConfigError(f"precision expects one of {', '.join(PRECISIONS)}; got {precision!r}.")
    chosen = fastest_precision(device) if precision == "auto" else precision
    autocast(device, chosen)  # refuses what the device cannot
    return Settings(chosen, channels_last=True, compiled=compiled)


def arrange(net: nn.Module, settings: Settings) -> nn.Module:
    """`net`, a copy for inference, changed to run with `settings`."""
    if settings.channels_last:
        net = net.to(memory_format=torch.channels_last)
    if settings.precision != "fp32":
        # Autocast would round them in every call. All other weights it meets in float32, where that matters.
        may = may_be_half(net)
        for name, module in net.named_modules():
            if isinstance(module, nn.Conv2d) and name in may:
                module.to(HALF[settings.precision])
    if settings.compiled:
        # Freezing packs weights into the layout of the kernels, once; it takes a fifth of the time to compile.
        net.compile(options={"freezing": True})
    return net
