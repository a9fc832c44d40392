"""The sparse global block against its definition, written out token by token."""

import math

import pytest
import torch

from hsvdet.errors import ConfigError
from hsvdet.layers.sparse_global import SparseGlobal, SparseGlobalConfig

CHANNELS, HEIGHT, WIDTH = 8, 4, 5
STRIDE = 24
CASES = {
    "faithful": dict(k=6),
    "ratio of the tokens": dict(k=0.5),
    "auto": dict(k="auto"),
    "all tokens": dict(selector="all"),
    "k beyond the map": dict(k=999),
    "l1": dict(k=6, selector="l1"),
    "l2": dict(k=6, selector="l2"),
    "mean": dict(k=6, selector="mean"),
    "oracle": dict(k=6, selector="oracle"),
    "learned": dict(k=6, selector="learned"),
    "learned, all": dict(k=999, selector="learned"),
    "no gate": dict(k=6, gate="none"),
    "fixed gate": dict(k=6, gate="fixed", gate_value=0.3),
    "channel gate": dict(k=6, gate="channel"),
    "zero output": dict(k=6, gate="outproj_zero"),
    "identity path": dict(k=6, dense_path="identity"),
    "linear control": dict(k=6, dense_path="linear_control"),
    "heads": dict(k=6, heads=2),
    "sincos": dict(k=6, heads=2, position="sincos"),
    "rope": dict(k=6, heads=2, position="rope"),
    "context": dict(k=6, context=3, position="sincos"),
    "context wider than the map": dict(k=6, context=9),
    "registers": dict(k=6, registers=2, position="rope"),
    "recommended": dict(
        k="auto", selector="learned", gate="outproj_zero", heads=2, position="sincos", context=2, registers=3
    ),
}


def block_of(**options) -> SparseGlobal:
    torch.manual_seed(0)
    block = SparseGlobal(CHANNELS, STRIDE, SparseGlobalConfig(**options))
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.5)
    return block


def inputs(padded: bool):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(2, CHANNELS, HEIGHT, WIDTH, generator=generator)
    salience = torch.rand(2, HEIGHT, WIDTH, generator=generator)
    padding = torch.zeros(2, HEIGHT, WIDTH, dtype=torch.bool)
    padding[0, :, 3:] = True  # 12 real tokens
    padding[1, 1:] = True  # 5, fewer than k
    return x, padding if padded else None, salience


def by_definition(block: SparseGlobal, x, padding, salience):
    """[B, C, H, W], one image and one token at a time, in float64, from the paper's sentences."""
    config, output = block.config, x.double().clone()
    wq, wk, wv, wo = (
        layer.weight.detach().double() for layer in (block.query, block.key, block.value, block.output)
    )
    gain, shift = block.norm.weight.detach().double(), block.norm.bias.detach().double()
    gate = block.gate.detach().double().expand(CHANNELS)
    width_of_head = CHANNELS // block.heads
    cells = [(row, column) for row in range(HEIGHT) for column in range(WIDTH)]

    def normed(vector):
        mean = vector.mean()
        return (vector - mean) / ((vector - mean).square().mean() + 1e-5).sqrt() * gain + shift

    def sines(place):
        values = []
        for coordinate in place:
            angles = [coordinate / 10000 ** (i / (CHANNELS // 4)) for i in range(CHANNELS // 4)]
            values += [math.sin(a) for a in angles] + [math.cos(a) for a in angles]
        return torch.tensor(values, dtype=torch.float64)

    def turned(vector, place):
        vector, quarter = vector.clone(), width_of_head // 4
        for axis in range(2):
            for i in range(quarter):
                angle = place[axis] / 100 ** (i / quarter)
                a, b = axis * 2 * quarter + i, axis * 2 * quarter + quarter + i
                rotation = complex(vector[a], vector[b]) * complex(math.cos(angle), math.sin(angle))
                vector[a], vector[b] = rotation.real, rotation.imag
        return vector

    def heads(matrix, vector, place):
        if config.position == "sincos":
            vector = vector + sines(place)
        parts = [normed(part) for part in (matrix @ vector).split(width_of_head)]
        return [turned(part, place) for part in parts] if config.position == "rope" else parts

    for image in range(len(x)):
        real = [cell for cell in cells if padding is None or not padding[image][cell]]
        tokens = {cell: x[image, :, cell[0], cell[1]].double() for cell in cells}
        places = {cell: ((cell[1] + 0.5) * STRIDE / 32, (cell[0] + 0.5) * STRIDE / 32) for cell in cells}
        learned = block.scorer(x)[image].detach().double() if config.selector == "learned" else None
        score = {
            "energy": {cell: tokens[cell].square().sum() for cell in cells},
            "l2": {cell: tokens[cell].norm() for cell in cells},
            "l1": {cell: tokens[cell].abs().sum() for cell in cells},
            "mean": {cell: tokens[cell].mean() for cell in cells},
            "oracle": {cell: salience[image][cell] for cell in cells},
            "learned": {cell: 0 if learned is None else learned[cell] for cell in cells},
            "all": dict.fromkeys(cells, 0),
        }[config.selector]
        total = HEIGHT * WIDTH
        k = {"auto": round(total * (STRIDE / 32) ** 2 / 4)}.get(config.k) or config.k
        k = total if config.selector == "all" else round(k * total) if isinstance(k, float) else k
        selected = sorted(real, key=score.get, reverse=True)[:k]

        extra = []
        if config.context:
            side = config.context  # of the grid, also where the map has fewer cells, which it then shares
            for i in range(side):
                for j in range(side):
                    rows = range(i * HEIGHT // side, -(-(i + 1) * HEIGHT // side))
                    columns = range(j * WIDTH // side, -(-(j + 1) * WIDTH // side))
                    inside = [tokens[r, c] for r in rows for c in columns if (r, c) in real]
                    middle = (
                        (j + 0.5) * WIDTH / side * STRIDE / 32,
                        (i + 0.5) * HEIGHT / side * STRIDE / 32,
                    )
                    if inside:
                        extra.append((torch.stack(inside).mean(0), middle))
        for register in block.registers.detach().double() if config.registers else []:
            extra.append((register, (WIDTH / 2 * STRIDE / 32, HEIGHT / 2 * STRIDE / 32)))

        sources = [(tokens[cell], places[cell]) for cell in selected] + extra
        keys = [heads(wk, vector, place) for vector, place in sources]
        values = [(wv @ vector).split(width_of_head) for vector, _ in sources]
        for cell in cells:
            change = torch.zeros(CHANNELS, dtype=torch.float64)
            if config.dense_path != "identity":
                change = wo @ wv @ tokens[cell]
            if cell in selected and config.dense_path != "linear_control":
                query = heads(wq, tokens[cell], places[cell])
                mixed = []
                for head in range(block.heads):
                    logits = torch.stack([query[head] @ key[head] for key in keys]) / math.sqrt(width_of_head)
                    weights = logits.softmax(0)
                    mixed.append(sum(w * value[head] for w, value in zip(weights, values, strict=True)))
                change = wo @ torch.cat(mixed)
                if learned is not None:
                    change = change * 2 * learned[cell].sigmoid()
            output[image, :, cell[0], cell[1]] += gate * change
    return output


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_it_is_what_its_definition_says(case, padded):
    block = block_of(**CASES[case])
    x, padding, salience = inputs(padded)
    answer = block(x, padding, salience).map
    expected = by_definition(block, x, padding, salience)
    assert (expected - x).abs().max() > 0.05
    torch.testing.assert_close(answer.double(), expected, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("case", [*CASES, "random"])
def test_noise_in_padding_changes_nothing_at_real_tokens(case):
    block = block_of(**CASES.get(case, dict(k=6, selector="random")))
    x, padding, salience = inputs(True)
    noisy, favoured = x.clone(), salience.clone()
    noisy.movedim(1, -1)[padding] = 100 * torch.randn(int(padding.sum()), CHANNELS)
    favoured[padding] = 9.0
    torch.manual_seed(3)
    clean = block(x, padding, salience).map.movedim(1, -1)[~padding]
    torch.manual_seed(3)
    assert torch.equal(block(noisy, padding, favoured).map.movedim(1, -1)[~padding], clean)


def test_selection_never_picks_padding_and_ranks_in_float32():
    block = block_of(k=5)
    x, padding, _ = inputs(True)
    index = block._select(x * 1000, None, padding, None)
    assert not padding.flatten(1).gather(1, index).any()
    # Squares of these pass float16's largest number; the order must not.
    large = (x * 300).half()
    assert torch.equal(block._select(large, None, None, None), block._select(large.float(), None, None, None))


def test_every_token_selected_means_no_gather(monkeypatch):
    block = block_of(k=999)
    x, _, _ = inputs(False)
    monkeypatch.setattr(torch.Tensor, "gather", None)
    monkeypatch.setattr(torch.Tensor, "scatter", None)
    monkeypatch.setattr(torch.Tensor, "topk", None)
    block(x)


@pytest.mark.parametrize("case", CASES)
def test_every_parameter_that_can_learn_gets_a_gradient(case):
    block = block_of(**CASES[case])
    x, padding, salience = inputs(True)
    block(x, padding, salience).map.square().sum().backward()
    for name, parameter in block.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None and parameter.grad.isfinite().all(), name
            assert parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize(
    "options", [dict(), dict(gate="channel"), dict(gate="outproj_zero", heads=2, context=2)]
)
def test_it_starts_as_the_identity(options):
    block = SparseGlobal(CHANNELS, STRIDE, SparseGlobalConfig(k=6, **options))
    x, padding, _ = inputs(True)
    assert torch.equal(block(x, padding).map, x)


def test_attention_is_float32_under_autocast_unless_asked_otherwise():
    x, _, _ = inputs(False)
    kinds = {}
    for kind in ("float32", "native"):
        block = block_of(k=6, attention_dtype=kind)
        with torch.autocast("cpu", torch.bfloat16):
            kinds[kind] = {part.dtype for part in block._attention_input(x.bfloat16(), None, None)[:3]}
            assert block(x.bfloat16()).map.dtype == torch.bfloat16
    assert kinds["float32"] == {torch.float32} and torch.bfloat16 in kinds["native"]


@pytest.mark.parametrize("case", ["faithful", "recommended"])
def test_a_half_precision_network_answers_almost_the_same(case):
    block = block_of(**CASES[case])
    x, padding, _ = inputs(True)
    expected = block(x, padding).map
    torch.testing.assert_close(
        block.bfloat16()(x.bfloat16(), padding).map.float(), expected, rtol=0.1, atol=0.1
    )


def test_an_image_that_is_all_padding_does_no_harm():
    block = block_of(k=6)
    x, padding, _ = inputs(True)
    padding[1] = True
    answer = block(x, padding).map
    answer.sum().backward()
    assert answer.isfinite().all() and all(p.grad.isfinite().all() for p in block.parameters())


def test_a_diagnosis_tells_what_the_block_does():
    x, padding, _ = inputs(True)
    quiet = SparseGlobal(CHANNELS, STRIDE, SparseGlobalConfig(k=6)).diagnose(x, padding)
    assert (quiet.gate, quiet.change, quiet.attention_change, quiet.selected) == (0, 0, 0, 0.3)
    block = block_of(k=6, gate="fixed", gate_value=1.0)
    loud = block.diagnose(x, padding)
    assert loud.change > 0.1 and loud.attention_change > 0.1 and 0 < loud.entropy < 1
    block.query.weight.data.zero_()
    block.norm.bias.data.zero_()
    assert block.diagnose(x, padding).entropy == pytest.approx(1.0, abs=1e-5)  # all alike: a uniform row


@pytest.mark.parametrize(
    "options",
    [dict(k=0), dict(k=1.5), dict(k="many"), dict(selector="best"), dict(heads=0), dict(context=-1)],
)
def test_a_setting_out_of_range_is_refused(options):
    with pytest.raises(ConfigError, match="expect"):
        SparseGlobalConfig(**options)
