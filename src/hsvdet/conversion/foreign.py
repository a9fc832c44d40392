"""Published weights from a file of any known form to a Detector."""

# pyright: strict

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeGuard

from safetensors import SafetensorError
from torch import Tensor

from .. import models
from ..checkpoint import load_tensors, looks_like_safetensors, open_safetensors
from ..detector import Detector, create
from ..errors import CheckpointError, ConfigError, counted
from ..hub import Fetched, fetch, is_address
from . import (
    anchor_detr,
    conditional_detr,
    dab_detr,
    deformable_detr,
    detr,
    dino,
    efficient_detr,
    rt_detr,
    smca_detr,
    sparse_detr,
    ultralytics,
)
from .coco_classes import coco_ids
from .hugging_face import folder_labels, folder_settings, folder_size, weight_files
from .pickles import Shell, read_pickle
from .published import Foreign, Source
from .rename import Renamed, rename

SOURCES: tuple[Source, ...] = (
    ultralytics.SOURCE,
    *detr.SOURCES,
    *smca_detr.SOURCES,
    *conditional_detr.SOURCES,
    *dab_detr.SOURCES,
    *anchor_detr.SOURCES,
    *deformable_detr.SOURCES,
    *dino.SOURCES,
    *efficient_detr.SOURCES,
    *rt_detr.SOURCES,
    *sparse_detr.SOURCES,
)


class Converted(NamedTuple):
    """detector: ready to use. consumed, dropped: of the file's tensors."""

    detector: Detector
    source: Source
    consumed: int
    dropped: tuple[str, ...]


def read_foreign(
    foreign: str | Path | Fetched,
    *,
    model: str | None = None,
    labels: Sequence[str] | None = None,
    size: tuple[int, int] | None = None,
) -> Converted:
    """As `convert`, without writing. Strict: every tensor of the file is used or knowingly dropped.

    foreign: as of `convert`, or what `hub.fetch` has fetched.

    Raises CheckpointError for a file that is damaged, unsafe, of no known kind or of another model than
    `model`; ConfigError for an unknown `model`, or `labels` of another number.
    """
    if model is not None:
        models.find(model)
    if not isinstance(foreign, Fetched):
        local = Path(foreign)
        foreign = fetch(foreign) if is_address(foreign) else Fetched(local, local.name, ours=False)
    try:
        return _converted(foreign, model, labels, size)
    except (
        ArithmeticError,
        AttributeError,
        LookupError,
        RecursionError,
        RuntimeError,
        TypeError,
        ValueError,
    ) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(
            f"{foreign.path}: not put together as any published weights are ({reason[:120].rstrip('.')})."
        ) from error


def _converted(
    foreign: Fetched, model: str | None, labels: Sequence[str] | None, size: tuple[int, int] | None
) -> Converted:
    path = foreign.path
    found = read_weights(path)
    tensors = _without_wrappers(found.tensors)
    source, name = _recognise(path, tensors, model, found.settings)
    renamed: Renamed = rename(tensors, source.rules(name, tensors), str(path))
    number = source.num_classes(tensors)
    names = _labels(path, source, number, labels, found.labels)
    options = source.options(renamed.tensors, found.settings)
    try:
        detector = create(name, names, size=size or found.size, category_ids=coco_ids(names), options=options)
    except ConfigError as error:
        raise error if size else CheckpointError(f"{path}: {error}") from error
    load_tensors(detector.net, renamed.tensors, str(path))
    detector.licence = source.licence
    detector.source, detector.start = f"{foreign.name} (sha256 {_sha256(path)})", "trained"
    return Converted(detector, source, len(tensors) - len(renamed.dropped), renamed.dropped)


def read_weights(path: Path) -> Foreign:
    """A file, or a folder as Hugging Face keeps it, with whatever lies beside the weights. Runs nothing."""
    files = weight_files(path)
    if path.is_file():
        return _read(path)
    tensors: dict[str, Tensor] = {}
    for file in files:
        tensors |= _read(file).tensors
    settings = folder_settings(path)
    return Foreign(tensors, folder_labels(settings), folder_size(path), settings)


def _read(path: Path) -> Foreign:
    if looks_like_safetensors(path):
        try:
            with open_safetensors(path) as file:
                if "hsvdet" in (file.metadata() or {}):
                    raise CheckpointError(f"{path}: already an hsvdet checkpoint, nothing to convert.")
                return Foreign({name: file.get_tensor(name) for name in file.keys()})
        except SafetensorError as error:
            raise CheckpointError(
                f"{path}: expected a whole safetensors file; it is damaged or cut off ({error}). Copy it again."
            ) from None
    found: Any = read_pickle(path)
    outer: Mapping[Any, Any] = {}
    # The averaged weights where there are any, else the trained ones; then whatever wraps the tensors.
    passed: list[int] = []
    while _is_mapping(found) and not _is_state_dict(found):
        if id(found) in passed:
            raise CheckpointError(f"{path}: expected a state dict; came a dict that contains itself.")
        passed.append(id(found))
        outer = outer or found
        inner = next(
            (found[key] for key in ("ema", "ema_model", "model", "state_dict", "module") if found.get(key)),
            None,
        )
        if inner is None:
            raise CheckpointError(
                f"{path}: expected a state dict, or one under ema, model or state_dict;"
                f" came {', '.join(map(str, list(found)[:6])) or 'an empty dict'}."
            )
        found = inner
    if _is_mapping(found):
        arguments = outer.get("args")
        settings = dict(vars(arguments)) if isinstance(arguments, Shell) else {}
        return Foreign({str(name): tensor for name, tensor in found.items()}, settings=settings)
    if not isinstance(found, Shell):
        raise CheckpointError(f"{path}: expected a state dict or a module; came {type(found).__name__}.")
    if not found.origin.startswith("ultralytics."):
        raise CheckpointError(
            f"{path}: expected a state dict; came a whole {found.origin} object. Save its state dict:"
            " torch.save(model.state_dict(), ...)."
        )
    try:
        return ultralytics.read_module(found, outer)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from None
    except (AttributeError, LookupError, RecursionError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{path}: its module objects are not put together as that package does it ({error})."
        ) from None


def _is_mapping(found: Any) -> TypeGuard[Mapping[Any, Any]]:
    return isinstance(found, Mapping)


def _is_state_dict(found: Mapping[Any, Any]) -> bool:
    return bool(found) and all(isinstance(value, Tensor) for value in found.values())


def _without_wrappers(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Names without what DataParallel, and a model inside a model, put before all of them."""
    for wrapper, bare in (("module.", ""), ("model.model.", "model.")):
        if all(name.startswith(wrapper) for name in tensors):
            tensors = {bare + name.removeprefix(wrapper): tensor for name, tensor in tensors.items()}
    return dict(tensors)


def _recognise(
    path: Path, tensors: Mapping[str, Tensor], model: str | None, settings: Mapping[str, Any]
) -> tuple[Source, str]:
    for source in SOURCES:
        try:
            name = source.recognise(tensors)
        except CheckpointError as error:
            raise CheckpointError(f"{path}: {error}") from None
        if name is None:
            continue
        if model is None:
            return source, source.choose(name, settings)
        if model != name and model not in source.alike.get(name, ()):
            raise CheckpointError(f"{path}: expected weights of {model}; its shapes are those of {name}.")
        return source, model
    known = "; ".join(f"{source.name} ({', '.join(source.models)})" for source in SOURCES)
    raise CheckpointError(
        f"{path}: its {len(tensors)} tensors ({', '.join(list(tensors)[:2])}, ...) have the names of no published"
        f" model that hsvdet reads. Known: {known}."
    )


def _labels(
    path: Path, source: Source, number: int, given: Sequence[str] | None, found: Sequence[str] | None
) -> tuple[str, ...]:
    if given is not None and len(given) != number:
        raise ConfigError(f"labels expects the {number} classes of {path}; got {len(given)}.")
    names = given or found or source.labels.get(number) or [f"class {i}" for i in range(number)]
    if len(names) != number or len(set(names)) != number:
        raise CheckpointError(
            f"{path}: expected {number} different class names; it has {len(set(names))} in {len(names)}."
            " Give them with labels."
        )
    return tuple(names)


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    for part in weight_files(path):
        with part.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


@dataclasses.dataclass(frozen=True)
class ConversionReport:
    """What `convert` did. consumed: tensors of the file that were used; dropped: those knowingly left out."""

    model: str
    out: str
    labels: tuple[str, ...]
    size: tuple[int, int]
    consumed: int
    dropped: tuple[str, ...]
    licence: str
    source: str
    note: str

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    def __str__(self) -> str:
        dropped = (
            f", {len(self.dropped)} knowingly dropped ({', '.join(self.dropped)})" if self.dropped else ""
        )
        return (
            f"{self.model} with {counted(len(self.labels), 'class')} at {self.size[0]}x{self.size[1]}: {self.consumed}"
            f" tensors taken{dropped}. Written to {self.out}.\nLicence: {self.licence}. {self.note}"
        )


def convert(
    foreign: str | Path,
    out: str | Path,
    *,
    model: str | None = None,
    labels: Sequence[str] | None = None,
    size: tuple[int, int] | None = None,
) -> ConversionReport:
    """Published weights into an hsvdet checkpoint. Nothing in the file is executed.

    foreign: an Ultralytics YOLOv8 .pt; a state dict under the original names, written by torch.save (bare, or
    under "ema", "model" or "state_dict") or as safetensors; a folder as Hugging Face keeps models; or one on
    its hub, hf://owner/name (hsvdet/hub.py). out: the checkpoint to write, atomically. model: its name, see
    `hsvdet models`; told from the tensors if not given, and checked if given. labels: class names, if the file
    has none or others are wanted; of 80 unnamed classes they are COCO's. size: (height, width) of the input;
    the one it was trained at if the file says it, else the model's own.
    Raises CheckpointError and ConfigError as `read_foreign`.
    """
    converted = read_foreign(foreign, model=model, labels=labels, size=size)
    detector = converted.detector
    detector.save(out)
    return ConversionReport(
        detector.name,
        str(out),
        detector.labels,
        detector.preprocess.size,
        converted.consumed,
        converted.dropped,
        detector.licence,
        detector.source,
        converted.source.note,
    )
