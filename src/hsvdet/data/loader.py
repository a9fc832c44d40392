"""Data sets to batches. All randomness is a function of (seed, epoch, index): never of a worker's state, of
the process or of what was loaded before, so that a training resumed or spread over more workers or ranks
sees exactly the same images.
"""

from __future__ import annotations

import math
import signal
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.random import SeedSequence
from torch.utils.data import DataLoader, Dataset, Sampler

from ..errors import ConfigError, DataError
from ..preprocess import Preprocess
from ..structures import Batch, ImageInfo, Sample
from .augmentation import Augmentation
from .batch import normalised, stack
from .dataset import DetectionData, Record
from .picture_cache import GIBIBYTE, Picture, Pictures
from .transforms import Letterbox

_ATTEMPTS = 100  # images tried in place of an unreadable one before giving up

# Independent random streams of one seed (numpy's spawn keys); samples use the seed sequence without a key.
_ORDER, _SIZE, _SUBSET = (0,), (1,), (2,)


class Key(NamedTuple):
    """Names one training sample: its epoch, the number of its image, and the (height, width) of its batch."""

    epoch: int
    number: int
    size: tuple[int, int]


def subset(data: DetectionData, fraction: float, seed: int = 0) -> DetectionData:
    """A random share of the images (at least one), the same for the same seed, in their old order.

    fraction: in (0, 1]. A smaller fraction is a part of a larger one of the same seed. Raises ConfigError.
    """
    if not 0 < fraction <= 1:
        raise ConfigError(f"fraction expects a number above 0 and up to 1, got {fraction}.")
    order = np.random.default_rng(SeedSequence(seed, spawn_key=_SUBSET)).permutation(len(data))
    chosen = np.sort(order[: max(1, round(fraction * len(data)))])
    return replace(data, records=[data.records[i] for i in chosen])


class TrainingSet(Dataset[Sample]):
    """Augmented samples by `Key`: `dataset[Key(epoch, number, size)]`.

    augmentation_at: the augmentation of an epoch (counted from 0); must be a pure function. Crowd regions are
    regions to ignore. Images are mixed with those in which the same classes are labelled, for in the mixture only
    what is labelled in all of them would be. An image that cannot be read is named in one warning and replaced,
    wherever it would have appeared, by another drawn from the same random stream.
    cache: "ram" keeps decoded images, up to `cache_gibibytes`, once for all (forked) workers of this process.
    Images much larger than the canvas are read at 1/2, 1/4 or 1/8 of their size; boxes follow exactly.

    Raises DataError where there is no image at all, or none that can be read.
    """

    def __init__(
        self,
        data: DetectionData,
        preprocess: Preprocess,
        augmentation_at: Callable[[int], Augmentation],
        seed: int = 0,
        *,
        cache: Literal["ram"] | None = None,
        cache_gibibytes: float = 4.0,
    ):
        if not len(data):
            raise DataError(f"{data.root} has no images in split {data.split!r}. Nothing to train on.")
        if cache not in (None, "ram"):
            raise ConfigError(f"cache expects 'ram' or None, got {cache!r}.")
        self.data = data
        self.preprocess = preprocess
        self.augmentation_at = augmentation_at
        self.seed = seed
        self._alike = _labelled_alike(data.records)
        self._pictures = Pictures(
            data.records, preprocess, int(cache_gibibytes * GIBIBYTE) if cache == "ram" else 0
        )

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, key: Key) -> Sample:
        rng = np.random.default_rng(SeedSequence((self.seed, key.epoch, key.number)))
        preprocess = self.preprocess.resized(key.size)

        def another() -> Sample:
            return self._read(self._another(key.number, rng), rng)

        return self.augmentation_at(key.epoch)(self._read(key.number, rng), another, preprocess, rng)

    def _read(self, index: int, rng: np.random.Generator) -> Sample:
        for _ in range(_ATTEMPTS):
            try:
                picture = self._pictures.read(index)
            except DataError as error:
                self._pictures.warn(index, f"{error} Another image takes its place.")
                index = self._another(index, rng)
                continue
            return _sample(self.data.records[index], picture)
        raise DataError(f"None of {_ATTEMPTS} images tried can be read; the last: {self._path(index)}.")

    def _another(self, index: int, rng: np.random.Generator) -> int:
        alike = self._alike[index]
        return int(alike[rng.integers(len(alike))])

    def _path(self, index: int) -> str:
        return self.data.records[index].path


class EvaluationSet(Dataset[Sample]):
    """Samples as `preprocess` places them, by index, on the smallest canvas its stride allows (`minimal`).

    canvases: (height, width) by index, known before any picture is decoded, for batches of one canvas each.
    Evaluation takes its truth from `data.records`, not from the samples. An image that
    cannot be read is named in one warning and becomes an empty grey canvas: its objects count as missed.
    """

    def __init__(self, data: DetectionData, preprocess: Preprocess, *, minimal: bool = True):
        self.data = data
        self.preprocess = preprocess
        self._letterbox = Letterbox(preprocess, minimal)
        self._pictures = Pictures(data.records, preprocess)
        self.canvases = [preprocess.geometry(*record.size, minimal)[0] for record in data.records]

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> Sample:
        record = self.data.records[index]
        try:
            picture = self._pictures.read(index, whole=True)
        except DataError as error:
            self._pictures.warn(index, f"{error} It counts as an image in which nothing was found.")
            image = torch.full((3, *self.canvases[index]), self.preprocess.fill, dtype=torch.uint8)
            return Sample(
                image,
                torch.zeros(0, 4),
                torch.zeros(0, dtype=torch.int64),
                ImageInfo(record.id, record.path, record.size),
            )
        return self._letterbox(_sample(record, picture))


class TrainingBatches(Sampler[list[Key]]):
    """The keys of each batch of an epoch, for one rank. Holds the position: `epoch` and `done` batches of it.

    batch: images per step over all ranks; a multiple of `world`. Rank r takes the images at r::world of each
    global batch, so that any number of ranks trains on the batches that a single process would.
    Every image comes once per epoch, in an order of (seed, epoch). The last batch is smaller where the number
    of images asks for it, so a data set of fewer images than one batch is one small batch; with drop_last it
    is left out, unless it is the only one. A last batch of fewer images than ranks repeats its own, so that
    no rank goes without.
    multi_scale_at: largest relative change of the size in an epoch; the size is drawn per batch, in multiples
    of `stride`, as a function of (seed, epoch, batch).
    """

    def __init__(
        self,
        images: int,
        batch: int,
        size: tuple[int, int],
        *,
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
        drop_last: bool = False,
        stride: int = 32,
        multi_scale_at: Callable[[int], float] = lambda epoch: 0.0,
    ):
        if batch < 1 or batch % world:
            raise ConfigError(f"batch expects a multiple of the number of processes ({world}), got {batch}.")
        self.images, self.batch, self.size = images, batch, size
        self.seed, self.rank, self.world = seed, rank, world
        self.drop_last, self.stride, self.multi_scale_at = drop_last, stride, multi_scale_at
        self.epoch = 0
        self.done = 0

    def __len__(self) -> int:
        """Batches of a whole epoch, the same for every rank."""
        whole = self.images // self.batch
        return max(1, whole) if self.drop_last else math.ceil(self.images / self.batch)

    @property
    def per_epoch(self) -> int:
        """Images of a whole epoch, over all ranks."""
        return min(self.images, len(self) * self.batch)

    def __iter__(self) -> Iterator[list[Key]]:
        """From the present position to the end of the epoch. Does not move the position."""
        epoch = self.epoch
        order = np.random.default_rng(SeedSequence((self.seed, epoch), spawn_key=_ORDER))
        order = order.permutation(self.images)
        for number in range(self.done, len(self)):
            chosen = order[number * self.batch : (number + 1) * self.batch]
            if len(chosen) < self.world:
                chosen = np.resize(chosen, self.world)
            size = self._size(epoch, number)
            yield [Key(epoch, int(index), size) for index in chosen[self.rank :: self.world]]

    def set_epoch(self, epoch: int) -> None:
        """To the start of an epoch; the position is kept if that epoch is under way."""
        if epoch != self.epoch:
            self.epoch, self.done = epoch, 0

    def _size(self, epoch: int, number: int) -> tuple[int, int]:
        change = self.multi_scale_at(epoch)
        if not change:
            return self.size
        rng = np.random.default_rng(SeedSequence((self.seed, epoch, number), spawn_key=_SIZE))
        factor = rng.uniform(1 - change, 1 + change)
        height, width = (max(1, round(side * factor / self.stride)) * self.stride for side in self.size)
        return height, width


class TrainingLoader:
    """Batches of a `TrainingSet`, resumable: `state_dict()` is {"epoch": e, "batches": batches given of it}.

    Iterating gives the rest of the epoch; after its end, the next epoch. `set_epoch` (or `sampler.set_epoch`,
    which Lightning calls) goes to the start of another epoch. A batch counts as soon as it is handed out.
    len() is always the batches of a whole epoch. batch, rank, world, drop_last: see `TrainingBatches`.
    workers: processes that load, each with one thread; they stay over epochs. 0 loads in this process.
    normalise: False leaves images uint8 where the batch needs no padding, for `batch.normalised` on the device.
    """

    def __init__(
        self,
        dataset: TrainingSet,
        batch: int,
        *,
        rank: int = 0,
        world: int = 1,
        workers: int = 0,
        drop_last: bool = False,
        pin_memory: bool = False,
        normalise: bool = True,
    ):
        self.dataset = dataset
        self.normalise = normalise
        self.sampler = TrainingBatches(
            len(dataset),
            batch,
            dataset.preprocess.size,
            seed=dataset.seed,
            rank=rank,
            world=world,
            drop_last=drop_last,
            stride=dataset.preprocess.stride,
            multi_scale_at=lambda epoch: dataset.augmentation_at(epoch).multi_scale,
        )
        self._batches = _data_loader(dataset, self.sampler, dataset.preprocess, workers, pin_memory)

    def __len__(self) -> int:
        return len(self.sampler)

    def __iter__(self) -> Iterator[Batch]:
        if self.sampler.done >= len(self):
            self.sampler.set_epoch(self.sampler.epoch + 1)
        self.dataset.augmentation_at(self.sampler.epoch).check(self.dataset.preprocess)
        for batch in self._batches:
            self.sampler.done += 1
            yield normalised(batch, self.dataset.preprocess) if self.normalise else batch

    @property
    def epoch(self) -> int:
        return self.sampler.epoch

    def set_epoch(self, epoch: int) -> None:
        self.sampler.set_epoch(epoch)

    def state_dict(self) -> dict[str, int]:
        return {"epoch": self.sampler.epoch, "batches": self.sampler.done}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.sampler.epoch, self.sampler.done = state["epoch"], state["batches"]


class EvaluationBatches(Sampler[list[int]]):
    """Indices in batches of one canvas each, so that no image is padded for the sake of its neighbours.

    Canvases come in the order of their first image, images in theirs. Rank r takes every world-th batch from
    the r-th on: ranks may get one batch more or less, none is repeated.
    """

    def __init__(self, canvases: Sequence[tuple[int, int]], batch: int, *, rank: int = 0, world: int = 1):
        if batch < 1:
            raise ConfigError(f"batch expects a number of images from 1, got {batch}.")
        groups = defaultdict(list)
        for index, canvas in enumerate(canvases):
            groups[canvas].append(index)
        batches = [group[i : i + batch] for group in groups.values() for i in range(0, len(group), batch)]
        self.batches = batches[rank::world]

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self.batches)


class EvaluationLoader:
    """Batches of an `EvaluationSet`, each of one canvas. batch: images per process. Others: `TrainingLoader`."""

    def __init__(
        self,
        dataset: EvaluationSet,
        batch: int,
        *,
        rank: int = 0,
        world: int = 1,
        workers: int = 0,
        pin_memory: bool = False,
        normalise: bool = True,
    ):
        self.dataset = dataset
        self.normalise = normalise
        batches = EvaluationBatches(dataset.canvases, batch, rank=rank, world=world)
        self.images = sum(map(len, batches.batches))
        self._batches = _data_loader(dataset, batches, dataset.preprocess, workers, pin_memory)

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[Batch]:
        for batch in self._batches:
            yield normalised(batch, self.dataset.preprocess) if self.normalise else batch


def _data_loader(
    dataset: Dataset, batches: Sampler, preprocess: Preprocess, workers: int, pin_memory: bool
) -> DataLoader[Batch]:
    # Forked workers share the picture cache; where there is no fork each keeps its own.
    fork = workers > 0 and sys.platform == "linux"
    return DataLoader(
        dataset,
        batch_sampler=batches,
        collate_fn=partial(stack, preprocess=preprocess),
        num_workers=workers,
        persistent_workers=workers > 0,
        worker_init_fn=_start_worker if workers else None,
        multiprocessing_context="fork" if fork else None,
        pin_memory=pin_memory,
        # Else each epoch draws a number from the global generator, and a resumed run is off by one.
        generator=torch.Generator(),
    )


def _start_worker(worker: int) -> None:
    torch.set_num_threads(1)
    # Ctrl-C reaches the whole process group: the main process answers it, and ends its workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _sample(record: Record, picture: Picture) -> Sample:
    objects, boxes = ~record.crowd, record.boxes.reshape(-1, 4) / np.float32(picture.shrink)
    return Sample(
        picture.image,
        torch.from_numpy(boxes[objects]),
        torch.from_numpy(record.labels[objects]),
        ImageInfo(record.id, record.path, picture.size),
        ignored=torch.from_numpy(boxes[record.crowd]) if record.crowd.any() else None,
        labelled=None if record.labelled is None else torch.from_numpy(record.labelled),
    )


def _labelled_alike(records: Sequence[Record]) -> list[np.ndarray]:
    """For each record, the indices of those in which the same classes are labelled."""
    groups: dict[bytes | None, list[int]] = defaultdict(list)
    keys = [None if record.labelled is None else record.labelled.tobytes() for record in records]
    for index, key in enumerate(keys):
        groups[key].append(index)
    alike = {key: np.array(group) for key, group in groups.items()}
    return [alike[key] for key in keys]
