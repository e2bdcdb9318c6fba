"""Contact sheets of a study's stored pictures, made with PIL: rows by columns, a line of text above each picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont, ImageOps

from sweep.records import RecordsError

LEAST_PIXELS, MOST_PIXELS = 144, 256
"""The longer side of a picture in a sheet: larger ones are made smaller, small ones larger, so that the text above has room."""

_GAP, _TEXT_HEIGHT, _TEXT_SIZE = 4, 16, 11


@dataclass(frozen=True)
class Cell:
    """A stored picture, and what stands above it."""

    picture: Path
    text: str


def sheet(rows: Sequence[Sequence[Cell | None]]) -> Image.Image:
    """All cells, a row of the sheet for each row; rows may differ in length. Where there is None, the place stays empty.

    Raises:
        RecordsError: a picture that the records name is missing or damaged."""
    pictures = [[_read(cell.picture) if cell else None for cell in row] for row in rows]
    width = max(picture.width for row in pictures for picture in row if picture)
    height = max(picture.height for row in pictures for picture in row if picture) + _TEXT_HEIGHT
    n_columns = max(len(row) for row in rows)
    result = Image.new("RGB", (n_columns * (width + _GAP) + _GAP, len(rows) * (height + _GAP) + _GAP), "white")
    draw, font = ImageDraw.Draw(result), ImageFont.load_default(_TEXT_SIZE)
    for y, (row, drawn) in enumerate(zip(rows, pictures, strict=True)):
        for x, (cell, picture) in enumerate(zip(row, drawn, strict=True)):
            if cell is None or picture is None:
                continue
            left, top = _GAP + x * (width + _GAP), _GAP + y * (height + _GAP)
            draw.text((left, top), _cut(cell.text, font, width), fill="black", font=font)
            result.paste(picture, (left + (width - picture.width) // 2, top + _TEXT_HEIGHT))
    return result


def _read(path: Path) -> Image.Image:
    try:
        with path.open("rb") as file, Image.open(file) as image:
            picture = image.convert("RGB")
    except OSError as error:
        raise RecordsError(f"A stored picture must be readable, but {path} is not ({error}). Restore the study's pictures/.") from error
    side = min(MOST_PIXELS, max(LEAST_PIXELS, *picture.size))
    return ImageOps.contain(picture, (side, side))


def _cut(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> str:
    """As much of the text as there is room for."""
    while text and font.getlength(text) > width:
        text = text[:-1]
    return text
