"""Values on the command line: sizes, and NAME=VALUE settings checked against the types of a configuration."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Sequence
from typing import Any, get_origin, get_type_hints

import typer

from ..errors import ConfigError, did_you_mean


def parse_size(text: str) -> tuple[int, int]:
    """ "1088x1920" to (height, width); one number is a square."""
    found = re.fullmatch(r"(\d+)(?:[xX](\d+))?", text.strip())
    if not found:
        raise typer.BadParameter(
            f"HEIGHTxWIDTH such as 1088x1920, or one number, was expected; got {text!r}."
        )
    return int(found[1]), int(found[2] or found[1])


def parse_settings(texts: Sequence[str], *configs: Any) -> list[dict[str, Any]]:
    """NAME=VALUE settings, sorted to the configuration (a dataclass each) that has the name.

    Values are typed as the field is: numbers, true, false, words, and a,b for several. Raises ConfigError for
    a name that none has, with the nearest, and for a value of another type.
    """
    owners = {field.name: i for i, config in enumerate(configs) for field in dataclasses.fields(config)}
    sorted_: list[dict[str, Any]] = [{} for _ in configs]
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals:
            raise ConfigError(f"--set expects NAME=VALUE such as mosaic=0.5, got {text!r}.")
        if name not in owners:
            raise ConfigError(
                f"--set {text}: there is no setting {name!r}.{did_you_mean(name, owners)}"
                f" There are: {', '.join(sorted(owners))}."
            )
        owner = owners[name]
        sorted_[owner][name] = _typed(name, value, get_type_hints(type(configs[owner]))[name])
    return sorted_


def _typed(name: str, text: str, hint: Any) -> Any:
    from pydantic import TypeAdapter, ValidationError

    if get_origin(hint) is tuple:
        value: Any = tuple(part for part in text.split(",") if part)
    else:
        try:
            value = json.loads(text)
        except ValueError:
            value = text
    try:
        return TypeAdapter(hint).validate_python(value, strict=True)
    except ValidationError as error:
        reasons = dict.fromkeys(problem["msg"].removeprefix("Input should be ") for problem in error.errors())
        raise ConfigError(f"--set {name}={text}: expected {' or '.join(reasons)}.") from None
