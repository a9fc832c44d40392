import logging
import os
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from hsvdet.data.augmentation import Augmentation
from hsvdet.data.dataset import DetectionData, Record
from hsvdet.data.loader import (
    EvaluationLoader,
    EvaluationSet,
    Key,
    TrainingBatches,
    TrainingLoader,
    TrainingSet,
    subset,
)
from hsvdet.devices import move
from hsvdet.errors import ConfigError, DataError
from hsvdet.preprocess import Preprocess

PREPROCESS = Preprocess(size=(64, 96))
STRONG = Augmentation(
    mosaic=0.7, mixup=0.3, copy_paste=0.3, scale=0.5, translate=0.1, hue=0.02, saturation=0.5, flip=0.5
)


def record(root, i, size=None, boxes=None, suffix="png"):
    height, width = size or (40 + 4 * (i % 3), 60)
    rng = np.random.default_rng(i)
    path = root / f"image {i}.{suffix}"
    Image.fromarray(rng.integers(0, 255, (height, width, 3), dtype=np.uint8)).save(path)
    if boxes is None:
        first = rng.uniform(0, 20, (i % 4, 2))
        boxes = np.concatenate([first, first + rng.uniform(8, 20, (i % 4, 2))], 1)
    boxes = np.asarray(boxes, np.float32).reshape(-1, 4)
    count = len(boxes)
    labels = np.full(count, i % 3, np.int64)
    crowd, area = np.zeros(count, bool), np.ones(count, np.float32)
    return Record(i, str(path), (height, width), boxes, labels, crowd, area)


def make(root, records):
    return DetectionData(records, ("a", "b", "c"), (1, 2, 3), root, "train", "coco")


@pytest.fixture
def data(tmp_path):
    return make(tmp_path, [record(tmp_path, i) for i in range(13)])


def training(data, batch=4, augmentation=STRONG, seed=5, cache=None, **options):
    return TrainingLoader(
        TrainingSet(data, PREPROCESS, lambda epoch: augmentation, seed, cache=cache), batch, **options
    )


def assert_same(batches, others):
    assert len(batches) == len(others)
    for one, other in zip(batches, others, strict=True):
        assert torch.equal(one.images, other.images)
        assert one.infos == other.infos
        for a, b in zip(one.targets, other.targets, strict=True):
            assert torch.equal(a.labels, b.labels) and torch.equal(a.boxes, b.boxes)


def ids(batches):
    return [info.id for batch in batches for info in batch.infos]


def test_workers_and_cache_change_nothing_and_epochs_differ(data):
    here, there = training(data), training(data, workers=2, cache="ram")
    for epoch in range(2):
        expected = list(here)
        assert_same(list(there), expected)
        assert sorted(ids(expected)) == list(range(13))
        assert here.epoch == there.epoch == epoch
    first_again = training(data)
    first_again.set_epoch(1)
    assert_same(list(first_again), expected)
    assert ids(list(training(data))) != ids(expected)


def test_resumed_from_a_batch_the_rest_is_the_same(data):
    whole = list(training(data))
    interrupted = training(data, workers=1)
    batches = iter(interrupted)
    taken = [next(batches), next(batches)]
    state = interrupted.state_dict()
    assert state == {"epoch": 0, "batches": 2} and len(interrupted) == 4
    resumed = training(data)
    resumed.load_state_dict(state)
    resumed.set_epoch(0)  # as an engine does before each epoch; the position must survive
    assert_same(taken + list(resumed), whole)
    assert resumed.state_dict() == {"epoch": 0, "batches": 4}
    resumed.set_epoch(1)
    assert len(list(resumed)) == 4 and resumed.state_dict() == {"epoch": 1, "batches": 4}
    at_the_end = training(data)
    at_the_end.load_state_dict({"epoch": 0, "batches": 4})
    assert len(list(at_the_end)) == 4 and at_the_end.epoch == 1


def test_the_ranks_together_train_on_the_batches_of_a_single_process(data):
    single = list(training(data))
    ranks = [list(training(data, rank=rank, world=2)) for rank in range(2)]
    for number, batch in enumerate(single[:-1]):
        assert sorted(ids([batch])) == sorted(ids(rank[number] for rank in ranks))
        images = torch.cat([rank[number].images for rank in ranks])
        order = [ids([rank[number] for rank in ranks]).index(i) for i in ids([batch])]
        assert torch.equal(images[order], batch.images)
    # The last batch has one image, there are two ranks: both train on it.
    assert ids([single[-1]]) * 2 == ids(rank[-1] for rank in ranks)


@pytest.mark.parametrize(
    ("images", "batch", "drop_last", "expected"),
    [
        (10, 4, False, [4, 4, 2]),
        (10, 4, True, [4, 4]),
        (3, 8, False, [3]),
        (3, 8, True, [3]),
        (8, 4, False, [4, 4]),
    ],
)
def test_last_batches_and_data_smaller_than_a_batch(images, batch, drop_last, expected):
    batches = TrainingBatches(images, batch, (64, 64), drop_last=drop_last)
    assert [len(keys) for keys in batches] == expected and len(batches) == len(expected)
    drawn = [key.number for keys in batches for key in keys]
    assert len(set(drawn)) == len(drawn)


def test_a_batch_that_the_ranks_cannot_share_is_refused():
    with pytest.raises(ConfigError, match="multiple of the number of processes"):
        TrainingBatches(10, 5, (64, 64), world=2)


def test_all_images_of_a_batch_have_the_size_drawn_for_it(data):
    loader = training(data, batch=3, augmentation=Augmentation(mosaic=0.5, multi_scale=0.5))
    sizes = [tuple(batch.images.shape[2:]) for epoch in range(4) for batch in loader]
    assert len(set(sizes)) > 2
    assert all(h % 32 == 0 and w % 32 == 0 and 32 <= h <= 96 and 32 <= w <= 160 for h, w in sizes)
    again = training(data, batch=3, augmentation=Augmentation(multi_scale=0.5), rank=0, world=3)
    assert sizes[:5] == [tuple(batch.images.shape[2:]) for batch in again]


def test_a_fraction_is_a_fixed_random_part(data):
    half = [r.id for r in subset(data, 0.5, seed=1).records]
    assert half == [r.id for r in subset(data, 0.5, seed=1).records] == sorted(half) and len(half) == 6
    assert half != [r.id for r in subset(data, 0.5, seed=2).records]
    assert {r.id for r in subset(data, 0.2, seed=1).records} < set(half)
    assert len(subset(data, 1e-9)) == 1
    with pytest.raises(ConfigError, match="fraction"):
        subset(data, 0)


def test_an_unreadable_image_is_named_once_and_replaced_by_another(data, caplog):
    broken = data.records[4].path
    with open(broken, "wb") as file:
        file.write(b"\xff\xd8 no image")
    loader = training(data)
    with caplog.at_level(logging.WARNING, "hsvdet"):
        epochs = [list(loader), list(loader)]
    assert [r.message for r in caplog.records if broken in r.message] == [m.message for m in caplog.records]
    assert len(caplog.records) == 1
    for batches in epochs:
        assert len(ids(batches)) == 13 and 4 not in ids(batches)
    assert_same(epochs[0], list(training(data)))  # replaced by the same image every time


def test_when_no_image_can_be_read_it_says_so(data):
    for r in data.records:
        os.remove(r.path)
    with pytest.raises(DataError, match="None of .* images tried can be read"):
        TrainingSet(data, PREPROCESS, lambda epoch: STRONG)[Key(0, 0, (64, 96))]
    with pytest.raises(DataError, match="no images"):
        TrainingSet(make(data.root, []), PREPROCESS, lambda epoch: STRONG)


def test_what_one_worker_decoded_every_process_has(data):
    loader = training(data, augmentation=Augmentation(), cache="ram", workers=2)
    expected = list(loader)
    for r in data.records:
        os.remove(r.path)
    again = TrainingLoader(loader.dataset, 4)
    assert_same(list(again), expected)


def test_the_cache_keeps_no_more_than_its_budget(data):
    dataset = TrainingSet(data, PREPROCESS, lambda epoch: Augmentation(), cache="ram", cache_gibibytes=2e-5)
    for index in range(13):
        dataset[Key(0, index, (64, 96))]
    for r in data.records:
        os.remove(r.path)
    kept = [index for index in range(13) if dataset[Key(0, index, (64, 96))].info.id == index]
    assert kept == [0, 1]  # 21 kB hold two images of 60 x 44


@pytest.mark.parametrize("loader", ["training", "evaluation"])
def test_crowd_regions_are_regions_to_ignore(tmp_path, loader):
    boxes = [[10, 10, 30, 30], [0, 0, 60, 20]]
    crowded = record(tmp_path, 1, size=(40, 60), boxes=boxes)._replace(crowd=np.array([False, True]))
    records = [crowded, record(tmp_path, 2, size=(40, 60))]
    if loader == "training":
        (batch,) = training(make(tmp_path, records), augmentation=Augmentation())
    else:
        (batch,) = EvaluationLoader(EvaluationSet(make(tmp_path, records), PREPROCESS), 2, workers=1)
    target = batch.targets[ids([batch]).index(1)]
    assert target.labels.tolist() == [1]
    torch.testing.assert_close(target.boxes, torch.tensor([[1 / 3, 0.5, 1 / 3, 0.5]]))
    torch.testing.assert_close(target.ignored, torch.tensor([[0.5, 0.25, 1.0, 0.5]]))
    assert batch.targets[ids([batch]).index(2)].ignored is None
    moved = move(batch, torch.device("cpu"), PREPROCESS).targets[ids([batch]).index(1)]
    assert torch.equal(moved.ignored, target.ignored)


def test_images_are_mixed_with_those_in_which_the_same_classes_are_labelled(data):
    masks = {i: np.array([i % 2 == 0, i % 2 == 1, True]) for i in range(12)}  # the last: all are
    records = [record._replace(labelled=masks.get(record.id)) for record in data.records]
    for batch in training(make(data.root, records), augmentation=replace(STRONG, mosaic=1.0, mixup=0.5)):
        for info, target in zip(batch.infos, batch.targets, strict=True):
            mask = masks.get(info.id)
            assert (target.labelled is None) == (mask is None)
            assert mask is None or target.labelled.tolist() == mask.tolist()


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_boxes_stay_on_images_read_at_a_part_of_their_size(tmp_path, suffix):
    pixels = np.zeros((701, 1003, 3), np.uint8)
    pixels[203:502, 301:800] = 255
    Image.fromarray(pixels).save(tmp_path / f"large.{suffix}", quality=95)
    large = Record(
        "large", str(tmp_path / f"large.{suffix}"), (701, 1003),
        np.array([[301, 203, 800, 502]], np.float32), np.array([1]), np.array([False]), np.array([1.0]),
    )  # fmt: skip
    dataset = TrainingSet(make(tmp_path, [large]), PREPROCESS, lambda epoch: Augmentation(scale=0.2))
    picture = dataset._pictures.read(0)
    assert picture.shrink == 4 and picture.image.shape == (3, 176, 251)
    sample = dataset[Key(0, 0, (64, 96))]
    assert sample.info.size == (701, 1003)
    bright = torch.nonzero((sample.image[0] > 180) & (sample.image[2] > 180))
    shown = torch.cat([bright.amin(0).flip(0), bright.amax(0).flip(0) + 1])
    assert (sample.boxes[0] - shown).abs().max() <= 1


def test_loading_draws_nothing_from_the_global_generators(data):
    torch.manual_seed(0)
    np.random.seed(0)
    before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].copy()
    for workers in (0, 1):
        list(training(data, workers=workers))
    assert torch.equal(torch.get_rng_state(), before)
    assert (np.random.get_state()[1] == numpy_before).all()


def test_an_evaluated_image_does_not_depend_on_its_batch(tmp_path):
    sizes = [(40, 60), (60, 40), (40, 60), (30, 90), (60, 40), (40, 60), (41, 60)]
    data = make(tmp_path, [record(tmp_path, i, size) for i, size in enumerate(sizes)])
    dataset = EvaluationSet(data, PREPROCESS)
    alone = {batch.infos[0].id: batch for batch in EvaluationLoader(dataset, 1)}
    together = list(EvaluationLoader(dataset, 3, workers=1))
    assert sorted(ids(together)) == list(range(7)) and len(together) < 7
    for batch in together:
        for i, info in enumerate(batch.infos):
            assert torch.equal(batch.images[i], alone[info.id].images[0])
            assert torch.equal(batch.targets[i].boxes, alone[info.id].targets[0].boxes)
    shared = [ids(EvaluationLoader(dataset, 2, rank=rank, world=2)) for rank in range(2)]
    assert sorted(shared[0] + shared[1]) == list(range(7))


def test_an_unreadable_image_of_an_evaluation_counts_as_empty(data, caplog):
    os.remove(data.records[3].path)
    loader = EvaluationLoader(EvaluationSet(data, PREPROCESS), 4)
    with caplog.at_level(logging.WARNING, "hsvdet"):
        for _ in range(2):
            batches = list(loader)
    assert sorted(ids(batches)) == list(range(13))
    assert len(caplog.records) == 1 and data.records[3].path in caplog.records[0].message
