"""Lists of a subject's images, metadata.jsonl or metadata.csv: reading their rows, adding captions to them; and text as people save it.

    metadata.jsonl   {"file_name": "train/0000.png", "split": "train", "captions": {"v2": "...", "v3": "..."}}    our own form
                     {"file_name": "0000.png", "text": "..."}      Hugging Face's imagefolder; `text`, or `caption`, is version v2
    metadata.csv     file_name,split,text,captions.v3              the same in columns; `captions.NAME` is version NAME
A list lies at the top of the subject, or, as Hugging Face has it, one in each of train/ and heldout/ (or validation/, test/), where
file names start from that folder and the folder's name is the split. Other keys and columns are kept and not used.
What a row may say about an image is subject_images.py's matter."""

from __future__ import annotations

import codecs
import csv
import io
import json
import os
import re
import secrets
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainables.errors import SubjectError
from trainables.folder_files import is_file, require_readable, spelt_path, suffix_of

TEXT_VERSION = "v2"  # what a caption without a version is: kohya's caption files, Hugging Face's `text`
LIST_NAMES = ("metadata.jsonl", "metadata.csv")
SPLIT_FOLDERS = {"train": "train", "heldout": "heldout", "validation": "heldout", "test": "heldout"}
VERSION_COLUMN = "captions."

_TEXT_KEYS = ("text", "caption")
_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16's, with which it begins
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)

Refuse = Callable[[str], None]
"""Takes the one line on what is wrong: raises it, as `raise_first` does, or keeps it, so that all that is wrong can be told at once."""


@dataclass(frozen=True)
class Row:
    where: str  # the list and the line, for messages
    line: int
    list_path: Path
    split: str  # that of the list, where the row names none
    values: dict[str, Any]

    @property
    def folder(self) -> Path:
        """Where its file name starts from."""
        return self.list_path.parent

    @property
    def pictured(self) -> Path:
        """The file that it names, resolved, whether or not there is one; its folder where it names none."""
        return resolved(
            spelt_path(self.folder, str(self.values.get("file_name", "")).replace("\0", ""))
        )


def raise_first(problem: str) -> None:
    raise SubjectError(problem)


def read_text(path: Path) -> str:
    """A text file's content: UTF-8, or UTF-16 and UTF-32 with the mark that Windows' editors begin them with.

    Raises: SubjectError if it cannot be opened, is another encoding, or no text."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise require_readable(path, error) from None
    try:
        text = decoded(content)
    except UnicodeDecodeError as error:
        mark, encoding = _mark_and_encoding(content)
        rule = f"Captions must be {encoding.upper()}" + (", as this file's first bytes say" if mark else "")
        raise SubjectError(f"{rule}, but {path} is not (byte {error.start}). Save it as UTF-8.") from None
    if "\0" in text:  # pictures, archives, and UTF-16 without a mark
        raise SubjectError(f"Captions must be text, but {path} holds a zero (character {text.index(chr(0))}). Save it as UTF-8 text.")
    return text


def decoded(content: bytes) -> str:
    """Text as people's editors save it, with every line end as one character: UTF-8, or UTF-16 and
    UTF-32 with their mark; the mark is left out.

    Raises: UnicodeDecodeError if it is another encoding."""
    mark, encoding = _mark_and_encoding(content)
    text = content[len(mark) if encoding == "utf-8" else 0 :].decode(encoding)
    return text.replace("\r\n", "\n").replace("\r", "\n")


def resolved(path: Path) -> Path:
    """Without links; a circle of links as it is named."""
    try:
        return path.resolve()
    except (OSError, RuntimeError):
        return path.absolute()


def write_aside(path: Path, text: str) -> None:
    """Write a file whole: to another name in the same folder, then renamed."""
    temporary = path.with_name(f".{secrets.token_hex(6)}.part")
    try:
        temporary.write_text(text, encoding="utf-8", newline="\n")
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise SubjectError(
            f"A subject's folder must be writable, but {path} is not: {error.strerror}. Copy the subject elsewhere."
        ) from None


def parse_object(text: str, where: str) -> dict[str, Any]:
    """Raises: SubjectError if the text is not one JSON object of whole characters."""
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise SubjectError(f"It must be one JSON object, but {where} is not JSON ({error}). Correct it.") from None
    if not isinstance(values, dict):
        raise SubjectError(f"It must be one JSON object, but {where} gives {values!r:.40}. Write {{...}}.")
    if re.search("[\ud800-\udfff]", json.dumps(values, ensure_ascii=False)):
        raise SubjectError(f"Texts must be Unicode, but {where} holds half a character (\\ud800 to \\udfff). Write it out.")
    return values


def list_files(root: Path, refuse: Refuse = raise_first) -> dict[Path, str]:
    """The subject's lists with the split that each stands for; none in a kohya folder."""
    at_top = _only_list_in(root, refuse)
    if at_top:
        return {at_top: "train"}
    within = {
        _only_list_in(spelt_path(root, name), refuse): split
        for name, split in SPLIT_FOLDERS.items()
    }
    return {path: split for path, split in within.items() if path}


def rows_of(lists: Mapping[Path, str], refuse: Refuse = raise_first) -> list[Row]:
    """The rows of these lists, in their order; a line that cannot be read is refused and left out."""
    return [row for path, split in lists.items() for row in _rows_of_list(path, split, refuse)]


def captions_in(values: Mapping[str, Any], where: str) -> dict[str, str]:
    """A row's captions by version, whichever form it has.

    Raises: SubjectError if they are no texts, or one version has two."""
    found = values.get("captions", {})
    if not isinstance(found, dict):
        raise SubjectError(f'`captions` must map versions to texts, but {where} gives {found!r:.60}. Write e.g. {{"v2": "a, b"}}.')
    named = [(version, found[version]) for version in found]
    named += [(TEXT_VERSION, values[key]) for key in _TEXT_KEYS if values.get(key) is not None]
    named += [(key.removeprefix(VERSION_COLUMN), values[key]) for key in values if key.startswith(VERSION_COLUMN)]
    captions: dict[str, str] = {}
    for version, text in named:
        if not isinstance(text, str):
            raise SubjectError(f"`captions` must map versions to texts, but {where} gives {text!r:.60} for {version}. Put it in quotes.")
        if captions.setdefault(version, text) != text:
            raise SubjectError(f"An image has one caption per version, but {where} gives two for {version}. Delete one.")
    return captions


def add_captions(root: Path, added: Mapping[str, Mapping[str, str]]) -> None:
    """Write captions by version, for images by file name (as SubjectImage has it), into the lists that name them; all else is kept."""
    for path, split in list_files(root).items():
        rows = list(_rows_of_list(path, split, raise_first))
        with_captions = [
            _with_captions(
                row, added.get(_name_within(root, row), {}), in_columns=suffix_of(path) == ".csv"
            )
            for row in rows
        ]
        write_aside(
            path,
            _csv_text(with_captions, path)
            if suffix_of(path) == ".csv"
            else jsonl_text(with_captions),
        )


def jsonl_text(rows: list[dict[str, Any]]) -> str:
    """A row a line; letters as they are, so that a person can read and correct them."""
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _mark_and_encoding(content: bytes) -> tuple[bytes, str]:
    return next(((mark, name) for mark, name in _MARKS if content.startswith(mark)), (b"", "utf-8"))


def _only_list_in(folder: Path, refuse: Refuse) -> Path | None:
    found = [path for name in LIST_NAMES if is_file(path := spelt_path(folder, name))]
    if len(found) > 1:
        refuse(f"A subject must have one list of its images, but {folder} has {' and '.join(LIST_NAMES)}. Delete one.")
    return found[0] if found else None


def _rows_of_list(path: Path, split: str, refuse: Refuse) -> Iterator[Row]:
    try:
        text = read_text(path)
    except SubjectError as error:
        refuse(str(error))
        return
    lines = (
        _lines_of_csv(text, path, refuse)
        if suffix_of(path) == ".csv"
        else _lines_of_jsonl(text, path, refuse)
    )
    for number, values in lines:
        yield Row(where=f"{path} line {number}", line=number, list_path=path, split=split, values=values)


def _lines_of_jsonl(text: str, path: Path, refuse: Refuse) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            try:
                yield number, parse_object(line, f"{path} line {number}")
            except SubjectError as error:
                refuse(str(error))


def _lines_of_csv(text: str, path: Path, refuse: Refuse) -> Iterator[tuple[int, dict[str, Any]]]:
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=_delimiter_of(text))
    try:
        if "file_name" not in (reader.fieldnames or ()):  # reads the first line
            columns = ", ".join(reader.fieldnames or ()) or "none"
            refuse(f"A list must name its images in a column file_name, but {path} has {columns}. Rename or add it.")
            return
        for values in reader:
            if None in values:
                refuse(f"A row has a cell per column, but {path} line {reader.line_num} has more. Put texts with commas in quotes.")
                continue
            yield reader.line_num, {key: value for key, value in values.items() if value}  # an empty cell says nothing
    except csv.Error as error:
        refuse(f"A list must be CSV, but {path} line {reader.line_num} is not ({error}). Correct it.")


def _delimiter_of(text: str) -> str:
    header = text.split("\n", 1)[0]
    return max(",;\t", key=header.count)  # half of Europe's spreadsheets write semicolons


def _name_within(root: Path, row: Row) -> str:
    return spelt_path(row.folder, str(row.values.get("file_name"))).relative_to(root).as_posix()


def _with_captions(row: Row, added: Mapping[str, str], *, in_columns: bool) -> dict[str, Any]:
    if in_columns:
        return row.values | {VERSION_COLUMN + version: text for version, text in added.items()}
    return row.values | ({"captions": row.values.get("captions", {}) | added} if added else {})


def _csv_text(rows: list[dict[str, Any]], path: Path) -> str:
    text = read_text(path)
    delimiter = _delimiter_of(text)
    columns = next(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter))
    columns += sorted({key for row in rows for key in row} - set(columns))
    written = io.StringIO(newline="")
    writer = csv.DictWriter(written, columns, delimiter=delimiter, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return written.getvalue()
