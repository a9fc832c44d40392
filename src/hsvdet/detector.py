"""A Detector: a network and everything needed to use it on photographs. Made by `create`, read by `load`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from . import models
from .allocator import keep_freed_memory
from .checkpoint import read_checkpoint, write_checkpoint
from .deploy.fold import FoldReport, fold
from .errors import CheckpointError, ConfigError, SaveError, did_you_mean
from .hub import fetch, is_address
from .inference import Settings, arrange, settings_for
from .preprocess import Preprocess
from .structures import Detections, Prediction, Rectangle


@dataclass(eq=False)
class Detector:
    """net: images [B, 3, H, W] as `preprocess` leaves them, padding, to an output with `.answer`.

    labels: class names, index = label. category_ids: the id of each class in the data set it was trained on.
    licence and source: of the weights. folded: for a deployed detector, what was folded; else None.
    settings: how it is run, as loaded in float32 (`accelerate` chooses others).
    """

    name: str
    net: nn.Module
    config: Any
    labels: tuple[str, ...]
    category_ids: tuple[int, ...]
    preprocess: Preprocess
    licence: str = "Apache-2.0"
    source: str = "random initialisation"
    extra: dict[str, Any] = field(default_factory=dict)
    folded: FoldReport | None = None
    settings: Settings = Settings()

    @property
    def device(self) -> torch.device:
        return next(self.net.parameters()).device

    def to(self, device: str | torch.device) -> Detector:
        self.net.to(device)
        return self

    @torch.inference_mode()
    def __call__(
        self, images, *, score: float = 0.25, iou: float = 0.7, limit: int = 300, batch: int = 16
    ) -> Detections | list[Detections]:
        """Detect objects on one image or a list of them.

        images: path, PIL image, HWC uint8 array, CHW uint8 tensor, or a list of these. Returns Detections in
        pixels of the original image, on the CPU; a list for a list, in its order. An image's answer does not
        depend on the others: images are run together only where their canvas is the same.
        Raises DataError naming the image that cannot be read.
        """
        from .data.images import read_image

        if not isinstance(images, list | tuple):
            return self([images], score=score, iou=iou, limit=limit, batch=batch)[0]
        self.net.eval()
        groups: dict[tuple[int, int], list[int]] = {}
        placed, sizes = [], []
        for number, image in enumerate(images):
            pixels = read_image(image)
            canvas, content = self.preprocess.place(pixels, minimal=True)
            placed.append((canvas, content))
            sizes.append((pixels.shape[-2], pixels.shape[-1]))
            groups.setdefault(tuple(canvas.shape[-2:]), []).append(number)
        results: list[Detections | None] = [None] * len(images)
        for numbers in groups.values():
            for start in range(0, len(numbers), batch):
                chunk = numbers[start : start + batch]
                answer = self.answer([placed[i] for i in chunk])
                found = models.find(self.name).detections(
                    answer, [sizes[i] for i in chunk], score=score, iou=iou, limit=limit
                )
                for i, detections in zip(chunk, found, strict=True):
                    results[i] = Detections(*(part.cpu() for part in detections))
        return results

    @torch.inference_mode()
    def answer(self, placed: Sequence[tuple[Tensor, Rectangle]]) -> Prediction:
        """The network's answer to images on canvases of one size, as `preprocess.place` gives them."""
        stacked = torch.stack([canvas for canvas, _ in placed]).to(self.device)
        padding = torch.ones(len(placed), *stacked.shape[-2:], dtype=torch.bool, device=self.device)
        for i, (_, at) in enumerate(placed):
            padding[i, at.top : at.top + at.height, at.left : at.left + at.width] = False
        images = self.settings.arranged(self.preprocess.normalise(stacked))
        with self.settings.autocast(self.device):
            return self.net(images, padding if padding.any() else None).answer

    def deploy(self) -> Detector:
        """A new detector that answers the same with fewer operations (docs/fold.md); this one stays as it is.

        Its normalisation is folded into convolutions and, in HSV-DET, the dense path of sparse global attention
        into those that follow: what is left costs k tokens. For inference: it is not trained and not saved,
        since it is made from a checkpoint in a moment. `folded` says what was done.
        """
        net, folded = fold(self.net)
        return dataclasses.replace(self, net=net, extra=dict(self.extra), folded=self.folded or folded)

    def accelerate(self, precision: str = "auto", *, compile: bool = False) -> Detector:
        """A deployed detector that runs as fast as its device allows (docs/inference.md); this one stays as it is.

        precision: "auto" for bf16 where the device is fast at it and else fp32; or fp32, bf16, fp16 (GPUs). In
        half precision scores move in the third digit and boxes by tenths of a pixel. compile: with
        torch.compile, seconds to minutes at the first image of each size. On a CPU the process then keeps the
        memory it frees (`allocator.keep_freed_memory`). `settings` says what was chosen,
        `describe()` in one line. Raises ConfigError for a precision the device does not have, and for a detector that
        was accelerated for another.
        """
        settings = settings_for(self.device, precision, compile)
        if self.settings != Settings():
            if settings == self.settings or (precision, compile) == ("auto", False):
                return self
            raise ConfigError(
                f"accelerate expects a detector as it was loaded; this one runs as {self.describe()} already."
            )
        if self.device.type == "cpu":
            keep_freed_memory()
        deployed = self.deploy()
        return dataclasses.replace(deployed, net=arrange(deployed.net, settings), settings=settings)

    def describe(self) -> str:
        """How it is run, in one line: "cpu (2 threads), bf16, channels last, folded"."""
        return self.settings.describe(self.device, folded=self.folded is not None)

    def save(self, path: str | Path, extra: Mapping[str, Any] | None = None) -> None:
        """Write a checkpoint (docs/checkpoint.md), atomically. Raises SaveError for a deployed detector."""
        if self.folded is not None:
            raise SaveError(
                f"{path}: a checkpoint expects a detector that can be trained; this one is deployed, its layers"
                " are folded together. Save the one it was made of, and call deploy() after loading."
            )
        write_checkpoint(path, self.net.state_dict(), {**self.header(), **self.extra, **(extra or {})})

    def header(self) -> dict[str, Any]:
        return {
            "model": self.name,
            "config": dataclasses.asdict(self.config),
            "labels": list(self.labels),
            "category_ids": list(self.category_ids),
            "preprocess": self.preprocess.to_json(),
            "licence": self.licence,
            "source": self.source,
        }


# What every checkpoint's header has, and the JSON type of it (docs/checkpoint.md).
HEADER = {
    "model": str,
    "config": dict,
    "labels": list,
    "category_ids": list,
    "preprocess": dict,
    "licence": str,
    "source": str,
}


def create(
    name: str,
    labels: Sequence[str],
    *,
    size: tuple[int, int] | None = None,
    category_ids: Sequence[int] | None = None,
    options: Mapping[str, Any] | None = None,
) -> Detector:
    """A new detector with random weights.

    name: see `hsvdet models`. labels: class names. size: (height, width) of its input, multiples of the
    stride. category_ids: the data set's own ids, 1, 2, 3, ... if not given. options: config values that
    differ from the model's own, e.g. {"k": 256}. Raises ConfigError.
    """
    entry = models.find(name)
    labels = tuple(labels)
    if not labels or len(set(labels)) != len(labels):
        raise ConfigError(f"labels expects one or more class names, each once; got {list(labels)}.")
    ids = tuple(category_ids) if category_ids is not None else tuple(range(1, len(labels) + 1))
    if len(ids) != len(labels):
        raise ConfigError(f"category_ids expects one id for each of {len(labels)} labels; got {len(ids)}.")
    config = override(entry.config, options or {})
    preprocess = dataclasses.replace(entry.preprocess, size=tuple(size)) if size else entry.preprocess
    return Detector(name, entry.net(config, len(labels)), config, labels, ids, preprocess)


def override(config, options: Mapping[str, Any]):
    """A frozen dataclass with some values changed. Raises ConfigError for names it does not have."""
    known = [item.name for item in dataclasses.fields(config)]
    for name in options:
        if name not in known:
            raise ConfigError(
                f"{type(config).__name__} has no option {name!r}.{did_you_mean(name, known)}"
                f" It has: {', '.join(known)}."
            )
    return dataclasses.replace(config, **options)


def load(path: str | Path, device: str | torch.device = "cpu") -> Detector:
    """Read a checkpoint. Strict: every tensor must be there, of the right shape, and no other.

    path: a file, or an address on the Hugging Face hub (hsvdet/hub.py): hf://owner/name. Published weights that
    are found there are converted on the way. Raises CheckpointError for a file that is damaged, of another
    format version, or of another model, and as `hub.fetch`.
    """
    if is_address(path):
        fetched = fetch(path)
        if not fetched.ours:
            from .conversion.foreign import read_foreign  # which needs this module

            return read_foreign(fetched).detector.to(device)
        path = fetched.path
    tensors, header = read_checkpoint(path)
    _check_header(header, path)
    try:
        entry = models.find(header["model"])
        config = override(entry.config, header["config"])
        # On the meta device first: a header that asks for another network is found out before it takes memory.
        with torch.device("meta"):
            check_tensors(entry.net(config, len(header["labels"])), tensors, path)
        detector = create(
            header["model"],
            header["labels"],
            category_ids=header["category_ids"],
            options=header["config"],
        )
        detector.preprocess = Preprocess(**header["preprocess"])
    except CheckpointError:
        raise
    except (ArithmeticError, AttributeError, ConfigError, RuntimeError, TypeError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f"{path}: its header does not describe a model: {reason}") from None
    detector.licence, detector.source = header["licence"], header["source"]
    detector.extra = {key: value for key, value in header.items() if key not in HEADER}
    load_tensors(detector.net, tensors, path)
    return detector.to(device)


def _check_header(header: Mapping[str, Any], path: str | Path) -> None:
    missing = [key for key in HEADER if key not in header]
    if missing:
        raise CheckpointError(
            f"{path}: its header lacks {', '.join(missing)}. Make it again with this hsvdet."
        )
    wrong = [key for key, kind in HEADER.items() if not isinstance(header[key], kind)]
    wrong += [] if wrong or all(isinstance(label, str) for label in header["labels"]) else ["labels"]
    wrong += (
        [] if wrong or all(type(number) is int for number in header["category_ids"]) else ["category_ids"]
    )
    if wrong:
        raise CheckpointError(
            f"{path}: its header's {wrong[0]} is not what it must be (docs/checkpoint.md):"
            f" {repr(header[wrong[0]])[:60]}. Make it again with this hsvdet."
        )


def load_tensors(net: nn.Module, tensors: Mapping[str, Tensor], path: str | Path) -> None:
    """A strict load: CheckpointError as `check_tensors`, and for values that are not finite."""
    check_tensors(net, tensors, path)
    spoilt = [
        name for name, tensor in tensors.items() if tensor.is_floating_point() and not tensor.isfinite().all()
    ]
    if spoilt:
        raise CheckpointError(
            f"{path}: NaN or infinity in {len(spoilt)} tensors ({spoilt[0]}): a training that diverged."
            " Take an earlier checkpoint."
        )
    net.load_state_dict(tensors)


def check_tensors(net: nn.Module, tensors: Mapping[str, Tensor], path: str | Path) -> None:
    """CheckpointError naming the first tensors that are missing, unknown or of another shape or kind."""
    expected = net.state_dict()
    shared = sorted(expected.keys() & tensors.keys())
    problems = {
        "missing": sorted(expected.keys() - tensors.keys()),
        "unknown": sorted(tensors.keys() - expected.keys()),
        "of another shape": [name for name in shared if expected[name].shape != tensors[name].shape],
        "of another kind of number": [
            name for name in shared if expected[name].is_floating_point() != tensors[name].is_floating_point()
        ],
    }
    if any(problems.values()):
        parts = [
            f"{len(names)} {what} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
            for what, names in problems.items()
            if names
        ]
        raise CheckpointError(f"{path}: its tensors do not fit {type(net).__name__}: {'; '.join(parts)}.")
