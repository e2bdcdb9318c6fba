"""The files of records: written whole or not at all, with an error that says what to do. And pictures."""

from __future__ import annotations

import json
import logging
import shlex
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np

from sweep.errors import RecordsError
from trainables import storage
from trainables.storage import Place, reason_of, require_plain_name

logger = logging.getLogger(__name__)

USUAL_STORAGE = "sweeps"

LEADS_OUT = r"^([/\\]|[A-Za-z]:)|(^|[/\\])\.\.([/\\]|$)"
"""Of a path relative to a study's folder: that it is none, or leads out of it. A regular expression of RE2, too."""


def in_commands(study: Place) -> str:
    """The study in that folder as a command takes it: its name and, where it is not the usual one, its storage."""
    if study.parent == Path(USUAL_STORAGE).absolute():
        return study.name
    return f"{study.name} --storage {shlex.quote(str(study.parent))}"



def write_atomically(path: Place, write: Callable[[IO[bytes]], Any], *, last_in_folder: bool = True) -> None:
    """As trainables.storage.write_atomically.

    Raises:
        RecordsError: the folder cannot be written; nothing is left behind."""
    try:
        storage.write_atomically(path, write, last_in_folder=last_in_folder)
    except OSError as error:
        raise RecordsError(
            f"A study's folder must be writable, but {path.parent} is not: {reason_of(error)}. "
            f"Make room or change its permissions, or choose another place with --storage DIR."
        ) from error


def read_view(path: Place) -> dict[str, Any] | None:
    """The JSON object in a file that is made anew where it lacks; None where there is none, or it
    cannot be read or is damaged."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        logger.warning("%s is passed over: %s", path, error)
        return None
    return found if isinstance(found, dict) else None


def write_pictures(study_dir: Place, key: str, pictures: np.ndarray) -> list[str]:  # pictures (n, h, w, 3) uint8
    """The pictures as PNG, and their paths relative to the study's folder, in order."""
    from PIL import Image  # readers of records need no pictures

    if pictures.dtype != np.uint8 or pictures.ndim != 4 or pictures.shape[-1] != 3:
        raise RecordsError(f"Pictures must be uint8 (n, h, w, 3), but evaluation {key} gives {pictures.dtype} {pictures.shape}.")
    require_plain_name(key, "An evaluation's key")
    paths = [f"pictures/{key}/{index:03d}.png" for index in range(len(pictures))]
    for path, picture in zip(paths, pictures, strict=True):
        image = Image.fromarray(picture)
        save = partial(image.save, format="PNG", compress_level=3)
        write_atomically(study_dir / path, save, last_in_folder=path == paths[-1])
    return paths


def remove(paths: Iterable[Place]) -> None:
    for path in paths:
        path.unlink(missing_ok=True)
