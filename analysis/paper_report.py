"""The paper's tables, figure and sample grids as files: paper.md, and table-4 and table-5 as LaTeX and CSV. Numbers come from
analysis/paper.py; nothing is computed here."""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.load import StudyRecords
from analysis.paper import DESCRIBED, findings, paper_table
from analysis.paper_figure import draw_paper_figure
from analysis.pictures import description_of
from analysis.published import PROTOCOL, ROW
from analysis.sample_grids import Cell, sheet
from analysis.text import caption_of, text_of
from sweep.records import RecordsError

TABLES = (4, 5)
N_BEST = 5
_METRICS = {"lpips": "LPIPS", "fid": "FID"}


def write_paper_report(records: StudyRecords, rows: pd.DataFrame, folder: Path) -> list[str]:
    """Write the report, and say in one line each what was left out. What the folder held under the same names is replaced.

    rows: as analysis.paper.paper_rows.

    Raises:
        RecordsError: a picture is missing, or the folder cannot be written."""
    left_out: list[str] = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # All of it or nothing: a reader never meets a new table beside an old figure.
        with tempfile.TemporaryDirectory(dir=folder, prefix=".part-") as part:
            pictures = _write_pictures(records, rows, Path(part), left_out)
            for table in TABLES:
                readable = readable_table(paper_table(rows, table))
                latex = latex_table(readable, table, caption=caption_and_findings(records, rows)[0])
                (Path(part) / f"table-{table}.tex").write_text(latex, encoding="utf-8")
                paper_table(rows, table).drop(columns="evaluation_keys").to_csv(Path(part) / f"table-{table}.csv", index=False)
            (Path(part) / "paper.md").write_text(markdown(records, rows, pictures), encoding="utf-8")
            for file in sorted(Path(part).iterdir()):
                shutil.move(file, folder / file.name)
    except OSError as error:
        raise RecordsError(f"The report must be written somewhere, but {folder} does not take it: {error}. Use --out DIR.") from error
    return left_out


def readable_table(rows: pd.DataFrame) -> pd.DataFrame:
    """The table as text: LPIPS with its interval, both groups of prompts, and the published values beside this study's."""
    columns = {
        "experiment": rows["experiment"].map(text_of),
        **{name: rows[name].map(text_of) for name in DESCRIBED},
        "guidance": rows["guidance"].map(lambda value: f"{value:g}"),
        "LPIPS [95 %]": [_with_interval(row) for row in rows.to_dict("records")],
        "LPIPS seen": rows["lpips_seen"].map(text_of),
        "LPIPS unseen": rows["lpips_unseen"].map(text_of),
        "LPIPS published": rows["lpips_published"].map(text_of),
        "FID": rows["fid"].map(lambda value: text_of(value, 1)),
        "KID": rows["kid"].map(text_of),
        "FID published": rows["fid_published"].map(lambda value: text_of(value, 1)),
    }
    return pd.DataFrame(columns)


def latex_table(readable: pd.DataFrame, table: int, *, caption: str) -> str:
    layout = {"column_format": "lllll" + "r" * (readable.shape[1] - 5), "label": f"tab:paper-{table}"}
    return readable.to_latex(index=False, escape=True, caption=f"Table {table} of the paper, repeated. {_escaped(caption)}", **layout)


def markdown(records: StudyRecords, rows: pd.DataFrame, pictures: Iterable[Path]) -> str:
    """The whole report as text that shows the pictures beside it."""
    parts = [f"# {records.name}: the paper's tables", *caption_and_findings(records, rows)]
    for table in TABLES:
        parts += [f"## Table {table}", _markdown_table(readable_table(paper_table(rows, table)))]
    no_table = rows[rows["table"].isna()]
    if len(no_table):
        parts += ["## In no table", _markdown_table(readable_table(no_table).drop(columns=["LPIPS published", "FID published"]))]
    for picture in pictures:
        parts += [f"## {_title_of(picture)}", f"![{_title_of(picture)}]({picture.name})"]
    return "\n\n".join(parts) + "\n"


def caption_and_findings(records: StudyRecords, rows: pd.DataFrame) -> list[str]:
    """What the numbers rest on, then the lowest LPIPS and FID on either side: a sentence or list item each."""
    in_tables = rows["table"].notna()
    scored = f"{(in_tables & rows['lpips'].notna()).sum()} of {in_tables.sum()} rows scored. {_scale_of(records)}{caption_of(rows)}"
    return [scored, f"Published: {PROTOCOL}.", *(_finding(row) for row in findings(rows).to_dict("records"))]


def _scale_of(records: StudyRecords) -> str:
    scale = description_of(records).get("scale")
    return f"Scale {scale}. " if scale else ""


def _finding(row: Mapping[str, Any]) -> str:
    value = text_of(row["value"], 3 if row["metric"] == "lpips" else 1)
    where = f"table {row['table']}, experiment {row['experiment']}, guidance {row['guidance']:g}"
    what = f"{row['train_model']} to {row['infer_model']}, captions {row['caption']}"
    return f"Lowest {_METRICS[row['metric']]}, {row['side']}: {value} ({where}; {what})."


def _markdown_table(frame: pd.DataFrame) -> str:
    # DataFrame.to_markdown needs a further package for this.
    lines = [list(frame.columns), ["---"] * frame.shape[1], *frame.to_numpy().tolist()]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _escaped(text: str) -> str:
    # to_latex escapes the table, but not its caption.
    return re.sub(r"([%_#&$])", r"\\\1", text)


def _with_interval(row: dict) -> str:
    mean = text_of(row["lpips"])
    return mean if pd.isna(row["lpips_low"]) else f"{mean} [{row['lpips_low']:.3f}, {row['lpips_high']:.3f}]"


# ---- pictures


def _write_pictures(records: StudyRecords, rows: pd.DataFrame, folder: Path, left_out: list[str]) -> list[Path]:
    """The figure, then a grid and the best samples of each experiment; their paths in the order in which the report shows them."""
    written = []
    try:
        draw_paper_figure(rows, title=f"{records.name}: LPIPS and FID across experiments").savefig(folder / "across-experiments.png", dpi=120)
        written.append(folder / "across-experiments.png")
    except ModuleNotFoundError as error:
        left_out.append(f"no figure: it needs {error.name}. Install it with: pip install 'lora-sweep[report]'")
    for (table, experiment), own in rows.groupby(["table", "experiment"], dropna=False):
        images = _images_of(records, own)
        if images.empty:
            continue
        place = f"experiment-{experiment}" if pd.isna(table) else f"table-{table}-experiment-{experiment}"
        for kind, cells in (("samples", _grid(records.folder, images)), ("best", _best(records.folder, images))):
            sheet(cells).save(folder / f"{kind}-{place}.png")
            written.append(folder / f"{kind}-{place}.png")
    if len(written) < 2:
        left_out.append("no sample grids: the records hold no pictures of these trials")
    return written


def _images_of(records: StudyRecords, rows: pd.DataFrame) -> pd.DataFrame:
    """One row per stored picture of these rows' first training seed, with the guidance that it was made with."""
    keys = rows.dropna(subset=["evaluation_keys"])
    keys = keys[[ROW[-1]]].assign(evaluation_key=keys["evaluation_keys"].map(lambda own: own[0]))
    return records.images.dropna(subset=["path"]).merge(keys, on="evaluation_key")


def _grid(folder: Path, images: pd.DataFrame) -> list[list[Cell]]:
    """A line per guidance, the first picture of every prompt in it: the same noise below one another."""
    first = images.sort_values(["guidance", "index"]).drop_duplicates(["guidance", "prompt"])
    return [
        [Cell(folder / row["path"], f"{guidance:g}: {row['prompt']}") for row in line.to_dict("records")] for guidance, line in first.groupby("guidance")
    ]


def _best(folder: Path, images: pd.DataFrame) -> list[list[Cell]]:
    """The pictures that are closest to the subject, of all guidances, the closest first."""
    best = images.nsmallest(N_BEST, "lpips", keep="all").head(N_BEST)
    return [[Cell(folder / row["path"], f"{row['lpips']:.3f} at {row['guidance']:g}") for row in best.to_dict("records")]]


def _title_of(picture: Path) -> str:
    words = {"samples": "Samples, guidance by guidance:", "best": "Best samples by LPIPS:", "across": "LPIPS and FID across"}
    first, *rest = picture.stem.split("-")
    return " ".join([words[first], *rest])
