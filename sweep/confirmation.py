"""Does the winner hold? The best trials of a study once more, trained and scored under seeds that played no part in choosing them.

The best of many looks better than it is: it was picked by the very pictures that score it. What is made here is a study file of its own, that
anybody may read and launch, and in the end a verdict over the training seeds. Nothing here runs anything."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from sweep.errors import StudyError
from sweep.searcher import FAIL
from sweep.study import Study
from sweep.trial_rows import Trial

FRESH_SEED = 1_000_000
"""Where the training and the noise seeds of a confirmation begin: far from those of any study."""
CONFIDENCE = 0.95


def finalists_of(rows: Sequence[Mapping[str, Any]], *, top: int) -> list[Mapping[str, Any]]:
    """The `top` best of a study's trials (rows as Records.latest_trials has them, decoded), the best first.

    Raises:
        StudyError: none is scored."""
    scored = [row for row in rows if row["objective"] is not None and row["state"] != FAIL]
    if not scored:
        raise StudyError("A study is confirmed once a trial is scored, but none is. Launch it, or go on with it.")
    return sorted(scored, key=lambda row: (row["objective"], row["number"]))[:top]


def confirmation_source(study: Study, finalists: Sequence[Mapping[str, Any]], *, n_images: int, n_seeds: int) -> str:
    """A study file: a row for each finalist, as long as it was at its best, under `n_seeds` fresh training seeds, with at least `n_images`
    pictures of fresh noise each."""
    rows = [_row(study, finalist, rank) for rank, finalist in enumerate(finalists, start=1)]
    evaluation = study.split(dict(finalists[0]["configuration"]))[2]
    fixed = {
        **study.fixed,
        "train_seed": FRESH_SEED,
        "eval_seed": FRESH_SEED,
        "images_per_prompt": math.ceil(n_images / len(evaluation.prompts)),
    }
    objective = ", ".join([f"scales={dict(study.objective.scales)!r}", f"**{dict(study.objective.weights)!r}"])
    fields = {
        "subject": study.subject,
        "model": study.model,
        "aliases": dict(study.aliases),
        "perceptual": study.perceptual,
        "pooled": study.pooled,
        "metrics": tuple(study.metrics),
        "loggers": tuple(study.loggers),
        "train_seeds": n_seeds,
        "early_stopping": "off",
    }
    lines = [
        f'"""Does the winner of {study.name} hold? Its {len(rows)} best trials under {n_seeds} fresh training seeds and fresh noise."""',
        "",
        "from sweep import Epochs, Objective, Prompt, Study  # noqa: F401",
        "",
        "study = Study(",
        *(f"    {name}={value!r}," for name, value in fields.items()),
        f"    objective=Objective({objective}),",
        f"    epochs=Epochs(max={max(row['epochs'] for row in rows)}),",
        f"    fixed={fixed!r},",
        "    rows=[",
        *(f"        {row!r}," for row in rows),
        "    ],",
        ")",
    ]
    return "\n".join(lines) + "\n"


def verdict_of(finalists: Sequence[Mapping[str, Any]], trials: Sequence[Trial]) -> list[str]:
    """What came of it, in a line for each thing to know. `trials` are those of the confirmation."""
    scored = [trial for trial in trials if trial.state != FAIL and trial.best]
    before = {trial.id: trial.labels.get("was") for trial in trials}
    first = finalists[0]["trial"]
    winner = next((trial for trial in scored if before[trial.id] == first), None)
    if winner is None:
        return [f"not confirmed: {first}, which won, could not be scored again."]
    ranked = sorted(scored, key=lambda trial: trial.objective)
    place, best = ranked.index(winner) + 1, ranked[0]
    if place == 1:
        lines = [f"confirmed: {first} is the best of {len(scored)} again, {winner.objective:.4f}."]
        rivals = ranked[1:2]
    else:
        lines = [f"not confirmed: {first} is number {place} of {len(scored)} now, {winner.objective:.4f}; {before[best.id]} is the best, {best.objective:.4f}."]
        rivals = [best]
    for rival in rivals:
        mean, low, high, n = _difference(_values(winner), _values(rival))
        apart = "they cannot be told apart" if math.isnan(low) or low <= 0 <= high else "they differ"
        interval = f" [{low:.4f}, {high:.4f}]" if math.isfinite(low) else ""
        lines.append(f"{first} less {before[rival.id]}: {mean:.4f}{interval} over {n} training seed{'s' * (n != 1)}: {apart}.")
    lines.append("Values here and there are of other numbers of pictures, on which FID depends: compare the finalists with each other.")
    return lines


def _row(study: Study, finalist: Mapping[str, Any], rank: int) -> dict[str, Any]:
    configuration = {name: value for name, value in finalist["configuration"].items() if name not in ("train_seed", "eval_seed", "images_per_prompt")}
    train, epochs, _ = study.split(dict(finalist["configuration"]))
    # A schedule that depends on the length is another one on a shorter training.
    length = epochs[-1] if train.length_dependent else finalist["best_epoch"]
    return {**configuration, "epochs": int(length), "labels": {"was": finalist["trial"], "rank_before": rank}}


def _values(trial: Trial) -> tuple[float, ...]:
    """Its objective under each training seed, in their order."""
    return trial.seed_objectives.get(trial.best[0], (trial.objective,)) if trial.best else ()


def _difference(values: Sequence[float], others: Sequence[float]) -> tuple[float, float, float, int]:
    """Mean of the differences, seed by seed, with Student's interval; NaN ends where there is one seed."""
    x = np.asarray(values) - np.asarray(others)
    if len(x) < 2:
        return float(x.mean()), math.nan, math.nan, len(x)
    from scipy.stats import ttest_1samp

    low, high = ttest_1samp(x, 0).confidence_interval(CONFIDENCE)
    return float(x.mean()), float(low), float(high), len(x)
