"""The end of a launch: the ranked table, what sharing saved, what is where, and what to do next. Decides nothing."""

from __future__ import annotations

import os
import shlex
import shutil
import statistics
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from sweep.errors import ObjectiveError, StudyError
from sweep.messages import PHOTOGRAPHS
from sweep.moment import counts_of
from sweep.pareto import EPOCHS, axes_text, front_of
from sweep.record_files import in_commands
from sweep.records import EVALUATIONS, NO_ADAPTER, Records, as_rows
from sweep.searcher import FAIL
from sweep.trial_rows import equals_of
from sweep.values import json_text
from sweep.worker import PHOTOGRAPHS_NAME
from sweep.wording import MOST_ROWS, WORDS, configuration_text, counts_text, number_text

WIDE = 110
"""Columns from which on a table of numbers has room for configurations, too."""

if TYPE_CHECKING:
    from sweep.driver import Driver
    from sweep.folder import StudyFolder
    from sweep.trial_rows import Trial


def print_summary(
    console: Console, driver: Driver, snapshot: Mapping[str, Any], folder: StudyFolder, *, first_scored_s: float | None = None
) -> None:
    """The end of a launch: the ranked table, what is where, and what to do next."""
    evaluations = {row["evaluation_key"]: row for row in as_rows(Records(folder.root).evaluations(), EVALUATIONS)}
    console.print()
    if driver.stopping:
        console.print(f"{driver.stopping}, {driver.n_ended} of {driver.n_trials} trials have ended", style="bold")
    if driver.study.scale_text:
        console.print(f"scale {driver.study.scale_text}", highlight=False, soft_wrap=True)
    listed = driver.study.kind == "rows"  # somebody wrote each of them down
    ranked = [*ranking(driver, evaluations), *photograph_lines(driver, evaluations)]
    _print_ranking(console, ranked, n_rows=None if listed else MOST_ROWS)
    for line in equal_lines(driver.trials.values()):
        console.print(line, highlight=False, soft_wrap=True)
    for line in front_lines(driver.trials.values(), driver.study.pareto, in_commands(folder.root)):
        console.print(line, highlight=False, soft_wrap=True)
    console.print(f"{driver.study.name}: " + counts_text(counts_of(driver.trials.values())), highlight=False)
    console.print(sharing_text(driver, snapshot), highlight=False)
    if driver.study.train_seeds > 1:
        n_seeds = driver.study.train_seeds
        console.print(f"values are means over {n_seeds} training seeds, ± the objective's standard deviation between them", highlight=False)
    if first_scored_s is not None:
        console.print(f"first adapter scored after {first_scored_s:.0f} s", highlight=False)
    failed = [trial for trial in driver.trials.values() if trial.state == FAIL and not (trial.cause and trial.cause.ends_with_launch)]
    for reason, n in Counter(trial.reason for trial in failed).most_common(3):
        console.print(f"{n} failed: {reason}", style="red", highlight=False, soft_wrap=True)
    for line in mishaps(snapshot):
        console.print(line, highlight=False, soft_wrap=True)
    _print_places(console, driver, folder)


def ranked_table(rows: list[dict[str, Any]], *, n_rows: int | None = MOST_ROWS, with_configuration: bool = True) -> Table:
    """The end's table. rows: what `ranking` gives, best first; n_rows None: all of them."""
    table = Table(title=None, header_style="bold", row_styles=["", "dim"])
    with_control = any(row.get("no_adapter") is not None for row in rows)
    for name in ("", "trial", "objective", *([NO_ADAPTER] if with_control else []), "epoch", "lpips", "fid"):
        table.add_column(name, justify="left" if name == "trial" else "right", no_wrap=True)
    table.add_column("state", no_wrap=True)
    texts = (["labels"] if any(row["labels"] for row in rows) else []) + ["configuration"] if with_configuration else []
    for name in texts:
        table.add_column(name, overflow="fold")
    for row in _shown(rows, n_rows):
        spread = "" if row["spread"] is None else f" ± {number_text(row['spread'], 4)}"
        numbers = (number_text(row["objective"], 4) + spread, row["epoch"] or "", number_text(row["lpips"], 4), number_text(row["fid"], 1))
        objective, *others = (str(n) for n in numbers)
        control = [number_text(row.get("no_adapter"), 4)] if with_control else []
        cells = (objective, *control, *others, row["state"], *(row[name] for name in texts))
        table.add_row(row["rank"], row["trial"], *cells)
    return table


def ranking(driver: Driver, evaluations: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One row per scored configuration, best first. evaluations: rows of the records by key.

    Where all trials were scored in one way, the control that was scored in that way stands among
    them as a row of its own; else each trial has the objective of its own control, `no_adapter`."""
    found = equals_of(driver.trials.values())
    rows = [_trial_line(best, equal, evaluations) for best, *equal in found]
    controls = _controls(driver, evaluations)
    own = {row["trial"]: controls.get(row.pop("protocol")) for row in rows}
    alike = list({id(line): line for line in own.values()}.values())
    if not any(alike):  # trials whose evaluations are lost
        alike = list(controls.values())
    if len(alike) > 1:
        rows = [{**row, "no_adapter": (own[row["trial"]] or {}).get("objective")} for row in rows]
    rows.sort(key=lambda row: row["objective"])
    for rank, row in enumerate(rows, 1):
        row["rank"] = str(rank)
    only = [line for line in alike if line is not None] if len(alike) == 1 else []
    return sorted([*rows, *only], key=lambda row: row["objective"])


def photograph_lines(driver: Driver, evaluations: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A row for the subject's held-out photographs, where they were scored: what real pictures score."""
    lines = {
        "rank": "",
        "trial": PHOTOGRAPHS_NAME,
        "spread": None,
        "epoch": 0,
        "state": PHOTOGRAPHS,
        "labels": "",
        "configuration": "",
    }
    scored = [evaluations[key] for key in sorted(driver.photographs) if key in evaluations]
    return [{**lines, **{name: row.get(name) for name in ("objective", "lpips", "fid")}} for row in scored]


def equal_lines(trials: Iterable[Trial]) -> list[str]:
    """Which trials stand in the ranking for others."""
    several = [(best, equal) for best, *equal in equals_of(trials) if equal]
    lines = [
        f"{best.id} stands for {', '.join(trial.id for trial in equal)} too: "
        "equal configurations are one adapter."
        for best, equal in several[:MOST_ROWS]
    ]
    left_out = len(several) - MOST_ROWS
    return [*lines, f"{left_out} more trials stand for equal ones."] if left_out > 0 else lines


def front_lines(trials: Iterable[Trial], axes: Sequence[str], study: str) -> list[str]:
    """The Pareto front in words: a headline, then a line per configuration; nothing where the study
    has none. `study`: as commands take it."""
    compared = [best for best, *_ in equals_of(trials) if best.vector]
    front = front_of(compared, axes) if axes else []
    if not front:
        return []
    lines = [f"Pareto front: {len(front)} of {len(compared)} trials are beaten by none in {axes_text(axes)} at once"]
    for trial in front[:MOST_ROWS]:
        values = "  ".join(f"{axis} {value:.4g}" for axis, value in zip(axes, trial.vector, strict=True))
        epoch = "" if EPOCHS in axes else f" at epoch {trial.best[0]}"
        lines.append(f"  {trial.id}  {values}{epoch}  {configuration_text(trial.configuration)}")
    left_out = len(front) - MOST_ROWS
    return [*lines, f"  and {left_out} more: `python -m analysis tables {study} --table pareto`"] if left_out > 0 else lines


def sharing_text(driver: Driver, snapshot: Mapping[str, Any]) -> str:
    """What equal trainings saved in this launch."""
    trials = [trial for trial in driver.trials.values() if trial.id in driver.started_now]
    n_seeds = driver.study.train_seeds
    n_trainings = n_seeds * len({trial.training_key for trial in trials if trial.training_key})
    asked = (n_seeds * sum(trial.epochs for trial in trials), n_seeds * sum(len(trial.rungs) for trial in trials))
    done = (snapshot.get("epochs_trained", 0), snapshot.get("rungs_scored", 0))
    counts = ", ".join(f"{a} {word} asked for and {d} {verb}" for a, d, word, verb in zip(asked, done, ("epochs", "scores"), ("trained", "computed")))
    trainings = f"{n_trainings} distinct training{'s' * (n_trainings != 1)}"
    return f"{len(trials)} trials from {trainings}; {counts}; sharing saved {saved_text(asked, done)}."


def saved_text(asked: tuple[int, int], done: tuple[int, int]) -> str:
    """Epochs and scores that were asked for more than once, as shares of what each trial alone would have cost."""
    saved = [f"{(a - d) / a:.0%} of the {word}" for a, d, word in zip(asked, done, ("epochs", "scores")) if a > d]
    return " and ".join(saved) or "nothing"


def mishaps(snapshot: Mapping[str, Any]) -> list[str]:
    """A line on what was lost and tried again, and one for each device that is used no more."""
    n = snapshot.get("n_losses", 0)
    lost = [f"{n} trainings and evaluations were lost to a worker, a device or the storage and tried again"] if n else []
    return lost + [f"left out: {name}: {reason}" for name, reason in snapshot.get("left_out", {}).items()]


def python_command() -> str:
    """What to type for this Python: its path where `python` is another one, as in an environment that was not activated."""
    found = shutil.which("python")
    if found and os.path.samefile(found, sys.executable):
        return "python"
    relative = os.path.relpath(sys.executable)
    return shlex.quote(sys.executable if relative.startswith("..") else relative)


def _print_ranking(console: Console, rows: list[dict[str, Any]], *, n_rows: int | None) -> None:
    """The table, and on a terminal that has no room for configurations in it these below."""
    is_wide = console.width >= WIDE
    console.print(ranked_table(rows, n_rows=n_rows, with_configuration=is_wide))
    for row in () if is_wide else _shown(rows, n_rows):
        texts = "  ".join(filter(None, (row["labels"], row["configuration"])))
        console.print(f"{row['trial'].split()[0] if row['rank'] else row['trial']}  {texts}", highlight=False, markup=False)


def _shown(rows: list[dict[str, Any]], n_rows: int | None) -> list[dict[str, Any]]:
    """The first ones, and what has no rank wherever it stands: the control, photographs."""
    return [row for i, row in enumerate(rows) if n_rows is None or i < n_rows or not row["rank"]]


def _print_places(console: Console, driver: Driver, folder: StudyFolder) -> None:
    study = in_commands(folder.root)
    lines = [f"records and pictures   {folder.root}", f"adapters               {folder.adapters}"]
    if driver.best is not None:
        lines.append(f"best adapter           {folder.adapters / driver.best.training_key / f'epoch-{driver.best.best[0]:05d}'}")
    lines.append(f"next                   {python_command()} -m analysis tables {study}")
    if driver.n_ended < driver.n_trials:
        lines.append(f"to go on               {python_command()} -m sweep resume {study}: what is done is not done again")
    elif driver.study.kind == "sampled":
        lines.append(f"more trials            the same launch command with --samples {driver.n_trials + 8}")
    # Unlike Path.exists it raises nothing where its folder cannot be looked into.
    if os.path.exists(folder.journal):
        lines.append(f"the sampler's view     optuna-dashboard {shlex.quote(str(folder.journal))}")
    for line in lines:
        console.print(line, highlight=False, soft_wrap=True)


def _trial_line(
    trial: Trial, equal: Sequence[Trial], evaluations: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    epoch, objective, *keys = trial.best
    scored = [evaluations[key] for key in keys if key in evaluations]
    is_baseline = any(one.labels.get("baseline") for one in (trial, *equal))
    marks = (" (baseline)" if is_baseline else "") + (f" (and {len(equal)} equal)" if equal else "")
    return {
        "rank": "",
        "trial": trial.id + marks,
        "objective": objective,
        "spread": trial.spread,
        "epoch": epoch,
        "lpips": _mean_of("lpips", scored),
        "fid": _mean_of("fid", scored),
        "state": WORDS[trial.state],
        # What a label repeats of the configuration is said once.
        "labels": configuration_text({k: v for k, v in trial.labels.items() if k != "baseline" and k not in trial.configuration}),
        "configuration": configuration_text(trial.configuration),
        "protocol": json_text(scored[0]["configuration"]) if scored and "configuration" in scored[0] else "",
    }


def _controls(
    driver: Driver, evaluations: Mapping[str, Mapping[str, Any]]
) -> dict[str, dict[str, Any]]:
    """The line of every control of the study, by the text of its EvalConfig."""
    found = [evaluations[key] for key in sorted(driver.controls) if key in evaluations]
    lines = {json_text(row["configuration"]): _control_line(driver, row) for row in found}
    return {protocol: line for protocol, line in lines.items() if line is not None}


def _mean_of(metric: str, rows: list[Mapping[str, Any]]) -> float | None:
    values = [row[metric] for row in rows if row.get(metric) is not None]
    return statistics.fmean(values) if values else None


def _control_line(driver: Driver, row: Mapping[str, Any]) -> dict[str, Any] | None:
    backbones = {"perceptual": row["perceptual_backbone"], "pooled": row["pooled_backbone"]}
    measured = {**row, **(row.get("further_metrics") or {})}
    weights = driver.study.objective.weights
    values = {name: measured[name] for name in weights if measured.get(name) is not None}
    try:
        objective = driver.study.objective.value(values, backbones)
    except (ObjectiveError, StudyError):  # a control without a value has no line
        return None
    shown = {name: row["configuration"].get(name) for name in ("infer_model", "guidance")}
    return {
        "rank": "",
        "trial": NO_ADAPTER,
        "objective": objective,
        "spread": None,
        "epoch": 0,
        "lpips": row.get("lpips"),
        "fid": row.get("fid"),
        "state": "control",
        "labels": "",
        "configuration": configuration_text(shown),
    }
