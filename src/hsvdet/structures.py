"""What the parts of hsvdet hand to one another. Immutable tuples of tensors: printable, and pytrees.

Shape letters, fixed once for the library: B images, C classes, D channels, H x W pixels or cells, L levels,
S tokens, Q predictions, N objects. Masks: True always means *no* (padding, ignore). A box without a format
in its name is (centre x, centre y, width, height) in fractions of the unpadded image.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:  # `hsvdet.runtime` has Detections of numpy arrays, and no PyTorch
    from torch import Tensor


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
    content: the part of `image` that is picture; None means all of it.
    """

    image: Tensor
    boxes: Tensor
    labels: Tensor
    info: ImageInfo
    content: Rectangle | None = None


class Target(NamedTuple):
    """The objects of one image. labels: [N] int64 in 0..C-1. boxes: [N, 4] float32, fractions."""

    labels: Tensor
    boxes: Tensor


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


class DenseOutput(NamedTuple):
    """A dense head's answer, with what its loss needs. A = number of anchor points over all levels = Q.

    distances: [B, A, 4 * R] logits of the left, top, right, bottom distance bins, side-major.
    anchors: [A, 2] xy of the points in input pixels. strides: [A] pixels. extents: [B, 4] where each image
    lies inside the input (left, top, width, height) in pixels: what fractions are fractions of.
    selector_scores: a [B, h, w] map of logits for each learned token selector in the network.
    """

    prediction: Prediction
    distances: Tensor
    anchors: Tensor
    strides: Tensor
    extents: Tensor
    selector_scores: tuple[Tensor, ...] = ()

    @property
    def answer(self) -> Prediction:
        return self.prediction


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
    chosen ones, as the paper trains it. denoised: training only.
    """

    layers: tuple[Prediction, ...]
    proposals: Prediction | None = None
    denoised: Denoised | None = None

    @property
    def answer(self) -> Prediction:
        return self.layers[-1]


class Detections(NamedTuple):
    """One image's answer. boxes: [N, 4] float32 xyxy in pixels of the original image, scores: [N] float32 in
    [0, 1] descending, labels: [N] int64 in 0..C-1 (names: the detector's `labels`)."""

    boxes: Tensor
    scores: Tensor
    labels: Tensor
