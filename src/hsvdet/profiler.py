"""What a network costs: parameters, floating-point operations, memory. Counted on the meta device, never run.

Operations are those of convolutions and matrix products, two for each multiply-add, as the papers' tables have
them. Memory is the largest sum of tensors that live at one moment.
"""

# pyright: strict, reportUnknownMemberType=false, reportMissingTypeStubs=false
# PyTorch's own types leave some of its functions untyped, and torchvision has none.

from __future__ import annotations

import dataclasses
import weakref
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode
from torchvision.ops import FrozenBatchNorm2d

from . import models
from .catalogue import Row
from .checkpoint import check_description, read_header
from .detector import build
from .errors import CheckpointError, ConfigError, counted
from .hub import fetch, is_address
from .layers.sparse_global import SparseGlobal
from .layers.training_only import without_training_parts
from .options import override
from .preprocess import Preprocess, Size

GIGA = 1e9


class Part(NamedTuple):
    """One part of a network, as `Profile` counts the whole. attention: whether it is an attention block."""

    name: str
    parameters: int
    gflops: float
    attention: bool = False


@dataclass(frozen=True)
class Profile:
    """The cost of one image, batch 1. Parts that are there for training only do not count.

    gflops: of the network as its paper writes it; for sparse global attention all tokens are projected, 4 N C^2
    + 2 k^2 C multiply-adds a block. gflops_executed: as this library runs it, which projects only the selected
    tokens. gflops_folded, parameters_folded: after folding each block into the convolutions that follow it
    (exact; 3 k C^2 + 2 k^2 C with one head, 4 k C^2 + 2 k^2 C with several). The three are one where there is
    no such block. attention_share: of `gflops`, in attention blocks.
    memory, memory_half: peak bytes of the tensors of inference, the image included and weights not, in float32
    and under float16 autocast. Attention counts as fused kernels do it; workspaces of kernels do not count.
    parts: as `gflops`; they add up to the whole.
    """

    model: str
    size: tuple[int, int]
    classes: int
    parameters: int
    parameters_folded: int
    gflops: float
    gflops_executed: float
    gflops_folded: float
    attention_share: float
    memory: int
    memory_half: int
    parts: tuple[Part, ...]

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self) | {"parts": [part._asdict() for part in self.parts]}

    def __str__(self) -> str:
        return self.table()

    def __repr__(self) -> str:  # what a notebook shows
        return str(self)

    def table(self) -> str:
        """For people: a line a part, then the whole."""
        width = max(len(part.name) for part in self.parts)
        lines = [
            f"{self.model} at {self.size[0]}x{self.size[1]}, {counted(self.classes, 'class')}",
            f"{'':{width}}  {'parameters':>12}  {'GFLOPs':>9}  {'share':>6}",
            *(
                f"{part.name:{width}}  {part.parameters:12,}  {part.gflops:9.3f}  {part.gflops / self.gflops:6.1%}"
                for part in self.parts
            ),
            f"{'total':{width}}  {self.parameters:12,}  {self.gflops:9.3f}  {1:6.1%}",
        ]
        if self.gflops_folded != self.gflops:
            lines.append(f"as executed {self.gflops_executed:.3f} GFLOPs")
            lines.append(
                f"folded      {self.gflops_folded:.3f} GFLOPs, {self.parameters_folded:,} parameters"
            )
        if self.attention_share:
            lines.append(f"attention blocks {self.attention_share:.2%} of the operations")
        lines.append(
            f"peak activation memory {self.memory / 1e6:.1f} MB in float32, {self.memory_half / 1e6:.1f} MB in float16"
        )
        return "\n".join(lines)


def profile(model: str | Path, *, size: Size | None = None, classes: int | None = None) -> Profile:
    """Count a model or a checkpoint.

    model: a name of `hsvdet models`, or the path of a checkpoint, of which only the header is read. size:
    (height, width) of the input, the model's or the checkpoint's own if not given. classes: 80, or the
    checkpoint's, if not given. Raises ConfigError for a size that is no multiple of the stride, naming the
    nearest that are, and CheckpointError.
    """
    entry, config, preprocess, number = _find(model)
    if size is not None:
        preprocess = preprocess.resized(size)
    if classes is not None:
        if classes < 1:
            raise ConfigError(f"classes expects a number from 1 on; got {classes}.")
        number = classes
    count = _Count(entry, config, preprocess, number)
    total = count.operations("literal")
    attention = _attention(count.net)
    parts = [
        Part(
            name,
            sum(p.numel() for p in {p for _, module in members for p in module.parameters()}),
            sum(count.operations("literal", path, module) for path, module in members) / GIGA,
            all(module in attention for _, module in members),
        )
        for name, members in _parts(count.net)
    ]
    rest = (
        count.parameters - sum(part.parameters for part in parts),
        total / GIGA - sum(part.gflops for part in parts),
    )
    if rest[0] or rest[1] > 1e-9:
        parts.append(Part("outside of these", *rest))
    return Profile(
        str(model),
        preprocess.size,
        number,
        count.parameters,
        count.parameters - sum(cost.parameters_saved for cost in count.blocks.values()),
        total / GIGA,
        count.operations("executed") / GIGA,
        count.operations("folded") / GIGA,
        sum(count.operations("literal", path, module) for module, path in attention.items()) / total,
        *_memory(entry, config, preprocess, number),
        tuple(parts),
    )


def catalogue_row(entry: models.Model) -> Row:
    """What catalogue.py says of a model, counted anew: at the size it was designed for, with 80 classes."""
    count = _Count(entry, entry.config, entry.preprocess, 80)
    return Row(
        fingerprint(entry),
        entry.family,
        count.parameters,
        count.operations("literal"),
        entry.preprocess.size,
        entry.note,
        entry.licence,
    )


def fingerprint(entry: models.Model) -> str:
    """Another one for every class of network, configuration and size."""
    numbers = repr((entry.net.__qualname__, entry.config, entry.preprocess.size))
    return f"{zlib.crc32(numbers.encode()):08x}"


def _memory(entry: models.Model, config: Any, preprocess: Preprocess, classes: int) -> tuple[int, int]:
    """`peak_memory` in float32 and under float16 autocast, of a network that is not allocated either.

    Fake tensors say they are on the CPU: the meta device knows no autocast.
    """
    with FakeTensorMode():
        net = build(entry, config, classes)
        image = torch.empty(1, 3, *preprocess.size)
        full = peak_memory(net, image)
        with torch.autocast("cpu", torch.float16, cache_enabled=False):
            return full, peak_memory(net, image)


def peak_memory(net: nn.Module, image: Tensor) -> int:
    """Bytes of the tensors that live together at the worst moment of one inference, `image` included.

    Nothing needs to be allocated for it: what counts is which tensors are still referred to, so meta and fake
    tensors do.
    """
    net.eval()
    with torch.no_grad(), _LiveMemory(image) as memory:
        net(image)
    return memory.peak


class _LiveMemory(TorchDispatchMode):
    """Follows the storages that operations create, until nobody holds them."""

    def __init__(self, image: Tensor):
        super().__init__()
        self.live = self.peak = image.untyped_storage().nbytes()
        self.known: weakref.WeakSet[torch.UntypedStorage] = weakref.WeakSet([image.untyped_storage()])

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        answer = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(answer):
            if isinstance(tensor, Tensor) and (storage := tensor.untyped_storage()) not in self.known:
                self.known.add(storage)
                self.live += storage.nbytes()
                weakref.finalize(storage, self._release, storage.nbytes())
        self.peak = max(self.peak, self.live)
        return answer

    def _release(self, bytes_: int) -> None:
        self.live -= bytes_


class BlockCost(NamedTuple):
    """Multiply-adds of a sparse global block as written and folded, and the parameters that folding removes."""

    literal: int
    folded: int
    parameters_saved: int


def block_cost(block: SparseGlobal, height: int, width: int) -> BlockCost:
    """N tokens, k selected, E extra keys (context and registers): see the module of the block, and Profile."""
    config, c, n = block.config, block.channels, height * width
    matrix, gate = c * c, block.gate.numel() if isinstance(block.gate, nn.Parameter) else 0
    everything = sum(parameter.numel() for parameter in block.parameters())
    if config.dense_path == "linear_control":
        return BlockCost(2 * n * matrix, 0, everything)
    k = block.tokens_selected(height, width)
    tokens = n if config.dense_path == "value" else k  # that are projected where it is written as it reads
    extra = min(config.context, height) * min(config.context, width) + config.registers
    attention = 2 * k * (k + extra) * c
    scorer = block.scorer.multiply_adds(n)
    literal = 4 * tokens * matrix + 2 * extra * matrix + attention + scorer
    if block.heads > 1:
        return BlockCost(literal, 4 * k * matrix + 2 * extra * matrix + attention + scorer, gate)
    # With one head, values are the tokens themselves: Wv goes into the output matrix.
    return BlockCost(literal, 3 * k * matrix + extra * matrix + attention + scorer, matrix + gate)


def _unchanged(x: Tensor) -> Tensor:
    return x


class _Count:
    """The operations of one forward pass, for every module that was called, by its path ("" is the network)."""

    def __init__(self, entry: models.Model, config: Any, preprocess: Preprocess, classes: int):
        with torch.device("meta"):
            # Without gradients: the counter trips over a view of a parameter, such as learned queries.
            self.net = without_training_parts(build(entry, config, classes)).eval().requires_grad_(False)
        for module in self.net.modules():
            if isinstance(module, nn.BatchNorm2d | FrozenBatchNorm2d):
                # Nothing counts in it, and following it takes most of the time.
                module.__dict__["forward"] = _unchanged
        self.image = torch.empty(1, 3, *preprocess.size, device="meta")
        self.parameters = sum(parameter.numel() for parameter in self.net.parameters())
        named = cast("Iterator[tuple[str, nn.Module]]", self.net.named_modules())
        self.paths = {module: path for path, module in named}
        self.blocks: dict[nn.Module, BlockCost] = {}

        def meet(block: Any, inputs: tuple[Any, ...]) -> None:
            self.blocks[block] = block_cost(block, *inputs[0].shape[-2:])

        hooks = [m.register_forward_pre_hook(meet) for m in self.net.modules() if isinstance(m, SparseGlobal)]
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            self.net(self.image)
        for hook in hooks:
            hook.remove()
        root = type(self.net).__name__
        self.counted = {
            path.removeprefix(root).removeprefix("."): sum(by_operator.values())
            for path, by_operator in counter.get_flop_counts().items()
            if path.split(".")[0] == root
        }

    def operations(self, how: str, path: str = "", module: nn.Module | None = None) -> int:
        """Of a module and all in it, `executed`, or with sparse global attention `literal` or `folded`."""
        module = self.net if module is None else module
        total = self._executed(path, module)
        if how != "executed":
            for block in module.modules():
                if block in self.blocks:
                    written = 2 * getattr(self.blocks[block], how)
                    total += written - self._executed(self.paths[block], block)
        return total

    def _executed(self, path: str, module: nn.Module) -> int:
        if path in self.counted:
            return self.counted[path]
        # A list of modules is not called itself.
        return sum(
            self._executed(f"{path}.{name}".lstrip("."), child) for name, child in module.named_children()
        )


def _find(model: str | Path) -> tuple[models.Model, Any, Preprocess, int]:
    """(entry, config, preprocess, number of classes) of a model's name or of a checkpoint's header."""
    if is_address(model):
        fetched = fetch(model)
        if not fetched.ours:
            raise CheckpointError(
                f"{model}: expected an hsvdet checkpoint; these weights are to be converted first."
            )
        model = fetched.path
    if str(model) in models.MODELS or not (Path(model).exists() or Path(model).suffix):
        entry = models.find(str(model))
        return entry, entry.config, entry.preprocess, 80
    header = read_header(model)
    check_description(header, model)
    try:
        entry = models.find(header["model"])
        config = override(entry.config, header["config"])
        return entry, config, Preprocess.from_json(header["preprocess"]), len(header["labels"])
    except ConfigError as error:
        raise CheckpointError(f"{model}: its header does not describe a model: {error}") from None


def _parts(net: nn.Module) -> Iterator[tuple[str, list[tuple[str, nn.Module]]]]:
    """Names and members: what the class calls its BACKBONE and NECK, then every other child by itself."""
    children = dict(net.named_children())
    for group in ("BACKBONE", "NECK"):
        if members := getattr(net, group, ()):
            yield group.lower(), [(member, children.pop(member)) for member in members]
    for name, child in children.items():
        if isinstance(child, nn.ModuleDict):
            yield from ((f"{name}.{key}", [(f"{name}.{key}", module)]) for key, module in child.items())
        else:
            yield name, [(name, child)]


def _attention(net: nn.Module) -> dict[nn.Module, str]:
    """The outermost attention modules and their paths, as the layers that hold them declare in EXPLAINED."""
    found: dict[nn.Module, str] = {}
    inside: set[nn.Module] = set()
    for path, module in cast("Iterator[tuple[str, nn.Module]]", net.named_modules()):
        for name in getattr(module, "EXPLAINED", {}) if module not in inside else ():
            child = getattr(module, name)
            own = f"{path}.{name}".lstrip(".")
            parts = {own: child}
            if isinstance(child, nn.ModuleDict):
                parts = {f"{own}.{key}": part for key, part in child.items()}
            for part_path, part in parts.items():
                found[part] = part_path
                inside.update(part.modules())
    return found
