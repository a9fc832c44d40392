"""Anchor DETR's attention and what padding does to it, in the tiny form."""

from typing import Any

import pytest
import torch
from torch import nn

from hsvdet.layers.row_column import RowColumnAttention, means
from hsvdet.models.anchor_detr import VARIANTS, AnchorDetr, AnchorDetrConfig

SIDE = 32  # pixels a cell


@torch.no_grad()
@pytest.mark.parametrize(("height", "width"), [(3, 5), (5, 3)])
def test_a_cell_weighs_what_its_row_and_its_column_weigh(height, width):
    """The paper's formula, head by head, query by query, cell by cell."""
    attention, dim = RowColumnAttention(16, 2), 16
    for parameter in attention.parameters():
        nn.init.normal_(parameter, std=0.5)
    query_x, query_y = torch.randn(2, 2, 4, dim).unbind(0)
    to_x, to_y, value = torch.randn(3, 2, height, width, dim).unbind(0)
    padding = torch.zeros(2, height, width, dtype=torch.bool)
    padding[1, :1] = padding[1, :, 2:] = True  # the first row, and all columns but two
    key_x, key_y = means(to_x, padding)[0], means(to_y, padding)[1]
    found = attention(query_x, query_y, key_x, key_y, value, padding)
    weights = attention.weights(query_x, query_y, key_x, key_y, value, padding)

    for image, rows, columns in ((0, slice(None), slice(None)), (1, slice(1, None), slice(0, 2))):
        # Keys are averaged after their projection, over the picture.
        keys_x = attention.key_x(to_x[image, rows, columns]).mean(0)
        keys_y = attention.key_y(to_y[image, rows, columns]).mean(1)
        values = attention.value(value[image, rows, columns])
        parts = []
        for head in (slice(0, 8), slice(8, 16)):
            scores_x = attention.query_x(query_x[image])[:, head] @ keys_x[:, head].T / 8**0.5
            scores_y = attention.query_y(query_y[image])[:, head] @ keys_y[:, head].T / 8**0.5
            both = scores_y.softmax(-1)[:, :, None] * scores_x.softmax(-1)[:, None, :]  # [Q, h, w]
            parts.append((both[..., None] * values[None, ..., head]).sum((1, 2)))
            drawn = weights[image, head.start // 8].view(4, height, width)
            torch.testing.assert_close(drawn[:, rows, columns], both)
            assert drawn.sum((1, 2)).allclose(torch.ones(4))
        torch.testing.assert_close(found[image], attention.output(torch.cat(parts, -1)))


class Given(nn.Module):
    """In place of what makes the map, which is normalised over padding too."""

    def forward(self, _):
        return self.features


@torch.no_grad()
@pytest.mark.parametrize("corner", [(0, 0), (1, 2)], ids=["right and below", "all around"])
def test_a_picture_in_padding_answers_as_it_does_alone(corner):
    """Places, means and attention alike: only the cells of the picture count."""
    torch.manual_seed(0)
    net = AnchorDetr(AnchorDetrConfig(**VARIANTS["anchor-detr-tiny"]), 5).eval()
    net.boxes.last.weight.normal_(std=0.1)  # starts at 0, and would hide everything
    net.project = Given()
    picture = torch.randn(1, 64, 3, 4)
    net.project.features = picture
    alone = net(torch.zeros(1, 3, 3 * SIDE, 4 * SIDE))
    top, left = corner
    features, padding = torch.randn(2, 64, 5, 7) * 10, torch.ones(2, 5 * SIDE, 7 * SIDE, dtype=torch.bool)
    features[1, :, top : top + 3, left : left + 4] = picture
    padding[1, top * SIDE : (top + 3) * SIDE, left * SIDE : (left + 4) * SIDE] = False
    padding[0] = False
    net.project.features = features
    among_others = net(torch.zeros(2, 3, 5 * SIDE, 7 * SIDE), padding)
    for ours, theirs in zip(among_others.layers, alone.layers, strict=True):
        torch.testing.assert_close(ours.logits[1:], theirs.logits, atol=1e-5, rtol=0)
        torch.testing.assert_close(ours.boxes[1:], theirs.boxes, atol=1e-6, rtol=0)


@torch.no_grad()
def test_every_point_is_tried_with_every_pattern():
    options: dict[str, Any] = {**VARIANTS["anchor-detr-tiny"], "queries": 7, "decoder_layers": 1}
    net = AnchorDetr(AnchorDetrConfig(**options), 5).eval()
    # A box stands on its point as long as its head moves nothing: all patterns of one point answer alike.
    boxes = net(torch.randn(2, 3, 96, 128)).answer.boxes.unflatten(1, (3, 7))
    torch.testing.assert_close(boxes[..., :2], net.points.expand(2, 3, -1, -1), atol=1e-4, rtol=0)
    eighth = torch.tensor(-2.0).sigmoid()
    torch.testing.assert_close(boxes[..., 2:], eighth.expand(2, 3, 7, 2))
