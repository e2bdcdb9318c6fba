"""A checksum within the file that it covers: the sha256 of all its bytes, its own 64 digits read as zeros.

It stands among the texts that a format keeps beside its data, safetensors' metadata or parquet's. A file that was written before there
were checksums has none, and is read as it is. Imports no torch."""

from __future__ import annotations

import hashlib
import io
import re
from pathlib import Path
from typing import IO

NAME = "sweep.sha256"
"""The key of the text that holds the checksum."""

_MARK, _N_DIGITS = "sha256 of this file: ", 64
BLANK = _MARK + "0" * _N_DIGITS
"""The text to write a file with, before it is sealed."""

_SEAL = re.compile(_MARK.encode() + b"(.{64})", re.DOTALL)  # also where one of its own digits is damaged
_CHUNK = 1 << 20
_LONGEST_TEXTS = 100_000_000  # as safetensors itself limits its header
_PARQUET = b"PAR1"


def seal(file: IO[bytes]) -> None:
    """Write the checksum into a complete file that has BLANK in it. `file`: open for reading and writing."""
    at = _position(file)
    assert at is not None, "the file was not written with BLANK"
    digits = _digits(file, at)
    file.seek(at)
    file.write(digits)


def sealed(content: bytes) -> bytes:
    """The same for a file that is still in memory."""
    file = io.BytesIO(content)
    seal(file)
    return file.getvalue()


def is_damaged(file: IO[bytes] | Path) -> bool:
    """Whether the file has another checksum than its content. One without a checksum is not.

    Raises:
        OSError: it cannot be read."""
    if isinstance(file, Path):
        with open(file, "rb") as opened:
            return is_damaged(opened)
    at = _position(file)
    if at is None:
        return False
    file.seek(at)
    return file.read(_N_DIGITS) != _digits(file, at)


def _position(file: IO[bytes]) -> int | None:
    """Where the digits begin; None in a file that has none."""
    start, texts = _texts(file)
    found = _SEAL.search(texts)
    return None if found is None else start + found.start(1)


def _texts(file: IO[bytes]) -> tuple[int, bytes]:
    """Where the texts of the format begin, and the bytes that hold them: parquet's are its end, safetensors' its beginning."""
    n_bytes = file.seek(0, io.SEEK_END)
    file.seek(max(0, n_bytes - 8))
    end = file.read(8)
    if end[4:] == _PARQUET:
        start = max(0, n_bytes - 8 - int.from_bytes(end[:4], "little"))
        length = n_bytes - start
    else:
        file.seek(0)
        start, length = 8, int.from_bytes(file.read(8), "little")
    if length > _LONGEST_TEXTS:
        return start, b""
    file.seek(start)
    return start, file.read(length)


def _digits(file: IO[bytes], at: int) -> bytes:
    """The sha256 of the file in hexadecimal, with zeros where its own digits are."""
    digest = hashlib.sha256()
    file.seek(0)
    left = at
    while left and (chunk := file.read(min(left, _CHUNK))):
        digest.update(chunk)
        left -= len(chunk)
    digest.update(b"0" * _N_DIGITS)
    file.seek(at + _N_DIGITS)
    while chunk := file.read(_CHUNK):
        digest.update(chunk)
    return digest.hexdigest().encode()
