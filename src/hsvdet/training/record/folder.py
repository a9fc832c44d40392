"""The folder of a run: who may write into it, and everything that is written (docs/training.md lists it)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from torch import nn

from ...data.batch import normalised
from ...data.division import write_division
from ...errors import ConfigError, SaveError
from ...evaluate import Evaluation, write_report
from ...files import FolderLock, sweep
from ...structures import Batch
from ..plan import Plan
from .curves import Curves
from .log import TensorBoardLog, read_json, versions, write_json, write_results, write_training_pictures
from .state import Row, SavedState, check_settings, read_state, unwritten, write_state


class Folder:
    """`plan.out`. Only rank 0 writes; `open` first, then `begin`, and `close` at the end."""

    def __init__(self, plan: Plan):
        self.plan, self.path = plan, plan.out
        self.state_path = plan.out / "resume.safetensors"
        self._curves = Curves(plan.out / "curves.png")
        self._tensorboard: TensorBoardLog | None = None
        self._lock: FolderLock | None = None

    def open(self, resume: bool) -> bool:
        """Whether there is a run to go on with. Refuses what would overwrite one, or change its settings, and a folder
        that another run is writing to."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = FolderLock(self.path)
        except OSError as error:
            raise SaveError(f"{self.path} cannot be made: {error.strerror or error}.") from error
        for folder in (self.path, self.path / "val"):  # not all that may lie below: it may be the home folder
            sweep(folder, below=False)
        if resume and self.state_path.is_file():
            self._check_state(read_state(self.state_path))
            return True
        if any(
            (self.path / name).exists() for name in ("resume.safetensors", "last.safetensors", "results.csv")
        ):
            raise ConfigError(
                f"{self.path} already holds a run. Continue it with resume, or choose another folder."
            )
        return False

    def _check_state(self, state: SavedState) -> None:
        """Raises ConfigError where it is of another run. Another length, if asked for, makes no other run; but none can
        end before where it stands."""
        saved, epochs = state.settings, self.plan.epochs
        if self.plan.epochs_asked:
            saved = {**saved, "epochs": epochs}
        check_settings(self.state_path, saved, self.plan.settings)
        begun = state.position.epoch + (state.position.batch > 0)
        if state.settings["epochs"] != epochs < begun:
            raise ConfigError(
                f"{self.path} has begun its epoch {begun} or ended it: epochs expects {begun} or more, got {epochs}."
            )

    def begin(self, history: list[Row], described: Mapping[str, Any]) -> None:
        """run.json, split.json and the logs, those of a resumed run without what comes again."""
        validation = self.plan.validation_data
        images = {
            "train": len(self.plan.training_data),
            "val": 0 if validation is None else len(validation),
        }
        before = read_json(self.path / "run.json")
        asked = None if self.plan.asked is None else self.plan.asked.to_json()
        lengths = self._lengths(before, len(history))
        write_json(
            self.path / "run.json",
            {
                "started": before.get("started") or datetime.now(UTC).isoformat(timespec="seconds"),
                "asked": asked or before.get("asked"),
                "settings": self.plan.settings,
                "images": images,
                **described,
                **({"lengths": lengths} if lengths else {}),
                "versions": versions(),
            },
        )
        if self.plan.divided is not None:
            division, data, split = self.plan.divided
            try:
                write_division(self.path / "split.json", division, data, split)
            except OSError as error:
                raise SaveError(unwritten(self.path / "split.json", error)) from error
        self._tensorboard = TensorBoardLog(self.path / "tensorboard", len(history) + 1)
        if history:
            write_results(self.path / "results.csv", history)

    def _lengths(self, before: Mapping[str, Any], done: int) -> list[Any]:
        """Of a run whose length was changed on the way: how many epochs were planned before, until which one."""
        lengths, settings = before.get("lengths"), before.get("settings")
        known: list[Any] = lengths if isinstance(lengths, list) else []
        planned = settings.get("epochs") if isinstance(settings, dict) else None
        if planned in (None, self.plan.epochs) or not self.state_path.is_file():
            return known
        return [*known, {"epochs": planned, "until": done}]

    def save_state(self, state: SavedState, name: str = "resume.safetensors") -> None:
        write_state(self.path / name, state)

    def save_checkpoint(self, name: str, net: nn.Module, row: Row) -> None:
        trained = dataclasses.replace(
            self.plan.detector,
            net=net,
            source=self.plan.trained_source,
            start="trained",
            extra={"training": dict(row)},
        )
        path = self.path / f"{name}.safetensors"
        try:
            trained.save(path)
        except OSError as error:
            raise SaveError(unwritten(path, error)) from error

    def log(self, history: list[Row]) -> None:
        """After an epoch: the table, TensorBoard, the curves."""
        write_results(self.path / "results.csv", history)
        assert self._tensorboard is not None  # `begin` has made it
        self._tensorboard.add(history[-1])
        self._curves.draw(history)

    def picture(self, epoch: int, batch: Batch) -> None:
        """The first batch of an epoch: train_batch.jpg at the start, another when the augmentation changes."""
        recipe, epochs = self.plan.recipe, self.plan.epochs
        if epoch == 0:
            name = "train_batch.jpg"
        elif recipe.stage(epoch, epochs) != recipe.stage(epoch - 1, epochs):
            name = f"train_batch_{recipe.stage(epoch, epochs)}.jpg"
        else:
            return
        detector = self.plan.detector
        shown = normalised(batch, detector.preprocess)
        write_training_pictures(self.path / name, shown, detector.labels, detector.preprocess)

    def finish(self, history: list[Row], evaluation: Evaluation | None) -> None:
        """The curves of the whole run, and the report on its best weights."""
        self._curves.draw(history, finished=True)
        if evaluation is None:
            return
        try:
            write_report(evaluation, self.path / "val", self.plan.validation_data)
        except OSError as error:
            raise SaveError(f"{self.path / 'val'} cannot be written: {error.strerror or error}.") from error

    def close(self) -> None:
        if self._tensorboard is not None:
            self._tensorboard.close()
        if self._lock is not None:
            self._lock.release()
