"""Picture grids drawn: values above and beside, LPIPS and trial under each picture. What stands where is grids.py's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont, ImageOps

from analysis.grids import NO_ADAPTER, NO_TRIGGER, Grid, GridCell
from sweep.records import RecordsError

CELL_PIXELS = 160
_GAP, _LINE, _SIDE, _TEXT = 6, 16, 112, 12


def draw_grid(grid: Grid) -> Image.Image:
    """The grid as one picture, z downwards: values above and beside, LPIPS and trial under each picture, at its right the nearest training
    image where the grid has such.

    Raises:
        RecordsError: a picture that the records name is missing or damaged."""
    font, n_rows = ImageFont.load_default(_TEXT), sum(len(rows) for rows in grid.cells)
    cells = [cell for rows in grid.cells for row in rows for cell in row]
    has_nearest = any(cell.nearest for cell in cells)
    step_x, step_y = CELL_PIXELS * (2 if has_nearest else 1) + _GAP, CELL_PIXELS + _LINE + _GAP
    width = max(_SIDE + len(grid.x_values) * step_x + _GAP, 480)
    notes = [f"{grid.prompt}  (seed {grid.seed})"]
    if grid.varying:
        notes.append(f"Also differ between pictures: {', '.join(grid.varying)}")
    if grid.bare_seed not in (None, grid.seed):
        notes.append(f"The row without the trigger word has other noise (seed {grid.bare_seed})")
    if has_nearest:
        how = "pixels" if any(cell.is_by_pixels for cell in cells) else "LPIPS"
        notes.append(f"Right of each picture: its nearest training image by {how}")
    head = _GAP + len(notes) * _LINE
    sheet = Image.new("RGB", (width, head + len(grid.cells) * (_LINE + _GAP) * 2 + n_rows * step_y), "white")
    draw = ImageDraw.Draw(sheet)
    for line, text in enumerate(notes):
        draw.text((_GAP, _GAP + line * _LINE), _cut(text, font, width - 2 * _GAP), fill="black", font=font)
    top = head + _GAP
    for z_value, names, rows in zip(grid.z_values, grid.y_values, grid.cells, strict=True):
        if grid.z:
            draw.text((_GAP, top), _cut(f"{grid.z} {_text(z_value)}", font, width), fill="black", font=font)
            top += _LINE + _GAP
        for column, value in enumerate(grid.x_values):
            draw.text((_SIDE + column * step_x, top), _cut(f"{grid.x} {_text(value)}", font, CELL_PIXELS), fill="black", font=font)
        top += _LINE
        for name, row in zip(names, rows, strict=True):
            label = name if name in (NO_ADAPTER, NO_TRIGGER) else f"{grid.y} {_text(name)}"
            draw.text((_GAP, top + CELL_PIXELS // 2), _cut(label, font, _SIDE - _GAP), fill="black", font=font)
            for column, cell in enumerate(row):
                _draw_cell(sheet, draw, cell, (_SIDE + column * step_x, top), font)
            top += step_y
    return sheet.crop((0, 0, width, top + _GAP))


def save_grid(sheet: Image.Image, file: Path) -> None:
    """Write the picture in one piece; its format is its name's.

    Raises:
        RecordsError: a name that is of no picture format, or a file that cannot be written."""
    part = file.with_name(f".part-{file.name}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        sheet.save(part)
        part.replace(file)
    except (OSError, ValueError) as error:
        part.unlink(missing_ok=True)
        raise RecordsError(f"The grid must be written as a picture, but {file} does not take it: {error}. Use -o FILE.png.") from error


def _draw_cell(sheet: Image.Image, draw: ImageDraw.ImageDraw, cell: GridCell, at: tuple[int, int], font: Any) -> None:
    left, top = at
    if cell.picture is None:
        draw.rectangle((left, top, left + CELL_PIXELS, top + CELL_PIXELS), outline="#bbbbbb")
        draw.text((left + 8, top + 8), "no picture", fill="#777777", font=font)
        return
    sheet.paste(_read(cell.picture), (left, top))
    if cell.nearest is not None:
        sheet.paste(_read(cell.nearest), (left + CELL_PIXELS, top))
    text = cell.trial if cell.lpips is None else f"{cell.trial}  LPIPS {cell.lpips:.3f}"
    draw.text((left, top + CELL_PIXELS), _cut(text, font, CELL_PIXELS), fill="#444444", font=font)


def _read(path: Path) -> Image.Image:
    try:
        with path.open("rb") as file, Image.open(file) as image:
            return ImageOps.contain(image.convert("RGB"), (CELL_PIXELS, CELL_PIXELS))
    except OSError as error:
        raise RecordsError(f"A stored picture must be readable, but {path} is not ({error}). Restore the study's pictures/.") from error


def _cut(text: str, font: Any, width: int) -> str:
    while text and font.getlength(text) > width:
        text = text[:-1]
    return text


def _text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
