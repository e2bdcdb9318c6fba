"""The training images that generated pictures stand beside: where they lie, and which is nearest where the records do not say.

Records name the nearest by LPIPS (`nearest_reference`); those of older schemas do not, and then it is sought by pixels, which sees colours
and composition, not faces. Either way a reader is told which."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
HELD_OUT_FOLDERS = ("heldout", "validation", "test", "masks")
COMPARED_PIXELS = 32
MOST_COMPARED = 1000
"""More photographs than these would take minutes to open: the first by name are compared."""


class TrainingImages:
    """Those of one subject's folder, or none at all where the folder is not on this machine."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder.resolve() if folder is not None else None
        self._compared: tuple[list[str], np.ndarray] | None = None

    def file_of(self, name: object) -> Path | None:
        """The image that records name. A record may come from anybody: a name that leads out of the subject's folder is none of its images."""
        if self._folder is None or not isinstance(name, str) or not name or "\0" in name:
            return None
        file = (self._folder / name).resolve()
        return file if file.is_relative_to(self._folder) and file.is_file() else None

    def nearest_by_pixels(self, picture: Path) -> str | None:
        """The name of the training image with the smallest mean squared difference at 32x32 pixels, both cut to the square in the middle."""
        names, pixels = self._pixels()
        try:
            own = _small(picture) if names else None
        except (OSError, UnidentifiedImageError, ValueError):
            return None
        return None if own is None else names[int(((pixels - own) ** 2).sum(axis=1).argmin())]

    def _pixels(self) -> tuple[list[str], np.ndarray]:  # n names, (n, 3 * 32 * 32)
        if self._compared is None:
            names, rows = [], []
            for name, file in self._of_training():
                try:
                    rows.append(_small(file))
                except (OSError, UnidentifiedImageError, ValueError):  # `sweep check` tells of it; here it is nearest to nothing
                    continue
                names.append(name)
                if len(names) == MOST_COMPARED:
                    break
            self._compared = names, np.stack(rows) if rows else np.empty((0, 3 * COMPARED_PIXELS**2), np.float32)
        return self._compared

    def _of_training(self) -> Iterator[tuple[str, Path]]:
        """Names and files by name, without those that are held out."""
        if self._folder is None:
            return
        held_out = _held_out_in(self._folder)
        for file in sorted(self._folder.rglob("*")):
            name = file.relative_to(self._folder)
            is_image = file.suffix.lower() in IMAGE_SUFFIXES and not file.stem.endswith(".mask")
            if is_image and name.as_posix() not in held_out and not set(name.parts[:-1]) & set(HELD_OUT_FOLDERS):
                yield name.as_posix(), file


def _held_out_in(folder: Path) -> set[str]:
    """The file names that the subject's list keeps from training."""
    try:
        lines = (folder / "metadata.jsonl").read_text(encoding="utf-8").splitlines()
        rows = [json.loads(line) for line in lines if line.strip()]
        return {row["file_name"] for row in rows if row.get("split") == "heldout"}
    except (OSError, ValueError, KeyError, AttributeError):  # kohya's folders have no list
        return set()


def _small(file: Path) -> np.ndarray:  # (3 * 32 * 32,), 0 to 1
    with file.open("rb") as opened, Image.open(opened) as image:
        image.draft("RGB", (4 * COMPARED_PIXELS, 4 * COMPARED_PIXELS))  # a JPEG is read at a fraction of its size
        square = ImageOps.fit(image.convert("RGB"), (COMPARED_PIXELS, COMPARED_PIXELS), Image.Resampling.BOX)
    return np.asarray(square, np.float32).ravel() / 255
