"""A Detector: a network and everything needed to use it on photographs. Made by `create`, read by `loading.load`."""

# pyright: strict

from __future__ import annotations

import dataclasses
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast, overload

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from . import models
from .backbones import Backbone
from .bounds import MOST_CLASSES, MOST_PARAMETERS, MOST_TENSORS
from .checkpoint import write_checkpoint
from .data.batch import padding_of
from .errors import ConfigError, SaveError
from .inference.allocator import keep_freed_memory
from .inference.fold import FoldReport, fold
from .inference.settings import Settings, arrange, settings_for
from .options import check_reading, override
from .preprocess import Preprocess, Size
from .result import Result
from .structures import Detections, Prediction, Rectangle, is_class_name

if TYPE_CHECKING:
    from .data.images import ImageSource

# What of a detector's weights was trained before: nothing, its backbone, all of it.
Start = Literal["random", "backbone", "trained"]


@dataclass(eq=False)
class Detector:
    """net: images [B, 3, H, W] as `preprocess` leaves them, padding, to an output with `.answer`.

    labels: class names, index = label. category_ids: the id of each class in the data set it was trained on.
    licence and source: of the weights, source in words. start: what of them was trained before, so that training
    knows what may learn slower. folded: for a deployed detector, what was folded; else None.
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
    start: Start = "random"
    extra: dict[str, Any] = field(default_factory=dict[str, Any])
    folded: FoldReport | None = None
    settings: Settings = Settings()

    @property
    def device(self) -> torch.device:
        return next(self.net.parameters()).device

    def to(self, device: str | torch.device) -> Detector:
        self.net.to(device)
        return self

    def resized(self, size: Size) -> Detector:
        """The same weights for images of another (height, width), or one number for both. Raises ConfigError."""
        return dataclasses.replace(self, preprocess=self.preprocess.resized(size))

    def with_options(self, options: Mapping[str, Any]) -> Detector:
        """The same weights with other numbers of the configuration, of those that a trained network works with.

        options: as of `create`, of the names in the configuration's AFTER_TRAINING: {"rho": 0.1} of Sparse DETR,
        {"answer_layer": 3} of RT-DETR. This detector stays as it is. Raises ConfigError for any other name, for a
        value that cannot be, and for a deployed detector.
        """
        config, free = override(self.config, options), self.changeable()
        for name in options:
            if name not in free:
                others = f" Only {', '.join(free)} may change after it." if free else ""
                raise ConfigError(f"{self.name} is what it is by its training, {name} included.{others}")
        if self.folded is not None:
            raise ConfigError("Options are for a detector as it was trained; this one is deployed.")
        with torch.device("meta"):
            net = build(models.find(self.name), config, len(self.labels))
        net.load_state_dict(self.net.state_dict(), assign=True)
        return dataclasses.replace(
            self, net=net.train(self.net.training), config=config, extra=dict(self.extra)
        )

    def changeable(self) -> dict[str, Any]:
        """The options that may change after training, and their values."""
        return {name: getattr(self.config, name) for name in getattr(self.config, "AFTER_TRAINING", ())}

    @overload
    def __call__(
        self,
        images: ImageSource,
        *,
        score: float = 0.25,
        iou: float = 0.7,
        max_detections: int | None = None,
        batch: int = 16,
        bgr: bool = False,
    ) -> Result: ...

    @overload
    def __call__(
        self,
        images: Iterable[ImageSource],
        *,
        score: float = 0.25,
        iou: float = 0.7,
        max_detections: int | None = None,
        batch: int = 16,
        bgr: bool = False,
    ) -> list[Result]: ...

    def __call__(
        self,
        images: Any,
        *,
        score: float = 0.25,
        iou: float = 0.7,
        max_detections: int | None = None,
        batch: int = 16,
        bgr: bool = False,
    ) -> Result | list[Result]:
        """Detect objects on one image, or on several: a list for a list or any other iterable, in its order.

        images: path, bytes of a file, open file, Pillow image, array [H, W, 3] uint8, tensor [3, H, W] uint8. bgr:
        arrays and tensors have blue first, as OpenCV reads them; else they are RGB. score, iou, max_detections: see
        `Reading.detections`. batch: images that are run at once. Results are on the CPU, in pixels of the images.
        Raises ConfigError, DataError naming the image that cannot be read, NonFiniteError naming one whose answer has
        NaN.
        """
        from .data.images import is_image, turned_to_rgb
        from .data.pixels import name_of

        alone = is_image(images)
        given: list[Any] = [images] if alone else list(cast("Iterable[Any]", images))
        names = [name_of(image, number) for number, image in enumerate(given)]
        if bgr:
            given = [turned_to_rgb(image, name) for image, name in zip(given, names, strict=True)]
        given = [image.read() if hasattr(image, "read") else image for image in given]
        found = self.detect(
            given, score=score, iou=iou, max_detections=max_detections, batch=batch, names=names
        )
        results = [
            Result(detections, self.labels, self.category_ids, image)
            for image, detections in zip(given, found, strict=True)
        ]
        return results[0] if alone else results

    @torch.inference_mode()
    def detect(
        self,
        images: Sequence[ImageSource],
        *,
        score: float,
        iou: float,
        max_detections: int | None,
        batch: int,
        names: Sequence[str],
    ) -> list[Detections]:
        """The numbers of `__call__`, in pixels of each image, on the CPU. An image's answer does not depend on the
        others: images are run together only where their canvas is the same. names: of the images, for errors."""
        from .data.images import read_image

        check_reading(score=score, iou=iou, max_detections=max_detections, batch=batch)
        self.net.eval()
        groups: dict[tuple[int, int], list[int]] = {}
        placed: list[tuple[Tensor, Rectangle]] = []
        sizes: list[tuple[int, int]] = []
        for number, image in enumerate(images):
            pixels = read_image(image)
            canvas, content = self.preprocess.to_canvas(pixels, minimal=True)
            placed.append((canvas, content))
            sizes.append((pixels.shape[-2], pixels.shape[-1]))
            groups.setdefault((canvas.shape[-2], canvas.shape[-1]), []).append(number)
        results: dict[int, Detections] = {}
        for numbers in groups.values():
            for start in range(0, len(numbers), batch):
                chunk = numbers[start : start + batch]
                answer = self.answer([placed[i] for i in chunk])
                found = models.find(self.name).reading.detections(
                    answer,
                    [sizes[i] for i in chunk],
                    score=score,
                    iou=iou,
                    max_detections=max_detections,
                    names=[names[i] for i in chunk],
                )
                for i, detections in zip(chunk, found, strict=True):
                    results[i] = Detections(*(part.cpu() for part in detections))
        return [results[i] for i in range(len(images))]

    @torch.inference_mode()
    def answer(self, placed: Sequence[tuple[Tensor, Rectangle]]) -> Prediction:
        """The network's answer to images on canvases of one size, as `preprocess.to_canvas` gives them."""
        stacked = torch.stack([canvas for canvas, _ in placed]).to(self.device)
        padding = padding_of([content for _, content in placed], stacked.shape[-2:])
        images = self.settings.arranged(self.preprocess.normalise(stacked))
        with self.settings.autocast(self.device):
            return self.net(images, None if padding is None else padding.to(self.device)).answer

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

        precision: "auto" for bf16 where the device is fast at it and else fp32; or fp32, bf16, fp16 (GPUs);
        docs/inference.md says what bf16 moves. compile: with torch.compile, seconds to minutes at the first image of
        each size. On a CPU the process then keeps the memory it frees (`allocator.keep_freed_memory`). `settings`
        says what was chosen, `describe()` in one line. Raises ConfigError for a precision the device does not have,
        and for a detector that was accelerated for another.
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

    def __repr__(self) -> str:
        shown = ", ".join(self.labels[:8]) + (", ..." if len(self.labels) > 8 else "")
        height, width = self.preprocess.size
        parameters = sum(parameter.numel() for parameter in self.net.parameters())
        return (
            f"{self.name}: {len(self.labels)} class{'es' * (len(self.labels) > 1)} ({shown}), {height}x{width}"
            f" {self.preprocess.resize}, {parameters:,} parameters; {self.describe()}; {self.licence}, {self.source}"
        )

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
        header = {**self.header(), "start": self.start, **self.extra, **(extra or {})}
        write_checkpoint(path, self.net.state_dict(), header)

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


def create(
    name: str,
    labels: str | Sequence[str],
    *,
    size: Size | None = None,
    category_ids: Sequence[int] | None = None,
    options: Mapping[str, Any] | None = None,
) -> Detector:
    """A new detector with random weights.

    name: see `hsvdet models`. labels: class names; one alone is the only class. size: (height, width) of its
    input, or one number for both, multiples of the stride. category_ids: the data set's own ids, 1, 2, 3, ... if
    not given. options: config values that differ from the model's own, e.g. {"k": 256}. Raises ConfigError.
    """
    entry = models.find(name)
    labels = (labels,) if isinstance(labels, str) else tuple(labels)
    if len(labels) > MOST_CLASSES:
        raise ConfigError(f"labels expects at most {MOST_CLASSES:,} class names; got {len(labels):,}.")
    if not labels or not all(map(is_class_name, labels)) or len(set(labels)) != len(labels):
        raise ConfigError(
            f"labels expects one or more class names, each once; got {ascii(list(labels))[:200]}."
        )
    ids = tuple(category_ids) if category_ids is not None else tuple(range(1, len(labels) + 1))
    if len(ids) != len(labels):
        raise ConfigError(f"category_ids expects one id for each of {len(labels)} labels; got {len(ids)}.")
    if len(set(ids)) != len(ids) or any(type(number) is not int for number in ids):
        raise ConfigError(f"category_ids expects integers, each once; got {str(list(ids))[:200]}.")
    config = override(entry.config, options or {})
    preprocess = entry.preprocess if size is None else entry.preprocess.resized(size)
    net = build(entry, config, len(labels))
    backbone = getattr(net, "backbone", None)
    if isinstance(backbone, Backbone):
        if preprocess.pads:
            backbone.check_padding()
        if backbone.normalisation is not None:
            mean, std = backbone.normalisation
            preprocess = dataclasses.replace(preprocess, mean=mean, std=std)
    return Detector(name, net, config, labels, ids, preprocess)


def build(entry: models.Model, config: Any, classes: int, most: int | None = None) -> nn.Module:
    """The network of a configuration, with random weights. most: parameter tensors that it may have;
    MOST_TENSORS, if not given.

    Raises ConfigError where its options do not go together or ask for more: as soon as that is seen, before the rest
    takes time and memory.
    """
    try:
        with _at_most(MOST_TENSORS if most is None else most):
            return entry.net(config, classes)
    except (ArithmeticError, AssertionError, LookupError, RuntimeError, TypeError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ConfigError(f"its options do not make a network: {reason.rstrip('.')}.") from error


@contextmanager
def _at_most(most: int) -> Generator[None, None, None]:
    """Within it, a network of more parameter tensors, or of more numbers than any has, is not built: a configuration
    may ask for a thousand million layers. Raises ConfigError."""
    tensors = numbers = 0

    def counted(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        nonlocal tensors, numbers
        if parameter is not None:
            tensors, numbers = tensors + 1, numbers + parameter.numel()
        if tensors > most:
            raise ConfigError(f"The options ask for a network of more than {most} parameter tensors.")
        if numbers > MOST_PARAMETERS:
            raise ConfigError(f"The options ask for a network of more than {MOST_PARAMETERS:,} parameters.")

    handle = register_module_parameter_registration_hook(counted)
    try:
        yield
    finally:
        handle.remove()
