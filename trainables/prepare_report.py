"""What became of each raw photograph, for a person (report.html, one file with its thumbnails) and for a program (report.csv)."""

from __future__ import annotations

import base64
import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from html import escape
from pathlib import Path

from trainables.candidates import Candidate, Preparation
from trainables.folder_files import shown

COLUMNS = {
    "photograph": "its path within the raw folder",
    "verdict": "kept, flagged (kept, but look at it) or dropped",
    "reasons": "why, by the names that --drop takes, or `unreadable`",
    "explanation": "the same in words",
    "split": "train or heldout; empty if dropped",
    "image": "its path within the subject; empty if dropped",
    "width": "pixels, upright, as it was taken; 0 if it could not be read",
    "height": "pixels",
    "fitted": "width x height in pixels of what was made of it",
    "sharpness": "largest variance of the Laplacian among 4 x 4 tiles, at 512 pixels",
    "dark_level": "grey level of 255 below which a tenth of it lies",
    "bright_level": "grey level of 255 above which a tenth of it lies",
    "faces": "frontal faces found; empty if not counted",
    "group": "similar photographs have the same number; empty if dropped before that was asked",
}

_STYLE = """
body { font: 14px/1.4 system-ui, sans-serif; margin: 2em; color: #222; background: #fff; }
h2 { margin-top: 1.5em; border-bottom: 1px solid #ccc; }
.grid { display: grid; grid-template-columns: repeat(auto-fill, minmax(170px, 1fr)); gap: 14px; }
.card { border: 1px solid #ddd; border-top: 4px solid #4a4; padding: 6px; overflow-wrap: anywhere; }
.card.flagged { border-top-color: #e90; } .card.dropped { border-top-color: #c33; }
.card img, .none { width: 128px; height: 128px; object-fit: contain; display: block; background: #eee; }
.small { color: #666; font-size: 12px; }
"""


def write_reports(folder: Path, name: str, candidates: Sequence[Candidate], how: Preparation, notes: Sequence[str]) -> None:
    (folder / "report.csv").write_text(csv_text(candidates), encoding="utf-8", newline="\n")
    (folder / "report.html").write_text(html_text(name, candidates, how, notes), encoding="utf-8", newline="\n")


def csv_text(candidates: Sequence[Candidate]) -> str:
    """One row per raw photograph, with the columns of COLUMNS."""
    written = io.StringIO(newline="")
    writer = csv.DictWriter(written, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(_row(candidate) for candidate in candidates)
    return written.getvalue()


def html_text(name: str, candidates: Sequence[Candidate], how: Preparation, notes: Sequence[str]) -> str:
    """A page that loads nothing and runs nothing: dropped ones first, then flagged, then kept."""
    settings = ", ".join(f"{key} {value}" for key, value in asdict(how).items() if value not in ("", ()))
    parts = [
        '<!doctype html><html lang="en"><head><meta charset="utf-8">',
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'\">",
        f"<title>{_html(name)}: how it was prepared</title><style>{_STYLE}</style></head><body>",
        f"<h1>{_html(name)}</h1><p>{_html(settings)}</p>",
        "".join(f"<p>Note: {_html(note)}</p>" for note in notes),
    ]
    for verdict in ("dropped", "flagged", "kept"):
        some = [candidate for candidate in candidates if candidate.verdict == verdict]
        parts.append(f'<h2>{len(some)} {verdict}</h2><div class="grid">{"".join(map(_card, some))}</div>')
    return "\n".join([*parts, "</body></html>"]) + "\n"


def _row(candidate: Candidate) -> dict[str, object]:
    source = shown(candidate.source)
    return {
        # ./ is the same path, and no spreadsheet takes it for a formula.
        "photograph": f"./{source}" if source[0] in "=+-@\t\r" else source,
        "verdict": candidate.verdict,
        "reasons": " ".join(candidate.reasons),
        "explanation": shown("; ".join(candidate.reasons.values())),
        "split": candidate.split,
        "image": candidate.file_name,
        "width": candidate.width,
        "height": candidate.height,
        "fitted": "x".join(map(str, candidate.fitted)) if candidate.written else "",
        "sharpness": f"{candidate.sharpness:.1f}",
        "dark_level": f"{candidate.dark_level:.0f}",
        "bright_level": f"{candidate.bright_level:.0f}",
        "faces": "" if candidate.n_faces is None else candidate.n_faces,
        "group": "" if candidate.group < 0 else candidate.group,
    }


def _card(candidate: Candidate) -> str:
    return f'<div class="card {candidate.verdict}">{"".join(_lines_of_card(candidate))}</div>'


def _lines_of_card(candidate: Candidate) -> Iterator[str]:
    yield _thumbnail(candidate)
    yield f"<b>{_html(candidate.source)}</b>"
    yield "".join(f"<div>{_html(reason)}: {_html(words)}</div>" for reason, words in candidate.reasons.items())
    if candidate.width:
        yield f'<div class="small">{candidate.width}x{candidate.height} to {candidate.fitted[0]}x{candidate.fitted[1]}, sharpness {candidate.sharpness:.0f}</div>'
    if candidate.file_name:
        yield f'<div class="small"><a href="{_html(candidate.file_name)}">{_html(candidate.file_name)}</a></div>'
    for version, text in sorted(candidate.captions.items()):
        yield f'<div class="small">{_html(version)}: {_html(text)}</div>'


def _thumbnail(candidate: Candidate) -> str:
    if candidate.thumbnail is None:
        return '<div class="none"></div>'
    jpeg = io.BytesIO()
    candidate.thumbnail.save(jpeg, "JPEG", quality=80)
    return f'<img alt="" src="data:image/jpeg;base64,{base64.b64encode(jpeg.getvalue()).decode()}">'


def _html(text: str) -> str:
    return escape(shown(text), quote=True)
