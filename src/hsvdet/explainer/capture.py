"""One image through a network, recording its attention: forward hooks, gone afterwards."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from .. import models
from ..data.batch import collate
from ..detector import Detector
from ..devices import move
from ..layers.sparse_global import SparseGlobal
from ..postprocess import Thresholds, require_finite
from ..structures import Detections, ImageInfo, Output, Prediction, Sample
from .view import Cells, View

_SEED = 0  # of chance among tokens, where a detector selects them so


class Call(NamedTuple):
    """A module was called: its arguments by name, and what it gave."""

    module: Any
    inputs: dict[str, Any]
    output: Any


class Seen(NamedTuple):
    """What a detector made of one image.

    detections: over the score, best first, one a prediction. predictions: [N], which of the network's Q
    predictions each of them is. encoder, decoder: the attention of each layer to the image, in their order;
    blocks: of sparse global attention, by their level. cells: of the backbone's coarsest map, in a query detector.
    """

    view: View
    output: Output
    detections: Detections
    predictions: np.ndarray
    encoder: list[Call]
    decoder: list[Call]
    blocks: dict[str, Call]
    cells: Cells | None


@contextmanager
def recording(modules: Iterable[nn.Module]) -> Iterator[list[Call]]:
    """Calls of these modules while the context lasts, in the order they end."""
    calls: list[Call] = []

    def record(module: nn.Module, args: tuple, kwargs: dict[str, Any], output: Any) -> None:
        bound = inspect.signature(module.forward).bind(*args, **kwargs)
        bound.apply_defaults()
        calls.append(Call(module, dict(bound.arguments), output))

    handles = [module.register_forward_hook(record, with_kwargs=True) for module in modules]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


@torch.inference_mode()
def watch(detector: Detector, image: Tensor, name: str = "the image", *, score: float, iou: float) -> Seen:
    """image: [3, H, W] uint8, upright. score, iou: as of a Detector's call; where nothing reaches the score, all
    detections are kept. name: of the image. Raises NonFiniteError where the answer has NaN."""
    net = detector.net.eval()
    view, output, calls = run(detector, image)
    size = view.size
    require_finite(output.answer, [name])
    reading = models.find(detector.name).reading
    alone = Prediction(*(part[0] for part in output.answer))
    wanted = Thresholds(score, iou, reading.max_detections, multi_label=False)
    chosen = reading.chosen(alone, size, wanted)
    if not len(chosen.scores):
        chosen = reading.chosen(alone, size, wanted._replace(score=0.0))
    predictions = chosen.rows.cpu().numpy()
    _, first = np.unique(predictions, return_index=True)  # a query may answer with several classes
    first.sort()
    found = Detections(*(part.cpu()[torch.from_numpy(first)] for part in chosen[:3]))

    recorded = {call.module: call for call in calls}
    encoder, decoder = layers_of(net)
    backbone = recorded.get(getattr(net, "backbone", None))
    coarsest = backbone.output[-1].shape[-2:] if backbone else None
    return Seen(
        view,
        output,
        found,
        predictions[first],
        [recorded[module] for module in encoder if module in recorded],
        [recorded[module] for module in decoder if module in recorded],
        {name: recorded[module] for name, module in blocks_of(net).items()},
        (coarsest[0], coarsest[1]) if coarsest else None,
    )


def run(detector: Detector, image: Tensor) -> tuple[View, Output, list[Call]]:
    """One image through the network, alone, and every call of a module that attends."""
    net = detector.net
    canvas, content = detector.preprocess.to_canvas(image, minimal=True)
    size, input_size = ((pixels.shape[-2], pixels.shape[-1]) for pixels in (image, canvas))
    view = View(size, input_size, content)
    empty = Sample(
        canvas,
        torch.zeros(0, 4),
        torch.zeros(0, dtype=torch.int64),
        ImageInfo(0, "", view.size),
        content,
    )
    batch = move(collate([empty], detector.preprocess), detector.device, detector.preprocess)
    encoder, decoder = layers_of(net)
    blocks = blocks_of(net).values()
    backbone: list[Any] = [net.backbone] if encoder or decoder else []
    handles = [block.register_forward_pre_hook(the_same_chance) for block in blocks]
    devices = [detector.device] if detector.device.type == "cuda" else []
    try:
        with torch.random.fork_rng(devices), recording([*encoder, *decoder, *blocks, *backbone]) as calls:
            output = net(batch.images, batch.padding)
    finally:
        for handle in handles:
            handle.remove()
    return view, output, calls


def layers_of(net: nn.Module) -> tuple[list[nn.Module], list[nn.Module]]:
    """The attention to the image of encoder layers and of decoder layers, in their order."""
    return _declared(net, "encoder"), _declared(net, "decoder")


def blocks_of(net: nn.Module) -> dict[str, SparseGlobal]:
    """The blocks of sparse global attention, by their level."""
    return {level: block for blocks in _declared(net, "blocks") for level, block in blocks.items()}


def _declared(net: nn.Module, role: str) -> list[Any]:
    """What layers say of themselves, in `EXPLAINED`: a module's attribute to its role in a picture."""
    return [
        getattr(module, name)
        for module in net.modules()
        for name, its_role in getattr(module, "EXPLAINED", {}).items()
        if its_role == role
    ]


def as_recorded(call: Call, method: Callable) -> Any:
    """A method of a block, with the arguments of a call that was recorded and, where it selects tokens by chance, the
    same chance."""
    devices = [call.output.map.device] if call.output.map.device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        the_same_chance()
        return method(**call.inputs)


def the_same_chance(*_) -> None:
    """Before a block is called, now or again: where it selects tokens by chance, they are the same."""
    torch.manual_seed(_SEED)
