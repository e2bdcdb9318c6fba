"""The pictures of a trial that came out best and worst, each with the training image that it is nearest to. Choice first, then ink."""

from __future__ import annotations

import pandas as pd
from PIL import Image

from analysis.load import StudyRecords
from analysis.pictures import subject_folder
from analysis.sample_grids import Cell, sheet
from analysis.training_images import TrainingImages

N_DRAWN = 6


def extremes_of(images: pd.DataFrame, n: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Of the image rows that have a picture and an LPIPS the n lowest, lowest first, and the n highest, highest first; of fewer than 2 n, half
    on either side, so that none is both."""
    ordered = images.dropna(subset=["lpips", "path"]).sort_values("lpips", kind="stable")
    n = min(n, len(ordered) // 2)
    return ordered.head(n), ordered.iloc[::-1].head(n)


def draw_extremes(records: StudyRecords, images: pd.DataFrame, n: int = N_DRAWN) -> Image.Image | None:
    """The closest pictures, below them their nearest training images, then the furthest and theirs; None where there are no two pictures.

    Raises:
        RecordsError: a picture that the records name is missing or damaged."""
    training = TrainingImages(subject_folder(records))
    rows = []
    for rank, own in zip(("closest", "furthest"), extremes_of(images, n), strict=True):
        chosen = own.to_dict("records")
        rows.append([Cell(records.folder / row["path"], f"{rank} {place}: LPIPS {row['lpips']:.3f}") for place, row in enumerate(chosen, 1)])
        rows.append([_nearest(row, records, training) for row in chosen])
    shown = [row for row in rows if any(row)]
    return sheet(shown) if shown else None


def _nearest(row: dict, records: StudyRecords, training: TrainingImages) -> Cell | None:
    recorded = row["nearest_reference"] if isinstance(row["nearest_reference"], str) else None
    name = recorded or training.nearest_by_pixels(records.folder / row["path"])
    file = training.file_of(name)
    if file is None:
        return None
    return Cell(file, f"its nearest: {row['lpips_nearest']:.3f}" if recorded else "its nearest by pixels")
