"""What users meet. Every error says what was expected, what came, and what to do, in one line."""

# pyright: strict

from __future__ import annotations

import difflib
from collections.abc import Iterable


class HsvdetError(Exception):
    """Something the user can put right. The command line prints it in one line and exits with code 2."""


class DataError(HsvdetError):
    """A data set, an annotation file or an image that cannot be used as it is."""


class CheckpointError(HsvdetError):
    """A weight file that is broken, of another model or format version, or not safe to read."""


class ConfigError(HsvdetError):
    """A setting that is unknown, out of range, or at odds with another."""


class SaveError(HsvdetError):
    """A file that could not be written: a full disk, a missing permission."""


class Interrupted(HsvdetError):
    """Ctrl-C or SIGTERM, after the work was saved. exit_code: 128 + the signal's number, for the command line."""

    def __init__(self, message: str, signal_number: int):
        super().__init__(message)
        self.exit_code = 128 + signal_number


class NonFiniteError(HsvdetError):
    """A loss, gradient or cost in training, or a network's answer, became NaN or infinite."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """' Did you mean X?' for the nearest known name, or '' when none is near. Starts with a blank."""
    near = difflib.get_close_matches(name, list(known), n=1)
    return f" Did you mean {near[0]}?" if near else ""
