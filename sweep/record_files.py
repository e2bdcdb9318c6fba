"""Writing files so that nobody ever sees half of one: a temporary name in the same folder, then a rename. And pictures."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np

from sweep.errors import RecordsError


def write_atomically(path: Path, write: Callable[[IO[bytes]], Any], *, last_in_folder: bool = True) -> None:
    """The file at `path`, complete and on disk when this returns. A reader sees the old one or the new one.

    Of several files in one folder, only the last need make the renames last: last_in_folder=False saves the rest of them.

    Raises:
        RecordsError: the folder cannot be written; nothing is left behind."""
    # The dot hides it from readers; pyarrow and glob("*.parquet") of ours pass it over.
    temporary = path.parent / f".{path.name}.{uuid.uuid4().hex}.tmp"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        if last_in_folder:
            _sync_folder(path.parent)
    except OSError as error:
        raise RecordsError(
            f"A study's folder must be writable, but {path.parent} is not: {error.strerror or error}. "
            f"Make room or change its permissions, or choose another place with --storage DIR."
        ) from error
    finally:
        temporary.unlink(missing_ok=True) if _exists(temporary) else None


def write_pictures(study_dir: Path, key: str, pictures: np.ndarray) -> list[str]:  # pictures (n, h, w, 3) uint8
    """The pictures as PNG, and their paths relative to the study's folder, in order."""
    from PIL import Image  # readers of records need no pictures

    if pictures.dtype != np.uint8 or pictures.ndim != 4 or pictures.shape[-1] != 3:
        raise RecordsError(f"Pictures must be uint8 (n, h, w, 3), but evaluation {key} gives {pictures.dtype} {pictures.shape}.")
    paths = [f"pictures/{key}/{index:03d}.png" for index in range(len(pictures))]
    for path, picture in zip(paths, pictures, strict=True):
        image = Image.fromarray(picture)
        save = partial(image.save, format="PNG", compress_level=3)
        write_atomically(study_dir / path, save, last_in_folder=path == paths[-1])
    return paths


def remove(paths: Iterable[Path]) -> None:
    for path in paths:
        path.unlink(missing_ok=True)


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:
        return False


def _sync_folder(folder: Path) -> None:
    # Without it a crash of the machine may forget the rename; some network file systems refuse it, and then it is not needed.
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(descriptor)
    except OSError:
        pass
    finally:
        os.close(descriptor)
