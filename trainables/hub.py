"""Models on the model hub: found in its local cache, downloaded otherwise, and never more than what is read.

What makes a snapshot usable is for the caller to say."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from trainables.errors import ModelError, NotDownloadedError
from trainables.model_folders import WEIGHTS

T = TypeVar("T")
HUB_ID = re.compile(r"\w[\w.-]*/[\w.-]+")
"""How a repository of the hub is called: owner/name."""


def from_hub(
    name: str,
    parts: Sequence[str],
    use: Callable[[Path], T],
    *,
    refuse: Callable[[Path], None] = lambda _: None,
    download: bool = True,
) -> T:
    """What `use` makes of a snapshot that has these parts: of the cached one, or of one with the small files, then the weights in
    full precision, then those in fp16. `refuse` is asked before weights are downloaded.
    Without `download` only the cached one is used.

    Raises: ModelError of the last attempt, or of `refuse`; NotDownloadedError without `download`."""
    problem = ""
    # A cached snapshot may hold either precision: asking for one of them would make the client call it incomplete.
    attempts = ((True, None), (False, None), (False, ""), (False, ".fp16"))
    for local_files_only, weights in attempts if download else attempts[:1]:
        try:
            folder = snapshot(name, _patterns(parts, weights), local_files_only=local_files_only)
        except ModelError as error:
            problem = str(error)
            continue
        refuse(folder)
        try:
            return use(folder)
        except ModelError as error:  # a partial snapshot is no error to the client: the next attempt may complete it
            problem = str(error)
    if not download:
        command = _fetching(name, parts)
        raise NotDownloadedError(
            f"{name} is no folder here and not downloaded yet. A launch downloads it; beforehand: `{command}`."
        )
    raise ModelError(problem)


def is_cached(name: str) -> bool:
    """Whether the local cache has a UNet of that repository; asks no network."""
    try:
        return (snapshot(name, local_files_only=True) / "unet").is_dir()
    except ModelError:
        return False


def snapshot(name: str, patterns: list[str] | None = None, *, local_files_only: bool) -> Path:
    """The folder of a repository's snapshot, with the files of these patterns that it has; None: with all of them.

    Raises: ModelError if there is none."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HTTPError

    try:
        return Path(snapshot_download(name, allow_patterns=patterns, local_files_only=local_files_only))
    except (OSError, ValueError, HTTPError) as error:  # all of the client's errors are one of these
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        raise ModelError(
            f"{name} is no folder here and not in the local hub cache, and the hub gave no copy ({reason}). "
            "Check the spelling, download it once while online, or give a folder."
        ) from None


def _fetching(name: str, parts: Sequence[str]) -> str:
    """The command that downloads these parts in full precision, and no copies beside them."""
    weights = [pattern for pattern in _patterns(parts, "") if pattern.endswith(".safetensors")]
    included = [f'--include "{pattern}"' for pattern in ("*.json", "*.txt", *weights)]
    return " ".join(["hf download", name, *included])


def _patterns(parts: Sequence[str], weights: str | None) -> list[str]:
    # Never "*.safetensors": these folders also hold single-file copies of 4 to 8 GB and a safety checker.
    with_weights = [part for part in parts if part in WEIGHTS]
    patterns = ["model_index.json", *(f"{part}/config.json" for part in with_weights)]
    patterns += ["tokenizer/*.json", "tokenizer/*.txt"] if "tokenizer" in parts else []
    patterns += ["scheduler/*.json"] if "scheduler" in parts else []
    alone = tuple(parts) == ("vae",)  # a VAE's own repository has no folders
    patterns += ["config.json"] if alone else []
    if weights is not None:
        patterns += [f"{part}/{WEIGHTS[part]}{weights}.safetensors" for part in with_weights]
        patterns += [f"{WEIGHTS['vae']}{weights}.safetensors"] if alone else []
    return patterns
