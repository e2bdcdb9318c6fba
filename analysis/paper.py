"""The paper's Tables 4 and 5 out of a study's records, beside the published values: frames in, frames out.

How they are written to files is analysis/paper_report.py's, how they are drawn analysis/paper_figure.py's."""

from __future__ import annotations

import pandas as pd

from analysis.load import StudyRecords
from analysis.published import ROW, published_rows
from analysis.tables import ranked_trials
from sweep.records import RecordsError

MEASURED = ("lpips", "lpips_low", "lpips_high", "lpips_seen", "lpips_unseen", "fid", "kid", "objective_spread")
COUNTED = ("n_images", "n_references", "n_train_seeds")
NETWORKS = ("perceptual_backbone", "pooled_backbone")
DESCRIBED = ("train_model", "infer_model", "caption")
FINDINGS = ("lpips", "fid")


def paper_rows(records: StudyRecords, *, seed: int = 0) -> pd.DataFrame:
    """One row per published row and trial that is labelled as it, then one per experiment that is in no table (`table` missing).

    `lpips`, `fid` ... are of this study, with the 95 % interval of LPIPS drawn with `seed`; `lpips_published`, `fid_published` are
    the paper's. A row that the study has not scored keeps missing values. `lpips_seen` and `lpips_unseen` are the means over the
    prompts whose words do and do not occur in the training captions, where the records tell them apart.

    Raises:
        RecordsError: the study's trials do not carry the labels table, experiment and guidance."""
    labels = [f"label.{name}" for name in ROW]
    if not set(labels) <= set(records.labels):
        known = ", ".join(label.removeprefix("label.") for label in records.labels) or "none"
        raise RecordsError(
            f"The paper's tables are made of trials labelled {', '.join(ROW)}, but the labels of {records.name} are: {known}. "
            f"Launch search_spaces/paper.py, or label the rows of your study so."
        )
    trials = ranked_trials(records, seed=seed).query("not is_control and not is_file")
    trials = trials.drop(columns=list(ROW), errors="ignore").rename(columns=dict(zip(labels, ROW, strict=True)))
    by_prompt_group = _by_prompt_group(records, trials)  # from the images: records of older schemas have no columns of these
    trials = trials.drop(columns=list(by_prompt_group), errors="ignore").join(by_prompt_group)
    ours = trials.reindex(columns=[*ROW, "trial", "state", "evaluation_keys", *NETWORKS, *COUNTED, *MEASURED])
    published = published_rows().rename(columns={name: f"{name}_published" for name in FINDINGS})
    in_tables = published.merge(ours.dropna(subset=["table"]).astype({"table": int, "experiment": int}), on=list(ROW), how="left")
    no_table = trials[trials["table"].isna() & trials["experiment"].notna()]
    rows = pd.concat([in_tables, no_table.reindex(columns=in_tables.columns)], ignore_index=True)
    numbers = [*MEASURED, *(f"{name}_published" for name in FINDINGS)]
    return rows.astype({**dict.fromkeys(["table", "experiment", *COUNTED], "Int64"), **dict.fromkeys(numbers, "float64")})


def paper_table(rows: pd.DataFrame, table: int) -> pd.DataFrame:
    """The rows of one of the paper's tables, in its order."""
    return rows[rows["table"] == table].sort_values(["experiment", "guidance"], kind="stable", ignore_index=True)


def findings(rows: pd.DataFrame) -> pd.DataFrame:
    """One row per metric and side ("published", "here"): the lowest value in the two tables, and the row that has it."""
    in_tables = rows.dropna(subset=["table"])
    found = []
    for metric in FINDINGS:
        for side, column in (("published", f"{metric}_published"), ("here", metric)):
            if in_tables[column].notna().any():
                best = in_tables.loc[in_tables[column].idxmin()]
                found.append({"metric": metric, "side": side, "value": float(best[column]), **best[[*ROW, *DESCRIBED]]})
    return pd.DataFrame(found, columns=["metric", "side", "value", *ROW, *DESCRIBED])


def _by_prompt_group(records: StudyRecords, trials: pd.DataFrame) -> pd.DataFrame:
    """Mean LPIPS over the pictures of seen and of unseen prompts, by the index of `trials`."""
    own = trials["evaluation_keys"].explode().rename("evaluation_key").rename_axis("row").reset_index()
    images = own.merge(records.images.dropna(subset=["seen"]), on="evaluation_key")
    means = images.groupby(["row", "seen"])["lpips"].mean().unstack().reindex(columns=[True, False])
    return means.set_axis(["lpips_seen", "lpips_unseen"], axis=1).reindex(trials.index)
