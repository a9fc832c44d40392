"""Weights on the Hugging Face hub, without one: from huggingface_hub's own cache on disk, as it lies offline."""

import io
import json
from inspect import getmodule
from pathlib import Path

import huggingface_hub
import pytest
import torch
from huggingface_hub import constants, errors
from PIL import Image

import hsvdet
from hsvdet.cli import main
from hsvdet.conversion.coco_classes import COCO_LABELS
from hsvdet.conversion.foreign import convert
from hsvdet.errors import CheckpointError
from hsvdet.models import MODELS
from hsvdet.training.warm_start import warm_start
from hsvdet.weights import PUBLISHED, PublishedWeights
from parity.filler import fill

KEYS = json.loads((Path(__file__).parent / "golden" / "yolov8_n.json").read_text())["keys"]
OLD, NEW = "0" * 40, "a1" * 20


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """The folder of a commit of owner/name in an offline cache, made the newest of `branch`."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))

    def commit(repo, commit=NEW, branch="main"):
        root = tmp_path / "cache" / f"models--{repo.replace('/', '--')}"
        folder, ref = root / "snapshots" / commit, root / "refs" / branch
        folder.mkdir(parents=True, exist_ok=True)
        ref.parent.mkdir(parents=True, exist_ok=True)
        ref.write_text(commit)
        return folder

    return commit


def small(seed=0, **options):
    torch.manual_seed(seed)
    return hsvdet.create("detr-tiny", ["car", "person"], options={"queries": 7, **options})


def published(folder, name="pytorch_model.bin"):
    torch.save({key: fill(key, shape) for key, shape in KEYS}, folder / name)
    (folder / "config.json").write_text("{}")


def same(a, b):
    a, b = a.net.state_dict(), b.net.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


@pytest.mark.parametrize(
    "address", ["hf://me/street", Path("hf://me/street"), "hf://me/street/best.safetensors"]
)
def test_our_checkpoint_is_loaded_from_the_cache(hub, address):
    detector = small()
    detector.save(hub("me/street") / "best.safetensors")
    loaded = hsvdet.load(address)
    assert same(loaded, detector) and loaded.labels == detector.labels


def test_a_checkpoint_on_the_hub_is_profiled_from_its_header(hub):
    small().save(hub("me/street") / "best.safetensors")
    assert hsvdet.profile("hf://me/street", size=(64, 64)).classes == 2
    published(hub("them/yolo"))
    with pytest.raises(CheckpointError, match="hf://them/yolo: .* to be converted first"):
        hsvdet.profile("hf://them/yolo")


def test_a_revision_is_a_branch_or_a_commit(hub):
    first, second = small(0), small(1)
    first.save(hub("me/street", OLD, "v1.0") / "best.safetensors")
    second.save(hub("me/street", NEW, "main") / "best.safetensors")
    assert same(hsvdet.load("hf://me/street@v1.0"), first)
    assert same(hsvdet.load(f"hf://me/street@{OLD}"), first)
    assert same(hsvdet.load("hf://me/street@v1.0/best.safetensors"), first)
    assert same(hsvdet.load("hf://me/street"), second)


def test_published_weights_are_converted_on_the_way(hub, tmp_path):
    folder = hub("them/yolo")
    published(folder)
    loaded = hsvdet.load("hf://them/yolo")
    assert loaded.name == "yolov8-n" and loaded.licence == "AGPL-3.0"
    assert loaded.source.startswith(f"hf://them/yolo@{NEW} (sha256 ")
    report = convert("hf://them/yolo", tmp_path / "out.safetensors")
    assert report.source == loaded.source
    assert same(hsvdet.load(tmp_path / "out.safetensors"), loaded)
    assert same(loaded, hsvdet.load("hf://them/yolo/pytorch_model.bin"))
    detector = hsvdet.create("hsv-det-n", loaded.labels)
    assert warm_start(detector, "hf://them/yolo").transferred == len(loaded.net.state_dict())


def test_a_name_stands_for_its_published_weights(hub, tmp_path, monkeypatch, capfd):
    monkeypatch.setitem(PUBLISHED, "yolov8-n", PublishedWeights("hf://them/yolo", 37.3, "AGPL-3.0"))
    with pytest.raises(CheckpointError, match="hf://them/yolo: cannot be fetched.*hf download them/yolo"):
        hsvdet.load("yolov8-n")
    published(hub("them/yolo"))
    assert same(hsvdet.load("yolov8-n"), hsvdet.load("hf://them/yolo"))
    detector = hsvdet.create("hsv-det-n", COCO_LABELS)
    assert warm_start(detector, "yolov8-n").transferred == len(hsvdet.load("yolov8-n").net.state_dict())
    picture = tmp_path / "a.png"
    Image.new("RGB", (64, 64)).save(picture)
    assert main(["predict", "yolov8-n", str(picture), "--size", "64", "--out", str(tmp_path / "out")]) == 0
    assert "its weights are hf://them/yolo (AGPL-3.0; COCO AP 37.3, as published)" in capfd.readouterr().err
    with pytest.raises(CheckpointError, match="yolov8-s is a model, not weights.*rt-detr-r18"):
        hsvdet.load("yolov8-s")
    assert {name for name in PUBLISHED if name not in MODELS} == set()


@pytest.mark.parametrize("answer, code", [("n", 2), ("y", 2), ("", 130)])
def test_in_a_terminal_nothing_is_fetched_unasked(hub, tmp_path, monkeypatch, capfd, answer, code):
    monkeypatch.setattr("sys.stdin", Terminal(f"{answer}\n" if answer else ""))
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    picture = tmp_path / "a.png"
    Image.new("RGB", (64, 64)).save(picture)
    assert main(["predict", "rt-detr-r18", str(picture), "--out", str(tmp_path / "out")]) == code
    told = capfd.readouterr().err
    assert "Fetch hf://PekingU/rtdetr_r18vd (Apache-2.0; COCO AP 46.5, as published)?" in told
    assert ("cannot be fetched without a connection" in told) == (answer == "y")
    assert ("nothing was fetched" in told) == (answer == "n")
    assert "unexpected" not in told


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_of_several_checkpoints_one_is_named(hub):
    for name in ("best", "last"):
        small().save(hub("me/street") / f"{name}.safetensors")
    with pytest.raises(
        CheckpointError, match=r"best.safetensors, last.safetensors\)\. Name one: hf://me/street/best"
    ):
        hsvdet.load("hf://me/street")
    assert hsvdet.load("hf://me/street/last.safetensors").name == "detr-tiny"


def test_a_repository_without_weights_says_what_was_expected(hub):
    (hub("me/empty") / "config.json").write_text("{}")
    with pytest.raises(
        CheckpointError, match="hf://me/empty: expected an hsvdet checkpoint, model.safetensors or"
    ):
        hsvdet.load("hf://me/empty")


def test_what_needs_no_conversion_is_not_converted(hub, tmp_path):
    small().save(hub("me/street") / "best.safetensors")
    with pytest.raises(CheckpointError, match="already an hsvdet checkpoint"):
        convert("hf://me/street", tmp_path / "out.safetensors")


@pytest.mark.parametrize(
    "address", ["hf://me/absent", "hf://me/absent@main", "hf://me/absent/best.safetensors"]
)
def test_offline_without_a_copy_says_what_to_do(hub, address):
    with pytest.raises(
        CheckpointError, match=f"^{address}: cannot be fetched without a connection.*hf download me/"
    ):
        hsvdet.load(address)


@pytest.mark.parametrize("address", ["hf://street", "hf://", "hf://me/street@", "hf://me/a b"])
def test_an_address_of_another_form_is_refused(address):
    with pytest.raises(CheckpointError, match="expected hf://owner/name"):
        hsvdet.load(address)


# The HTTP library is the choice of huggingface_hub.
ANSWER = errors.Response(404, request=getmodule(errors.Response).Request("GET", "https://example.org"))


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (errors.RepositoryNotFoundError("404", response=ANSWER), "no such repository, or a private one"),
        (errors.GatedRepoError("403", response=ANSWER), "is gated. Ask for access"),
        (errors.RevisionNotFoundError("404", response=ANSWER), "has no revision v9"),
        (
            errors.HfHubHTTPError("500 Server Error\nmore", response=ANSWER),
            "cannot be fetched: 500 Server Error",
        ),
        (OSError(28, "No space left on device"), "No space left on device"),
        (errors.HTTPError("the line broke"), "cannot be fetched: the line broke"),
        (ConnectionError("refused"), "cannot be fetched without a connection"),
    ],
)
def test_what_the_hub_refuses_is_said_in_one_line(monkeypatch, error, message):
    def refuse(*args, **options):
        raise error

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    with pytest.raises(CheckpointError, match=message) as raised:
        hsvdet.load("hf://me/street@v9")
    assert "\n" not in str(raised.value) and "hf://me/street@v9: " in str(raised.value)
