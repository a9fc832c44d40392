"""Scenes as a data set on disk, in the COCO layout."""

# pyright: strict

from __future__ import annotations

import json
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

from PIL import Image

from ...errors import ConfigError, DataError
from ...files import parse_json
from ...progress import progress as shown_progress
from .compose import check_request, default_objects, generate_scene
from .suites import find_suite

# Raise it when any scene changes, so that data sets of the old pictures are not taken for new ones.
GENERATOR_VERSION = 1

# Each split is a range of the series: no scene is in two, and scene i of a split is the same in any length.
SPLIT_START: dict[str, int] = {"train": 0, "val": 1_000_000, "test": 2_000_000}
_LONGEST_SPLIT = 1_000_000


def write_scenes(
    out: str | Path,
    *,
    train: int = 2000,
    val: int = 500,
    test: int = 500,
    size: tuple[int, int] = (640, 640),
    seed: int = 0,
    objects: tuple[int, int] | None = None,
    suite: str = "crowd",
    image_format: str = "jpg",
    workers: int = 1,
    progress: bool = True,
) -> Path:
    """Writes a data set of scenes in the COCO layout to `out` and returns that folder.

    train, val, test: how many scenes; a split of 0 is left out. size: (height, width) in pixels. objects:
    fewest and most per scene, None for `default_objects(size, suite)`. suite: of SUITES. image_format: "jpg"
    (quality 95) or "png". workers: processes that draw. progress: on stderr.

    Layout: `images/<split>/<scene index>.jpg`, `annotations/instances_<split>.json` with "visibility" beside
    COCO's own fields, and `spec.json`. All is written beside `out` and moved there at the end. A folder that
    already holds this very specification is returned as it is. Raises ConfigError for impossible settings and
    DataError when `out` holds anything else or cannot be written.
    """
    out, objects = Path(out), objects or default_objects(size, suite)
    check_request(seed, size, objects)
    size, objects = (size[0], size[1]), (objects[0], objects[1])
    counts = {"train": train, "val": val, "test": test}
    for split, count in counts.items():
        if not 0 <= count <= _LONGEST_SPLIT:
            raise ConfigError(f"{split} expects 0 to {_LONGEST_SPLIT} scenes, got {count}.")
    if not any(counts.values()):
        raise ConfigError("train, val and test are all 0: ask for at least one scene.")
    if image_format not in ("jpg", "png"):
        raise ConfigError(f'image_format expects "jpg" or "png", got {image_format!r}.')
    if workers < 1:
        raise ConfigError(f"workers expects at least 1 process, got {workers}.")
    wanted = {split: count for split, count in counts.items() if count}
    spec: dict[str, Any] = {
        "generator": "hsvdet.data.scenes",
        "version": GENERATOR_VERSION,
        "splits": wanted,
        "size": list(size),
        "objects": list(objects),
        "seed": seed,
        "suite": suite,
        "image_format": image_format,
        "labels": list(find_suite(suite).labels),
    }
    try:
        if _holds(out, spec):
            return out
        parent = out.absolute().parent
        parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(".part", f".{out.name}.", parent, ignore_cleanup_errors=True) as beside:
            part = Path(beside) / "scenes"
            for split, count in wanted.items():
                _write_split(part, split, count, spec, workers, progress)
            (part / "spec.json").write_text(json.dumps(spec, indent=2) + "\n", encoding="utf-8")
            if not _holds(out, spec):  # else another process was first
                if out.exists():
                    out.rmdir()  # an empty folder
                part.rename(out)
    except OSError as error:
        reason = error.strerror or error
        raise DataError(f"cannot write scenes to {out}: {reason}. Choose another folder.") from error
    except BrokenProcessPool as error:
        raise DataError("a drawing process was killed, perhaps for memory. Try fewer workers.") from error
    return out


def _holds(out: Path, spec: dict[str, Any]) -> bool:
    """True: `out` is a data set of this specification. False: it is free. DataError: it is anything else."""
    if not out.exists():
        return False
    if not out.is_dir():
        raise DataError(f"{out} expects to be a folder and is a file. Choose another path or remove it.")
    if not any(out.iterdir()):
        return False
    try:
        found = parse_json((out / "spec.json").read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        found = None
    ours = False
    if isinstance(found, dict):
        content = {"suite": "crowd", **cast("dict[str, Any]", found)}  # the first folders do not name theirs
        if content == spec:
            return True
        ours = content.get("generator") == spec["generator"]
    raise DataError(
        f"{out} expects to be a new or empty folder and holds"
        f" {'scenes of other settings' if ours else 'other files'}. Choose another or remove it."
    )


def _write_split(
    root: Path, split: str, count: int, spec: dict[str, Any], workers: int, progress: bool
) -> None:
    folder = root / "images" / split
    folder.mkdir(parents=True)
    write = partial(
        _write_scene,
        folder=folder,
        seed=spec["seed"],
        size=tuple(spec["size"]),
        objects=tuple(spec["objects"]),
        suite=spec["suite"],
        image_format=spec["image_format"],
    )
    indices = range(SPLIT_START[split], SPLIT_START[split] + count)
    with ExitStack() as stack:
        if workers == 1 or count == 1:
            drawn = map(write, indices)
        else:
            pool = stack.enter_context(ProcessPoolExecutor(min(workers, count)))
            # It starts its processes here: before the bar, whose thread they would inherit half of.
            drawn = pool.map(write, indices, chunksize=max(1, min(16, count // workers)))
        advance = stack.enter_context(shown_progress(f"drawing {split}", count, "scenes", shown=progress))
        described: list[tuple[dict[str, Any], list[dict[str, Any]]]] = []
        for scene in drawn:
            described.append(scene)
            advance(1)
    images = [image for image, _ in described]
    annotations = [annotation for _, of_image in described for annotation in of_image]
    for number, annotation in enumerate(annotations, start=1):  # an id of 0 means "unmatched" to pycocotools
        annotation["id"] = number
    content = {
        "info": {"description": f"hsvdet scenes, {split}", "version": str(spec["version"])},
        "licenses": [],
        "images": images,
        "annotations": annotations,
        "categories": [{"id": number, "name": label} for number, label in enumerate(spec["labels"], start=1)],
    }
    annotation_file = root / "annotations" / f"instances_{split}.json"
    annotation_file.parent.mkdir(exist_ok=True)
    annotation_file.write_text(json.dumps(content), encoding="utf-8")


def _write_scene(
    index: int,
    *,
    folder: Path,
    seed: int,
    size: tuple[int, int],
    objects: tuple[int, int],
    suite: str,
    image_format: str,
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Draws and saves one scene; its COCO image entry and annotations (without ids)."""
    scene = generate_scene(seed, index, size, objects, suite)
    name = f"{index:07d}.{image_format}"
    options: dict[str, Any] = {"quality": 95} if image_format == "jpg" else {"compress_level": 4}
    Image.fromarray(scene.image).save(folder / name, **options)
    image = {"id": index, "file_name": name, "height": size[0], "width": size[1]}
    annotations: list[dict[str, Any]] = []
    for (x0, y0, x1, y1), label, visibility in zip(
        scene.boxes.tolist(), scene.labels.tolist(), scene.visibility.tolist(), strict=True
    ):
        width, height = x1 - x0, y1 - y0
        annotations.append(
            {
                "image_id": index,
                "category_id": label + 1,
                "bbox": [x0, y0, width, height],
                "area": width * height,
                "iscrowd": 0,
                "visibility": round(visibility, 4),
            }
        )
    return image, annotations
