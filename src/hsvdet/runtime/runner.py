"""Detect from an exported artifact, without PyTorch: numpy, Pillow, and onnxruntime or openvino are enough
(ExecuTorch's own Python runtime brings PyTorch with it).

    from hsvdet import runtime

    detect = runtime.load("street.onnx")
    boxes, scores, labels = detect("street.jpg")
    print([detect.labels[i] for i in labels])

What the artifact does not have inside: reading image files.
"""

# pyright: strict

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from os import PathLike
from typing import Any, cast, overload

import numpy as np

from ..data.pixels import PixelSource, name_of, read_pixels
from ..errors import CheckpointError, ConfigError, NonFiniteError
from ..structures import ArrayDetections
from ..targets import RUNNABLE, listed, target_of
from .artifact import ArtifactHeader, Run, existing, read_artifact
from .seal import doubt, require


def load(
    path: str | PathLike[str],
    *,
    threads: int | None = None,
    require_certificate: bool = False,
    trusted_key: str | PathLike[str] | None = None,
) -> Runner:
    """An artifact of `hsvdet export`, ready to run in its runtime: of the targets (targets.py) those that have one.

    threads: of one call; the runtime's own choice if not given. What its certificate says is always held against
    the file: `doubt` of what comes back says why the artifact may not be called certified, and is None where it may.
    require_certificate: run nothing else. trusted_key: a file with the Ed25519 public key (PEM) that must have signed
    the certificate; it requires one.
    Raises CheckpointError for a file that is not an artifact of hsvdet or lacks the certificate asked for, ConfigError
    where the runtime it needs is not installed.
    """
    path = existing(path)
    target = target_of(path)
    if target is None or target not in RUNNABLE:
        raise CheckpointError(
            f"{path}: expected an artifact {listed(RUNNABLE)}; others are run by the programs they are for."
        )
    if threads is not None and threads < 1:
        raise ConfigError(f"threads expects a number from 1 on; got {threads}.")
    if threads is not None and not target.threads:
        with_threads = " and ".join(other.title for other in RUNNABLE if other.threads)
        raise ConfigError(f"threads is for {with_threads}; {target.title} chooses its own number.")
    artifact = read_artifact(path)
    if artifact.header.target != target.name:
        raise CheckpointError(
            f"{path}: its header says {artifact.header.target}, its name {target.title}. Give it the name back that it"
            " was exported with."
        )
    why_not = doubt(artifact, trusted_key)
    if require_certificate or trusted_key is not None:
        require(artifact, why_not)
    run = import_module(f".run_{target.name}", __package__).start(artifact, threads)
    return Runner(run, artifact.header, why_not, artifact.sha256)


class Runner:
    """Call it as a `Detector`. header: what the artifact says about itself. labels: class names, index = label.
    category_ids: the id of each class in the data set the model was trained on. doubt: why it may not be called
    certified; None where it may. sha256: of the artifact, but for its certificate."""

    def __init__(self, run: Run, header: ArtifactHeader, doubt: str | None, sha256: str):
        self.run, self.header, self.doubt, self.sha256 = run, header, doubt, sha256
        self.labels, self.category_ids = header.labels, header.category_ids

    @property
    def certified(self) -> bool:
        return self.doubt is None

    @overload
    def __call__(
        self,
        images: PixelSource,
        *,
        score: float | None = None,
        iou: float | None = None,
        max_detections: int | None = None,
        batch: int = 16,
        names: Sequence[str] | None = None,
    ) -> ArrayDetections: ...

    @overload
    def __call__(
        self,
        images: Sequence[PixelSource],
        *,
        score: float | None = None,
        iou: float | None = None,
        max_detections: int | None = None,
        batch: int = 16,
        names: Sequence[str] | None = None,
    ) -> list[ArrayDetections]: ...

    def __call__(
        self,
        images: Any,
        *,
        score: float | None = None,
        iou: float | None = None,
        max_detections: int | None = None,
        batch: int = 16,
        names: Sequence[str] | None = None,
    ) -> ArrayDetections | list[ArrayDetections]:
        """Detect objects on one image or a list of them: a list for a list.

        images: path, Pillow image, or array [H, W, 3] uint8 RGB. score: the artifact's own if not given; not below
        its floor. iou: is the artifact's; another is refused. max_detections: at most the artifact's. Images
        of one size are run together, at most `batch` of them.
        names: of the images, for errors; their paths, or numbers in the list, if not given.
        Raises ConfigError, DataError naming the image that cannot be read, and NonFiniteError naming one of which the
        network made NaN or infinity.
        """
        if not isinstance(images, list | tuple):
            return self([images], score=score, iou=iou, max_detections=max_detections, names=names)[0]
        header = self.header
        score = header.score if score is None else score
        most = header.max_detections if max_detections is None else max_detections
        if not header.floor <= score <= 1:
            raise ConfigError(
                f"score expects {header.floor:g} to 1, the artifact has nothing weaker; got {score}. Export again"
                " with a lower --score."
            )
        if not 1 <= most <= header.max_detections:
            raise ConfigError(
                f"max_detections expects 1 to {header.max_detections}, the rows of the artifact; got {most}. Export"
                " again with --max-detections."
            )
        if iou is not None and header.iou is not None and iou != header.iou:
            raise ConfigError(
                f"iou is part of the artifact, {header.iou:g}; got {iou}. Export again with --iou {iou}."
            )
        given = list(cast("Sequence[PixelSource]", images))
        names = names or [name_of(image, number) for number, image in enumerate(given)]
        groups: dict[tuple[int, ...], list[int]] = {}
        arrays = [read_pixels(image) for image in given]
        for number, array in enumerate(arrays):
            groups.setdefault(array.shape, []).append(number)
        results: dict[int, ArrayDetections] = {}
        for numbers in groups.values():
            for start in range(0, len(numbers), batch):
                chunk = numbers[start : start + batch]
                boxes, scores, labels, count = self._rows(np.stack([arrays[i] for i in chunk]))
                for row, i in enumerate(chunk):
                    if count[row] < 0:
                        raise NonFiniteError(
                            f"{names[i]}: the artifact's answer is not finite."
                            f" Numbers overflow in it ({header.precision}), or its weights had diverged: export"
                            " again, with --precision fp32 or from sound weights."
                        )
                    # Not by the artifact's own count: `score` may be another. Rows are in the order of logits, and
                    # a runtime's sigmoid may give 6e-8 after 0: detections end at the first that is too weak.
                    weak = np.flatnonzero(scores[row] <= score)
                    found = min(int(weak[0]) if len(weak) else len(scores[row]), most)
                    results[i] = ArrayDetections(boxes[row, :found], scores[row, :found], labels[row, :found])
                    if not np.isfinite(results[i].boxes).all():
                        raise NonFiniteError(
                            f"{names[i]}: the artifact's answer has boxes that are not finite. Export it again."
                        )
                    if found and not 0 <= results[i].labels.min() <= results[i].labels.max() < len(
                        header.labels
                    ):
                        raise CheckpointError(
                            f"{names[i]}: the artifact answers with a class that is none of its {len(header.labels)}."
                            " Export it again."
                        )
        return [results[i] for i in range(len(arrays))]

    def _rows(self, images: np.ndarray) -> Sequence[np.ndarray]:
        """What the artifact gives for images of one size. Raises CheckpointError for what no artifact gives."""
        rows = self.run(images)
        shapes = [part.shape for part in rows]
        of_rows = shapes[1] if len(shapes) == 4 else ()
        if shapes != [(*of_rows, 4), of_rows, of_rows, (len(images),)] or of_rows[:1] != (len(images),):
            raise CheckpointError(
                f"expected boxes [{len(images)}, R, 4], scores, labels and count from the artifact; its outputs have"
                f" the shapes {shapes}. Export it again."
            )
        return rows
