"""What is compared: checkpoints, artifacts, and folders of runs that differ in their seed; which runs are paired."""

# pyright: strict

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike, fspath
from pathlib import Path
from typing import Any, NamedTuple, cast

from ..checkpoint import read_header
from ..detector import Detector
from ..errors import ConfigError
from ..files import parse_json
from ..loading import load
from ..runtime import runner
from ..runtime.detector import is_artifact

BEST = "best.safetensors"


class Run(NamedTuple):
    """seed: as its run.json has it, None where there is none."""

    seed: int | None
    detector: Detector | str


class Arm(NamedTuple):
    name: str
    runs: tuple[Run, ...]


def find_arms(given: Sequence[Detector | str | PathLike[str]]) -> list[Arm]:
    """Raises ConfigError for fewer than two, a folder without runs, and a seed that is there twice."""
    if len(given) < 2:
        raise ConfigError(
            f"compare expects two or more detectors, the first of them the reference; got {len(given)}."
        )
    arms = [_arm(one) for one in given]
    names = [arm.name for arm in arms]
    if len(set(names)) < len(names):  # as they were given, or by number
        paths = [
            one.name if isinstance(one, Detector) else fspath(one).removesuffix(f"/{BEST}") for one in given
        ]
        twice = len(set(paths)) < len(paths)
        names = [f"{path} ({i})" if twice else path for i, path in enumerate(paths, 1)]
    return [arm._replace(name=name) for arm, name in zip(arms, names, strict=True)]


def paired(arms: Sequence[Arm]) -> tuple[list[Arm], list[str]]:
    """The arms with the runs whose seed all of them have, in one order; and a sentence for each arm that has others.

    Where every arm is a single run, these are compared, whatever their seeds. Raises ConfigError where no seed is
    common.
    """
    if all(len(arm.runs) == 1 for arm in arms):
        return list(arms), []
    common = {run.seed for run in arms[0].runs} - {None}
    for arm in arms:
        common &= {run.seed for run in arm.runs}
    if not common:
        have = "; ".join(f"{arm.name}: {_listed(run.seed for run in arm.runs)}" for arm in arms)
        raise ConfigError(f"Runs are paired by their seed, and no seed is common to all arms: {have}.")
    chosen: list[Arm] = []
    notes: list[str] = []
    for arm in arms:
        own = sorted((run for run in arm.runs if run.seed in common), key=lambda run: cast(int, run.seed))
        chosen.append(Arm(arm.name, tuple(own)))
        rest = [run.seed for run in arm.runs if run.seed not in common]
        if rest:
            notes.append(
                f"{arm.name}: seeds {_listed(run.seed for run in own)} are paired, {_listed(rest)} left out."
            )
    return chosen, notes


def check_classes(arms: Sequence[Arm]) -> tuple[str, ...]:
    """The classes of all runs. Raises ConfigError naming the run that has others, CheckpointError as reading does."""
    first: tuple[str, tuple[str, ...]] | None = None
    for arm in arms:
        for run in arm.runs:
            labels = _labels(run.detector)
            where = run.detector if isinstance(run.detector, str) else arm.name
            if first is None:
                first = where, labels
            elif labels != first[1]:
                raise ConfigError(
                    f"Only detectors of the same classes in the same order can be compared: {where} has"
                    f" {', '.join(labels)}; {first[0]} has {', '.join(first[1])}."
                )
    assert first is not None  # there are two arms, with a run each
    return first[1]


def _labels(detector: Detector | str) -> tuple[str, ...]:
    if isinstance(detector, Detector):
        return tuple(detector.labels)
    if is_artifact(detector):
        return tuple(runner.load(detector).header.labels)
    if not Path(detector).exists():  # an address, or the name of published weights
        return tuple(load(detector, "cpu").labels)
    return tuple(read_header(detector)["labels"])


def _arm(given: Detector | str | PathLike[str]) -> Arm:
    if isinstance(given, Detector):
        return Arm(given.name, (Run(None, given),))
    path = Path(given)
    if not path.is_dir():
        named_by_folder = path.name in (BEST, "last.safetensors") and path.parent.name
        name = path.parent.name if named_by_folder else path.name.removesuffix(".safetensors")
        return Arm(name, (Run(_seed(path.parent), fspath(given)),))
    if (path / BEST).is_file():
        return Arm(path.resolve().name, (Run(_seed(path), str(path / BEST)),))
    runs = [Run(_seed(inner.parent), str(inner)) for inner in sorted(path.glob(f"*/{BEST}"))]
    if not runs:
        raise ConfigError(f"{path} holds no run: neither {BEST} nor folders that have one.")
    seeds = [run.seed for run in runs]
    if None in seeds and len(runs) > 1:
        unknown = runs[seeds.index(None)].detector
        raise ConfigError(
            f"{unknown} has no run.json beside it that tells its seed, by which runs are paired."
        )
    if len(set(seeds)) < len(seeds):
        raise ConfigError(
            f"{path} has two runs of the same seed: {_listed(seeds)}. Expected was one of each."
        )
    return Arm(path.resolve().name, tuple(runs))


def _seed(folder: Path) -> int | None:
    try:
        content: Any = parse_json((folder / "run.json").read_text(encoding="utf-8"))
        return int(content["settings"]["seed"])
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _listed(seeds: Any) -> str:
    return ", ".join("no seed" if seed is None else str(seed) for seed in seeds)
