"""What users meet. Every error says what was expected, what came, and what to do, in one line."""

# pyright: strict

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

# Control characters, line separators, halves of characters: what no name needs, and no XML file may have.
UNPRINTED = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
# Of these, what a terminal obeys, and what turns the order of letters round.
_OBEYED = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def harmless(text: str) -> str:
    r"""Text as it may be shown: escape sequences in names and in answers of servers become \u001b and so on. Lines and
    tabs stay; JSON stays the same JSON."""
    return _OBEYED.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


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


def counted(number: int, noun: str) -> str:
    """ "1 image", "1,234 images", "2 boxes"."""
    plural = noun + ("es" if noun.endswith(("s", "x")) else "s")
    return f"{number:,} {noun if number == 1 else plural}"


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """' Did you mean X?' for the nearest known name, or '' when none is near. Starts with a blank."""
    near = difflib.get_close_matches(name, list(known), n=1)
    return f" Did you mean {near[0]}?" if near else ""
