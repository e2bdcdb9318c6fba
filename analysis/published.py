"""The published values of the study that search_spaces/paper.py repeats: Tables 4 and 5 of "Personalized image generation with
Stable Diffusion: PyTorch LoRA fine-tuning approach" (OTH Amberg-Weiden, 2026-01-19), 24 rows, in paper_tables.csv.

`train_model`, `infer_model` and `caption` hold what the paper's text and its Table 3 say; the `*_printed` columns what the two tables
print. They differ in two ways. Table 4 prints the models of experiment 4 the other way round: read by the text, that experiment trains
on SD1.5 and infers with Realistic Vision. And Table 5 prints the folder names v1, v3, v4 where it means caption versions v1, v2, v3.
Read by the text all 24 rows are distinct: 4 trainings x 2 inference models x 3 guidances."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

ROW = ("table", "experiment", "guidance")
"""What names a row of the two tables, and labels a trial that repeats it."""

PROTOCOL = "LPIPS over AlexNet against randomly selected training images, FID over Inception-v3 of 20 generated against 151 training images"


def published_rows() -> pd.DataFrame:
    """One row per row of the paper's Tables 4 and 5."""
    return pd.read_csv(Path(__file__).with_name("paper_tables.csv"))
