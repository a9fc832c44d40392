"""What was recorded of a network's attention, as numbers about one query at a time, in pixels of the image."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..layers.selection import TokenSelector
from ..layers.sparse_global import Diagnosis, SparseGlobalConfig
from .capture import Call, as_recorded
from .view import Cells, View, inside


class Heat(NamedTuple):
    """How one query shares its attention among the cells of a map. weights: [heads, h, w]; those of a head sum to 1,
    less what goes to tokens that have no place, [heads] each."""

    weights: np.ndarray
    pooled: np.ndarray | float = 0.0
    learned: np.ndarray | float = 0.0

    @property
    def mean(self) -> np.ndarray:
        """[h, w], over the heads."""
        return self.weights.mean(0)

    def peak(self, view: View) -> np.ndarray:
        """[2]: the centre of the cell that gets most, in pixels of the image."""
        mean = self.mean
        return view.centres(mean.shape)[np.unravel_index(mean.argmax(), mean.shape)]

    def share(self, view: View, box: np.ndarray) -> float:
        """What goes to a box xyxy, of a cell that it covers in part only that part."""
        mean = self.mean
        return float((mean * view.coverage(box, mean.shape)).sum())


class Samples(NamedTuple):
    """The points that one query of deformable attention reads.

    points: [heads, L, P, 2] pixels of the image. weights: [heads, L, P], a head's sum to 1. reference: what the
    points are counted from, [2] a point or [4] a box xyxy, in pixels. strides: [L] pixels of the canvas per cell.
    """

    points: np.ndarray
    weights: np.ndarray
    reference: np.ndarray
    strides: tuple[int, ...]

    def share(self, box: np.ndarray) -> float:
        """What goes to points in a box xyxy, as a mean over the heads."""
        return float((self.weights * inside(self.points, box)).sum() / len(self.weights))


class Selected(NamedTuple):
    """What a block of sparse global attention did to an image.

    chosen: [h, w] bool, the tokens that took part. cells: [k] theirs, row by row, or None for all tokens, when
    the map has no more than k: full attention. weights: [heads, k, k + extra], as SparseGlobal.weights gives them.
    """

    chosen: np.ndarray
    cells: np.ndarray | None
    weights: np.ndarray
    config: SparseGlobalConfig
    selector: TokenSelector
    diagnosis: Diagnosis

    def heat(self, row: int, column: int) -> Heat:
        """Of a token that took part."""
        height, width = self.chosen.shape
        cell = row * width + column
        index = np.arange(height * width) if self.cells is None else self.cells
        (query,) = np.flatnonzero(index == cell)
        weights = self.weights[:, query]
        tokens, learned = len(index), self.config.registers
        cells = np.zeros((len(weights), height * width))
        cells[:, index] = weights[:, :tokens]
        extra = weights[:, tokens:]
        pooled = extra[:, : extra.shape[1] - learned].sum(1)
        return Heat(cells.reshape(-1, height, width), pooled, extra[:, extra.shape[1] - learned :].sum(1))


def heat_of(call: Call, queries: Sequence[int], cells: Cells) -> list[Heat]:
    """Of some queries of dense attention to a map of `cells`."""
    inputs, rows = dict(call.inputs), list(queries)
    for name in call.module.BY_QUERY:
        inputs[name] = inputs[name][:, rows]
    with torch.inference_mode():
        weights = call.module.weights(**inputs)[0].cpu().numpy()  # [heads, R, S]
    return [Heat(weights[:, row].reshape(-1, *cells)) for row in range(len(rows))]


def samples_of(call: Call, queries: Sequence[int], view: View) -> list[Samples]:
    """Of some queries of deformable attention."""
    rows, sizes = list(queries), call.inputs["sizes"]
    inputs = dict(call.inputs)
    for name in ("query", "reference"):
        inputs[name] = inputs[name][:, rows]
    reference = inputs["reference"]
    with torch.inference_mode():
        locations, weights = call.module.locate(**inputs)
    points, weights = view.to_image(_numpy(locations[0])), _numpy(weights[0])
    first = _numpy(reference[0, :, 0])  # on the finest map
    if first.shape[-1] == 2:
        references = view.to_image(first)
    else:
        centre, half = first[:, :2], first[:, 2:] / 2
        references = np.concatenate([view.to_image(centre - half), view.to_image(centre + half)], -1)
    # A map has a cell for every stride that begins on the canvas.
    steps = [np.max(np.divide(view.canvas, size)) for size in sizes]
    strides = tuple(2 ** math.ceil(math.log2(step)) for step in steps)
    return [Samples(*of_query, strides) for of_query in zip(points, weights, references, strict=True)]


def real_cells(call: Call, cells: Cells) -> np.ndarray | None:
    """Which cells of the first map that a call looks at are picture, [h, w] bool; None for all."""
    name = "mask" if "mask" in call.inputs else "padding"
    mask: Tensor | None = call.inputs[name]
    if mask is None:
        return None
    return ~mask[0].flatten()[: cells[0] * cells[1]].reshape(cells).cpu().numpy()


def selection_of(call: Call) -> Selected:
    """Of a block of sparse global attention that has attention (not its linear control)."""
    module, x = call.module, call.inputs["x"]
    padding: Tensor | None = call.inputs["padding"]
    cells = x.shape[-2], x.shape[-1]
    with torch.inference_mode():
        index, weights = as_recorded(call, module.weights)
        diagnosis = as_recorded(call, module.diagnose)
    chosen = np.ones(cells, dtype=bool) if padding is None else ~padding[0].cpu().numpy()
    if index is not None:
        taken = np.zeros(cells, dtype=bool)
        taken.flat[index[0].cpu().numpy()] = True
        chosen = chosen & taken
    return Selected(
        chosen,
        None if index is None else index[0].cpu().numpy(),
        _numpy(weights[0]),
        module.config,
        module.scorer,
        diagnosis,
    )


def _numpy(tensor: Tensor) -> np.ndarray:
    return tensor.double().cpu().numpy()
