"""What the parts of hsvdet hand to one another. Immutable tuples of tensors: printable, and pytrees.

Shape letters, fixed once for the library: B images, C classes, D channels, H x W pixels or cells, L levels,
S tokens, Q predictions, N objects. Masks: True always means *no* (padding, ignore). A box without a format
in its name is (centre x, centre y, width, height) in fractions of the unpadded image.
"""

# pyright: strict

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from .bounds import LONGEST_NAME
from .errors import UNPRINTED

if TYPE_CHECKING:  # `hsvdet.runtime` has no PyTorch
    from collections.abc import Callable

    import numpy as np
    import torch
    from torch import Tensor


def is_class_name(name: object) -> bool:
    """Text with something in it, of LONGEST_NAME characters at most, without line breaks, control characters and halves
    of characters: it goes into XML, CSV, pictures and terminals."""
    return (
        isinstance(name, str)
        and bool(name.strip())
        and len(name) <= LONGEST_NAME
        and UNPRINTED.search(name) is None
    )


class ImageInfo(NamedTuple):
    """Where an image came from. `size` is (height, width) in pixels, upright (EXIF rotation applied)."""

    id: int | str
    path: str
    size: tuple[int, int]


class Rectangle(NamedTuple):
    """Whole pixels inside a canvas: where the image lies, the rest being padding."""

    left: int
    top: int
    width: int
    height: int


class Sample(NamedTuple):
    """One image and its objects, on their way through the transforms (Sample to Sample).

    image: [3, H, W] uint8 RGB. boxes: [N, 4] float32 xyxy, pixels of `image`. labels: [N] int64 in 0..C-1.
    content: the part of `image` that is picture; None means all of it. ignored: [M, 4] as boxes, and labelled: [C]
    bool, see `Target`.
    """

    image: Tensor
    boxes: Tensor
    labels: Tensor
    info: ImageInfo
    content: Rectangle | None = None
    ignored: Tensor | None = None
    labelled: Tensor | None = None

    def with_boxes(self, move: Callable[[Tensor], Tensor]) -> Sample:
        """Boxes and regions to ignore where `move`, [N, 4] to [N, 4], takes them."""
        ignored = None if self.ignored is None else move(self.ignored)
        return self._replace(boxes=move(self.boxes), ignored=ignored)


class Target(NamedTuple):
    """What is known of one image. What is not known must not be trained as background.

    labels: [N] int64 in 0..C-1. boxes: [N, 4] float32, fractions. ignored: [M, 4] float32, fractions: regions of
    which nothing is known, such as crowds; None: there are none. labelled: [C] bool, True for the classes that
    are annotated in this image; None: all are.
    """

    labels: Tensor
    boxes: Tensor
    ignored: Tensor | None = None
    labelled: Tensor | None = None

    def to(self, device: torch.device, non_blocking: bool = False) -> Target:
        ignored, labelled = (
            None if part is None else part.to(device, non_blocking=non_blocking)
            for part in (self.ignored, self.labelled)
        )
        labels = self.labels.to(device, non_blocking=non_blocking)
        boxes = self.boxes.to(device, non_blocking=non_blocking)
        return Target(labels, boxes, ignored, labelled)


class Batch(NamedTuple):
    """images: [B, 3, H, W] float32, normalised. padding: [B, H, W] bool, True = no image here, or None."""

    images: Tensor
    padding: Tensor | None
    targets: list[Target]
    infos: list[ImageInfo]


class Prediction(NamedTuple):
    """logits: [B, Q, C], sigmoid or softmax as the model says. boxes: [B, Q, 4] fractions, float32."""

    logits: Tensor
    boxes: Tensor


class Selection(NamedTuple):
    """What a learned token selector answered: its loss is criteria/selection.py.

    logits: [B, h, w] float32, one for each token of a map. stride: pixels per cell of the map. kept: [B, h, w] bool,
    the tokens that were selected; None where the network does not say. attended: [B, h, w] float32, how much a
    decoder looked at each token in all, -1 in padding; None where nothing learns from it.
    """

    logits: Tensor
    stride: int
    kept: Tensor | None = None
    attended: Tensor | None = None


class DenseOutput(NamedTuple):
    """A dense head's answer, with what its loss needs. A = number of anchor points over all levels = Q.

    distances: [B, A, 4 * R] logits of the left, top, right, bottom distance bins, side-major.
    anchors: [A, 2] xy of the points in input pixels. strides: [A] pixels. extents: [B, 4] where each image
    lies inside the input (left, top, width, height) in pixels: what fractions are fractions of.
    selections: of each learned token selector in the network. twin: the one-to-many twin of a one-to-one head,
    training only.
    """

    prediction: Prediction
    distances: Tensor
    anchors: Tensor
    strides: Tensor
    extents: Tensor
    selections: tuple[Selection, ...] = ()
    twin: DenseOutput | None = None

    @property
    def answer(self) -> Prediction:
        return self.prediction

    @property
    def undecoded(self) -> tuple[Tensor, ...]:
        """What the answer is read from: it is finite where these are, [B, ...] each."""
        return self.prediction.logits, self.distances

    @property
    def dense(self) -> DenseOutput:
        """The dense head's part of any output, or None."""
        return self

    @property
    def query(self) -> None:
        """The query head's part of any output, or None."""
        return None

    @property
    def cells(self) -> Tensor:
        """The anchor of the dense head that each prediction of the answer stands on: [B, Q] int64, -1 for none."""
        import torch

        images, anchors = self.prediction.logits.shape[:2]
        return torch.arange(anchors, device=self.anchors.device).expand(images, -1)

    @property
    def parents(self) -> None:
        """The anchor that each query was made from, of any output (`DualOutput.parents`), or None."""
        return None

    def predictions(self) -> list[tuple[str, Prediction]]:
        """All of them, by name."""
        twin = [] if self.twin is None else [("one-to-many", self.twin.prediction)]
        return [("answer", self.prediction), *twin]

    def boxes_at(self, index: Tensor, extents: Tensor) -> Tensor:
        """The answer's boxes at `index` [B, K] alone, [B, K, 4] fractions: in a graph that needs only some of them,
        the others are not decoded. extents: as the field, if the network was not told them exactly."""
        from .boxes import decode_distances, pixels_to_fractions

        distances = self.distances.transpose(1, 2)  # [B, 4 R, A], as the head made them
        there = index.unsqueeze(1).expand(-1, distances.shape[1], -1)
        distances = distances.gather(2, there).transpose(1, 2)
        xyxy = decode_distances(distances, self.anchors[index], self.strides[index])
        return pixels_to_fractions(xyxy, extents)


class DenoisingGroups(NamedTuple):
    """Which noised query is made from which object; made by layers/denoising.py, undone by the criterion.

    The P noised queries stand before the ordinary ones. image, target, query: [M] int64 each: query
    `query[m]` of image `image[m]` answers for object `target[m]` of it. positive: [M] bool, False where the
    noise was made so large that the query should find nothing. groups: how many copies of the objects.
    """

    image: Tensor
    target: Tensor
    query: Tensor
    positive: Tensor
    groups: int


class Denoised(NamedTuple):
    """What decoder layers made of the noised queries. layers: Prediction [B, P, ...] of each layer."""

    layers: tuple[Prediction, ...]
    groups: DenoisingGroups


class QueryOutput(NamedTuple):
    """A query decoder's answer. layers: the Prediction of every decoder layer, the last one being the answer.

    proposals: the first guess of a two-stage model, before the decoder, or None; of all tokens or of the
    chosen ones, as the paper trains it. denoised: training only. selections: as in DenseOutput. encoder: of encoder
    layers that learn to predict, too; training only.
    """

    layers: tuple[Prediction, ...]
    proposals: Prediction | None = None
    denoised: Denoised | None = None
    selections: tuple[Selection, ...] = ()
    encoder: tuple[Prediction, ...] = ()

    @property
    def answer(self) -> Prediction:
        return self.layers[-1]

    @property
    def undecoded(self) -> tuple[Tensor, ...]:
        """See `DenseOutput`."""
        return self.answer

    @property
    def dense(self) -> None:
        """See `DenseOutput`."""
        return None

    @property
    def query(self) -> QueryOutput:
        """See `DenseOutput`."""
        return self

    @property
    def cells(self) -> None:
        """See `DenseOutput`."""
        return None

    @property
    def parents(self) -> None:
        """See `DenseOutput`."""
        return None

    def boxes_at(self, index: Tensor, extents: Tensor) -> Tensor:
        """The answer's boxes at `index` [B, K], [B, K, 4] fractions. extents: see `DenseOutput`."""
        return self.answer.boxes.float().gather(1, index.unsqueeze(-1).expand(-1, -1, 4))

    def predictions(self) -> list[tuple[str, Prediction]]:
        """All of them, by name. The last decoder layer is the answer."""
        named = [(f"decoder layer {number}", layer) for number, layer in enumerate(self.layers)]
        if self.proposals is not None:
            named.append(("proposals", self.proposals))
        if self.denoised is not None:
            named += [
                (f"denoised layer {number}", layer) for number, layer in enumerate(self.denoised.layers)
            ]
        return named + [(f"encoder layer {number}", layer) for number, layer in enumerate(self.encoder)]


class DualOutput(NamedTuple):
    """A detector with a dense and a query head. answer: of both, merged: what is read. dense: of the one-to-one
    dense head, in training with its twin. query: of the decoder. cells: see `DenseOutput.cells`. parents: [B, Q]
    int64, the anchor from which each query was made, or None where queries are learned. selections: as in DenseOutput,
    of the whole network.
    """

    answer: Prediction
    dense: DenseOutput
    query: QueryOutput
    cells: Tensor
    parents: Tensor | None = None
    selections: tuple[Selection, ...] = ()

    @property
    def undecoded(self) -> tuple[Tensor, ...]:
        """See `DenseOutput`."""
        return self.answer

    def boxes_at(self, index: Tensor, extents: Tensor) -> Tensor:
        """The answer's boxes at `index` [B, K], [B, K, 4] fractions. extents: see `DenseOutput`."""
        return self.answer.boxes.float().gather(1, index.unsqueeze(-1).expand(-1, -1, 4))

    def predictions(self) -> list[tuple[str, Prediction]]:
        """All of them, by name."""
        dense = [(f"dense {name}", prediction) for name, prediction in self.dense.predictions()]
        return [("answer", self.answer), *dense, *self.query.predictions()]


Output = DenseOutput | QueryOutput | DualOutput


class Detections(NamedTuple):
    """One image's answer. boxes: [N, 4] float32 xyxy in pixels of the original image, scores: [N] float32 in
    [0, 1] descending, labels: [N] int64 in 0..C-1 (names: the detector's `labels`)."""

    boxes: Tensor
    scores: Tensor
    labels: Tensor


class ArrayDetections(NamedTuple):
    """`Detections` as numpy arrays: of an artifact, which is run without PyTorch."""

    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
