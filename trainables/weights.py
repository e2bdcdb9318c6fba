"""Weight files of published networks: where they lie, whether they are what their name promises, what is in them.

Reads tensors only, so that no file can run code. Nothing is downloaded: a missing file is an error that says where to put it."""

from __future__ import annotations

import hashlib
import pickle
import re
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from trainables.digests import file_digest
from trainables.errors import ModelError

HASH_IN_NAME = re.compile(r"-([0-9a-f]{8,64})\.\w+$")


def weight_file(name: str, given: str | Path | None, address: str) -> Path:
    """The given file, or else the one of that address in torch hub's cache.

    Raises: ModelError if it is not there, or if its name ends in a hash, as published ones do, that its content does not have.
    """
    path = Path(given) if given else Path(torch.hub.get_dir()) / "checkpoints" / address.rsplit("/", 1)[1]
    if not path.is_file():
        raise ModelError(
            f"{name} needs its weight file {path}, which is not there; nothing is downloaded silently. Put {address} there, or set TORCH_HOME to "
            "the folder whose hub/checkpoints has it."
        )
    promised = HASH_IN_NAME.search(path.name)
    if promised and not digest_of(path).startswith(promised[1]):
        begins = digest_of(path)[:8]
        raise ModelError(f"{path} must have a sha256 that begins with {promised[1]}, but it begins with {begins}. Get {address} again.")
    return path


def read_weights(path: Path) -> dict[str, Tensor]:
    """The state dict in a .safetensors file, or in a torch file that holds nothing else.

    Raises: ModelError if it is damaged or holds anything but tensors.
    """
    try:
        state = load_file(path) if path.suffix == ".safetensors" else torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, ValueError, OSError) as error:
        raise unreadable(path, "a state dict of tensors", error) from error
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise unreadable(path, "a state dict of tensors", TypeError(f"it holds a {type(state).__name__}"))
    return state


def digest_of(*paths: Path) -> str:
    """sha256 of the file's content, or over those of several. Read once for as long as a file is the same: VGG's has 528 MB."""
    digests = [file_digest(path) for path in paths]
    return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()


def unreadable(path: Path, wanted: str, error: Exception) -> ModelError:
    """The error that says in one line that `path` does not hold what it should."""
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:150]
    return ModelError(f"{path} must hold {wanted}, but reading it says: {reason} Use the published file.")
