"""The training images that generated pictures stand beside: where they lie, and which is nearest where the records do not say.

Records name the nearest by LPIPS (`nearest_reference`); those of older schemas do not, and then it is sought by pixels, which sees colours
and composition, not faces. Either way a reader is told which."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

IMAGE_SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".jif", ".jfi", ".pjpeg", ".pjp", ".mpo"),
    *(".png", ".apng", ".webp", ".avif", ".avifs", ".gif", ".bmp", ".dib", ".tif", ".tiff"),
    *(".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx", ".tga", ".qoi", ".psd", ".pcx", ".sgi"),
    *(".ico", ".dds", ".pbm", ".pgm", ".ppm", ".pnm", ".pfm"),
)
"""Those that a subject is read from: the same as in trainables/folder_files.py."""
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
        own = _small(picture) if names else None
        return None if own is None else names[int(((pixels - own) ** 2).sum(axis=1).argmin())]

    def _pixels(self) -> tuple[list[str], np.ndarray]:  # n names, (n, 3 * 32 * 32)
        if self._compared is None:
            names, rows = [], []
            for name, file in self._of_training():
                if (
                    small := _small(file)
                ) is None:  # `sweep check` tells of it; here it is nearest to nothing
                    continue
                rows.append(small)
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
            is_image = file.suffix.lower() in IMAGE_SUFFIXES and not file.stem.lower().endswith(
                ".mask"
            )
            is_hidden = any(part.startswith((".", "@ea")) for part in name.parts)
            folders = {part.lower() for part in name.parts[:-1]}
            if (
                is_image
                and not is_hidden
                and name.as_posix() not in held_out
                and not folders & set(HELD_OUT_FOLDERS)
            ):
                yield name.as_posix(), file


def _held_out_in(folder: Path) -> set[str]:
    """The file names that the subject's list keeps from training."""
    try:
        lines = (folder / "metadata.jsonl").read_text(encoding="utf-8").splitlines()
        rows = [json.loads(line) for line in lines if line.strip()]
        return {row["file_name"] for row in rows if row.get("split") == "heldout"}
    except (OSError, ValueError, KeyError, AttributeError):  # kohya's folders have no list
        return set()


def _small(file: Path) -> np.ndarray | None:  # (3 * 32 * 32,), 0 to 1
    """None where it cannot be read; Pillow raises OSError, SyntaxError, ValueError, struct.error."""
    try:
        with file.open("rb") as opened, Image.open(opened) as image:
            # A JPEG is read at a fraction of its size.
            image.draft("RGB", (4 * COMPARED_PIXELS, 4 * COMPARED_PIXELS))
            upright = ImageOps.exif_transpose(image).convert("RGB")
            square = ImageOps.fit(upright, (COMPARED_PIXELS, COMPARED_PIXELS), Image.Resampling.BOX)
    except Exception:
        return None
    return np.asarray(square, np.float32).ravel() / 255
