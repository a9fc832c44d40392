"""Deformable attention: against four loops, against grid_sample, and its gradient against differences."""

import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from hsvdet.layers.deformable import DeformableAttention, key_weights, sample_by_key, sample_points

SIZES = [(4, 6), (2, 3), (1, 1)]


def inputs(dtype=torch.float64, spread=1.6):
    torch.manual_seed(0)
    total = sum(h * w for h, w in SIZES)
    value = torch.randn(2, total, 2, 3, dtype=dtype)
    # Beyond the edges on purpose: what lies outside reads zeros.
    locations = torch.rand(2, 5, 2, 3, 4, 2, dtype=dtype) * spread - (spread - 1) / 2
    weights = torch.rand(2, 5, 2, 3, 4, dtype=dtype)
    return value, locations, weights


def with_four_loops(value, locations, weights):
    batch, _, heads, dim = value.shape
    out = value.new_zeros(batch, locations.shape[1], heads, dim)
    for b, q, m in torch.cartesian_prod(
        torch.arange(batch), torch.arange(locations.shape[1]), torch.arange(heads)
    ):
        start = 0
        for level, (height, width) in enumerate(SIZES):
            for p in range(locations.shape[4]):
                x = locations[b, q, m, level, p, 0] * width - 0.5
                y = locations[b, q, m, level, p, 1] * height - 0.5
                for row in (int(y.floor()), int(y.floor()) + 1):
                    for column in (int(x.floor()), int(x.floor()) + 1):
                        if 0 <= row < height and 0 <= column < width:
                            share = (1 - (y - row).abs()) * (1 - (x - column).abs())
                            cell = value[b, start + row * width + column, m]
                            out[b, q, m] += weights[b, q, m, level, p] * share * cell
            start += height * width
    return out.flatten(2)


def with_grid_sample(value, locations, weights):
    total, start = 0, 0
    for level, (height, width) in enumerate(SIZES):
        maps = value[:, start : start + height * width].permute(0, 2, 3, 1)
        maps = maps.reshape(-1, value.shape[3], height, width)
        grid = 2 * locations[:, :, :, level].transpose(1, 2).flatten(0, 1) - 1
        read = F.grid_sample(maps, grid, align_corners=False)  # [B M, d, Q, P]
        total = total + (read * weights[:, :, :, level].transpose(1, 2).flatten(0, 1).unsqueeze(1)).sum(-1)
        start += height * width
    return total.unflatten(0, value.shape[::2][:2]).permute(0, 3, 1, 2).flatten(2)


def test_sampling_equals_four_loops_also_outside_and_on_the_edge():
    value, locations, weights = inputs()
    locations[0, 0, 0, 0] = torch.tensor([[0.0, 0.0], [1.0, 1.0], [-5.0, 9.0], [0.5, 1.0]])
    expected = with_four_loops(value, locations, weights)
    assert torch.allclose(sample_points(value, SIZES, locations, weights), expected, atol=1e-12)


def test_gradients_equal_those_of_grid_sample_and_of_differences():
    leaves = [tensor.requires_grad_() for tensor in inputs()]
    assert torch.autograd.gradcheck(lambda *t: sample_points(t[0], SIZES, *t[1:]), leaves, atol=1e-6)
    ours = torch.autograd.grad(sample_points(leaves[0], SIZES, *leaves[1:]).square().sum(), leaves)
    theirs = torch.autograd.grad(with_grid_sample(*leaves).square().sum(), leaves)
    assert all(torch.allclose(a, b, atol=1e-10) for a, b in zip(ours, theirs, strict=True))


def test_the_exported_form_equals_the_eager_one_and_needs_no_grid_sample():
    torch.manual_seed(0)
    layer = DeformableAttention(dim=16, levels=3, heads=2, points=4).eval()
    torch.nn.init.normal_(layer.sampling_offsets.weight)
    query, memory = torch.randn(2, 5, 16), torch.randn(2, 31, 16)
    reference, padding = torch.rand(2, 5, 3, 4), torch.rand(2, 31) > 0.7

    class Fixed(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = layer

        def forward(self, query, reference, memory, padding):
            return self.layer(query, reference, memory, SIZES, padding)

    arguments = (query, reference, memory, padding)
    exported = torch.export.export(Fixed(), arguments)
    names = {str(node.target) for node in exported.graph.nodes}
    assert not any("grid_sample" in name or "embedding_bag" in name for name in names)
    assert torch.allclose(exported.module()(*arguments), Fixed()(*arguments), atol=1e-6)


# Points that are keys


def with_stored_samples(query, value, locations):
    """As the formula reads: all samples [B, Q, M, L P, d], then attention to them."""
    points = locations.flatten(3, 4).shape[3]
    ones = torch.eye(points, dtype=value.dtype).view(points, *locations.shape[3:5])
    samples = torch.stack(
        [with_grid_sample(value, locations, one.expand(locations.shape[:-1])) for one in ones], 2
    ).unflatten(-1, (value.shape[2], -1))  # [B, Q, L P, M, d]
    samples = samples.transpose(2, 3)
    products = (samples @ query.unsqueeze(-1)).squeeze(-1) / query.shape[-1] ** 0.5
    weights = products.softmax(-1)
    return (weights.unsqueeze(-1) * samples).sum(-2).flatten(2), weights.view(locations.shape[:-1])


def test_attention_by_key_equals_that_to_stored_samples_in_answer_and_gradient():
    value, locations, _ = inputs()
    leaves = [x.requires_grad_() for x in (torch.randn(2, 5, 2, 3, dtype=torch.float64), value, locations)]

    def by_key(query, value, locations):
        return sample_by_key(query, value, SIZES, locations)

    expected, weights = with_stored_samples(*leaves)
    assert torch.allclose(by_key(*leaves), expected, atol=1e-12)
    assert torch.allclose(key_weights(leaves[0], value, SIZES, locations), weights, atol=1e-12)
    assert torch.autograd.gradcheck(by_key, leaves, atol=1e-6)
    ours = torch.autograd.grad(by_key(*leaves).square().sum(), leaves)
    theirs = torch.autograd.grad(expected.square().sum(), leaves)
    assert all(torch.allclose(a, b, atol=1e-10) for a, b in zip(ours, theirs, strict=True))


class Largest(TorchDispatchMode):
    """How many numbers the largest tensor has that any operation made."""

    numbers = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        self.numbers = max(
            [self.numbers, *(x.numel() for x in tree_leaves(made) if isinstance(x, torch.Tensor))]
        )
        return made


def test_samples_are_never_stored_not_in_training_either():
    queries, heads, points, dim = 200, 2, 3 * 4, 32
    query, value = torch.randn(1, queries, heads, dim), torch.randn(1, 31, heads, dim)
    leaves = [x.requires_grad_() for x in (query, value, torch.rand(1, queries, heads, 3, 4, 2))]
    with Largest() as largest:
        sample_by_key(leaves[0], leaves[1], SIZES, leaves[2]).sum().backward()
    assert largest.numbers <= queries * heads * points * 4  # of a sample's 32 numbers: shares of four cells
    with Largest() as largest:
        with_stored_samples(*leaves)[0].sum().backward()
    assert largest.numbers >= queries * heads * points * dim


def test_what_stands_in_padding_changes_nothing():
    layer = DeformableAttention(dim=16, levels=3, heads=2, points=4)
    query, memory, reference = torch.randn(1, 5, 16), torch.randn(1, 31, 16), torch.rand(1, 5, 3, 2)
    padding = torch.zeros(1, 31, dtype=torch.bool)
    padding[0, 20:] = True
    noisy = memory.masked_fill(padding.unsqueeze(-1), 1e3)
    assert torch.equal(
        layer(query, reference, memory, SIZES, padding), layer(query, reference, noisy, SIZES, padding)
    )
