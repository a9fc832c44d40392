"""Multi-scale deformable attention (Zhu et al. 2021, arXiv 2010.04159, equation 3) in plain PyTorch.

Every query reads a few weighted points of every map. Here a point is four rows of one table, and a query a
weighted bag of rows, which is what `embedding_bag` sums without ever storing what it reads; a frame of zeros
around each map makes points outside read nothing. `benchmarks/deformable.py` sets it beside `grid_sample`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .attention import sharing
from .tokens import as_tensor, sides


class DeformableAttention(nn.Module):
    """dim: D of queries and memory. levels, heads, points: numbers of maps, heads, and points per map."""

    LEARNING_RATES = {"sampling_offsets": "sampling"}
    HALF_PRECISION = False

    def __init__(self, dim: int = 256, levels: int = 4, heads: int = 8, points: int = 4):
        super().__init__()
        self.levels, self.heads, self.points = levels, sharing(dim, heads), points
        self.sampling_offsets = nn.Linear(dim, heads * levels * points * 2)
        self.attention_weights = nn.Linear(dim, heads * levels * points)
        self.value = nn.Linear(dim, dim)
        self.output = nn.Linear(dim, dim)
        self._initialise()

    def _initialise(self) -> None:
        init_offsets(self.sampling_offsets, self.heads, self.levels, self.points)
        nn.init.zeros_(self.attention_weights.weight)
        nn.init.zeros_(self.attention_weights.bias)
        for layer in (self.value, self.output):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(
        self,
        query: Tensor,
        reference: Tensor,
        memory: Tensor,
        sizes: list[tuple[int, int]],
        padding: Tensor | None = None,
    ) -> Tensor:
        """query: [B, Q, D]. reference: [B, Q, L, 2] points or [B, Q, L, 4] boxes, fractions of each map.
        memory: [B, S, D], the maps of `sizes` (h, w) one after another, row by row. padding: [B, S] bool.
        Returns [B, Q, D]."""
        value = self.value(memory)
        if padding is not None:
            value = value.masked_fill(padding.unsqueeze(-1), 0.0)
        locations, weights = self.locate(query, reference, memory, sizes, padding)
        value = value.unflatten(-1, (self.heads, -1))
        return self.output(sample_points(value, sizes, locations, weights).to(query.dtype))

    def locate(
        self,
        query: Tensor,
        reference: Tensor,
        memory: Tensor,
        sizes: list[tuple[int, int]],
        padding: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Where a call of `forward` with the same arguments looks: [B, Q, M, L, P, 2] fractions (x, y), and how much,
        [B, Q, M, L, P]; float32. The weights of a head sum to 1."""
        shape = (self.heads, self.levels, self.points)
        offsets = self.sampling_offsets(query).float().unflatten(-1, (*shape, 2))
        weights = self.attention_weights(query).float().unflatten(-1, (self.heads, -1)).softmax(-1)
        return point_locations(offsets, reference, sizes), weights.unflatten(-1, shape[1:])


def init_offsets(layer: nn.Linear, heads: int, levels: int, points: int) -> None:
    """Point p of head m starts p + 1 cells from the reference, in the m-th of `heads` directions."""
    angles = torch.arange(heads) * (2 * math.pi / heads)
    directions = torch.stack([angles.cos(), angles.sin()], -1)
    directions = directions / directions.abs().amax(-1, keepdim=True)
    steps = torch.arange(1, points + 1)[:, None]
    bias = (directions[:, None, None] * steps).expand(heads, levels, points, 2)
    nn.init.zeros_(layer.weight)
    with torch.no_grad():
        layer.bias.copy_(bias.flatten())


def point_locations(offsets: Tensor, reference: Tensor, sizes: list[tuple[int, int]]) -> Tensor:
    """[B, Q, M, L, P, 2] fractions of each map. offsets: the same shape, in cells from a point, or in parts of a box:
    the last point's offset 1 is half a side. reference: [B, Q, L, 2] points or [B, Q, L, 4] boxes."""
    reference = reference.float()[:, :, None, :, None]  # [B, Q, 1, L, 1, 2 or 4]
    if reference.shape[-1] == 2:
        return reference + offsets / sides(sizes, offsets)[:, None]
    return reference[..., :2] + offsets * (reference[..., 2:] * (0.5 / offsets.shape[-2]))


def sample_points(value: Tensor, sizes: list[tuple[int, int]], locations: Tensor, weights: Tensor) -> Tensor:
    """Weighted sum of bilinear samples, zeros outside; pixel centres at (i + 0.5) / size.

    value: [B, S, M, d], maps of `sizes` (h, w) one after another. locations: [B, Q, M, L, P, 2] fractions
    (x, y). weights: [B, Q, M, L, P]. Returns [B, Q, M * d], of float32 or, if all inputs are, float64.
    """
    total = _read(*_table(value, sizes, locations, weights))
    return total.view(*locations.shape[:2], -1)


def key_weights(query: Tensor, value: Tensor, sizes: list[tuple[int, int]], locations: Tensor) -> Tensor:
    """Attention of queries to bilinear samples as keys: softmax(q k / sqrt(d)) over the points of all maps.

    query: [B, Q, M, d]; the others, and the type of the answer, as in `sample_points`. Returns [B, Q, M, L, P].
    """
    table = _table(value, sizes, locations, torch.ones_like(locations[..., 0]))
    return _key_weights(query, *table).view(locations.shape[:-1])


def sample_by_key(query: Tensor, value: Tensor, sizes: list[tuple[int, int]], locations: Tensor) -> Tensor:
    """`sample_points` with `key_weights` for weights: samples are both keys and values, and never stored. Returns
    [B, Q, M * d]."""
    table, base, corners, shares = _table(value, sizes, locations, torch.ones_like(locations[..., 0]))
    weights = _key_weights(query, table, base, corners, shares)
    total = _read(table, base, corners, shares * weights.unsqueeze(-1))
    return total.view(*locations.shape[:2], -1)


def _read(table: Tensor, base: Tensor, corners: Tensor, shares: Tensor) -> Tensor:
    """[R, d]: the weighted sum of each bag's points."""
    if torch.compiler.is_exporting():  # the same sum in operators that every runtime has
        return (shares.flatten(1).unsqueeze(1) @ table[_rows(base, corners).long()]).squeeze(1)
    return _BagOfPoints.apply(table, base, corners, shares)


def _key_weights(query: Tensor, table: Tensor, base: Tensor, corners: Tensor, shares: Tensor) -> Tensor:
    """[R, K]. The product with a point is the sum of those with its four rows."""
    query = query.to(table.dtype).flatten(0, 2)
    if torch.compiler.is_exporting():
        products = (table[_rows(base, corners).long()] @ query.unsqueeze(-1)).squeeze(-1)
    else:
        products = _Products.apply(query, table, base, corners)
    products = (products.view(shares.shape) * shares).sum(-1)
    return (products / math.sqrt(query.shape[-1])).softmax(-1)


def _table(
    value: Tensor, sizes: list[tuple[int, int]], locations: Tensor, weights: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """A point as four rows of a table, for R = B Q M bags of K = L P points: the table [T, d], each point's first row
    [R, K] int32, the steps to all four [L, 4] int32, and their shares of the point's weight [R, K, 4]."""
    batch, queries, heads = locations.shape[:3]
    dtype = torch.promote_types(value.dtype, torch.float32)
    table = _framed(value.to(dtype), sizes)  # [B, T, M, d]
    base, corners, shares = _corners(locations.to(dtype), weights.to(dtype), sizes)
    device = base.device
    head = torch.arange(heads, device=device, dtype=base.dtype)[:, None, None]
    image = torch.arange(batch, device=device, dtype=base.dtype)[:, None, None, None, None]
    base = (base + image * table.shape[1]) * heads + head
    bags = (batch * queries * heads, -1)
    corners = corners.flatten(0, 1) * heads
    return table.flatten(0, 2), base.reshape(bags), corners, shares.reshape(*bags, 4)


def _rows(base: Tensor, corners: Tensor) -> Tensor:
    """[R, 4 K]: all rows of each bag. base: [R, K]. corners: [L, 4]."""
    return (base.unsqueeze(-1) + _steps(base, corners)).flatten(1)


def _steps(base: Tensor, corners: Tensor) -> Tensor:
    """[K, 4]: of each point, by its level."""
    return corners.repeat_interleave(base.shape[1] // len(corners), 0)


@torch.no_grad()
def attention_received(locations: Tensor, weights: Tensor, sizes: Sequence[tuple[int, int]]) -> Tensor:
    """How much of all queries' attention falls on each token: locations [B, Q, M, L, P, 2] and weights [B, Q, M, L, P],
    as `DeformableAttention.locate` gives them, to [B, S] float32.

    A weight is shared by the four cells whose numbers are nearest to (x w, y h); shares outside of the map are lost.
    That is half a cell to the right and below of where `sample_points` reads it, as Sparse DETR's published networks
    count it (arXiv 2111.14330, section 3.2).
    """
    pixels = locations.float() * sides(sizes, locations)[:, None]
    first = pixels.floor()
    x, y = (pixels - first).unbind(-1)
    column, row = first.long().unbind(-1)  # [B, Q, M, L, P]
    maps = []
    for level, (height, width) in enumerate(sizes):
        at = (slice(None),) * 3 + (level,)
        received = torch.zeros(len(locations), height * width, device=locations.device)
        for right, below in ((0, 0), (1, 0), (0, 1), (1, 1)):
            across, down = column[at] + right, row[at] + below
            share = (x[at] if right else 1 - x[at]) * (y[at] if below else 1 - y[at]) * weights[at].float()
            inside = (across >= 0) & (across < width) & (down >= 0) & (down < height)
            cell = down.clamp(0, height - 1) * width + across.clamp(0, width - 1)
            received.scatter_add_(1, cell.flatten(1), share.where(inside, 0.0).flatten(1))
        maps.append(received)
    return torch.cat(maps, 1)


def _framed(value: Tensor, sizes: list[tuple[int, int]]) -> Tensor:
    """[B, S, M, d] to [B, T, M, d]: each map with zeros around it, one row before and two after."""
    maps = value.flatten(2).split([height * width for height, width in sizes], 1)
    framed = [
        F.pad(part.unflatten(1, size), (0, 0, 1, 2, 1, 2)).flatten(1, 2)
        for part, size in zip(maps, sizes, strict=True)
    ]
    return torch.cat(framed, 1).unflatten(-1, value.shape[2:])


def _corners(
    locations: Tensor, weights: Tensor, sizes: list[tuple[int, int]]
) -> tuple[Tensor, Tensor, Tensor]:
    """For every point: its first corner's row in the framed table [B, Q, M, L, P] int32, the steps to its
    four corners [L, 1, 4] int32, and their shares [B, Q, M, L, P, 4]."""
    scale = sides(sizes, locations).to(locations.dtype)[:, None]
    # Clamped to the frame, a point outside reads zeros, and its gradient is zero.
    pixels = torch.minimum(locations * scale + 0.5, scale + 1).clamp(min=0)
    first = pixels.detach().floor()
    x, y = (pixels - first).unbind(-1)
    pitches = [width + 3 for _, width in sizes]
    starts = [0]
    for (height, _), pitch in zip(sizes[:-1], pitches[:-1], strict=True):
        starts.append(starts[-1] + (height + 3) * pitch)
    pitch = as_tensor(pitches, locations, torch.int32)[:, None]
    start = as_tensor(starts, locations, torch.int32)[:, None]
    column, row = first.to(torch.int32).unbind(-1)
    corners = torch.stack([pitch * 0, pitch * 0 + 1, pitch, pitch + 1], -1)
    below = weights * y
    above = weights - below
    above_right, below_right = above * x, below * x
    shares = torch.stack([above - above_right, above_right, below - below_right, below_right], -1)
    return row * pitch + column + start, corners, shares


class _BagOfPoints(torch.autograd.Function):
    """Sum of four rows of `table` [T, d] a point, by `shares` [R, K, 4], over the K points of each of R bags.

    base: [R, K] int32, a point's first row. corners: [K or L, 4] int32, steps to its rows. PyTorch's own
    backward of embedding_bag sorts all 4 R K rows; sorting the R K points is enough.
    """

    @staticmethod
    def forward(ctx, table: Tensor, base: Tensor, corners: Tensor, shares: Tensor) -> Tensor:
        ctx.save_for_backward(table, base, corners, shares)
        return _sums(table, _rows(base, corners), shares)

    @staticmethod
    def backward(ctx, *grads: Tensor):
        table, base, corners, shares = ctx.saved_tensors
        grad = grads[0].contiguous()
        grad_table = grad_shares = None
        if ctx.needs_input_grad[0]:
            grad_table = _scatter(grad, table, base, _steps(base, corners), shares)
        if ctx.needs_input_grad[3]:
            grad_shares = _products(grad, table, _rows(base, corners)).view(shares.shape)
        return grad_table, None, None, grad_shares


class _Products(torch.autograd.Function):
    """Products of each bag's query [R, d] with its rows of `table`: [R, 4 K]. See `_BagOfPoints`: what is forward
    there is backward here."""

    @staticmethod
    def forward(ctx, query: Tensor, table: Tensor, base: Tensor, corners: Tensor) -> Tensor:
        ctx.save_for_backward(query, table, base, corners)
        return _products(query, table, _rows(base, corners))

    @staticmethod
    def backward(ctx, *grads: Tensor):
        query, table, base, corners = ctx.saved_tensors
        grad = grads[0].contiguous()
        grad_query = grad_table = None
        if ctx.needs_input_grad[0]:
            grad_query = _sums(table, _rows(base, corners), grad)
        if ctx.needs_input_grad[1]:
            grad_table = _scatter(query, table, base, _steps(base, corners), grad.view(*base.shape, 4))
        return grad_query, grad_table, None, None


def _sums(table: Tensor, rows: Tensor, shares: Tensor) -> Tensor:
    """[R, d]: rows [R, J] of the table, weighted by as many shares and summed, in place."""
    return F.embedding_bag(rows, table, mode="sum", per_sample_weights=shares.view(rows.shape))


def _products(query: Tensor, table: Tensor, rows: Tensor) -> Tensor:
    """[R, J]: products of query [R, d] with rows [R, J] of the table, read in place. PyTorch has it as the gradient of
    the weights in `embedding_bag`."""
    bags = torch.arange(len(rows), device=rows.device, dtype=rows.dtype)
    products = torch.ops.aten._embedding_bag_per_sample_weights_backward(
        query, table, rows.flatten(), bags * rows.shape[1], bags.repeat_interleave(rows.shape[1]), 0
    )
    return products.view(rows.shape)


def _scatter(grad: Tensor, table: Tensor, base: Tensor, steps: Tensor, shares: Tensor) -> Tensor:
    """The gradient of the table: the same bags read the other way round, one bag a row of the table.

    Points of one level share the steps to their corners, so one sort of their first rows serves all four:
    the sums of a corner are those of the first, moved by its step.
    """
    total = torch.zeros_like(table)
    for step in steps.unique(dim=0):
        of_level = (steps == step).all(1).nonzero().squeeze(1)
        own = base[:, of_level].flatten()
        order = own.argsort()
        bags = torch.div(order, len(of_level), rounding_mode="floor")
        own = own[order]
        low, high = int(own[0]), int(own[-1]) + 1
        offsets = torch.searchsorted(own, torch.arange(low, high, device=own.device, dtype=own.dtype))
        share = shares[:, of_level].flatten(0, 1)[order]
        for corner in range(4):
            summed = F.embedding_bag(
                bags, grad, offsets, mode="sum", per_sample_weights=share[:, corner].contiguous()
            )
            at = low + int(step[corner])
            total[at : at + len(summed)] += summed
    return total
