"""One self-contained page of a study: style, program, numbers and thumbnails in one file that opens from disk without network.

The numbers are report_numbers.py's, the page is report_*.js and report_page.*; here they are put together, and nothing is computed."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import os
import tempfile
from pathlib import Path
from typing import Any

from analysis.load import StudyRecords
from analysis.report_numbers import report_numbers
from sweep.records import RecordsError

PROGRAM = ("report_page.js", "report_charts.js", "report_grid.js", "report_sections.js")
"""One script in the page, in this order."""

_FOLDER = Path(__file__).parent


def write_report(records: StudyRecords, file: Path, *, seed: int = 0) -> Path:
    """Write the page in one piece, and return where it is.

    Raises:
        RecordsError: the file cannot be written."""
    page = page_of(report_numbers(records, seed=seed))
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        handle, part = tempfile.mkstemp(dir=file.parent, prefix=".report-")
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as opened:
                opened.write(page)
            os.chmod(part, 0o644)  # mkstemp's is for its owner alone
            os.replace(part, file)
        except BaseException:
            os.unlink(part)
            raise
    except OSError as error:
        raise RecordsError(f"The report must be written somewhere, but {file} does not take it: {error.strerror}. Use -o FILE.") from error
    return file


def page_of(numbers: dict[str, Any]) -> str:
    """The page as text. Everything that comes from a study reaches it as json, and the program puts it there as text, never as markup."""
    style, program = _read("report_page.css"), "".join(_read(name) for name in PROGRAM)
    # A name may hold a place's name: all places are filled in one pass, and what was filled in is not looked at again.
    values = {"TITLE": html.escape(numbers["name"]), "STYLE": style, "PROGRAM": program, "HASH": _hash(program), "NUMBERS": json_for_html(numbers)}
    parts = _read("report_page.html").split("@@")
    return "".join(values[part] if index % 2 else part for index, part in enumerate(parts))


def json_for_html(value: Any) -> str:
    """JSON in which no text can end a script element or begin a comment."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    escapes = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"}
    return text.translate(str.maketrans(escapes)).encode("utf-8", "replace").decode("utf-8")


def _hash(program: str) -> str:
    """What the page's content security policy allows to run: this program and nothing else."""
    return base64.b64encode(hashlib.sha256(program.encode("utf-8")).digest()).decode("ascii")


def _read(name: str) -> str:
    return (_FOLDER / name).read_text(encoding="utf-8")
