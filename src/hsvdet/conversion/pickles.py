"""Read a PyTorch pickle without running anything in it.

PyTorch's own restricted unpickler (`weights_only`) rebuilds tensors and plain containers and refuses the rest.
Files that hold whole module objects need classes as well: those of the packages below become inert shells,
which keep their attributes and can do nothing. Any other name in the file is refused.
"""

from __future__ import annotations

import mmap
import pickle
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ..errors import CheckpointError

# The names that module files carry. Each becomes a shell: not even these are imported or called.
INERT = re.compile(
    r"ultralytics(\.\w+)+"
    r"|torch\.nn\.modules(\.\w+)+"
    r"|numpy\.(_?core\.multiarray\.scalar|dtype)|numpy\.dtypes\.\w+"  # a metric that was kept beside the weights
    r"|pathlib\.(Pure)?(Posix|Windows)?Path"
    r"|argparse\.Namespace"  # the settings that papers' repositories keep beside the weights
)


class Shell:
    """Stands for an object of a class that is not imported. `origin`: that class's full name."""

    origin = ""

    def __new__(cls, *arguments, **named):
        return object.__new__(cls)

    def __init__(self, *arguments, **named):
        pass

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, dict):
            self.__dict__.update(state)

    def attribute(self, name: str, default: Any = None) -> Any:
        return self.__dict__.get(name, default)


def read_pickle(path: str | Path) -> Any:
    """What `torch.save` wrote to `path`: tensors (on the CPU), containers, numbers, text, and Shells.

    Both the zip form and the older one; module objects only from the zip form. Raises CheckpointError naming
    the first thing in it that is neither data nor one of the shells' packages, or saying that it is damaged.
    """
    _check_members(path)
    _check_bytearrays(path)
    names = _globals(path)
    refused = sorted(name for name in names if not INERT.fullmatch(name))
    if refused:
        raise _refusal(path, refused[0])
    shells: list[Any] = [(type(name.rpartition(".")[2], (Shell,), {"origin": name}), name) for name in names]
    try:
        with torch.serialization.safe_globals(shells):
            found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # of a damaged file anything may be raised, and it is all one to the user
        if name := re.search(r"GLOBAL ([\w.]+\w)", str(error)):
            raise _refusal(path, name[1] if "." in name[1] else f"builtins.{name[1]}") from None
        # PyTorch's reason comes after its advice to load without looking.
        told = str(error).rpartition("WeightsUnpickler error:")[2].strip()
        reason = told.splitlines()[0] if told else type(error).__name__
        raise CheckpointError(
            f"{path}: expected a whole PyTorch file; it is damaged, cut off, or of an unknown kind"
            f" ({reason[:120]}). Copy it again."
        ) from None
    _check_tensors(path, found)
    return found


def _check_members(path: str | Path) -> None:
    """torch.save stores and never compresses. What is compressed may be a thousand times larger than its file."""
    if not zipfile.is_zipfile(path):
        return
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except (OSError, zipfile.BadZipFile, ValueError):
        return  # said by the reader, in words
    if any(member.compress_type != zipfile.ZIP_STORED for member in members) or (
        sum(member.file_size for member in members) > Path(path).stat().st_size
    ):
        raise CheckpointError(
            f"{path}: refused: its zip file is compressed, or names a content twice, as no torch.save writes it; what"
            " is in it may not fit into memory. Save it again with torch.save."
        )


def _check_bytearrays(path: str | Path) -> None:
    """PyTorch's unpickler makes them: bytearray(2000000000) is 2 GB of twenty bytes. torch.save writes none."""
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        if content.find(b"bytearray\n") >= 0:
            raise _refusal(path, "builtins.bytearray")


def _check_tensors(path: str | Path, found: Any) -> None:
    """That each tensor is as large as the memory it has: with a stride of 0, one number passes for any number of them.
    What is met twice, also within itself, is looked at once."""
    waiting, seen = [found], {id(found)}
    while waiting:
        item = waiting.pop()
        inner: list[Any] = []
        if isinstance(item, torch.Tensor):
            if (
                item.layout is torch.strided
                and item.numel() * item.element_size() > item.untyped_storage().nbytes()
            ):
                raise CheckpointError(
                    f"{path}: refused: a tensor of shape {list(item.shape)} has memory for"
                    f" {item.untyped_storage().nbytes():,} bytes alone. Save it again, contiguous."
                )
        elif isinstance(item, Mapping):
            inner = list(item.values())
        elif isinstance(item, list | tuple | set):
            inner = list(item)
        elif isinstance(item, Shell):
            inner = list(item.__dict__.values())
        for one in inner:
            if id(one) not in seen:
                seen.add(id(one))
                waiting.append(one)


def _globals(path: str | Path) -> set[str]:
    """The names of functions and classes in a zip file's pickle that PyTorch alone does not take."""
    if not zipfile.is_zipfile(path):
        return set()
    try:
        return set(torch.serialization.get_unsafe_globals_in_checkpoint(path))
    except pickle.UnpicklingError as error:
        raise CheckpointError(f"{path}: its pickle has what no torch.save writes ({error}).") from None
    except Exception as error:
        raise CheckpointError(
            f"{path}: expected a PyTorch file; it is damaged or cut off ({type(error).__name__}). Copy it again."
        ) from None


def _refusal(path: str | Path, name: str) -> CheckpointError:
    return CheckpointError(
        f"{path}: refused: it asks to load {name}, which is not weights and could run code. Nothing of it was run."
        " Get the file from a source you trust, or save its state dict alone: torch.save(model.state_dict(), ...)."
    )
