"""Finding and reading a data set's files: folders with link loops, text and names in any encoding."""

from __future__ import annotations

import hashlib
import logging
import os
import re
import stat
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import yaml

from ..bounds import LARGEST_TEXT
from ..errors import DataError
from ..progress import progress
from .pixels import IMAGE_SUFFIXES, image_size

Item = TypeVar("Item")
Result = TypeVar("Result")

_XML_ENCODING = re.compile(rb"""<\?xml[^>]{0,200}?encoding\s*=\s*["']([A-Za-z0-9._-]+)["']""")


def read_text(path: Path | str) -> str:
    """A text file in UTF-8 or UTF-16, with or without a byte order mark, or in the encoding its XML header
    declares. Raises DataError when it cannot be opened or is not text."""
    content = read_bytes(path)
    try:
        return content.decode(_encoding(content))
    except (UnicodeError, LookupError) as error:
        raise DataError(f"{path} is not text in UTF-8 or UTF-16. Save it as UTF-8.") from error


def read_bytes(path: Path | str) -> bytes:
    """Of a regular file: a pipe would be waited for, and a device never ends. Raises DataError."""
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):
            kind = "a folder" if stat.S_ISDIR(status.st_mode) else "no regular file"
            raise DataError(f"{path} is {kind}; a file was expected.")
        if status.st_size > LARGEST_TEXT:
            raise DataError(
                f"{path} has {status.st_size:,} bytes; annotations of more than {LARGEST_TEXT:,} are not read."
                " Divide it."
            )
        return Path(path).read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a null character in the name
        reason = error.strerror if isinstance(error, OSError) else error
        raise DataError(f"{path} cannot be opened: {reason}.") from error


# The safe loader that leaves every scalar a string: a class may be called "no" or 007.
_YamlLoader = getattr(yaml, "CBaseLoader", yaml.BaseLoader)


def read_yaml(path: Path | str) -> Any:
    """Mappings, lists and strings. Raises DataError as `read_text`, and for what is not YAML or has aliases: nine
    lines of them can stand for a thousand million entries."""
    text = read_text(path)
    try:
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, Loader=_YamlLoader)):
            raise DataError(
                f"{path} has YAML aliases (*name), which are not read. Write out what they stand for."
            )
        return yaml.load(text, Loader=_YamlLoader)
    except (yaml.YAMLError, RecursionError) as error:
        raise DataError(f"{path} is not YAML that can be read: {' '.join(str(error).split())}.") from error


def _encoding(content: bytes) -> str:
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "utf-16"
    if content.startswith(b"\xef\xbb\xbf"):
        return "utf-8-sig"
    # ASCII characters in UTF-16 without a mark: every other byte is zero.
    if content[1:2] == b"\0":
        return "utf-16-le"
    if content[:1] == b"\0":
        return "utf-16-be"
    declared = _XML_ENCODING.match(content)
    return declared[1].decode() if declared else "utf-8"


def _refuse(error: OSError) -> None:
    raise DataError(f"{error.filename} cannot be read: {error.strerror}.") from error


def walk(
    folder: Path | str,
    suffixes: Iterable[str],
    links: list[str],
    unreadable: Callable[[OSError], None] = _refuse,
) -> Iterator[str]:
    """Paths of the files with one of the suffixes (lower case) in the folder and below, in sorted order.

    Links to folders are followed, but no folder is entered twice: those left out are appended to `links`.
    Names that begin with a dot are hidden (also the `._*` files that macOS leaves behind). unreadable: called for a
    folder that cannot be listed; by default that is a DataError.
    """
    suffixes = frozenset(suffixes)
    seen = set()
    for parent, folders, names in os.walk(folder, onerror=unreadable, followlinks=True):
        status = os.stat(parent)
        if (status.st_dev, status.st_ino) in seen:
            links.append(parent)
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name != "__MACOSX")
        for name in sorted(names):
            if os.path.splitext(name)[1].lower() in suffixes and not name.startswith("."):
                yield os.path.join(parent, name)


def walk_images(folder: Path | str, links: list[str]) -> Iterator[str]:
    return walk(folder, IMAGE_SUFFIXES, links)


class FileIndex:
    """What exists, by listing each folder once: 118,000 single look-ups would be slow on a network."""

    def __init__(self):
        self._folders: dict[str, dict[str, os.DirEntry[str]]] = {}
        self._denied: dict[str, PermissionError] = {}

    def find(self, path: str) -> str | None:
        """The file's path as it is on disk, or None. The name may be in another Unicode form (macOS stores
        accents as separate characters) or have Windows separators."""
        found = self._look_up(path)
        return found.path if found is not None and _is_file(found) else None

    def entry(self, path: str) -> str | None:
        """As `find`, but also of a folder, a pipe or a broken link: what is there and is no file, is not absent. Raises
        DataError where that cannot be known, because the folder must not be read."""
        found = self._look_up(path)
        if found is None and (denied := self._denied.get(os.path.dirname(path))):
            _refuse(denied)
        return found.path if found is not None else None

    def _look_up(self, path: str) -> os.DirEntry[str] | None:
        for candidate in (path, path.replace("\\", "/")) if "\\" in path else (path,):
            folder, name = os.path.split(candidate)
            names = self._names(folder)
            found = names.get(name) or names.get(unicodedata.normalize("NFC", name))
            if found:
                return found
        return None

    def _names(self, folder: str) -> dict[str, os.DirEntry[str]]:
        if folder not in self._folders:
            names: dict[str, os.DirEntry[str]] = {}
            try:
                with os.scandir(folder or ".") as entries:
                    for entry in entries:
                        names[unicodedata.normalize("NFC", entry.name)] = entry
                        names[entry.name] = entry
            except PermissionError as error:
                self._denied[folder] = error
            except (OSError, ValueError):
                pass  # no such folder: it holds no files
            self._folders[folder] = names
        return self._folders[folder]


def _is_file(entry: os.DirEntry) -> bool:
    try:
        return entry.is_file()
    except OSError:  # a link to itself
        return False


def in_threads(
    function: Callable[[Item], Result],
    items: Sequence[Item],
    what: str,
    unit: str = "images",
    *,
    shown: bool | None = None,
) -> list[Result]:
    """function of every item, in order; for work that waits for the disk or runs outside Python.

    what, unit, shown: of the progress on stderr; by default shown where hsvdet's messages are, as on the command line.
    """
    if shown is None:
        shown = logging.getLogger("hsvdet").isEnabledFor(logging.INFO)
    with (
        ThreadPoolExecutor(min(16, 2 * (os.cpu_count() or 1))) as pool,
        progress(what, len(items), unit, shown=shown) as advance,
    ):
        results = []
        for result in pool.map(function, items):
            results.append(result)
            advance(1)
        return results


def image_sizes(paths: Sequence[str]) -> list[tuple[int, int] | DataError]:
    """(height, width), upright, of each image from its header; the error itself where that fails."""
    return in_threads(_size_or_error, paths, "reading sizes")


def _size_or_error(path: str) -> tuple[int, int] | DataError:
    try:
        return image_size(path)
    except DataError as error:
        return error


def folder_at(path: Path) -> Path | None:
    """The folder at this path, or None. Git stores a link as a small text file where links are not possible;
    such a file is followed."""
    if path.is_dir():
        return path
    try:
        if path.is_file() and path.stat().st_size < 4096:
            target = Path(os.path.abspath(path.parent / path.read_text().strip()))
            return target if target.is_dir() else None
    except (OSError, ValueError):
        pass
    return None


def without_path(error: DataError, path: str) -> str:
    """The error's message without the path that it begins with, for problems filed under that path."""
    return f"it {str(error).removeprefix(f'{path} ')}"


def identity(path: str, root: Path) -> str:
    """The id of an image in a data set that gives none: its path relative to the root."""
    return Path(os.path.relpath(path, root)).as_posix()


def display(path: str | Path, root: Path) -> str:
    """The path as a message names it: relative to the data set's root where it lies inside."""
    try:
        return Path(path).relative_to(root).as_posix()
    except ValueError:
        return str(path)


def digests(paths: Iterable[str]) -> dict[str, bytes]:
    """Path to a digest of the file, for files that are as long as another; others are like none. Raises DataError."""
    lengths: dict[int, list[str]] = defaultdict(list)
    found: dict[str, bytes] = {}
    try:
        for path in dict.fromkeys(paths):
            lengths[os.stat(path).st_size].append(path)
        for path in (path for alike in lengths.values() if len(alike) > 1 for path in alike):
            with open(path, "rb") as file:
                found[path] = hashlib.file_digest(file, "sha256").digest()
    except OSError as error:
        raise DataError(f"{error.filename} cannot be read: {error.strerror}.") from error
    return found
