"""Digests of files, read once for as long as their size and time stay the same. Imports no torch: keys are made before a device is."""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path


def file_digest(path: Path) -> str:
    """The sha256 of a file's content, in hexadecimal."""
    status = path.stat()
    return _digest_of(str(path), status.st_size, status.st_mtime_ns)


@functools.lru_cache(maxsize=65536)
def _digest_of(path: str, size_bytes: int, modified_ns: int) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
