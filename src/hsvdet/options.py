"""The numbers and words of a frozen dataclass, some of them changed: by a caller, the command line, or a file."""

# pyright: strict

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import cache
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, TypeVar, cast, get_type_hints

from pydantic import ConfigDict, TypeAdapter, ValidationError

from .bounds import LARGEST_OPTION
from .errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    Config = TypeVar("Config", bound="DataclassInstance")


_WORDS = {
    "bool_type": "true or false",
    "int_type": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "string_type": "a word",
    "tuple_type": "a list",
}


def override(config: Config, options: Mapping[str, Any]) -> Config:
    """Raises ConfigError for names that it does not have, and as `typed`."""
    known = [item.name for item in dataclasses.fields(config)]
    for name in options:
        if name not in known:
            raise ConfigError(
                f"{type(config).__name__} has no option {name!r}.{did_you_mean(name, known)}"
                f" It has: {', '.join(known)}."
            )
    return dataclasses.replace(
        config, **{name: typed(type(config), name, value) for name, value in options.items()}
    )


def typed(owner: type[DataclassInstance], name: str, value: object) -> Any:
    """The value as a field of a dataclass takes it: a list, as JSON has them, as a tuple.

    Raises ConfigError for one of another type, NaN, infinity, and whole numbers below 0 or beyond what any model has.
    """
    value = tuple(cast("list[object]", value)) if isinstance(value, list) else value
    try:
        found = _adapter(owner, name).validate_python(value, strict=True)
    except ValidationError as error:
        expected = dict.fromkeys(
            _WORDS.get(problem["type"], problem["msg"].removeprefix("Input should be "))
            for problem in error.errors()
        )
        raise ConfigError(f"{name} expects {' or '.join(expected)}, got {repr(value)[:80]}.") from None
    if isinstance(found, int) and not 0 <= found <= LARGEST_OPTION:
        raise ConfigError(f"{name} expects a whole number from 0 to {LARGEST_OPTION}, got {value}.")
    return found


def check_reading(*, score: object, iou: object, max_detections: object = None, batch: object = None) -> None:
    """What detections are read with. Raises ConfigError for scores and overlaps that are no numbers from 0 to 1, and
    for the others, where they are given, that are no whole numbers from 1 on."""
    for name, share in (("score", score), ("iou", iou)):
        if type(share) is bool or not isinstance(share, Real) or not 0 <= float(share) <= 1:
            raise ConfigError(f"{name} expects a number from 0 to 1; got {repr(share)[:80]}.")
    for name, number in (("max_detections", max_detections), ("batch", batch)):
        if number is None:
            continue
        if type(number) is bool or not isinstance(number, Integral) or int(number) < 1:
            raise ConfigError(f"{name} expects a whole number from 1 on; got {repr(number)[:80]}.")


@cache
def _adapter(owner: type[DataclassInstance], name: str) -> TypeAdapter[Any]:
    return TypeAdapter(get_type_hints(owner)[name], config=ConfigDict(allow_inf_nan=False))
