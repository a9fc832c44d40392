"""What makes Lite-DINO: layers that update the high levels alone, and attention by what stands at the points."""

import pytest
import torch

import hsvdet
from hsvdet.conversion.dino import SOURCES
from hsvdet.errors import ConfigError
from hsvdet.layers.deformable import sample_points
from hsvdet.models.lite_dino import KeyAwareAttention

SIZES = [(4, 6), (2, 3), (1, 1)]


@pytest.mark.parametrize(
    ("options", "updated"),
    [
        ({"encoder_layers": 4, "blocks": 2}, ["high", "all", "high", "all"]),
        ({"encoder_layers": 4, "blocks": 1}, ["high", "high", "high", "all"]),
        ({"encoder_layers": 2, "blocks": 2}, ["all", "all"]),
    ],
)
@pytest.mark.parametrize("high_levels", [2, 3])
def test_the_last_layer_of_a_block_updates_all_levels_the_others_the_high_ones(options, updated, high_levels):
    net = hsvdet.create("lite-dino-tiny", ["a"], options={**options, "high_levels": high_levels}).net
    low = {3: 8 * 12, 2: 8 * 12 + 4 * 6}[high_levels]
    seen = []

    def what_changed(layer, inputs, features):
        changed = (features != inputs[0].features).any(-1)
        assert changed[:, low:].all()
        seen.append({True: "all", False: "high"}[bool(changed[:, :low].all())])
        assert seen[-1] == "all" or not changed[:, :low].any()

    for layer in net.encoder.layers:
        layer.register_forward_hook(what_changed)
    with torch.inference_mode():
        net.eval()(torch.rand(1, 3, 64, 96))
    assert seen == updated


def test_attention_is_where_what_stands_there_is_like_the_query():
    """Two points in the middles of two cells: the weights are a softmax of the query's products with these cells."""
    torch.manual_seed(0)
    layer = KeyAwareAttention(dim=8, levels=1, heads=1, points=2)
    torch.nn.init.zeros_(layer.sampling_offsets.bias)
    with torch.no_grad():
        layer.sampling_offsets.bias[2] = 2.0  # the second point lies two cells to the right
    query, memory, reference = (
        torch.randn(1, 1, 8),
        torch.randn(1, 12, 8),
        torch.tensor([[[[0.5 / 4, 0.5 / 3]]]]),
    )
    with torch.no_grad():
        _, weights = layer.locate(query, reference, memory, [(3, 4)])
        cells = layer.value(memory)[0, [0, 2]]
        expected = (cells @ layer.query(query)[0, 0] / 8**0.5).softmax(0)
        torch.testing.assert_close(weights.flatten(), expected)
        torch.testing.assert_close(
            layer(query, reference, memory, [(3, 4)])[0, 0], layer.output(expected @ cells)
        )


def test_what_is_said_of_where_it_looks_reproduces_the_answer_also_beside_padding():
    torch.manual_seed(0)
    layer = KeyAwareAttention(dim=16, levels=3, heads=2, points=4)
    torch.nn.init.normal_(layer.sampling_offsets.weight)
    query, memory, reference = torch.randn(2, 5, 16), torch.randn(2, 31, 16), torch.rand(2, 5, 3, 4)
    padding = torch.rand(2, 31) > 0.7
    arguments = (query, reference, memory, SIZES, padding)
    with torch.no_grad():
        value = layer.value(memory).masked_fill(padding[..., None], 0.0).unflatten(-1, (2, 8))
        expected = layer.output(sample_points(value, SIZES, *layer.locate(*arguments)))
        torch.testing.assert_close(layer(*arguments), expected)
        noisy = memory.masked_fill(padding[..., None], 1e3)
        assert torch.equal(layer(*arguments), layer(query, reference, noisy, SIZES, padding))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"blocks": 4}, "blocks expects a number that divides the 2 encoder layers; got 4"),
        ({"blocks": 0}, "blocks expects"),
        ({"high_levels": 5}, "high_levels expects 1 to 4, the levels; got 5"),
        ({"high_levels": 0}, "high_levels expects"),
    ],
)
def test_an_encoder_that_there_cannot_be_is_refused(options, said):
    with pytest.raises(ConfigError, match=said):
        hsvdet.create("lite-dino-tiny", ["a"], options=options)


def test_weights_convert_to_the_form_that_their_settings_say_or_the_model_that_was_asked_for():
    """The number of high levels leaves no trace in the tensors."""
    (source,) = [source for source in SOURCES if source.name == "Lite-DINO"]
    three, two = "lite-dino-r50-h3l1-2p1x3", "lite-dino-r50-h2l2-2p1x3"
    assert source.choose(three, {"enc_scale": 2}) == two and source.choose(three, {}) == three
    names = [f"encoder.layers.{layer}.norm_low.weight" for layer in (1, 3, 5)]
    renamed = dict.fromkeys([*names, "decoder.0.cross_attention.query.weight"], torch.zeros(1))
    assert source.options(renamed, {"enc_scale": 2}) == {"blocks": 3}  # the model's name says the rest
    assert source.options(renamed, {"enc_scale": 1}) == {"blocks": 3, "high_levels": 1}
