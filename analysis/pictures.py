"""A study's stored pictures: where they and their nearest training images lie, and small copies of them as data URIs.

Reads pictures; chooses none."""

from __future__ import annotations

import base64
import io
import json
import os
from pathlib import Path
from typing import Any

from PIL import Image, UnidentifiedImageError

from analysis.load import StudyRecords, launches_of

EMBEDDED_SUBJECT = "embedded:subject"
_EMBEDDED_FOLDER = Path(__file__).resolve().parents[1] / "trainables" / "embedded" / "subject"

THUMBNAIL_PIXELS = 160
BUDGET_BYTES = 11_000_000
"""Of all thumbnails of a report, as base64: with text and program it stays under 15 MB."""

MOST_MISSING = 1000
"""A study that was copied without its pictures: looking for a million of them would take minutes."""

_QUALITY = 72


def description_of(records: StudyRecords) -> dict[str, Any]:
    """The study field by field as launched, or nothing where the folder was copied without it."""
    return _json(records.folder / "study.json")


def subject_folder(records: StudyRecords) -> Path | None:
    """The folder of the training images that `nearest_reference` names, where this machine has it."""
    subject = description_of(records).get("subject")
    if not isinstance(subject, str):
        return None
    if subject == EMBEDDED_SUBJECT:
        folder = _EMBEDDED_FOLDER
    else:
        folder = _launched_in(records) / os.path.expanduser(subject)
    return folder if folder.is_dir() else None


def _launched_in(records: StudyRecords) -> Path:
    """Where relative names in the study are meant from; the current folder where nothing says it."""
    request = launches_of(records).get("request")
    of_launches = request.get("directory") if isinstance(request, dict) else None
    directory = description_of(records).get("directory") or of_launches
    return Path(directory) if isinstance(directory, str) else Path()


def _json(file: Path) -> dict[str, Any]:
    try:
        described = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return described if isinstance(described, dict) else {}


class Thumbnails:
    """Small WebP copies by path, each made once, up to a number of bytes. `n_refused` and `n_missing` say what is not there."""

    def __init__(self, *, budget_bytes: int = BUDGET_BYTES, pixels: int = THUMBNAIL_PIXELS) -> None:
        self.uris: list[str] = []
        self.n_refused = self.n_missing = 0
        self._numbers: dict[Path, int | None] = {}
        self._left, self._pixels = budget_bytes, pixels

    @property
    def is_closed(self) -> bool:
        """Whether asking for more is of no use: the budget is spent, or nothing is where the records say."""
        return self._left <= 0 or (not self.uris and self.n_missing >= MOST_MISSING)

    def number_of(self, path: Path) -> int | None:
        """The picture's place in `uris`; None where it is missing, damaged, or beyond the budget."""
        if path not in self._numbers:
            self._numbers[path] = self._made(path)
        return self._numbers[path]

    def _made(self, path: Path) -> int | None:
        if self._left <= 0:
            self.n_refused += 1
            return None
        try:
            uri = _data_uri(path, self._pixels)
        except (OSError, UnidentifiedImageError, ValueError):  # a picture that was moved away: the report says how many
            self.n_missing += 1
            return None
        if len(uri) > self._left:
            self._left = 0
            self.n_refused += 1
            return None
        self._left -= len(uri)
        self.uris.append(uri)
        return len(self.uris) - 1


def _data_uri(path: Path, pixels: int) -> str:
    with path.open("rb") as file, Image.open(file) as image:
        small = image.convert("RGB")
    small.thumbnail((pixels, pixels))
    file = io.BytesIO()
    small.save(file, "WEBP", quality=_QUALITY)
    return "data:image/webp;base64," + base64.b64encode(file.getvalue()).decode("ascii")
