"""Frames as files and streams: text for a terminal, CSV, Markdown, LaTeX, parquet. Nothing is computed here."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pandas as pd
from rich.console import Console

from analysis.text import in_words, print_frame, texts_of
from sweep.records import RecordsError

FORMATS = ("text", "csv", "markdown", "latex", "parquet")
SUFFIXES = {".txt": "text", ".csv": "csv", ".md": "markdown", ".tex": "latex", ".parquet": "parquet"}


def format_of(format: str | None, out: Path | None) -> str:
    """The format that was asked for: by name, else by the file's suffix, else text.

    Raises:
        RecordsError: a file whose suffix says nothing, or parquet without a file."""
    if format is None and out is not None:
        if out.suffix not in SUFFIXES:
            raise RecordsError(f"A file's suffix says its format, one of {', '.join(SUFFIXES)}, but {out} ends otherwise. Add --format.")
        format = SUFFIXES[out.suffix]
    if format == "parquet" and out is None:
        raise RecordsError("Parquet is not text, so it needs a file. Add -o FILE.")
    return format or "text"


def write_frame(frame: pd.DataFrame, title: str, *, format: str, out: Path | None = None) -> None:
    """The frame to a file, whole or not at all, or to stdout. CSV and parquet hold every digit; the others are for reading.

    Raises:
        RecordsError: the file cannot be written."""
    frame = frame if format in ("csv", "parquet") else in_words(frame)
    if out is None and format == "text":
        print_frame(frame, title, Console())
    elif out is None:
        sys.stdout.write(as_bytes(frame, title, format).decode())
    else:
        write_file(out, as_bytes(frame, title, format))


def as_bytes(frame: pd.DataFrame, title: str, format: str) -> bytes:
    if format == "parquet":
        file = io.BytesIO()
        _storable(frame).to_parquet(file, index=False)
        return file.getvalue()
    if format == "csv":
        return frame.to_csv(index=False).encode()
    if format == "markdown":
        return _markdown(frame).encode()
    if format == "latex":
        return readable(frame).to_latex(index=False, escape=True, column_format=_alignment(frame)).encode()
    text = io.StringIO()
    print_frame(frame, title, Console(file=text))
    return text.getvalue().encode()


def readable(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame with every cell as text, as a terminal shows it."""
    return pd.DataFrame({name: texts_of(frame[name]) for name in frame}, columns=frame.columns, dtype=object)


def write_file(path: Path, content: bytes) -> None:
    """The whole file or none of it: under another name in the same folder first."""
    part = path.with_name(f".part-{path.name}")
    try:
        part.write_bytes(content)
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise RecordsError(f"A table is written into a folder that exists and can be written, but {path} cannot: {error.strerror}.") from error


def _markdown(frame: pd.DataFrame) -> str:
    # DataFrame.to_markdown needs a further package for this. A | within a cell would end it.
    cells = [[str(cell).replace("|", "\\|").replace("\n", " ") for cell in line] for line in readable(frame).to_numpy().tolist()]
    rule = [":---" if letter == "l" else "---:" for letter in _alignment(frame)]
    return "\n".join(f"| {' | '.join(line)} |" for line in [[str(name) for name in frame.columns], rule, *cells]) + "\n"


def _alignment(frame: pd.DataFrame) -> str:
    return "".join("r" if pd.api.types.is_numeric_dtype(frame[name]) else "l" for name in frame)


def _storable(frame: pd.DataFrame) -> pd.DataFrame:
    """Parameters may be of several types, or lists: such columns become text."""
    mixed = {name: frame[name] for name in frame if frame[name].dtype == object}
    return frame.assign(**{name: column.map(str, na_action="ignore").astype("string") for name, column in mixed.items()})
