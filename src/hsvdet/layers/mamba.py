"""State spaces that choose what they remember: two scans of a sequence, in plain PyTorch, with gradients.

S6 (Mamba, Gu & Dao 2023, arXiv 2312.00752): every channel has N decaying states, h_t = exp(step_t rate) h_(t-1) +
step_t write_t x_t, and y_t is the sum of read_t h_t over them. SSD (Mamba-2, Dao & Gu 2024, arXiv 2405.21060): the
channels of a head share one rate, and then all is matrix products.

The papers' names: x; step is Delta, rate is A, write is B, read is C. What passes the state by (D x) and what gates
the answer is the caller's.

A step of 0 leaves the state as it is and writes nothing: the steps of padding are to be 0. Both scans compute in
float32 at least, also inside autocast: half precision makes them overflow. Neither keeps all states: memory grows
with the length of the sequence, not with its square, and for S6 not with N either.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from .precision import without_autocast


def ssd(x: Tensor, step: Tensor, rate: Tensor, write: Tensor, read: Tensor, chunk: int = 64) -> Tensor:
    """The scan of Mamba-2, chunk by chunk (section 6): products inside chunks, and one over what each leaves behind.

    x: [B, S, G, H, P], G groups of H heads of P channels. step: [B, S, G, H], at least 0. rate: [G, H], below 0.
    write, read: [B, S, G, N], what the heads of a group share. chunk: tokens in one. Returns [B, S, G, H, P] in
    the precision of x.
    """
    length, size = x.shape[1], min(chunk, x.shape[1])
    with without_autocast(x):
        step = wide(step)
        # From here on [B, G, H, chunks, tokens of a chunk, ...]; 1 head where they share.
        inputs = _chunks(wide(x) * step.unsqueeze(-1), size).permute(0, 3, 4, 1, 2, 5)
        logs = _chunks(step * wide(rate), size).permute(0, 3, 4, 1, 2)
        into, out = (_chunks(wide(t), size).permute(0, 3, 1, 2, 4).unsqueeze(2) for t in (write, read))
        kept = _kept(logs)
        y = (out @ into.transpose(-1, -2) * kept) @ inputs
        left = (into * kept[..., -1, :].unsqueeze(-1)).transpose(-1, -2) @ inputs  # [B, G, H, chunks, N, P]
        totals = logs.cumsum(-1)
        states = _carried(totals[..., -1], left.flatten(-2)).unflatten(-1, left.shape[-2:])
        before = F.pad(
            states[..., :-1, :, :], (0, 0, 0, 0, 1, 0)
        )  # each chunk begins with what came before it
        y = y + (out * totals.exp().unsqueeze(-1)) @ before
        return y.permute(0, 3, 4, 1, 2, 5).flatten(1, 2)[:, :length].to(x.dtype)


def _chunks(x: Tensor, size: int) -> Tensor:
    """[B, S, ...] to [B, chunks, size, ...]; what is added at the end is 0, and so has no step."""
    end = [0, 0] * (x.ndim - 2) + [0, -x.shape[1] % size]
    return F.pad(x, end).unflatten(1, (-1, size))


def _kept(logs: Tensor) -> Tensor:
    """The share of what token j wrote that is left at token i: logs [..., T] to exp(sum over j < k <= i) [..., T, T].

    Sums of their own, not differences of sums from the beginning, which lose their last digits where memory is
    short. Every exponent is at most 0.
    """
    later = torch.ones(logs.shape[-1], logs.shape[-1], dtype=torch.bool, device=logs.device)
    sums = logs.unsqueeze(-1).masked_fill(later.triu(), 0.0).cumsum(-2)
    return sums.masked_fill(later.triu(1), -math.inf).exp()


def _carried(logs: Tensor, left: Tensor) -> Tensor:
    """The state at the end of each of C chunks, which keep exp(logs) of it [..., C] and add `left` [..., C, D].

    A product among all costs the square of their number, so many are carried in blocks, and then from block to block.
    """
    count, block = logs.shape[-1], 64
    if torch.compiler.is_exporting() or count <= 2 * block:  # in a graph their number may be any
        return _kept(logs) @ left
    end = -count % block
    logs = F.pad(logs, (0, end)).unflatten(-1, (-1, block))
    inside = _kept(logs) @ F.pad(left, (0, 0, 0, end)).unflatten(-2, (-1, block))  # [..., blocks, 64, D]
    before = F.pad(_carried(logs.sum(-1), inside[..., -1, :])[..., :-1, :], (0, 0, 1, 0)).unsqueeze(-2)
    return (inside + logs.cumsum(-1).exp().unsqueeze(-1) * before).flatten(-3, -2)[..., :count, :]


def selective_scan(
    x: Tensor, step: Tensor, rate: Tensor, write: Tensor, read: Tensor, *, hold: bool = False
) -> Tensor:
    """The scan of Mamba, exact: no state is left out, and no product overflows. One state of every channel at a time.

    x, step: [B, S, G, E], G groups of E channels; steps are at least 0. rate: [G, E, N], below 0. write, read:
    [B, S, G, N], what the channels of a group share. hold: what is written is (exp(step rate) - 1) / rate, as
    a constant input between tokens would give, instead of step, which every published weight has learned with.
    Returns [B, S, G, E] in the precision of x.
    """
    with without_autocast(x):
        steps, inputs = (wide(t).permute(0, 2, 3, 1) for t in (step, x))  # [B, G, E, S]
        rates = wide(rate).unsqueeze(-1).unbind(-2)  # N times [G, E, 1]
        writes, reads = (wide(t).permute(3, 0, 2, 1).unsqueeze(3).unbind() for t in (write, read))
        y = torch.zeros_like(inputs)
        for state in zip(rates, writes, reads, strict=True):
            given = (inputs, steps, *state, hold)
            # The states of one are made anew for the gradient, not kept.
            y = y + (
                checkpoint(_one, *given, use_reentrant=False) if torch.is_grad_enabled() else _one(*given)
            )
        return y.permute(0, 3, 1, 2).to(x.dtype)


def _one(x: Tensor, step: Tensor, rate: Tensor, write: Tensor, read: Tensor, hold: bool) -> Tensor:
    """One state of every channel: x, step [B, G, E, S], rate [G, E, 1], write, read [B, G, 1, S]."""
    log = step * rate
    written = torch.expm1(log) / rate if hold else step
    return _Recurrence.apply(log.exp(), written * write * x) * read


class _Recurrence(torch.autograd.Function):
    """h_t = keep_t h_(t-1) + add_t along the last dimension, from h = 0. Its gradient is the same scan, backwards."""

    @staticmethod
    def forward(ctx, keep: Tensor, add: Tensor) -> Tensor:
        states = _recur(keep, add)
        ctx.save_for_backward(keep, states)
        return states

    @staticmethod
    def backward(ctx, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        keep, states = ctx.saved_tensors
        following = F.pad(keep[..., 1:], (0, 1))
        reached = _recur(following.flip(-1), gradients[0].flip(-1)).flip(-1)
        return reached * F.pad(states[..., :-1], (1, 0)), reached


def _recur(keep: Tensor, add: Tensor) -> Tensor:
    """About 2 sqrt(S) steps: all chunks at once, token by token; then what one chunk leaves to the next."""
    length = keep.shape[-1]
    size = math.ceil(math.sqrt(length))
    end = (0, -length % size)
    keep = (
        F.pad(keep, end, value=1.0).unflatten(-1, (-1, size)).movedim(-1, 0).contiguous()
    )  # [size, ..., chunks]
    add = F.pad(add, end).unflatten(-1, (-1, size)).movedim(-1, 0).contiguous()
    rows = [add[0]]
    for kept, added in zip(keep[1:], add[1:], strict=True):
        rows.append(torch.addcmul(added, kept, rows[-1]))
    shares = keep.cumprod(0)
    carried = [torch.zeros_like(add[0, ..., 0])]
    for kept, left in zip(shares[-1].unbind(-1), rows[-1].unbind(-1), strict=True):
        carried.append(torch.addcmul(left, kept, carried[-1]))
    states = torch.stack(rows) + shares * torch.stack(carried[:-1], -1)
    return states.movedim(0, -1).flatten(-2)[..., :length]


def in_directions(maps: Tensor) -> Tensor:
    """Maps as sequences (VMamba, Liu et al. 2024, arXiv 2401.10166): [B, G, D, h, w], each to be read in a direction of
    its own, to [B, S, G, D]. G = 2: by rows, and that from the end; 4: by rows, by columns, and both from the end.
    """
    half = maps.shape[1] // 2
    ways = [_turned(maps[:, i], half, i).flatten(2) for i in range(2 * half)]
    return torch.stack([way.flip(-1) if i >= half else way for i, way in enumerate(ways)], 1).permute(
        0, 3, 1, 2
    )


def from_directions(sequences: Tensor, size: tuple[int, int]) -> Tensor:
    """The inverse: [B, S, G, D] to maps [B, G, D, h, w] of `size` (h, w)."""
    half = sequences.shape[2] // 2
    maps = []
    for i, way in enumerate(sequences.permute(0, 2, 3, 1).unbind(1)):
        way = way.flip(-1) if i >= half else way
        columns = half == 2 and i % 2
        maps.append(_turned(way.unflatten(-1, size[::-1] if columns else size), half, i))
    return torch.stack(maps, 1)


def _turned(map_: Tensor, half: int, direction: int) -> Tensor:
    """Rows and columns exchanged where the direction is by columns."""
    return map_.transpose(-1, -2) if half == 2 and direction % 2 else map_


def wide(x: Tensor) -> Tensor:
    """In float32, or in float64 where it is."""
    return x if x.dtype == torch.float64 else x.float()
