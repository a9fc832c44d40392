"""Tiny data sets in every format, made on the spot. Images are 100 pixels wide and 80 high."""

import json
from pathlib import Path

from PIL import Image

CLASSES = [{"id": 3, "name": "car"}, {"id": 7, "name": "person"}]


def image(path: Path, size: tuple[int, int] = (100, 80)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, "gray").save(path)
    return path


def text(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def coco(folder: Path, annotations: list, images=None, categories=CLASSES, split: str = "train") -> Path:
    """annotations: (image_id, category_id, bbox) or whole dicts. images: file names, ids from 1, or dicts."""
    images = [
        item if isinstance(item, dict) else {"id": i, "file_name": item, "width": 100, "height": 80}
        for i, item in enumerate(images or ["a.png"], 1)
    ]
    for item in images:
        if "file_name" in item and not item.pop("absent", False):
            image(folder / "images" / item["file_name"])
    annotations = [
        item
        if not isinstance(item, tuple)
        else {"id": i, "image_id": item[0], "category_id": item[1], "bbox": item[2]}
        for i, item in enumerate(annotations, 1)
    ]
    content = {"images": images, "annotations": annotations, "categories": categories}
    return text(folder / f"{split}.json", json.dumps(content))


def yolo(folder: Path, label_files: dict[str, str | bytes | None], split: str = "train") -> Path:
    """label_files: stem to lines; None = an image without label file."""
    for stem, lines in label_files.items():
        image(folder / "images" / split / f"{stem}.png")
        if lines is not None:
            text(folder / "labels" / split / f"{stem}.txt", lines)
    return text(folder / "data.yaml", f"{split}: images/{split}\nnames: [car, person]\n").parent


def voc_object(name: str, *corners) -> str:
    tags = zip(("xmin", "ymin", "xmax", "ymax"), corners, strict=True)
    box = "".join(f"<{tag}>{value}</{tag}>" for tag, value in tags)
    return f"<object><name>{name}</name><bndbox>{box}</bndbox></object>"


def voc_xml(*objects: str, size: str = "<size><width>100</width><height>80</height></size>") -> str:
    return f"<annotation><filename>x.png</filename>{size}{''.join(objects)}</annotation>"


def voc(folder: Path, annotations: dict[str, str | bytes | None], lists: str = "ImageSets/Main") -> Path:
    """annotations: name (may have sub-folders) to XML; None = an image without XML file."""
    for name, xml in annotations.items():
        image(folder / "JPEGImages" / f"{name}.png")
        if xml is not None:
            text(folder / "Annotations" / f"{name}.xml", xml)
    text(folder / lists / "train.txt", "".join(f"{name}\n" for name in annotations))
    return folder
