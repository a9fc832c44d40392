"""Values on the command line: sizes, and NAME=VALUE settings checked against the types of a configuration."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from typing import Any

import typer

from ..errors import ConfigError, did_you_mean
from .other_names import SETTINGS


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
    from ..options import typed

    owners = {field.name: i for i, config in enumerate(configs) for field in dataclasses.fields(config)}
    sorted_: list[dict[str, Any]] = [{} for _ in configs]
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals:
            raise ConfigError(f"--set expects NAME=VALUE such as mosaic=0.5, got {text!r}.")
        if name not in owners:
            here = SETTINGS.get(name)
            meant = did_you_mean(name, owners) if here is None else f" {name} is {here} here."
            raise ConfigError(
                f"--set {text}: there is no setting {name!r}.{meant} There are: {', '.join(sorted(owners))}."
            )
        owner = owners[name]
        try:
            sorted_[owner][name] = typed(type(configs[owner]), name, _parsed(value, configs[owner], name))
        except ConfigError as error:
            raise ConfigError(f"--set {text}: {error}") from None
    return sorted_


def parse_option(text: str) -> tuple[str, Any]:
    """NAME=VALUE of a model that is not read yet: whether it has such a number, it says itself."""
    name, equals, value = text.partition("=")
    if not equals:
        raise typer.BadParameter(f"NAME=VALUE such as rho=0.1 was expected; got {text!r}.")
    return name, _plain(value)


def _parsed(text: str, config: Any, name: str) -> Any:
    """a,b for several."""
    if isinstance(getattr(config, name), tuple):
        return tuple(part for part in text.split(",") if part)
    return _plain(text)


def _plain(text: str) -> Any:
    """JSON's numbers, true and false; anything else is a word."""
    from ..files import parse_json

    try:
        return parse_json(text)
    except ValueError:
        return text
