"""What a study cost, what sharing saved, and why trials failed."""

from __future__ import annotations

import json
import math
from typing import Any

import pandas as pd

from analysis.load import FAILED, StudyRecords, launches_of

S_PER_HOUR = 3600


def cost(records: StudyRecords) -> pd.DataFrame:
    """One row per kind of work: training (in epochs), evaluation (in image sets) and, where launches were logged, the GPUs that they held.

    `asked` is what the trials read, `done` what was computed for them, `saved` the difference, as a share in `saved_share`. `device_seconds`
    is measured for evaluations (the shares of batches that held several); of trainings the records hold no time, and it is the epochs done
    over the epochs an hour that the pack's probe measured (`is_estimate`), missing without a probe. Trials of studies with several training
    seeds read each of their trainings. Epochs of a training whose trials all failed before a rung are not counted."""
    read = _rung_reads(records)
    longest = read.groupby(["trial", "seed_index"])["epoch"].max()
    done = read.groupby("training_key")["epoch"].max().sum()
    rate = _epochs_per_hour(records)
    training_s = float(done) / rate * S_PER_HOUR
    sets = records.evaluations[
        records.evaluations["adapter_file"].isna()
    ]  # a file is nobody's trial
    unread = sets[
        ~sets["evaluation_key"].isin(read["evaluation_key"])
    ]  # controls, and fan-out: each was asked for
    seconds = sets[["seconds_generate", "seconds_score"]].sum(axis=1, min_count=1).sum(min_count=1)
    rows = [
        _work("training", "epochs", longest.sum(), done, training_s, is_estimate=True),
        _work("evaluation", "image sets", len(read) + len(unread), len(sets), seconds, is_estimate=False),
    ]
    return pd.DataFrame([*rows, *_held(records)])


def failures(records: StudyRecords) -> pd.DataFrame:
    """One row per reason for which trials failed, the most frequent first: n, the share of all trials, and the trials' names."""
    failed = records.trials[records.trials["state"] == FAILED]
    grouped = failed.assign(reason=failed["reason"].fillna("no reason recorded")).groupby("reason")["trial"]
    table = grouped.agg(n="count", trials=lambda names: ", ".join(names)).reset_index()
    table = table.assign(share=table["n"] / max(1, len(records.trials)))
    return table.sort_values(["n", "reason"], ascending=[False, True], ignore_index=True)[["reason", "n", "share", "trials"]]


def _rung_reads(records: StudyRecords) -> pd.DataFrame:
    """One row per trial, rung and training seed: the image set that it read and the training that this is of."""
    keys = records.rungs.explode("evaluation_keys").rename(columns={"evaluation_keys": "evaluation_key"})
    keys = keys.assign(seed_index=keys.groupby(["trial", "epoch"]).cumcount())
    return keys.merge(records.evaluations[["evaluation_key", "training_key"]], on="evaluation_key", how="left")


def _work(work: str, unit: str, asked: float, done: float, seconds: float, *, is_estimate: bool) -> dict[str, Any]:
    saved = int(asked) - int(done)
    share = saved / asked if asked else math.nan
    counts = {"asked": int(asked), "done": int(done), "saved": saved, "saved_share": share}
    return {"work": work, "unit": unit, **counts, "device_seconds": float(seconds), "is_estimate": is_estimate}


def _held(records: StudyRecords) -> list[dict[str, Any]]:
    """The GPUs that launches held, idle or not; no row for a study whose launches were not logged."""
    try:
        launches = launches_of(records)["launches"]
        seconds = S_PER_HOUR * sum(float(launch["gpu_hours"]) for launch in launches)
    except (KeyError, ValueError, TypeError):
        return []
    return [_work("GPUs held", "launches", len(launches), len(launches), seconds, is_estimate=False)]


def _epochs_per_hour(records: StudyRecords) -> float:
    """What the probe of the pack's size measured, of all trainings of a device together; NaN where there was none."""
    probe = records.folder / "pack.json"
    try:
        return float(json.loads(probe.read_text(encoding="utf-8"))["epochs_per_hour"])
    except (FileNotFoundError, KeyError, ValueError, TypeError):  # a study that was copied without it, or a pack that was not probed
        return math.nan
