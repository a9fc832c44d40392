"""Weights on the Hugging Face hub: `hf://owner/name`, `hf://owner/name@revision`, `hf://owner/name/file.safetensors`.

huggingface_hub fetches and caches them, with its own settings (HF_HOME, HF_TOKEN, HF_ENDPOINT, HF_HUB_OFFLINE).
What was fetched once is found again without a connection.
"""

# pyright: strict

from __future__ import annotations

import re
from os import PathLike
from pathlib import Path
from typing import NamedTuple

from .checkpoint import is_checkpoint
from .errors import CheckpointError

# One slash where a Path has swallowed the other.
_ADDRESS = re.compile(r"hf:/{1,2}(?P<repo>[\w.-]+/[\w.-]+)(@(?P<revision>[^@]+?))?(/(?P<file>[^@]+))?")
_SMALL = ["*.json", "*.safetensors"]
_PICKLED = ["*.json", "pytorch_model*.bin"]


class Fetched(NamedTuple):
    """path: a file, or a folder as Hugging Face keeps models. name: where it comes from, with the exact revision.
    ours: whether it is a checkpoint of hsvdet, and needs no conversion."""

    path: Path
    name: str
    ours: bool


def is_address(path: str | PathLike[str]) -> bool:
    return str(path).startswith("hf:/")


def is_here(address: str | PathLike[str]) -> bool:
    """Whether something of the repository is in the cache."""
    from huggingface_hub import try_to_load_from_cache

    match = _ADDRESS.fullmatch(str(address))
    return match is not None and isinstance(try_to_load_from_cache(match["repo"], "config.json"), str)


def fetch(address: str | PathLike[str]) -> Fetched:
    """What the address names, on this machine: from the cache where it is there, fetched first where it is not.

    A repository is either of one hsvdet checkpoint (a .safetensors of any name at its top) or laid out as
    transformers does it; of several checkpoints the address names one, after the repository. A branch with a
    slash in its name cannot be written in an address; its commit can.
    Raises CheckpointError for an address of another form, a repository, revision or file that does not exist or
    is not open to you, one without weights, and where there is neither a connection nor a copy.
    """
    match = _ADDRESS.fullmatch(str(address))
    if not match:
        raise CheckpointError(
            f"{address}: expected hf://owner/name, with @revision or /file after it where it needs them."
        )
    repo, revision, file = match["repo"], match["revision"], match["file"]
    if file:
        path = _download(address, repo, revision, file=file)
        commit = path.parents[file.count("/")].name
        return Fetched(path, f"hf://{repo}@{commit}/{file}", is_checkpoint(path))
    folder = _download(address, repo, revision, patterns=_SMALL)
    weights = sorted(folder.glob("*.safetensors"))
    if not weights:
        folder = _download(address, repo, revision, patterns=_PICKLED)
        weights = sorted(folder.glob("pytorch_model*.bin"))
    own = [path for path in weights if path.suffix == ".safetensors" and is_checkpoint(path)]
    name = f"hf://{repo}@{folder.name}"
    if len(own) == 1:
        return Fetched(own[0], f"{name}/{own[0].name}", True)
    if own:
        raise CheckpointError(
            f"{address}: has {len(own)} checkpoints ({', '.join(path.name for path in own)}). Name one:"
            f" hf://{repo}{f'@{revision}' if revision else ''}/{own[0].name}."
        )
    if not weights:
        raise CheckpointError(
            f"{address}: expected an hsvdet checkpoint, model.safetensors or pytorch_model.bin at the top of the"
            " repository; there is none. Weights of another name are named after it: hf://owner/name/file.pt."
        )
    return Fetched(folder, name, False)


def _download(
    address: str | PathLike[str],
    repo: str,
    revision: str | None,
    *,
    file: str | None = None,
    patterns: list[str] | None = None,
) -> Path:
    from huggingface_hub import (
        errors,
        hf_hub_download,  # pyright: ignore[reportUnknownVariableType] untyped in part
        snapshot_download,  # pyright: ignore[reportUnknownVariableType] untyped in part
    )

    try:
        if file:
            return Path(hf_hub_download(repo, file, revision=revision))
        # Of the top folder alone: what lies deeper is of other formats.
        return Path(
            snapshot_download(repo, revision=revision, allow_patterns=patterns, ignore_patterns=["*/*"])
        )
    except errors.GatedRepoError:
        problem = "is gated. Ask for access on its page, then log in: hf auth login."
    except errors.RepositoryNotFoundError:
        problem = "no such repository, or a private one. Check the name, or log in: hf auth login."
    except errors.RevisionNotFoundError:
        problem = f"the repository has no revision {revision}. Take a branch, a tag or a whole commit id."
    except errors.RemoteEntryNotFoundError:
        problem = f"the repository has no file {file}."
    except errors.HFValidationError as error:
        problem = f"no name of a repository: {_first_line(error)}"
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled, ConnectionError, TimeoutError):
        problem = (
            "cannot be fetched without a connection, and is not in the cache. Connect (and unset HF_HUB_OFFLINE),"
            f" or run `hf download {repo}` elsewhere and copy its cache, or convert a folder of its files."
        )
    except (OSError, errors.HTTPError) as error:  # pyright: ignore[reportPrivateImportUsage] - any HTTP library's
        problem = f"cannot be fetched: {_first_line(error)}"
    raise CheckpointError(f"{address}: {problem}") from None


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
