"""Both scans against the recurrence that they compute, token by token in float64, and against published numbers; and
what makes Mamba-DETR of RT-DETR."""

import json
import zlib
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from hsvdet.errors import ConfigError
from hsvdet.layers.mamba import from_directions, in_directions, selective_scan, ssd
from hsvdet.models import find
from hsvdet.models.mamba_detr import MambaDetrConfig, StateSpaceMixer

GROUPS, HEADS, CHANNELS, STATES = 2, 3, 4, 5


def sequence(length, dtype=torch.float64, heads=True):
    """x, step, rate, write and read of two sequences: steps from a thousandth to 2, rates to -16."""
    torch.manual_seed(length)
    heads, states = ((HEADS,), ()) if heads else ((), (STATES,))
    x = torch.randn(2, length, GROUPS, *heads, CHANNELS)
    step = F.softplus(3 * torch.randn(2, length, GROUPS, *(heads or (CHANNELS,))) - 3)
    rate = -torch.empty(GROUPS, *(heads or (CHANNELS,)), *states).uniform_(0.1, 16)
    write, read = torch.randn(2, 2, length, GROUPS, STATES)
    return [t.to(dtype).requires_grad_() for t in (x, step, rate, write, read)]


def one_by_one(x, step, rate, write, read):
    """S6, as its paper writes it."""
    state, y = 0.0, []
    for t in range(x.shape[1]):
        entering = step[:, t, ..., None] * x[:, t, ..., None] * write[:, t, :, None]
        state = (step[:, t, ..., None] * rate).exp() * state + entering
        y.append((state * read[:, t, :, None]).sum(-1))
    return torch.stack(y, 1)


def heads_one_by_one(x, step, rate, write, read):
    """SSD is S6 with one rate and one step for all channels of a head."""
    (heads, channels), states = x.shape[-2:], write.shape[-1]
    wide = rate[..., None, None].expand(*rate.shape, channels, states).flatten(1, 2)
    y = one_by_one(x.flatten(3), step.repeat_interleave(channels, -1), wide, write, read)
    return y.unflatten(-1, (heads, channels))


SCANS = {"ssd": (ssd, heads_one_by_one, True), "s6": (selective_scan, one_by_one, False)}


@pytest.mark.parametrize("name", SCANS)
@pytest.mark.parametrize("length", [1, 2, 64, 65, 200])
def test_a_scan_and_its_gradients_are_those_of_the_recurrence(name, length):
    scan, definition, heads = SCANS[name]
    given = sequence(length, heads=heads)
    expected, got = definition(*given), scan(*given)
    torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-10)
    weights = torch.randn_like(expected)
    wanted = torch.autograd.grad((expected * weights).sum(), given)
    for ours, theirs in zip(torch.autograd.grad((got * weights).sum(), given), wanted, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("length", [523, 1100])
def test_many_chunks_are_carried_in_blocks(length):
    """More than 128 of them, and the last of a block alone or not."""
    given = sequence(length)
    expected, got = heads_one_by_one(*given), ssd(*given, chunk=4)
    torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-10)
    wanted = torch.autograd.grad(expected.square().sum(), given)
    for ours, theirs in zip(torch.autograd.grad(got.square().sum(), given), wanted, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("name", SCANS)
def test_a_scan_is_that_of_transformers(name):
    """Mamba-2's chunks, and the loop over tokens on which Mamba falls back without a compiler."""
    pytest.importorskip("transformers", minversion="5.24")
    from transformers.models.mamba.modeling_mamba import mamba_selective_scan
    from transformers.models.mamba2.modeling_mamba2 import mamba2_chunk_scan

    scan, _, heads = SCANS[name]
    x, step, rate, write, read = given = [t.detach() for t in sequence(150, torch.float32, heads)]
    if heads:  # theirs are numbered over all groups
        theirs = mamba2_chunk_scan(
            x.flatten(2, 3), step.flatten(2), rate.flatten(), write, read, chunk_size=32
        ).unflatten(2, (GROUPS, HEADS))
    else:  # theirs has one group, and time last
        groups = [
            mamba_selective_scan(*(t[:, :, g].transpose(1, 2) for t in (x, step)), rate[g],
                                 *(t[:, :, g].transpose(1, 2) for t in (write, read)))
            for g in range(GROUPS)
        ]  # fmt: skip
        theirs = torch.stack([group.transpose(1, 2) for group in groups], 2)
    torch.testing.assert_close(scan(*given), theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", SCANS)
def test_a_long_sequence_stays_exact_in_float32_and_inside_autocast(name):
    """What is kept from the beginning to the end is below exp(-1000) here, so nothing may be divided by it."""
    scan, _, heads = SCANS[name]
    with torch.no_grad():
        exact = sequence(3000, heads=heads)
        assert exact[1].sum(1).min() * exact[2].abs().max() > 1000
        expected = scan(*exact)
        with torch.autocast("cpu", torch.bfloat16):
            got = scan(*(t.float() for t in exact))
        halved = scan(*(t.bfloat16() for t in exact[:1]), *(t.float() for t in exact[1:]))
    assert got.dtype == torch.float32 and halved.dtype == torch.bfloat16
    torch.testing.assert_close(got.double(), expected, rtol=0, atol=3e-6 * expected.abs().max().item())


@pytest.mark.parametrize("name", SCANS)
def test_tokens_whose_step_is_0_pass_the_state_on_untouched(name):
    """Whatever they hold: the others answer as if they were not there."""
    scan, _, heads = SCANS[name]
    x, step, rate, write, read = sequence(150, heads=heads)
    there = torch.rand(150) > 0.3
    step = torch.where(there.view(-1, *[1] * (step.ndim - 2)), step, 0.0)
    whole = scan(x, step, rate, write, read)[:, there]
    alone = scan(x[:, there], step[:, there], rate, write[:, there], read[:, there])
    torch.testing.assert_close(whole, alone, rtol=1e-10, atol=1e-10)


def test_s6_with_a_held_input_writes_less_and_alike_for_small_steps():
    """A constant input adds up to (exp(step rate) - 1) / rate, which to the first order is the step."""
    x, step, rate, write, read = (t.detach() for t in sequence(1, heads=False))
    held = selective_scan(x, step, rate, write, read, hold=True)
    gain = torch.expm1(step[..., None] * rate) / rate
    torch.testing.assert_close(held, (gain * x[..., None] * (write * read)[:, :, :, None]).sum(-1))
    small = step * 1e-6
    torch.testing.assert_close(
        selective_scan(x, small, rate, write, read, hold=True),
        selective_scan(x, small, rate, write, read),
        rtol=1e-4,
        atol=0,
    )


def kept_bytes(scan, given):
    """Of the tensors that autograd holds for the gradient, each memory once."""
    held = {}
    with torch.autograd.graph.saved_tensors_hooks(
        lambda t: held.setdefault(t.untyped_storage().data_ptr(), (t.untyped_storage().nbytes(), t))[1],
        lambda t: t,
    ):
        answer = scan(*given)
    return sum(size for size, _ in held.values()), answer


def test_what_is_kept_for_the_gradient_does_not_grow_with_the_square_of_the_length_nor_with_states():
    for name, (scan, _, heads) in SCANS.items():
        short, long = (kept_bytes(scan, sequence(n, heads=heads))[0] for n in (1024, 2048))
        assert long < 2.2 * short, name
    x, step, rate, write, read = sequence(1024, heads=False)
    few = kept_bytes(selective_scan, (x, step, rate, write, read))[0]
    many = kept_bytes(
        selective_scan, (x, step, rate.repeat(1, 1, 8), write.repeat(1, 1, 1, 8), read.repeat(1, 1, 1, 8))
    )[0]
    more = 7 * (write.nbytes + read.nbytes + rate.nbytes)
    assert many <= few + 2 * more


def test_directions_read_rows_columns_and_both_from_the_end():
    maps = torch.arange(6.0).view(1, 1, 1, 2, 3)
    four = in_directions(maps.expand(1, 4, 1, 2, 3))
    assert four[0, :, :, 0].T.tolist() == [
        [0, 1, 2, 3, 4, 5],
        [0, 3, 1, 4, 2, 5],
        [5, 4, 3, 2, 1, 0],
        [5, 2, 4, 1, 3, 0],
    ]
    assert in_directions(maps.expand(1, 2, 1, 2, 3))[0, :, 1, 0].tolist() == [5, 4, 3, 2, 1, 0]
    for count in (2, 4):
        own = torch.randn(2, count, 3, 4, 5)
        assert torch.equal(from_directions(in_directions(own), (4, 5)), own)


@pytest.fixture(scope="module")
def published(shared):
    """What state-spaces/mamba and VMamba computed in float32."""
    return json.loads((shared / "golden" / "lineage" / "prim_mamba.json").read_text())


def generator(name):
    return np.random.Generator(np.random.PCG64(zlib.crc32(name.encode())))


def normal(name, *shape):
    return torch.from_numpy(generator(name).standard_normal(shape).astype(np.float32))


def agree(got, expected):
    """The values that were kept of a tensor: all, or those at some places."""
    assert list(got.shape) == expected["shape"]
    at = expected.get("at", slice(None))
    torch.testing.assert_close(
        got.detach().flatten()[at], torch.tensor(expected["values"]), rtol=2e-4, atol=2e-5
    )


def drawn(model, key, shape):
    """A weight of the published numbers: by its name alone."""
    draw, leaf = generator(f"{model}.{key}"), key.split(".")[-1]
    if key in ("dt_projs_bias", "dt_proj.bias"):
        steps = np.exp(draw.uniform(np.log(1e-3), np.log(1e-1), shape))
        values = steps + np.log(-np.expm1(-steps))
    else:
        values = draw.standard_normal(shape)
        if leaf in ("A_log", "A_logs"):
            values = np.log(np.arange(1.0, shape[-1] + 1)) + 0.1 * values
        elif leaf == "bias":
            values = 0.1 * values
        elif len(shape) == 1:
            values = 1 + 0.1 * values
        else:
            values = values / np.sqrt(shape[-1] if key.endswith("_weight") else np.prod(shape[1:]))
            values = 0.3 * values if key == "out_proj.weight" else values
    return torch.from_numpy(values.astype(np.float32)).requires_grad_()


def agree_in_gradients(model, answer, weights, expected):
    (answer * normal(f"{model}:g", *answer.shape)).sum().backward()
    for key, norm in expected["grad_l2"].items():
        assert weights[key].grad.norm().item() == pytest.approx(norm, rel=2e-4), key


def test_mambas_block_gives_the_published_numbers(published):
    expected, x = published["mamba_block"], normal("mamba:x", 2, 13, 16)
    weight = {key: drawn("mamba", key, shape) for key, shape in expected["keys"].items()}
    inner, gate = F.linear(x, weight["in_proj.weight"]).chunk(2, -1)
    conv = weight["conv1d.weight"], weight["conv1d.bias"]
    u = F.silu(F.conv1d(F.pad(inner.transpose(1, 2), (3, 0)), *conv, groups=32)).transpose(1, 2)
    low, write, read = F.linear(u, weight["x_proj.weight"]).split([1, 8, 8], -1)
    step = F.softplus(F.linear(low, weight["dt_proj.weight"], weight["dt_proj.bias"]))
    u, step, write, read, rate = (t.unsqueeze(-2) for t in (u, step, write, read, -weight["A_log"].exp()))
    y = selective_scan(u, step, rate.transpose(0, 1), write, read).squeeze(2)
    y = (y + weight["D"] * u.squeeze(2)) * F.silu(gate)
    y = F.linear(y, weight["out_proj.weight"])
    agree(y, expected["out"])
    agree_in_gradients("mamba", y, weight, expected)


def test_four_directions_give_vmambas_published_numbers(published):
    """Its SS2D, first version: four S6 scans of one map, added up."""
    expected, x = published["ss2d_v0"], normal("ss2d:x", 2, 16, 5, 6)

    weight = {key: drawn("ss2d_v0", key, shape) for key, shape in expected["keys"].items()}
    inner, gate = F.linear(x.permute(0, 2, 3, 1), weight["in_proj.weight"]).chunk(2, -1)
    conv = weight["conv2d.weight"], weight["conv2d.bias"]
    inner = F.silu(F.conv2d(inner.permute(0, 3, 1, 2), *conv, padding=1, groups=32))
    u = in_directions(inner[:, None].expand(-1, 4, -1, -1, -1))  # [B, S, 4, D]
    low, write, read = torch.einsum("bsgd,gcd->bsgc", u, weight["x_proj_weight"]).split([1, 4, 4], -1)
    step = torch.einsum("bsgr,gdr->bsgd", low, weight["dt_projs_weight"]) + weight["dt_projs_bias"]
    y = selective_scan(u, F.softplus(step), -weight["A_logs"].exp().view(4, 32, 4), write, read)
    y = from_directions(y + weight["Ds"].view(4, 32) * u, (5, 6)).sum(1).permute(0, 2, 3, 1)
    y = F.layer_norm(y, (32,), weight["out_norm.weight"], weight["out_norm.bias"])
    y = F.linear(y * F.silu(gate), weight["out_proj.weight"]).permute(0, 3, 1, 2)
    agree(y, expected["out NCHW"])
    agree_in_gradients("ss2d", y, weight, expected)


def mixer(directions):
    torch.manual_seed(0)
    made = StateSpaceMixer(16, heads=2, states=4, directions=directions).double().eval()
    with torch.no_grad():
        made.scan.step_bias.add_(2.0)  # so that cells far away are remembered less, and not alike
    return made


@pytest.mark.parametrize("directions", [2, 4])
def test_maps_of_a_padded_batch_are_mixed_as_each_alone(directions):
    """Whatever the padding holds: not seen by the convolution, and passed by in every direction."""
    mix, sizes = mixer(directions), [(7, 9), (5, 9), (7, 4), (3, 2)]
    maps = 5 * torch.randn(len(sizes), 16, 7, 9, dtype=torch.float64)
    padding = torch.ones(len(sizes), 7, 9, dtype=torch.bool)
    for i, (height, width) in enumerate(sizes):
        padding[i, :height, :width] = False
    mixed = mix(maps, padding).unflatten(1, (7, 9))
    assert not mixed[padding].any()
    for i, (height, width) in enumerate(sizes):
        alone = mix(maps[i : i + 1, :, :height, :width], None).unflatten(1, (height, width))
        torch.testing.assert_close(mixed[i, :height, :width], alone[0], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("directions", [2, 4])
def test_every_cell_hears_of_every_other(directions):
    """Each of two directions brings one half of the others; no cell is beyond the state's reach."""
    mix, maps = mixer(directions), torch.randn(1, 16, 4, 5, dtype=torch.float64)
    before = mix(maps, None)
    for cell in range(20):
        changed = maps.clone()
        changed.flatten(2)[..., cell] += 1
        assert ((mix(changed, None) - before).abs().amax(-1) > 1e-9).all(), cell


def test_mamba_detr_is_rt_detr_but_for_what_mixes_the_coarsest_map():
    """With as many parameters as nearly as can be: what else differs is no effect of size."""
    for form in ("r18", "r50", "tiny"):
        ours, theirs = find(f"mamba-detr-{form}"), find(f"rt-detr-{form}")
        with torch.device("meta"):
            mamba, attention = (row.net(row.config, 80).state_dict() for row in (ours, theirs))
        other = {key for key in mamba.keys() ^ attention.keys()}
        assert other and all(key.startswith(("neck.mamba.", "neck.attention.")) for key in other)
        count, expected = (sum(t.numel() for t in tensors.values()) for tensors in (mamba, attention))
        assert count == pytest.approx(expected, rel=1e-3)
        assert (ours.recipe, ours.preprocess, ours.reading) == (
            theirs.recipe,
            theirs.preprocess,
            theirs.reading,
        )


@pytest.mark.parametrize("scan_maps", [1, 2, 3])
def test_as_many_maps_as_are_wanted_are_read_each_by_a_layer_of_its_own(scan_maps):
    torch.manual_seed(0)
    row = find("mamba-detr-tiny")
    neck = row.net(replace(row.config, scan_maps=scan_maps), 3).neck.eval()
    maps = [torch.randn(1, 64, 16 // side, 24 // side) for side in (1, 2, 4)]
    far = [features.clone() for features in maps]
    for features in far:
        features[..., 0, 0] += 1
    with torch.inference_mode():
        changed = [(a != b).any(1) for a, b in zip(neck.mix(maps, None), neck.mix(far, None), strict=True)]
    assert [bool(one[..., -1, -1]) for one in changed] == [n >= 3 - scan_maps for n in range(3)]
    assert all(one[..., 0, 0] for one in changed)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"directions": 3}, r"directions expects 2, by rows, or 4, by columns too; got 3\."),
        ({"scan_heads": 3}, r"scan_heads expects a divisor of neck, the 256 channels; got 3\."),
        ({"scan_maps": 4}, r"scan_maps expects 1 to 3, the maps that there are; got 4\."),
        ({"states": 0}, r"states expects a number from 1 on; got 0\."),
    ],
)
def test_a_size_that_cannot_be_is_named(option, message):
    with pytest.raises(ConfigError, match=message):
        MambaDetrConfig(**option)
