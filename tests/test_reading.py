"""How an answer is read: each reading, eager and in the fixed shapes of a graph."""

import pytest
import torch

from hsvdet.boxes import cxcywh_to_xyxy
from hsvdet.deploy.suppression import suppress
from hsvdet.errors import ConfigError
from hsvdet.models import MODELS
from hsvdet.postprocess import BestClass, GraphSuppression, Suppressed, TopPairs
from hsvdet.structures import Prediction

SIZE = (100, 200)
CLASSES = 3


def answer(predictions=40, columns=CLASSES, seed=0, spread=1.0):
    """Predictions with crowds of overlapping boxes. columns: of the logits."""
    generator = torch.Generator().manual_seed(seed)
    objects = torch.rand(predictions // 8, 4, generator=generator)[torch.arange(predictions) // 8]
    boxes = objects * torch.tensor([1, 1, 0.4, 0.4]) * spread + (1 - spread) / 2
    boxes = (boxes + 0.02 * torch.randn(predictions, 4, generator=generator)).abs()
    return Prediction(2 * torch.randn(1, predictions, columns, generator=generator), boxes[None])


def test_every_row_reads_by_the_number_of_its_paper():
    kept = {name: row.reading.max_detections for name, row in MODELS.items()}
    hundred = {name for name, most in kept.items() if most == 100}
    assert {MODELS[name].family for name in hundred} == {"Deformable DETR", "Conditional DETR"}
    assert all(kept[name] == 300 for name in MODELS if name not in hundred)
    logits = torch.randn(1, 300, 91)
    (found,) = MODELS["deformable-detr-r50"].reading.detections(
        Prediction(logits, torch.rand(1, 300, 4)), [SIZE], score=0.0
    )
    assert len(found.scores) == 100
    with pytest.raises(ConfigError, match="max_detections expects"):
        Suppressed().detections(answer(), [SIZE], max_detections=0)


@pytest.mark.parametrize(
    "reading, columns",
    [(Suppressed(), CLASSES), (TopPairs(), CLASSES), (TopPairs(30), CLASSES), (BestClass(9), CLASSES + 1)],
)
def test_the_form_in_a_graph_reads_what_the_eager_form_reads(reading, columns):
    given = answer(columns=columns)
    boxes = cxcywh_to_xyxy(given.boxes) * torch.tensor([200.0, 100, 200, 100])
    scale = torch.tensor([200.0, 100, 200, 100])

    def boxes_at(index):
        there = boxes.gather(1, index.unsqueeze(-1).expand(-1, -1, 4))
        return torch.minimum(there.clamp(min=0), scale)

    def kept(boxes, scores, labels, classes):
        return suppress(boxes, scores, labels, classes, 0.7, 0.0, 300)

    rows = reading.rows(given.logits, boxes_at, reading.max_detections, GraphSuppression(4096, kept))
    (found,) = reading.detections(given, [SIZE], score=0.0)
    real = rows.scores[0] > 0
    assert 5 < len(found.scores) <= reading.max_detections
    for mine, other in zip(found, rows, strict=True):
        torch.testing.assert_close(mine, other[0][real])
    candidates = reading.candidates(Prediction(*(part[0] for part in given)), SIZE, score=0.0)
    assert len(candidates.scores) == given.logits.shape[1] * CLASSES
