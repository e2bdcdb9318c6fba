"""Does the winner hold? The best trials of a study once more, trained and scored under seeds that
played no part in choosing them.

The best of many looks better than it is: it was picked by the very pictures that score it. What is
made here is a study file of its own, that anybody may read and launch. What came of it is
sweep/verdict.py's. Nothing here runs anything."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sweep.errors import StudyError
from sweep.objective import Objective
from sweep.searcher import FAIL
from sweep.study import Study
from sweep.values import json_text, with_prompts_read
from sweep.verdict import verdict_of

__all__ = ["FRESH_SEED", "confirmation_source", "finalists_of", "one_of_each", "verdict_of"]

FRESH_SEED = 1_000_000
"""The seeds of a confirmation begin at the first multiple of it above all seeds of the study."""

SEEDS = ("train_seed", "eval_seed")
REPEATED = (*SEEDS, "images_per_prompt")
"""What a confirmation says itself: the rest of a trial's configuration stays as it is."""

KEPT_FIELDS = (
    *("subject", "model", "aliases", "fan_out", "perceptual", "pooled", "metrics"),
    *("objective", "pareto", "loggers", "max_concurrent"),
)
REPLACED_FIELDS = (
    *("name", "fixed", "space", "epochs", "rows", "try_first", "baseline", "sampler", "samples"),
    *("early_stopping", "study_seed", "train_seeds", "budget_hours", "budget_gpu_hours"),
    *("scales", "scale", "scale_text", "notes", "file", "source", "overrides"),
)
"""The two together are all fields of a study (tested): a new one is kept or replaced on purpose."""


def one_of_each(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The trials without those that differ from a better one in their seeds only: under fresh seeds
    they would be the same."""
    found: dict[str, Mapping[str, Any]] = {}
    for row in _ranked(rows):
        found.setdefault(json_text([_without_seeds(row), row["best_epoch"]]), row)
    return list(found.values())


def finalists_of(rows: Sequence[Mapping[str, Any]], *, top: int) -> list[Mapping[str, Any]]:
    """The `top` best of a study's trials (rows as Records.latest_trials has them, decoded), the
    best first.

    Raises:
        StudyError: none is scored, or there is no rival."""
    found = _ranked(rows)[:top]
    if not found:
        raise StudyError(
            "A study is confirmed once two trials are scored, but none is. Run `sweep resume` "
            "first."
        )
    if len(found) < min(2, top):
        raise StudyError(
            f"A winner is confirmed against a rival of another configuration, but "
            f"{found[0]['trial']} "
            "has none that is scored. Run `sweep resume`, with a higher --samples if all have "
            "ended."
        )
    return found


def confirmation_source(
    study: Study, finalists: Sequence[Mapping[str, Any]], *, n_images: int, n_seeds: int
) -> str:
    """A study file: a row for each finalist, under the study's own protocol and with the length
    and schedule of its best epoch, under `n_seeds` fresh training seeds, with at least `n_images`
    pictures of fresh noise each. All finalists have equally many."""
    rows = [_row(study, finalist, rank) for rank, finalist in enumerate(finalists, start=1)]
    first = _fresh_seed(study, finalists)
    counts = [len(study.split(_configuration(finalist))[2].prompts) for finalist in finalists]
    n_each = math.ceil(n_images / math.lcm(*counts)) * math.lcm(*counts)
    if len(set(counts)) > 1:
        rows = [
            {**row, "images_per_prompt": n_each // n} for row, n in zip(rows, counts, strict=True)
        ]
    kept = {name: getattr(study, name) for name in KEPT_FIELDS}
    fields = {
        **kept,
        # Of which the study chose by its models, and those of the finalists may be fewer.
        **study.backbones,
        "fan_out": _fresh_fan_out(study, first),
        "train_seeds": n_seeds,
        "early_stopping": "off",
        "fixed": {
            **study.fixed,
            **dict.fromkeys((name for name in SEEDS if name not in study.fan_out), first),
            "images_per_prompt": n_each // counts[0],
        },
    }
    lines = [
        f'"""Does the winner of {study.name} hold? Its {len(rows)} best trials under {n_seeds} '
        'fresh training seeds, on fresh noise."""',
        "",
        "from sweep import Epochs, Objective, Study",
        "",
        "study = Study(",
        *(f"    {name}={_text(value)}," for name, value in fields.items()),
        f"    epochs=Epochs(max={max(row['epochs'] for row in rows)}),",
        "    rows=[",
        *(f"        {row!r}," for row in rows),
        "    ],",
        ")",
    ]
    return "\n".join(lines) + "\n"


def _ranked(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    scored = [row for row in rows if row["objective"] is not None and row["state"] != FAIL]
    return sorted(scored, key=lambda row: (row["objective"], row["number"]))


def _row(study: Study, finalist: Mapping[str, Any], rank: int) -> dict[str, Any]:
    train, epochs, _ = study.split(_configuration(finalist))
    best_epoch = int(finalist["best_epoch"])
    row = {**_without_seeds(finalist), "epochs": best_epoch}
    if train.length_dependent and epochs[-1] != best_epoch:
        row["schedule_epochs"] = epochs[-1]  # it was at its best on the way to there
    labels = {"was": finalist["trial"], "rank_before": rank}
    return {**row, "trial": finalist["trial"], "labels": labels}


def _configuration(finalist: Mapping[str, Any]) -> dict[str, Any]:
    """Its configuration with the length that was asked for: records name the one where a trial
    of a sampled length was stopped."""
    configuration = with_prompts_read(finalist["configuration"])
    asked = (finalist.get("sampled") or {}).get("epochs")
    return configuration if asked is None else {**configuration, "epochs": asked}


def _without_seeds(finalist: Mapping[str, Any]) -> dict[str, Any]:
    configuration = with_prompts_read(finalist["configuration"])
    return {name: value for name, value in configuration.items() if name not in REPEATED}


def _fresh_seed(study: Study, finalists: Iterable[Mapping[str, Any]]) -> int:
    """The first seed of the confirmation. That of a confirmation has others again."""
    places = [study.fixed, *(finalist["configuration"] for finalist in finalists)]
    used = [place[name] for place in places for name in SEEDS if name in place]
    used += [value for name in SEEDS for value in study.fan_out.get(name, ())]
    return FRESH_SEED * ((max(used, default=0) + study.train_seeds) // FRESH_SEED + 1)


def _fresh_fan_out(study: Study, first: int) -> dict[str, Any]:
    fan_out = {name: list(values) for name, values in study.fan_out.items()}
    fan_out.pop("images_per_prompt", None)
    if "eval_seed" in fan_out:
        fan_out["eval_seed"] = [first + i for i in range(len(fan_out["eval_seed"]))]
    return fan_out


def _text(value: Any) -> str:
    """The value as a study file writes it."""
    if isinstance(value, Objective):
        weights = {name: float(weight) for name, weight in value.weights.items()}
        scales = {name: float(scale) for name, scale in value.scales.items()}
        return f"Objective(scales={scales!r}, **{weights!r})"
    return repr(value)
