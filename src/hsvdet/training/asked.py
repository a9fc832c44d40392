"""What `train` was asked for, as run.json keeps it, so that a run can be continued by its folder alone."""

# pyright: strict

from __future__ import annotations

from dataclasses import asdict, dataclass
from os import PathLike
from pathlib import Path
from typing import Any, ClassVar

from pydantic import ConfigDict, TypeAdapter, ValidationError

from ..errors import ConfigError
from ..files import parse_json, regular
from .beginning import Beginning


@dataclass(frozen=True, kw_only=True)
class Asked:
    """The parameters of `train` that decide what a run becomes, and where it runs. begun: what it began with."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid", allow_inf_nan=False)

    begun: Beginning
    data: str
    epochs: int | None
    batch: int | None
    accumulate: int | None
    precision: str
    device: str
    devices: int
    nodes: int
    seed: int
    fraction: float
    workers: int | None
    split: str
    val_split: str | None
    val_fraction: float
    recipe: str | None
    options: dict[str, Any] | None
    save_every: float

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


_ASKED = TypeAdapter(Asked)


def read_asked(folder: str | PathLike[str]) -> Asked:
    """From the run.json of a run. Raises ConfigError where it is not one, or does not say."""
    path = Path(folder) / "run.json"
    again = "Continue it with the command that began it, and resume"
    try:
        content = parse_json(regular(path).read_text(encoding="utf-8"))
    except OSError:
        raise ConfigError(f"{folder} is no folder of a run: it has no run.json that can be read.") from None
    except ValueError:
        raise ConfigError(f"{path} is damaged. {again}.") from None
    asked = content.get("asked") if isinstance(content, dict) else None  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType] of JSON
    if asked is None:
        raise ConfigError(
            f"{path} does not say what was asked for: the run began from Python with a detector or data that have no"
            f" name, with a suppressor, or with an older hsvdet. {again}."
        )
    try:
        return _ASKED.validate_python(asked)
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(map(str, problem["loc"]))
        raise ConfigError(f"{path}: {where or 'asked'}: {problem['msg']}. {again}.") from None
