"""The training loop: epochs of steps; after each epoch validate, note, save. Between steps it may be stopped."""

from __future__ import annotations

import math
import shlex
import signal
import time
from typing import TYPE_CHECKING, NoReturn

from ..checkpoint import load_tensors, read_checkpoint
from ..errors import CheckpointError, Interrupted, NonFiniteError, counted
from ..evaluate import Evaluation
from ..progress import progress as shown_progress
from ..structures import Batch
from .interrupt import Interrupts
from .learner import Learner
from .loaders import training_loader, validation_loader
from .not_finite import NotFinite
from .plan import Plan
from .processes import agree, average_in_place, gather, largest
from .record.folder import Folder
from .record.progress import Pace, Progress
from .record.state import Position, Row, RunState, SavedState, read_state
from .stability import Stability
from .validator import Validator, columns

if TYPE_CHECKING:
    from lightning.fabric import Fabric


class Run:
    """One run. What it does is here; the parts do it: `learner` a step, `validator` the verdict, `stability` that
    of matching, `folder` the files, `progress` the lines on stderr. Where it is and what it noted is its `state`."""

    def __init__(self, fabric: Fabric, plan: Plan, interrupts: Interrupts, progress: bool):
        self.fabric, self.plan, self.interrupts = fabric, plan, interrupts
        self.rank, self.world = fabric.global_rank, fabric.world_size
        self.loader = training_loader(fabric, plan)
        self.steps_per_epoch = math.ceil(len(self.loader) / plan.accumulate)
        to_validate = validation_loader(fabric, plan)
        self.validator = Validator(fabric, plan, to_validate) if to_validate is not None else None
        self.learner = Learner(fabric, plan, self.steps_per_epoch)
        criterion = self.learner.objective.criterion
        self.stability = Stability(fabric, plan, criterion) if criterion.matches else None
        self.folder = Folder(plan)
        validated = len(plan.validation_data) if plan.validation_data is not None else 0
        pace = Pace(plan.epochs, self.loader.sampler.per_epoch, validated)
        self.progress = Progress(pace, len(self.loader), progress and self.rank == 0)
        self.state = RunState()
        self.signal = 0  # what every process agreed to stop for
        self.saved = time.monotonic()

    def run(self, resume: bool) -> dict[str, float]:
        """COCO's numbers of the best weights, on rank 0, if there is a validation split."""
        try:
            if agree(self.fabric, lambda: self.folder.open(resume)):
                self._restore()
            elif resume:  # killed before its first state, or not begun
                self.progress.say(f"{self.folder.path} holds nothing to resume; starting from the beginning.")
            self._begin()
            while self.state.position.epoch < self.plan.epochs:
                self._train_epoch()
                self._finish_epoch()
            return self._finish()
        finally:
            self.progress.stop()
            self.folder.close()

    def _begin(self) -> None:
        """Say what is about to happen, and save a first state: a run can be resumed from its first step on."""
        if self.rank:
            return
        plan, learner, device = self.plan, self.learner, self.fabric.device
        described = {
            "device": str(device),
            "processes": self.world,
            "steps": learner.steps,
            "warmup_steps": learner.warmup,
        }
        self.folder.begin(self.state.history, described)
        if self.state.position == Position():
            self._save()
        validated = len(plan.validation_data) if plan.validation_data is not None else "none"
        self.progress.say(
            f"{plan.detector.name}: {counted(len(plan.training_data), 'image')} to train on, {validated} to validate;"
            f" {counted(plan.epochs, 'epoch')} of {counted(self.steps_per_epoch, 'step')} on {device}"
            + (f" x {self.world}" if self.world > 1 else "")
        )

    def _train_epoch(self) -> None:
        """From the position to the end of the epoch's batches."""
        epoch, done, _ = self.state.position
        if done >= len(self.loader):
            return  # resumed before its validation
        self.loader.load_state_dict({"epoch": epoch, "batches": done})
        self.learner.training_mode()
        self.progress.start(self.state.history, done)
        since = time.monotonic()
        window: list[Batch] = []
        for batch in self.loader:
            window.append(batch)
            if len(window) < self.plan.accumulate and done + len(window) < len(self.loader):
                continue
            if done == 0 and self.rank == 0:
                self.folder.picture(epoch, window[0])
            self._step(window)
            done, window = done + len(window), []
            now = time.monotonic()
            self.state.seconds, since = self.state.seconds + now - since, now
            if now - self.saved >= self.plan.save_every:
                self._save()
            self._stop_if_asked()
        self.progress.stop()

    def _step(self, window: list[Batch]) -> None:
        epoch, done, step = self.state.position
        try:
            losses, notes, self.signal = self.learner.step(
                window, self.state.position, self.interrupts.received
            )
        except NotFinite as failure:
            self._give_up(window, failure)
        self.state.add(losses, notes, len(window))
        self.state.position = Position(epoch, done + len(window), step + 1)
        self.progress.advance(losses, len(window))

    def _finish_epoch(self) -> None:
        """Validate; then the row and the checkpoints, the state, and last what can be written again from it."""
        started = time.monotonic()
        state = self.state
        self._check_finite()
        evaluation = self._validate()
        row: Row = {"epoch": state.position.epoch + 1}
        row["learning_rate"] = self.learner.rate(state.position.step - 1)
        for name, total in sorted(state.losses.items()):  # by name: a state on disk knows no other order
            row[f"loss/{name}"] = average_in_place(total / len(self.loader)).item()
        for name, total in sorted(state.notes.items()):
            row[name] = average_in_place(total / len(self.loader)).item()
        assignment = None
        if self.stability is not None:
            row["instability"], assignment = self.stability(self.learner.net, state.assignment)
        if self.rank == 0:
            self._record(row, evaluation, started)
        state.turn(assignment)
        if self.rank == 0:
            self._save()
            self.folder.log(state.history)
        self.signal = int(largest([float(self.interrupts.received)], self.fabric.device)[0])
        self._stop_if_asked()

    def _record(self, row: Row, evaluation: Evaluation | None, started: float) -> None:
        """Complete the row, add it to the history, and save the checkpoints."""
        history, average = self.state.history, self.learner.average.net
        before = [past["ap"] for past in history if past.get("ap") is not None]
        best = True
        if evaluation is not None:
            row |= columns(evaluation)
            best = not before or (row["ap"] is not None and row["ap"] > max(before))
        if self.validator is not None:
            row |= self.validator.diagnose(self.learner.net)
        row["images_per_second"] = self.loader.sampler.per_epoch / max(self.state.seconds, 1e-9)
        row["seconds"] = self.state.seconds + time.monotonic() - started
        history.append(row)
        for name in ("last", "best") if best else ("last",):
            self.folder.save_checkpoint(name, average, row)
        self.progress.line(history, best and evaluation is not None)

    def _validate(self) -> Evaluation | None:
        """Of the averaged weights; on rank 0, where there is something to validate on."""
        if self.validator is None:
            return None
        shown = self.progress.shown
        try:
            with shown_progress("validating", self.validator.images, shown=shown) as advance:

                def after_each(images: int) -> None:
                    advance(images)
                    self._stop_within_validation()

                return self.validator(self.learner.average.net, after_each)
        except NonFiniteError as error:
            raise NonFiniteError(
                f"Epoch {self.state.position.epoch + 1}, validation of the averaged weights: {error} {self._sound()}"
            ) from None

    def _finish(self) -> dict[str, float]:
        """The best weights into the detector, with temperatures where it has some; their report into the folder; their
        metrics."""
        agree(self.fabric, lambda: True)  # no process reads `best` before rank 0 has written it
        detector, best = self.plan.detector, self.folder.path / "best.safetensors"
        tensors, header = read_checkpoint(best)
        for net in (detector.net, self.learner.average.net):
            load_tensors(net.eval(), tensors, best.name)
        self.learner.finish()
        if self.validator is not None:
            self._fit_temperatures(self.validator, header["training"])
        detector.source, detector.start = self.plan.trained_source, "trained"
        detector.extra = {"training": header["training"]}
        evaluation = self._validate()
        if self.rank:
            return {}
        self.folder.finish(self.state.history, evaluation)
        self.progress.say(f"Done. Best weights: {best}")
        return dict(evaluation.stats) if evaluation is not None else {}

    def _fit_temperatures(self, validator: Validator, row: Row) -> None:
        """Into the best weights, here and on disk; they follow from the weights alone, so to do it again is no harm."""
        average = self.learner.average.net
        fitted = validator.fit_temperatures(average)
        if fitted is None:
            return
        self.plan.detector.net.load_state_dict(average.state_dict())
        if self.rank == 0:
            self.folder.save_checkpoint("best", average, row)
        self.progress.say(
            f"Temperatures of its heads, fitted on {len(validator.loader.dataset.data)} validation images:"
            f" {', '.join(f'{one:.3f}' for one in fitted)}."
        )

    # Saving, and ways out

    def _save(self, name: str = "resume.safetensors") -> None:
        """Not over a sound state where this one is not: the end of the epoch says so, in every process."""
        if self.rank == 0 and (name != "resume.safetensors" or self.learner.not_finite() is None):
            self.folder.save_state(self._state(), name)
        self.saved = time.monotonic()

    def _check_finite(self) -> None:
        """Before anything sound is replaced. Raises NonFiniteError, in every process."""
        found = next(filter(None, gather(self.learner.not_finite())), None)
        if found is not None:
            raise NonFiniteError(
                f"Epoch {self.state.position.epoch + 1}: NaN or infinity in {found}, at finite losses. {self._sound()}"
            )

    def _sound(self) -> str:
        """What to go on from, in words."""
        done = len(self.state.history)
        if not done:
            return "No epoch was done before. Lower the learning rate (--set learning_rate=...), or look at the data."
        return (
            f"{self.folder.path / 'best.safetensors'} and last.safetensors are of epochs before it and sound (the last"
            f" of epoch {done}): train on from one of them into another folder, with a lower learning rate."
        )

    def _state(self) -> SavedState:
        state = self.state
        return SavedState(
            self.learner.tensors() | state.tensors(),
            state.position,
            self.plan.settings,
            self.learner.numbers() | state.numbers(),
        )

    def _restore(self) -> None:
        path = self.folder.state_path
        state = read_state(path)
        self.learner.restore(state, str(path))
        self.state = RunState.restored(state, self.fabric.device)
        epoch, batch, step = state.position
        expected = epoch * self.steps_per_epoch + math.ceil(batch / self.plan.accumulate)
        if (epoch, batch) >= (self.plan.epochs, 1) or batch > len(self.loader) or step != expected:
            raise CheckpointError(
                f"{path}: its position (epoch {epoch}, batch {batch}, step {step}, counted from 0) is none in a run"
                f" of {self.plan.epochs} epochs of {len(self.loader)} batches. Copy it again, or train anew."
            )
        if len(self.state.history) != epoch:
            raise CheckpointError(
                f"{path}: it has results of {len(self.state.history)} epochs and stands at epoch {epoch}, counted from"
                " 0. Copy it again, or train anew."
            )
        if epoch == self.plan.epochs:
            done = counted(epoch, "epoch")
            self.progress.say(
                f"Resuming {path.parent} at its end, after {done}. A larger number continues it."
            )
            return
        self.progress.say(
            f"Resuming {path.parent} at epoch {epoch + 1}, batch {batch + 1} of {len(self.loader)}."
        )
        before = state.settings["epochs"]
        if before != self.plan.epochs:
            ended = (
                f" (epoch {epoch} ended at {self.state.history[-1]['learning_rate']:.3g})" if epoch else ""
            )
            self.progress.say(
                f"It was a run of {counted(before, 'epoch')}. From here on its learning rate and augmentation are"
                f" those of a run of {self.plan.epochs}: the next rate is {self.learner.rate(step):.3g}{ended}."
            )

    def _stop_within_validation(self) -> None:
        if self.world == 1:  # several processes finish it: to agree, they would have to wait for each other
            self._stop_if_asked()

    def _stop_if_asked(self) -> None:
        number = self.interrupts.received if self.world == 1 else self.signal
        if not number:
            return
        self._save()
        name = "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name
        raise Interrupted(
            f"Stopped by {name} in epoch {self.state.position.epoch + 1} of {self.plan.epochs}; the run is saved."
            f" Resume it: hsvdet train --resume {shlex.quote(str(self.folder.path))}",
            number,
        )

    def _give_up(self, window: list[Batch], failure: NotFinite) -> NoReturn:
        """Save the state before this step, and name its losses and images."""
        self._save("nonfinite.safetensors")
        what, paths = failure.explain(window)
        epoch, _, step = self.state.position
        raise NonFiniteError(
            f"Epoch {epoch + 1}, step {step + 1}: {what} The state before this step is in"
            f" {self.folder.path / 'nonfinite.safetensors'}. Its images: {', '.join(paths)}."
            f" {self._sound()}"
        )
