"""Writing files whole or not at all, and clearing away what an earlier run wrote."""

# pyright: strict

from __future__ import annotations

import hashlib
import json
import os
import secrets
import socket
from collections.abc import Callable
from contextlib import suppress
from os import PathLike
from pathlib import Path
from typing import Any

from .errors import ConfigError


class PartFile:
    """A neighbour of `path` to write to, which takes its name when it is whole.

    Write to `part`, then `keep` it or `discard` it. The folder is made. Its name does not grow with that of
    `path`, which may be as long as the file system allows; its permissions are what the umask leaves.
    """

    def __init__(self, path: str | PathLike[str]):
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.part = self.path.with_name(f".hsvdet-{_host()}-{os.getpid()}-{secrets.token_hex(4)}.part")

    def keep(self) -> None:
        """On the disk, then under its own name, instead of what may be there. Raises OSError."""
        with self.part.open("rb") as file:
            os.fsync(file.fileno())
        self.part.replace(self.path)

    def discard(self) -> None:
        self.part.unlink(missing_ok=True)


def sweep(folder: Path) -> None:
    """Remove the parts that killed processes of this machine left in a folder and below."""
    for path in folder.rglob(f".hsvdet-{_host()}-*.part"):
        owner = path.name.split("-")[2]
        if owner.isdecimal() and not _is_running(int(owner)):
            with suppress(OSError):
                path.unlink()


def _host() -> str:
    return hashlib.sha256(socket.gethostname().encode()).hexdigest()[:8]


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):  # somebody else's
        return True
    return True


def parse_json(text: str | bytes, object_hook: Callable[[dict[str, Any]], Any] | None = None) -> Any:
    """As `json.loads`, of anybody's file. Raises ValueError also where it is nested too deep to be read."""
    try:
        return json.loads(text, object_hook=object_hook)
    except RecursionError:
        raise ValueError("it is nested too deep") from None


def write_atomically(path: str | PathLike[str], content: bytes) -> None:
    """Write a whole file or none. Raises OSError."""
    file = PartFile(path)
    try:
        file.part.write_bytes(content)
        file.keep()
    finally:
        file.discard()


def remove_earlier_results(
    folder: Path, table: str, made_by: str, files_of: Callable[[Any], set[str]]
) -> None:
    """Nothing but what an earlier run says it wrote there.

    table: the JSON file, written last, that says it, with `made_by` as its info's description. files_of: its content
    to the names of the other files. Raises ConfigError where there is anything else.
    """
    if os.path.lexists(folder) and not folder.is_dir():
        raise ConfigError(f"{folder} is a file; the results need a folder. Choose another name.")
    if not folder.exists() or not any(folder.iterdir()):
        return
    try:
        content = parse_json((folder / table).read_text(encoding="utf-8"))
        ours = content["info"]["description"] == made_by
        names = files_of(content)
    except (OSError, ValueError, LookupError, TypeError):
        ours, names = False, set[str]()
    if not ours:
        raise ConfigError(
            f"{folder} holds other files than results of `{made_by.split()[-1]}`. Choose a new or empty folder."
        )
    root = folder.resolve()
    for name in names | {table}:
        path = folder / name
        # The table could have been changed by hand: never leave the folder.
        if path.parent.resolve().is_relative_to(root) and (path.is_file() or path.is_symlink()):
            path.unlink()
