"""Box arithmetic, in float32 also under autocast: bfloat16 would move boxes by pixels.

`cxcywh` = centre and size, `xyxy` = corners, `xywh` = corner and size (COCO files). All functions work on
[..., 4] tensors of any unit and keep gradients.
"""

# pyright: strict

from __future__ import annotations

import math
from typing import cast

import torch
from torch import Tensor


def cxcywh_to_xyxy(boxes: Tensor) -> Tensor:
    centre, half = boxes[..., :2], boxes[..., 2:] / 2
    return torch.cat([centre - half, centre + half], -1)


def xyxy_to_cxcywh(xyxy: Tensor) -> Tensor:
    first, last = xyxy[..., :2], xyxy[..., 2:]
    return torch.cat([(first + last) / 2, last - first], -1)


def area(xyxy: Tensor) -> Tensor:
    return (xyxy[..., 2] - xyxy[..., 0]) * (xyxy[..., 3] - xyxy[..., 1])


def _intersection_union(xyxy_a: Tensor, xyxy_b: Tensor) -> tuple[Tensor, Tensor]:
    first = torch.maximum(xyxy_a[..., :2], xyxy_b[..., :2])
    last = torch.minimum(xyxy_a[..., 2:], xyxy_b[..., 2:])
    intersection = (last - first).clamp(min=0).prod(-1)
    return intersection, area(xyxy_a) + area(xyxy_b) - intersection


def iou(xyxy_a: Tensor, xyxy_b: Tensor, eps: float = 1e-7) -> Tensor:
    """Intersection over union, pair by pair with broadcasting: `iou(a[:, None], b)` is the matrix."""
    intersection, union = _intersection_union(xyxy_a.float(), xyxy_b.float())
    return intersection / union.clamp(min=eps)


def generalised_iou(xyxy_a: Tensor, xyxy_b: Tensor, eps: float = 1e-7) -> Tensor:
    """GIoU in [-1, 1] (Rezatofighi et al. 2019, arXiv 1902.09630), broadcasting as `iou`."""
    xyxy_a, xyxy_b = xyxy_a.float(), xyxy_b.float()
    intersection, union = _intersection_union(xyxy_a, xyxy_b)
    first = torch.minimum(xyxy_a[..., :2], xyxy_b[..., :2])
    last = torch.maximum(xyxy_a[..., 2:], xyxy_b[..., 2:])
    hull = (last - first).clamp(min=0).prod(-1)
    return intersection / union.clamp(min=eps) - (hull - union) / hull.clamp(min=eps)


def complete_iou(xyxy_a: Tensor, xyxy_b: Tensor, eps: float = 1e-7) -> Tensor:
    """CIoU (Zheng et al. 2020, arXiv 1911.08287): IoU less centre distance and aspect difference.

    The trade-off weight of the aspect term carries no gradient, as in the paper. Broadcasts as `iou`.
    """
    xyxy_a, xyxy_b = xyxy_a.float(), xyxy_b.float()
    intersection, union = _intersection_union(xyxy_a, xyxy_b)
    overlap = intersection / (union + eps)
    first = torch.minimum(xyxy_a[..., :2], xyxy_b[..., :2])
    last = torch.maximum(xyxy_a[..., 2:], xyxy_b[..., 2:])
    diagonal = (last - first).square().sum(-1) + eps
    centres = xyxy_a[..., :2] + xyxy_a[..., 2:] - xyxy_b[..., :2] - xyxy_b[..., 2:]
    distance = centres.square().sum(-1) / 4
    size_a, size_b = xyxy_a[..., 2:] - xyxy_a[..., :2], xyxy_b[..., 2:] - xyxy_b[..., :2]
    angle_a = torch.atan(size_a[..., 0] / (size_a[..., 1] + eps))
    angle_b = torch.atan(size_b[..., 0] / (size_b[..., 1] + eps))
    aspect = (4 / math.pi**2) * (angle_a - angle_b).square()
    with torch.no_grad():
        weight = aspect / (aspect - overlap + 1 + eps)
    return overlap - distance / diagonal - weight * aspect


def inverse_sigmoid(x: Tensor, eps: float = 1e-5) -> Tensor:
    """log(x / (1 - x)) of x in [0, 1], float32, finite: both parts are at least `eps`."""
    x = x.float().clamp(0, 1)
    return (x.clamp(min=eps) / (1 - x).clamp(min=eps)).log()


def refine(change: Tensor, reference: Tensor, eps: float = 1e-5) -> Tensor:
    """A reference in [0, 1] moved by `change`, added before the sigmoid (Deformable DETR, section 4.2)."""
    return (change.float() + inverse_sigmoid(reference, eps)).sigmoid()


def box_at(points: Tensor, change: Tensor) -> Tensor:
    """Boxes [..., 4] whose centre is a point [..., 2] moved by `change`, whose size is `change` alone.
    Both before the sigmoid, as in `refine`.
    """
    change = change.float()
    return torch.cat([change[..., :2] + inverse_sigmoid(points), change[..., 2:]], -1).sigmoid()


def decode_distances(distances: Tensor, anchors: Tensor, strides: Tensor) -> Tensor:
    """Distance logits [..., A, 4 * R] to boxes [..., A, 4] xyxy in input pixels, float32.

    anchors: [..., A, 2] xy in input pixels. strides: [..., A] pixels.
    The distance is the mean of its distribution over 0 .. R - 1 strides (generalised focal loss, Li et al. 2020,
    arXiv 2006.04388, equation 5); with R = 1 it is the number itself, in strides, and none is negative.
    """
    bins = cast(Tensor, distances.float().unflatten(-1, (4, -1)))  # PyTorch does not say
    if bins.shape[-1] == 1:
        reach = bins.squeeze(-1).clamp(min=0)
    else:
        values = torch.arange(bins.shape[-1], device=bins.device, dtype=torch.float32)
        reach = (bins.softmax(-1) * values).sum(-1)
    reach = reach * strides[..., None]
    return torch.cat([anchors - reach[..., :2], anchors + reach[..., 2:]], -1)


def pixels_to_fractions(xyxy: Tensor, extents: Tensor) -> Tensor:
    """[B, A, 4] xyxy input pixels to cxcywh fractions of each image's extent [B, 4]."""
    offset, scale = extents[:, None, :2], extents[:, None, 2:]
    centre = (xyxy[..., :2] + xyxy[..., 2:]) / 2
    return torch.cat([(centre - offset) / scale, (xyxy[..., 2:] - xyxy[..., :2]) / scale], -1)
