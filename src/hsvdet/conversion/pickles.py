"""Read a PyTorch pickle without running anything in it.

PyTorch's own restricted unpickler (`weights_only`) rebuilds tensors and plain containers and refuses the rest.
Files that hold whole module objects need classes as well: those of the packages below become inert shells,
which keep their attributes and can do nothing. Any other name in the file is refused.
"""

from __future__ import annotations

import pickle
import re
import zipfile
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
    names = _globals(path)
    refused = sorted(name for name in names if not INERT.fullmatch(name))
    if refused:
        raise _refusal(path, refused[0])
    shells: list[Any] = [(type(name.rpartition(".")[2], (Shell,), {"origin": name}), name) for name in names]
    try:
        with torch.serialization.safe_globals(shells):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # of a damaged file anything may be raised, and it is all one to the user
        if name := re.search(r"GLOBAL ([\w.]+\w)", str(error)):
            raise _refusal(path, name[1] if "." in name[1] else f"builtins.{name[1]}") from None
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise CheckpointError(
            f"{path}: expected a whole PyTorch file; it is damaged, cut off, or of an unknown kind"
            f" ({reason[:120]}). Copy it again."
        ) from None


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
