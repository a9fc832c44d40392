"""What a command says."""

from __future__ import annotations

from typing import Any, NamedTuple


class Answer(NamedTuple):
    """json: an object; text: the same for people; code: the exit code."""

    json: dict[str, Any]
    text: str
    code: int = 0
