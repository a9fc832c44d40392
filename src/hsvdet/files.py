"""Writing files whole or not at all, and clearing away what an earlier run wrote."""

# pyright: strict

from __future__ import annotations

import errno
import hashlib
import json
import os
import secrets
import shutil
import socket
import stat
from collections.abc import Callable
from contextlib import suppress
from os import PathLike
from pathlib import Path
from typing import IO, Any

from .errors import ConfigError


class FolderLock:
    """A folder that one process at a time writes to, until it releases it or ends, however it ends. Where the system
    or the file system has no locks, it is not locked.

    Raises ConfigError where another process has it, and OSError.
    """

    def __init__(self, folder: Path):
        self._path = folder / ".lock"
        while True:
            self._file = self._path.open("a")
            if not _locked(self._file):
                self._file.close()
                raise ConfigError(
                    f"Another process is writing to {folder}. Wait for it, or choose another folder."
                )
            try:
                if os.path.samestat(os.fstat(self._file.fileno()), os.stat(self._path)):
                    return
            except FileNotFoundError:
                pass
            self._file.close()  # the process that had it has removed it meanwhile

    def release(self) -> None:
        with suppress(OSError):
            self._path.unlink()
        self._file.close()


def _locked(file: IO[str]) -> bool:
    """False where another process has locked it. Of the process, not of those it starts: they may outlive it."""
    try:
        import fcntl
    except ImportError:  # Windows
        return True
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno not in (errno.EACCES, errno.EAGAIN)
    return True


class PartFile:
    """A neighbour of `path` to write to, which takes its name when it is whole.

    Write to `part`, then `keep` it or `discard` it. The folder is made. Its name does not grow with that of
    `path`, which may be as long as the file system allows; its permissions are what the umask leaves.
    """

    def __init__(self, path: str | PathLike[str]):
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.part = part_beside(self.path)

    def keep(self) -> None:
        """On the disk, then under its own name, instead of what may be there. Raises OSError."""
        with self.part.open("rb") as file:
            os.fsync(file.fileno())
        self.part.replace(self.path)

    def discard(self) -> None:
        self.part.unlink(missing_ok=True)


def part_beside(path: Path) -> Path:
    """What a file or folder is called while it is written; by the name, `sweep` knows whose it is."""
    return path.with_name(f".hsvdet-{_host()}-{os.getpid()}-{secrets.token_hex(4)}.part")


def sweep(folder: Path, below: bool = True) -> None:
    """Remove the parts that killed processes of this machine left in a folder, and below."""
    pattern = f".hsvdet-{_host()}-*.part"
    for path in folder.rglob(pattern) if below else folder.glob(pattern):
        owner = path.name.split("-")[2]
        if owner.isdecimal() and not _is_running(int(owner)):
            with suppress(OSError):
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


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


def regular(path: str | PathLike[str]) -> Path:
    """The path of a regular file, or of a link to one: a pipe would be waited for, and a device never ends. Raises
    OSError for anything else, and where there is nothing."""
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise OSError(errno.EINVAL, "it is no regular file", str(path))
    return Path(path)


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


def stamp(path: Path) -> int:
    """When a file was last written, renamed or given other rights, in ns: what no archive brings along and nobody can
    set, so that a run knows again what it wrote itself. Raises OSError."""
    return os.lstat(path).st_ctime_ns


def remove_earlier_results(folder: Path, table: str, made_by: str) -> None:
    """Nothing but what an earlier run wrote there, on this machine, and nobody has touched since.

    table: the JSON file, written last, with `made_by` as its description, and as "written" the names of the other
    files with their stamps. Raises ConfigError where there is anything else.
    """
    if os.path.lexists(folder) and not folder.is_dir():
        raise ConfigError(f"{folder} is a file; the results need a folder. Choose another name.")
    if not folder.exists() or not any(folder.iterdir()):
        return
    try:
        content = parse_json(regular(folder / table).read_text(encoding="utf-8"))
        ours = content["info"]["description"] == made_by
        written = dict(content["written"])
    except (OSError, ValueError, LookupError, TypeError):
        ours, written = False, {}
    if not ours:
        raise ConfigError(
            f"{folder} holds other files than results of `{made_by.split()[-1]}`. Choose a new or empty folder."
        )
    root = folder.resolve()
    paths = {folder / name: when for name, when in written.items() if os.path.lexists(folder / name)}
    for path, when in paths.items():
        # The table could have been made by anybody: never leave the folder, never remove what is not ours.
        if not path.parent.resolve().is_relative_to(root) or stamp(path) != when:
            raise ConfigError(
                f"{path} is no result of `{made_by.split()[-1]}`, or was changed or copied since. Choose a new folder."
            )
    for path in (*paths, folder / table):
        path.unlink()
