"""Digests of texts, and of files, read once for as long as their size and time stay the same. Imports no torch: keys are made before a device is."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Iterable
from pathlib import Path


def file_digest(path: Path) -> str:
    """The sha256 of a file's content, in hexadecimal."""
    status = path.stat()
    return _digest_of(str(path), status.st_size, status.st_mtime_ns)


def digest_of_texts(texts: Iterable[str]) -> str:
    """24 hexadecimal digits that name these texts in their order."""
    # JSON, not a separator: captions may hold any character.
    return hashlib.sha256(json.dumps(list(texts)).encode()).hexdigest()[:24]


@functools.lru_cache(maxsize=65536)
def _digest_of(path: str, size_bytes: int, modified_ns: int) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
