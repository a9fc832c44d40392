"""A folder as Hugging Face keeps models: weights in one file or several, config.json, preprocessor_config.json."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..checkpoint import check_file
from ..errors import CheckpointError
from ..files import parse_json
from .coco_classes import COCO_SLOTS


def weight_files(path: Path) -> list[Path]:
    """The files of the weights: `path` itself, or those of a folder, safetensors where there are both kinds.

    Raises CheckpointError for a folder without weights, or whose index names a file that it has not got.
    """
    if not path.is_dir():
        check_file(path)
        return [path]
    for name in ("model.safetensors", "pytorch_model.bin"):
        if (path / name).is_file():
            check_file(path / name)
            return [path / name]
        if (path / f"{name}.index.json").is_file():
            listed = _json(path / f"{name}.index.json").get("weight_map")
            if not isinstance(listed, Mapping) or not listed:
                raise CheckpointError(f"{path / name}.index.json: expected a weight_map of tensors to files.")
            # Names only: an index has no business outside its folder.
            files = [path / Path(str(part)).name for part in sorted(set(listed.values()))]
            for file in files:
                check_file(file)
            return files
    raise CheckpointError(
        f"{path}: expected a folder with model.safetensors or pytorch_model.bin; it has"
        f" {', '.join(sorted(entry.name for entry in path.iterdir())[:6]) or 'nothing'}."
    )


def folder_settings(path: Path) -> dict[str, Any]:
    """What config.json says; empty for a file, or where there is none. Raises CheckpointError if it is damaged."""
    return _json(path / "config.json") if path.is_dir() and (path / "config.json").is_file() else {}


def folder_size(path: Path) -> tuple[int, int] | None:
    """(shorter, longer) side that images are resized to, if preprocessor_config.json says it so."""
    file = path / "preprocessor_config.json"
    size = _json(file).get("size") if path.is_dir() and file.is_file() else None
    if isinstance(size, Mapping) and {"shortest_edge", "longest_edge"} <= size.keys():
        sides = size["shortest_edge"], size["longest_edge"]
        if not all(type(side) is int for side in sides):
            raise CheckpointError(f"{file}: size expects whole numbers of pixels, got {str(sides)[:80]}.")
        return sides
    return None


def folder_labels(settings: Mapping[str, Any]) -> tuple[str, ...] | None:
    """Class names in the order of their numbers; those that stand for nothing are made different."""
    names = settings.get("id2label")
    if not isinstance(names, Mapping) or names.keys() != {str(i) for i in range(len(names))}:
        return None
    labels = [str(names[str(number)]) for number in range(len(names))]
    if len(labels) == len(COCO_SLOTS) and labels[1] == COCO_SLOTS[1]:
        return COCO_SLOTS
    return tuple(f"n/a {i}" if label.casefold() == "n/a" else label for i, label in enumerate(labels))


def _json(path: Path) -> dict[str, Any]:
    try:
        content = parse_json(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, ValueError) as error:
        raise CheckpointError(f"{path}: expected JSON; it cannot be read ({error}). Copy it again.") from None
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: expected a JSON object, came {type(content).__name__}.")
    return content
