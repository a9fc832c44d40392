"""Costs against published figures, and against sums by hand."""

import copy
import importlib.util
import json
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import hsvdet
from hsvdet.catalogue import ROWS, model_table
from hsvdet.errors import CheckpointError, ConfigError
from hsvdet.inference.folded_sparse_global import fold_block
from hsvdet.layers.sparse_global import SparseGlobal, SparseGlobalConfig
from hsvdet.models import MODELS
from hsvdet.profiler import block_cost, catalogue_row, fingerprint, peak_memory, profile

REGENERATE = "run python benchmarks/zoo.py"
SQUARE, WIDE = (640, 640), (1088, 1920)
# Millions of parameters: as trained, folded. GFLOPs at 640x640 and at 1088x1920: as written, folded.
FIGURES = {
    "yolov8-n": (3.157, 3.157, 8.7, 8.7, 44.6, 44.6),
    "yolov8-s": (11.167, 11.167, 28.6, 28.6, 145.9, 145.9),
    "yolov8-m": (25.903, 25.903, 78.9, 78.9, 402.6, 402.6),
    "yolov8-l": (43.692, 43.692, 165.1, 165.1, 842.3, 842.3),
    "yolov8-x": (68.230, 68.230, 257.8, 257.8, 1314.8, 1314.8),
    "hsv-det-n": (3.486, 3.404, 9.5, 9.2, 47.1, 45.2),
    "hsv-det-s": (12.479, 12.151, 30.9, 30.0, 155.2, 147.7),
    "hsv-det-m": (27.821, 27.342, 82.7, 81.0, 418.6, 405.1),
    "hsv-det-l": (45.791, 45.266, 170.2, 167.4, 864.7, 844.9),
    "hsv-det-x": (71.509, 70.690, 265.4, 261.1, 1349.6, 1318.7),
    "hsg-det-l": (38.503, 38.503, 120.9, 120.9, 566.2, 566.2),
}
YOLOV8_PARAMETERS = {"n": 3157200, "s": 11166560, "m": 25902640, "l": 43691520, "x": 68229648}


@pytest.mark.parametrize("name", FIGURES)
def test_costs_are_the_published_ones(name, monkeypatch):
    monkeypatch.setattr("hsvdet.profiler._memory", lambda *_: (1, 1))  # the slow half, not needed here
    square, wide = profile(name, size=SQUARE), profile(name, size=WIDE)
    measured = (
        round(square.parameters / 1e6, 3),
        round(square.parameters_folded / 1e6, 3),
        *(round(value, 1) for p in (square, wide) for value in (p.gflops, p.gflops_folded)),
    )
    assert measured == FIGURES[name]
    if name.startswith("yolov8"):  # 16 numbers of the published count are the fixed distance bins
        assert square.parameters == YOLOV8_PARAMETERS[name[-1]] - 16


def test_executed_operations_project_only_selected_tokens():
    cost = profile("hsv-det-n", size=WIDE)
    c5, n5, c4, n4, k = 256, 34 * 60, 128, 68 * 120, 512
    blocks = [n * c * c + c**3 + 4 * k * c * c + 2 * k * k * c for c, n in ((c5, n5), (c4, n4))]
    # Their value and output projections of selected tokens are two of the four; W_v W_o is c^3.
    assert cost.gflops_executed - profile("yolov8-n", size=WIDE).gflops == pytest.approx(
        2 * sum(blocks) / 1e9
    )


@pytest.mark.parametrize(
    "name", ["yolov8-n", "hsv-det-n", "hsv-det-n+", *(name for name in MODELS if name.endswith("-tiny"))]
)
def test_parts_add_up_to_the_whole(name):
    cost = profile(name, size=(64, 96), classes=3)
    assert sum(part.gflops for part in cost.parts) == pytest.approx(cost.gflops)
    assert sum(part.parameters for part in cost.parts) == cost.parameters
    assert json.loads(json.dumps(cost.to_json()))["parts"][0]["name"] == cost.parts[0].name
    assert name in cost.table() and cost.parts[-1].name in cost.table()
    assert cost.memory > 0 and cost.memory_half > 0


def test_attention_blocks_are_parts_of_their_own_with_their_share():
    cost = profile("hsv-det-n+", size=(128, 128))
    blocks = [part for part in cost.parts if part.attention]
    assert [part.name for part in blocks] == ["sparse_global.P5", "sparse_global.P4"]
    assert cost.attention_share == pytest.approx(sum(part.gflops for part in blocks) / cost.gflops)
    assert {"backbone", "neck", "head"} < {part.name for part in cost.parts}
    assert profile("yolov8-n", size=(128, 128)).attention_share == 0


@pytest.mark.parametrize("options", [{}, {"heads": 2, "registers": 3}, {"dense_path": "identity"}])
def test_a_checkpoint_is_profiled_from_its_header(options, tmp_path):
    detector = hsvdet.create("hsv-det-n", ["a", "b"], size=(96, 64), options={"k": 3, **options})
    detector.save(tmp_path / "a.safetensors")
    cost = profile(tmp_path / "a.safetensors")
    assert (cost.size, cost.classes) == ((96, 64), 2)
    assert cost.parameters == sum(p.numel() for p in detector.net.parameters())
    assert cost.gflops_folded <= cost.gflops


def test_the_linear_control_folds_away():
    detector = hsvdet.create("hsv-det-n", ["a"], options={"dense_path": "linear_control"})
    block = detector.net.sparse_global["P5"]
    cost = block_cost(block, 2, 3)
    assert cost.folded == 0 and cost.parameters_saved == sum(p.numel() for p in block.parameters())


def test_a_size_off_the_stride_is_refused_with_the_nearest():
    with pytest.raises(ConfigError, match="multiples of 32, got 1080x1920. Nearest: 1088x1920"):
        profile("yolov8-n", size=(1080, 1920))
    with pytest.raises(ConfigError, match="classes expects"):
        profile("yolov8-n", classes=0)
    with pytest.raises(ConfigError, match="Did you mean yolov8-n"):
        profile("yolov8n")
    with pytest.raises(CheckpointError, match="no such"):
        profile("absent.safetensors")


def test_half_precision_halves_the_memory():
    cost = profile("hsv-det-n", size=WIDE)
    assert cost.memory > 4 * 4 * 16 * 544 * 960  # the stem's answer and what is made from it
    assert 0.5 <= cost.memory_half / cost.memory < 0.65  # casts of weights come on top of the half


def test_peak_memory_counts_what_lives_together():
    class Net(nn.Module):
        def forward(self, image):
            wide = torch.cat([image, image, image], 1)  # 3 + the image
            small = wide.sum(1, keepdim=True)
            del wide
            return torch.cat([small] * 6, 1)  # 1/3 + 2 + the image

    image = torch.empty(1, 3, 10, 10, device="meta")
    assert peak_memory(Net(), image) == 4 * (300 + 900 + 100)
    assert peak_memory(Net(), image.half()) == 2 * (300 + 900 + 100)


BLOCKS = [
    {},
    {"heads": 2, "registers": 3},
    {"dense_path": "identity"},
    {"dense_path": "identity", "heads": 2, "gate": "channel"},
    {"selector": "learned", "context": 2},
    {"dense_path": "identity", "selector": "all"},
]


@pytest.mark.parametrize("options", BLOCKS, ids=str)
def test_a_folded_block_costs_what_is_said(options):
    torch.manual_seed(0)
    block = SparseGlobal(16, 32, SparseGlobalConfig(k=3, **options))
    cost = block_cost(block, 4, 5)
    folded = fold_block(copy.deepcopy(block).double()).block.to("meta").requires_grad_(False)
    saved = sum(p.numel() for p in block.parameters()) - sum(p.numel() for p in folded.parameters())
    assert saved == cost.parameters_saved
    with FlopCounterMode(display=False) as counter:
        folded(torch.empty(1, 16, 4, 5, dtype=torch.float64, device="meta"))
    assert counter.get_total_flops() == 2 * cost.folded


def test_the_catalogue_is_that_of_the_models():
    """Without building any: whatever changes in a model changes its fingerprint."""
    expected = {
        name: (fingerprint(entry), entry.family, entry.preprocess.size, entry.note, entry.licence)
        for name, entry in MODELS.items()
    }
    found = {name: (row.of, row.family, row.size, row.note, row.licence) for name, row in ROWS.items()}
    assert list(found) == list(expected) and found == expected, REGENERATE
    first = model_table()[0]
    assert (first.name, first.parameters, first.gflops) == ("yolov8-n", 3_157_184, 8.742912)


@pytest.mark.parametrize("name", [name for name in MODELS if name.endswith(("-tiny", "-n", "-n+"))])
def test_the_costs_in_the_catalogue_are_counted(name):
    """Of every class of network; other rows differ in numbers only, and their numbers are in the fingerprint."""
    assert catalogue_row(MODELS[name]) == ROWS[name], REGENERATE


def test_the_document_shows_the_table():
    root = Path(__file__).parent.parent
    spec = importlib.util.spec_from_file_location("zoo", root / "benchmarks" / "zoo.py")
    zoo = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(zoo)
    written = (root / "docs" / "zoo.md").read_text()
    assert zoo.family_tables() in written and zoo.HSV_DET in written and zoo.RT_DETR_NOTE in written, (
        REGENERATE
    )
    assert zoo.PUBLISHED.keys() < MODELS.keys()
