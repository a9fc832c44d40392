"""What is in a data set and what is wrong with it, by file."""

# pyright: strict

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DataError, counted
from .dataset import DetectionData, Problem, Record
from .files import display, in_threads, without_path
from .images import read_image
from .nms_ceiling import Deleted, deleted_text, nms_ceiling
from .overlap import occlusion
from .plausibility import alike_names, boxes_twice, compare_splits, imbalance
from .read import open_source, require_split, split_names

_OBJECTS = (0, 1, 2, 6, 11, 21, 51, 101)  # first number of objects of each bin
_OBJECT_BINS = ("0", "1", "2-5", "6-10", "11-20", "21-50", "51-100", "over 100")
_PERCENTILES = (50, 90, 99)
_QUERIES = (100, 300)  # what models of the DETR lineage have
_OCCLUSION = (0.0, 0.1, 0.3, 0.5, 0.7, 0.9)
_OCCLUSION_BINS = ("0-0.1", "0.1-0.3", "0.3-0.5", "0.5-0.7", "0.7-0.9", "0.9-1")
_SHOWN = 20  # problems of a split in the summary


@dataclass(frozen=True)
class SplitReport:
    """One split, as it is used: what was left out is in `problems` only.

    boxes: without crowd regions, as all that follows. boxes_per_class: by name, absent classes too.
    images_labelled_per_class: images in which the class is labelled, by name.
    objects_per_image: "mean", "max", "densest" (the file with most), "percentiles" (50, 90, 99: so many in that
    share of the images, at most), "over" (images with more than 100 and 300, as many as the queries of DETR
    and of most after it) and "histogram". box_sizes: small, medium, large (area below 32^2, below
    96^2, above, as COCO counts). occlusion: boxes by their largest IoU with another box of the image.
    """

    images: int
    images_without_objects: int
    boxes: int
    crowd_regions: int
    boxes_per_class: dict[str, int]
    images_labelled_per_class: dict[str, int]
    objects_per_image: dict[str, Any]
    box_sizes: dict[str, int]
    occlusion: dict[str, int]
    nms_ceiling: tuple[Deleted, ...]
    problems: tuple[Problem, ...]


@dataclass(frozen=True)
class DataReport:
    """path: as given. format: "coco", "yolo", "voc" or "idd". labels: classes of all splits. decoded: whether
    every image was opened."""

    path: str
    format: str
    labels: tuple[str, ...]
    splits: dict[str, SplitReport]
    decoded: bool

    @property
    def ok(self) -> bool:
        """False when something must be repaired: an image or a box cannot be used, or training would refuse them."""
        return not any(
            problem.severity == "error" for report in self.splits.values() for problem in report.problems
        )

    def to_json(self) -> dict[str, Any]:
        """Plain lists, dicts and numbers, every problem included."""
        content = asdict(self)
        for split in content["splits"].values():
            split["problems"] = [problem._asdict() for problem in split["problems"]]
            split["nms_ceiling"] = [row.to_json() for row in split["nms_ceiling"]]
        return content | {"ok": self.ok}

    def __str__(self) -> str:
        return self.summary()

    def __repr__(self) -> str:  # what a notebook shows
        return str(self)

    def summary(self) -> str:
        """Text for a terminal, of some twenty lines per split and at most twenty problems."""
        lines = [f"{self.path} ({self.format}), {counted(len(self.labels), 'class')}"]
        for name, report in self.splits.items():
            lines += ["", *_summary(name, report)]
        verdict = (
            "Nothing must be repaired." if self.ok else "Something must be repaired: see the errors above."
        )
        if not self.decoded:
            verdict += " The images were not opened."
        return "\n".join([*lines, "", verdict])


def check_data(
    path: str | PathLike[str], split: str | None = None, decode: bool = True, progress: bool = False
) -> DataReport:
    """Read a data set (formats: see `read_data`) and report what is in it and what is wrong with it.

    split: one of its splits, or None for all, which are compared then. decode: open every image, too: the only way to
    find those that are broken, of another size than annotated, or in two splits under two names. progress: show a bar
    while they are opened, if stderr is a terminal. Raises DataError when the path or the split is none, or
    when nothing but one split was to be read and cannot be.
    """
    source = open_source(path)
    names = split_names(source) if split is None else [require_split(source, split)]
    unread: dict[str, Problem] = {}
    splits: list[DetectionData] = []
    for name in names:
        try:
            splits.append(source.read(name, None))
        except DataError as error:
            if len(names) == 1:
                raise
            # The other splits may be sound.
            unread[name] = Problem("error", str(path), f"The split {name} cannot be read. {error}")
    labels = dict.fromkeys(label for data in splits for label in data.labels)
    shared = compare_splits(splits, contents=decode)
    reports = {name: _report([], (), (problem,), Path(path)) for name, problem in unread.items()}
    for number, data in enumerate(splits):
        problems = [*data.problems, *shared.get(data.split, ()), *boxes_twice(data)]
        if number == 0:  # said once, of what is trained on
            problems += [*alike_names(labels, str(path)), *imbalance(data, str(path))]
        if decode:
            problems += _decode(data, progress)
        problems.sort(key=lambda problem: (problem.severity != "error", problem.file))
        reports[data.split] = _report(data.records, data.labels, tuple(problems), data.root)
    reports = {name: reports[name] for name in names}
    return DataReport(str(path), source.format, tuple(labels), reports, decode)


def _report(
    records: Sequence[Record], labels: Sequence[str], problems: tuple[Problem, ...], root: Path
) -> SplitReport:
    objects = [~record.crowd for record in records]
    counts = np.array([int(mask.sum()) for mask in objects], dtype=np.int64)
    classes = _joined([record.labels[mask] for record, mask in zip(records, objects, strict=True)])
    areas = _joined([record.area[mask] for record, mask in zip(records, objects, strict=True)])
    overlaps = _joined([occlusion(record.boxes[mask]) for record, mask in zip(records, objects, strict=True)])
    per_class = np.bincount(classes.astype(np.int64), minlength=len(labels)).tolist()
    sizes = np.bincount(np.digitize(areas, (32**2, 96**2)), minlength=3).tolist()
    return SplitReport(
        images=len(records),
        images_without_objects=int((counts == 0).sum()),
        boxes=int(counts.sum()),
        crowd_regions=sum(int(record.crowd.sum()) for record in records),
        boxes_per_class=dict(zip(labels, per_class, strict=True)),
        images_labelled_per_class=_labelled(records, labels),
        objects_per_image={
            "mean": round(float(counts.mean()), 3) if len(counts) else 0.0,
            "max": int(counts.max(initial=0)),
            "densest": display(records[int(counts.argmax())].path, root) if counts.any() else None,
            "percentiles": {str(share): _percentile(counts, share) for share in _PERCENTILES},
            "over": {str(number): int((counts > number).sum()) for number in _QUERIES},
            "histogram": _histogram(counts, _OBJECTS, _OBJECT_BINS),
        },
        box_sizes=dict(zip(("small", "medium", "large"), sizes, strict=True)),
        occlusion=_histogram(overlaps, _OCCLUSION, _OCCLUSION_BINS),
        nms_ceiling=nms_ceiling(records),
        problems=problems,
    )


def _labelled(records: Sequence[Record], labels: Sequence[str]) -> dict[str, int]:
    everywhere = np.ones(len(labels), dtype=bool)
    counts = np.zeros(len(labels), dtype=np.int64)
    for record in records:
        counts += everywhere if record.labelled is None else record.labelled
    return dict(zip(labels, counts.tolist(), strict=True))


def _percentile(counts: np.ndarray, share: int) -> int:
    """The smallest number that this share of the images, in per cent, does not pass."""
    return int(np.percentile(counts, share, method="inverted_cdf")) if len(counts) else 0


def _joined(arrays: list[np.ndarray]) -> np.ndarray:
    return np.concatenate(arrays) if arrays else np.zeros(0)


def _histogram(values: np.ndarray, starts: Sequence[float], names: Sequence[str]) -> dict[str, int]:
    counts = np.bincount(np.digitize(values, starts[1:]), minlength=len(names))
    return dict(zip(names, counts.tolist(), strict=True))


def _decode(data: DetectionData, progress: bool) -> list[Problem]:
    def problem_of(record: Record) -> Problem | None:
        file = display(record.path, data.root)
        try:
            height, width = read_image(record.path).shape[1:]
        except DataError as error:
            return Problem("error", file, f"Left out: {without_path(error, record.path)}")
        if (height, width) == record.size:
            return None
        what = f"It has {width}x{height} pixels, annotated are {record.size[1]}x{record.size[0]}"
        if (width, height) == record.size:
            what += " (it was annotated without its EXIF rotation)"
        return Problem("error", file, f"{what}: its boxes are in the wrong place.")

    problems = in_threads(problem_of, data.records, f"opening {data.split}", shown=progress)
    return [problem for problem in problems if problem]


def _summary(name: str, report: SplitReport) -> list[str]:
    objects = report.objects_per_image
    lines = [
        f"{name}: {counted(report.images, 'image')}, {report.images_without_objects:,} of them without objects;"
        f" {counted(report.boxes, 'box')}"
        + (f", {counted(report.crowd_regions, 'crowd region')}" * (report.crowd_regions > 0)),
        f"  objects per image  mean {objects['mean']:.1f}, {_crowded(objects)}; {_shares(objects['histogram'])}",
        f"  box sizes          {_shares(report.box_sizes)}",
        f"  largest IoU        {_shares(report.occlusion)}",
        *([f"  NMS would delete   {deleted_text(report.nms_ceiling)}"] if report.boxes else []),
    ]
    ranked = Counter(report.boxes_per_class).most_common()
    lines.append("  boxes per class    " + ", ".join(f"{label} {number:,}" for label, number in ranked[:20]))
    if len(ranked) > 20:
        lines[-1] += f", {len(ranked) - 20} more down to {ranked[-1][0]} {ranked[-1][1]:,}"
    partly = {label: n for label, n in report.images_labelled_per_class.items() if n < report.images}
    if partly:
        shown = [f"{label} in {number:,}" for label, number in list(partly.items())[:20]]
        more = f", {len(partly) - 20} more not in all" if len(partly) > 20 else ""
        lines.append(f"  labelled           {', '.join(shown)} of {counted(report.images, 'image')}{more}")
    for problem in report.problems[:_SHOWN]:
        lines.append(f"  {problem.severity}: {problem.file}: {problem.what}")
    if len(report.problems) > _SHOWN:
        hidden = Counter(problem.severity for problem in report.problems[_SHOWN:])
        errors, warnings = counted(hidden["error"], "more error"), counted(hidden["warning"], "more warning")
        lines.append(f"  and {errors}, {warnings} (all with --json)")
    return lines


def _crowded(objects: dict[str, Any]) -> str:
    parts = [f"{share} % of images up to {number}" for share, number in objects["percentiles"].items()]
    parts.append(f"max {objects['max']}" + (f" ({objects['densest']})" if objects["densest"] else ""))
    parts += [f"over {number} in {images:,}" for number, images in objects["over"].items() if images]
    return ", ".join(parts)


def _shares(counts: dict[str, int]) -> str:
    total = max(1, sum(counts.values()))
    return ", ".join(
        f"{name}: {number:,} ({number / total:.0%})" for name, number in counts.items() if number
    )
