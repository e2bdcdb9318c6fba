"""Values of seen and of unseen prompts: those that are known to be, and those of a control under
the captions of the trial beside it.

Which prompts are seen depends on the captions that a training had. Every evaluation says so for
each caption version of its subject (`seen_prompts`) and holds the values of the two groups
(`groups`). Before schema version 6 a study declared it, for all versions alike: such labels say
nothing, so they are dropped, and `sweep rescore` works them out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from analysis.controls import controls_of

LABELLED_SINCE = 6
"""The schema version since which labels come from captions."""
_ENDINGS = tuple(
    f"_{group}{bound}" for group in ("seen", "unseen") for bound in ("", "_low", "_high")
)
_LABELS = ["evaluation_key", "caption", "seen_prompts", "groups"]


def is_unlabelled(evaluations: pd.DataFrame) -> pd.Series:
    """Which image sets were scored by a program that took the study's word for it, and not labelled
    since."""
    version = pd.to_numeric(evaluations["schema_version"]).fillna(0)
    return (version < LABELLED_SINCE) & evaluations["seen_prompts"].isna()


def label_notes(study: str, evaluations: pd.DataFrame) -> list[str]:
    """What to say of a study with such image sets: how they are labelled. `study`: as commands take
    it."""
    if not (n := int(is_unlabelled(evaluations).sum())):
        return []
    return [
        f"Seen and unseen prompts of {n} image sets are not told apart: an earlier version scored "
        "them. "
        f"`python -m sweep rescore {study}` works them out from the captions."
    ]


def with_prompt_groups(
    evaluations: pd.DataFrame, images: pd.DataFrame, best_keys: Sequence[str]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The frames with labels that hold. `best_keys`: an evaluation of each trial's best rung, the
    best trial's first; a control takes the labels of the first one that was generated as it was."""
    frame, unlabelled = evaluations.copy(), is_unlabelled(evaluations)
    columns = [name for name in frame if name.endswith(_ENDINGS)]
    frame.loc[unlabelled, columns] = np.nan
    seen = images["seen"].mask(
        images["evaluation_key"].isin(frame.loc[unlabelled, "evaluation_key"])
    )
    rows = {
        row["evaluation_key"]: row
        for row in frame[_LABELS].to_dict("records")
        if isinstance(row["seen_prompts"], Mapping)
    }
    for control, key in _trials_of_controls(evaluations, best_keys).items():
        if control not in rows or key not in rows:
            continue
        caption = rows[key]["caption"]
        labels = rows[key]["seen_prompts"].get(caption)
        if labels is None or (
            caption == rows[control]["caption"]
            and labels == rows[control]["seen_prompts"].get(caption)
        ):
            continue
        own = images["evaluation_key"] == control
        of_pictures = np.repeat(labels, own.sum() // len(labels))[
            images.loc[own, "index"].to_numpy(dtype=int)
        ]
        seen.loc[own] = of_pictures
        values = _values_under(
            rows[control],
            caption,
            labels,
            of_pictures,
            images.loc[own, "lpips"].to_numpy(dtype=float),
        )
        for name in columns:
            frame.loc[frame["evaluation_key"] == control, name] = values.get(name, np.nan)
    return frame, images.assign(seen=seen)


def _trials_of_controls(evaluations: pd.DataFrame, best_keys: Sequence[str]) -> dict[str, str]:
    """By control the evaluation of the best trial that it is compared with."""
    controls = controls_of(evaluations)
    return {controls[key]: key for key in reversed(best_keys) if key in controls}


def _values_under(
    control: Mapping[str, Any],
    caption: str,
    labels: list[bool],
    seen: np.ndarray,
    lpips: np.ndarray,
) -> dict[str, float]:
    """The control's values where these prompts are the seen ones; without its distances where its
    records say otherwise of that version."""
    values = {}
    for group, own in (("seen", seen), ("unseen", ~seen)):
        values |= {
            f"n_{group}": int(own.sum()),
            f"lpips_{group}": float(lpips[own].mean()) if own.any() else np.nan,
        }
    same = control["seen_prompts"].get(caption) == labels and isinstance(control["groups"], Mapping)
    return {**values, **(control["groups"].get(caption, {}) if same else {})}
