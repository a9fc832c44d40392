"""Tokens of a pyramid: which, what they are, how many."""

import torch

from hsvdet.layers.pyramid import tile_maps
from hsvdet.layers.queries import on_maps, token_centres
from hsvdet.layers.token_extractor import TokenExtractor


def test_tokens_are_the_best_cells_and_carry_their_place_and_score():
    torch.manual_seed(0)
    extractor = TokenExtractor(16, (8, 16), tokens=3, context=2).eval()
    maps = [torch.randn(1, 16, 4, 6), torch.randn(1, 16, 2, 3)]
    scores = [torch.randn(1, *level.shape[2:]) for level in maps]
    for scorer, score in zip(extractor.scorers, scores, strict=True):
        scorer.forward = lambda x, salience=None, score=score: score
    cells = tile_maps(maps, None, torch.tensor([[0.0, 0.0, 48.0, 32.0]]), (8, 16))
    tokens = extractor(maps, cells)
    assert tokens.features.shape == (1, 3 + 3 + 4, 16) and tokens.mask is None
    assert [s.stride for s in tokens.selections] == [8, 16]
    for level, (feature_map, score, chosen) in enumerate(zip(maps, scores, tokens.chosen, strict=True)):
        assert chosen[0].tolist() == score.flatten().argsort(descending=True)[:3].tolist()
        cell = chosen[0, 0]
        feature = feature_map.flatten(2)[0, :, cell]
        mixed = feature + extractor.mlps[level](extractor.norms[level](feature))
        expected = mixed * score.flatten()[cell].sigmoid() + tokens.position[0, 3 * level]
        assert torch.allclose(tokens.features[0, 3 * level], expected, atol=1e-5)
    coarse = maps[1][0, :, :, :2].mean((1, 2))  # of three columns, the left two lie in the left half
    assert torch.allclose(tokens.features[0, 6] + tokens.features[0, 8] - tokens.position[0, [6, 8]].sum(0),
                          2 * coarse, atol=1e-5)  # fmt: skip


def test_few_tokens_are_seen_where_they_hold_the_mass_and_a_single_image_is_computed_without_the_others():
    torch.manual_seed(0)
    extractor = TokenExtractor(16, (8,), tokens=8, context=1, mass=0.95).eval()
    level = torch.randn(1, 16, 6, 6)

    def count(scores, batch=1):
        extractor.scorers[0].forward = lambda x, salience=None: scores.unflatten(1, (6, 6))
        seen = level.expand(batch, -1, -1, -1)
        cells = tile_maps([seen], None, torch.tensor([[0.0, 0.0, 48.0, 48.0]]).expand(batch, -1), (8,))
        tokens = extractor([seen], cells)
        taken, kept = tokens.chosen[0].shape[1], tokens.selections[0].kept.flatten(1).sum(1).tolist()
        if batch == 1:
            assert kept == [taken] and tokens.mask is None
            return taken
        assert taken == 8
        assert (~tokens.mask[:, 0, :8]).sum(1).tolist() == kept and not tokens.mask[..., 8:].any()
        return tuple(kept)

    flat = torch.zeros(1, 36)
    peaked = torch.full((1, 36), -20.0)
    peaked[0, :2] = 5.0
    fewer = peaked.clone()
    fewer[0, 2:4] = 5.0
    assert (count(flat), count(fewer), count(peaked)) == (8, 4, 2)
    assert count(torch.cat([peaked, fewer, flat]), batch=3) == (2, 4, 8)
    extractor.train()
    assert count(peaked) == 8


def test_places_of_tiled_maps_hold_to_the_fraction_of_a_cell():
    """A picture of 50 x 20 pixels at (6, 10) of a canvas of 64 x 32."""
    maps = [torch.zeros(1, 4, 4, 8), torch.zeros(1, 4, 1, 2)]
    padding = torch.ones(1, 32, 64, dtype=torch.bool)
    padding[:, 10:30, 6:56] = False
    cells = tile_maps(maps, padding, torch.tensor([[6.0, 10.0, 50.0, 20.0]]), (8, 32))
    first, coarse = token_centres(cells)[0, [0, -1]]
    assert torch.allclose(first, torch.tensor([(4 - 6) / 50, (4 - 10) / 20]))
    assert torch.allclose(coarse, torch.tensor([(48 - 6) / 50, (16 - 10) / 20]))
    corners = on_maps(torch.tensor([[[0.0, 0.0], [1.0, 1.0]]]), cells)[0]
    assert torch.allclose(corners[0], torch.tensor([6 / 64, 10 / 32]).expand(2, 2))
    assert torch.allclose(corners[1], torch.tensor([56 / 64, 30 / 32]).expand(2, 2))
    assert not cells.padding[0, 8] and cells.padding[0, 0]  # of row 1, pixels 10 to 15 are picture
