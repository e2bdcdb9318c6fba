"""The live view of a launch, and the summary at its end: numbers from the driver and the pool, drawn with rich.

On a terminal a calm table that is redrawn in place; elsewhere one line per event and a heartbeat. Decides nothing."""

from __future__ import annotations

import math
import os
import shutil
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as ProgressBar
from rich.table import Table
from rich.text import Text

from sweep.folder import DEFAULT_STORAGE
from sweep.messages import INTERRUPTED
from sweep.pareto import EPOCHS, axes_text, front_of
from sweep.records import EVALUATIONS, Records, as_rows
from sweep.searcher import COMPLETE, FAIL, PRUNED, RUNNING

if TYPE_CHECKING:
    from sweep.driver import Driver
    from sweep.folder import StudyFolder
    from sweep.trial_rows import Trial

HEARTBEAT_EVERY_S = 10.0
REDRAW_PER_S = 2
MOST_ROWS = 12
WORDS = {RUNNING: "running", PRUNED: "stopped early", COMPLETE: "done", FAIL: "failed"}


class Progress:
    """A View of sweep.runner. Use it as a context: leaving it takes the live table off the terminal."""

    def __init__(self, console: Console, *, clock: Callable[[], float] = time.monotonic, started_at: float | None = None) -> None:
        self.console = console
        self._clock = clock
        self._started_at = clock() if started_at is None else started_at
        self._said: dict[str, tuple[str, int]] = {}
        self._first_scored: float | None = None
        self._spoke_at = -math.inf
        self._mood = ""
        self._live = Live(console=console, refresh_per_second=REDRAW_PER_S, transient=True) if console.is_terminal else None

    def __enter__(self) -> Progress:
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._live:
            self._live.stop()

    def phase(self, text: str) -> None:
        """What the launch is doing before there is a trial to show."""
        if self._live:
            self._live.update(Text(f"{clock_text(self._elapsed)}  {text} ..."))
        else:
            self._print(f"{text} ...")

    def update(self, driver: Driver, snapshot: Mapping[str, Any]) -> None:
        """Called a few times a second."""
        self._say_events(driver)
        self._say_mood(driver)
        if self._live:
            head = Text(headline(driver, snapshot, self._elapsed))
            self._live.update(Group(head, *_worker_lines(snapshot), _live_table(driver, snapshot)))
        elif self._clock() - self._spoke_at >= HEARTBEAT_EVERY_S:
            lines = [*_worker_lines(snapshot), *_training_lines(driver, snapshot)]
            self._print(headline(driver, snapshot, self._elapsed, with_clock=False), *lines)

    @property
    def first_scored_s(self) -> float | None:
        """Seconds from the launch to the first score of an adapter."""
        return self._first_scored

    @property
    def _elapsed(self) -> float:
        return self._clock() - self._started_at

    def _say_events(self, driver: Driver) -> None:
        for trial in driver.trials.values():
            state = (trial.state, len(trial.rungs))
            before = self._said.get(trial.id)
            self._said[trial.id] = state
            if state != before and trial.id in driver.started_now:
                self._say_first(trial)
                if line := event_line(trial, new_rung=before is None or before[1] < len(trial.rungs)):
                    self._print(line)

    def _say_mood(self, driver: Driver) -> None:
        """A pause or a stop, when it begins: the rungs under way may take a while."""
        before, self._mood = self._mood, mood_text(driver)
        if self._mood != before and (self._mood or driver.stopping is None):
            self._print(self._mood or "going on")

    def _say_first(self, trial: Trial) -> None:
        if trial.rungs and self._first_scored is None:
            self._first_scored = self._elapsed
            self._print(f"first adapter scored after {self._elapsed:.0f} s")

    def _print(self, *lines: str | Text) -> None:
        self._spoke_at = self._clock()
        for line in lines:
            self.console.print(Text.assemble(f"{clock_text(self._elapsed)}  ", line), highlight=False, soft_wrap=True)


@contextmanager
def counted(console: Console, text: str) -> Iterator[Callable[[int, int], None]]:
    """A bar for work that is counted: call what it gives with (done, total)."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with ProgressBar(*columns, console=console, transient=True) as bar:
        task = bar.add_task(text, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def event_line(trial: Trial, *, new_rung: bool) -> str:
    """One line on what has just happened to a trial; empty where nothing is worth one."""
    scored = f"objective {trial.rungs[-1][1]:.4f} at epoch {trial.epochs}" if trial.rungs else "not scored"
    if trial.state == FAIL:
        return f"{trial.id}  failed: {trial.reason}"
    if trial.state == PRUNED:
        return f"{trial.id}  {scored}, stopped early"
    if trial.state == COMPLETE:
        return f"{trial.id}  {scored}, done; best {trial.objective:.4f} at epoch {trial.best[0] if trial.best else 0}"
    return f"{trial.id}  {scored}" if trial.rungs and new_rung else ""


def mood_text(driver: Driver) -> str:
    """Why no further trial starts now; empty where they do, or where all have ended."""
    if driver.stopping and driver.live:
        if driver.stopping.startswith(INTERRUPTED):
            return f"{driver.stopping}: the rungs under way are finished; Ctrl+C again ends it at once"
        return f"{driver.stopping}: the trials that run are finished"
    return "paused; `sweep resume` goes on" if driver.paused else ""


def headline(driver: Driver, snapshot: Mapping[str, Any], elapsed_s: float, *, with_clock: bool = True) -> str:
    """Counts, best so far, time left: the line that answers "how is it going"."""
    counts = Counter(trial.state for trial in driver.trials.values())
    states = ", ".join(f"{counts[state]} {word}" for state, word in WORDS.items() if counts[state])
    parts = [f"{driver.study.name}: {states or 'no trial yet'} of {driver.n_trials}"]
    if driver.best is not None:
        parts.append(f"best {driver.best.objective:.4f} ({driver.best.id}: {configuration_text(driver.best.configuration)})")
    parts.append("paused" if driver.paused else f"time left {left_text(seconds_left(driver, snapshot, elapsed_s))}")
    return "   ".join([clock_text(elapsed_s)] * with_clock + parts)


def seconds_left(driver: Driver, snapshot: Mapping[str, Any], elapsed_s: float) -> float | None:
    """What is left if the rest goes as it went so far; None until there is something to go by."""
    n_before = sum(trial.state != RUNNING and trial.id not in driver.started_now for trial in driver.trials.values())
    n_ended = sum(trial.state != RUNNING for trial in driver.trials.values()) - n_before
    shares = [_share_done(trial, snapshot) for trial in driver.live]
    done = n_ended + sum(shares)
    wanted = driver.n_trials - n_before
    if done < 0.05 * wanted or n_ended < 1:
        return None
    return elapsed_s * max(0.0, wanted - done) / done


def configuration_text(configuration: Mapping[str, Any]) -> str:
    return " ".join(f"{name}={value:g}" if isinstance(value, float) else f"{name}={value}" for name, value in configuration.items())


def clock_text(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}" if minutes >= 60 else f"{minutes}:{rest:02d}"


def left_text(seconds: float | None) -> str:
    return "not known yet" if seconds is None else f"about {max(1, math.ceil(seconds / 60))} min"


def ranked_table(rows: list[dict[str, Any]], *, n_rows: int | None = MOST_ROWS) -> Table:
    """The end's table. rows: what `ranking` gives, best first; n_rows None: all of them."""
    table = Table(title=None, header_style="bold", row_styles=["", "dim"])
    for name in ("", "trial", "objective", "epoch", "lpips", "fid"):
        table.add_column(name, justify="left" if name == "trial" else "right", no_wrap=True)
    table.add_column("state", no_wrap=True)
    with_labels = any(row["labels"] for row in rows)
    if with_labels:
        table.add_column("labels", overflow="fold")
    table.add_column("configuration", overflow="fold")
    shown = [row for i, row in enumerate(rows) if n_rows is None or i < n_rows or row["trial"] == "no adapter"]
    for row in shown:
        spread = "" if row["spread"] is None else f" ± {_number(row['spread'], 4)}"
        numbers = (_number(row["objective"], 4) + spread, row["epoch"] or "", _number(row["lpips"], 4), _number(row["fid"], 1))
        table.add_row(row["rank"], row["trial"], *(str(n) for n in numbers), row["state"], *[row["labels"]] * with_labels, row["configuration"])
    return table


def ranking(driver: Driver, evaluations: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One row per scored trial, best first, and the best control among them. evaluations: rows of the records by key."""
    rows = [_trial_line(trial, evaluations) for trial in driver.trials.values() if trial.rungs and trial.state != FAIL]
    controls = [_control_line(driver, evaluations[key]) for key in sorted(driver.controls) if key in evaluations]
    best_control = min((c for c in controls if c is not None), key=lambda c: c["objective"], default=None)
    rows.sort(key=lambda row: row["objective"])
    for rank, row in enumerate(rows, 1):
        row["rank"] = str(rank)
    return sorted([*rows, *([best_control] if best_control else [])], key=lambda row: row["objective"])


def front_lines(trials: Iterable[Trial], axes: Sequence[str], study_name: str) -> list[str]:
    """The Pareto front in words: a headline, then a line per trial; nothing where the study has none."""
    compared = [trial for trial in trials if trial.state != FAIL and trial.vector]
    front = front_of(compared, axes) if axes else []
    if not front:
        return []
    lines = [f"Pareto front: {len(front)} of {len(compared)} trials are beaten by none in {axes_text(axes)} at once"]
    for trial in front[:MOST_ROWS]:
        values = "  ".join(f"{axis} {value:.4g}" for axis, value in zip(axes, trial.vector, strict=True))
        epoch = "" if EPOCHS in axes else f" at epoch {trial.best[0]}"
        lines.append(f"  {trial.id}  {values}{epoch}  {configuration_text(trial.configuration)}")
    left_out = len(front) - MOST_ROWS
    return [*lines, f"  and {left_out} more: analysis tables {study_name} --table pareto"] if left_out > 0 else lines


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


def print_summary(
    console: Console, driver: Driver, snapshot: Mapping[str, Any], folder: StudyFolder, *, first_scored_s: float | None = None
) -> None:
    """The end of a launch: the ranked table, what is where, and what to do next."""
    evaluations = {row["evaluation_key"]: row for row in as_rows(Records(folder.root).evaluations(), EVALUATIONS)}
    counts = Counter(trial.state for trial in driver.trials.values())
    console.print()
    if driver.stopping:
        console.print(f"{driver.stopping}, {driver.n_ended} of {driver.n_trials} trials have ended", style="bold")
    if driver.study.scale_text:
        console.print(f"scale {driver.study.scale_text}", highlight=False, soft_wrap=True)
    listed = driver.study.kind == "rows"  # somebody wrote each of them down
    console.print(ranked_table(ranking(driver, evaluations), n_rows=None if listed else MOST_ROWS))
    for line in front_lines(driver.trials.values(), driver.study.pareto, folder.root.name):
        console.print(line, highlight=False, soft_wrap=True)
    console.print(f"{driver.study.name}: " + ", ".join(f"{counts[s]} {word}" for s, word in WORDS.items() if counts[s]), highlight=False)
    console.print(sharing_text(driver, snapshot), highlight=False)
    if driver.study.train_seeds > 1:
        n_seeds = driver.study.train_seeds
        console.print(f"values are means over {n_seeds} training seeds, ± the objective's standard deviation between them", highlight=False)
    if first_scored_s is not None:
        console.print(f"first adapter scored after {first_scored_s:.0f} s", highlight=False)
    for reason, n in Counter(trial.reason for trial in driver.trials.values() if trial.state == FAIL).most_common(3):
        console.print(f"{n} failed: {reason}", style="red", highlight=False, soft_wrap=True)
    for line in mishaps(snapshot):
        console.print(line, highlight=False, soft_wrap=True)
    _print_places(console, driver, folder)


def mishaps(snapshot: Mapping[str, Any]) -> list[str]:
    """A line on what was lost and tried again, and one for each device that is used no more."""
    n = snapshot.get("n_losses", 0)
    lost = [f"{n} trainings and evaluations were lost to a worker, a device or the storage and tried again"] if n else []
    return lost + [f"left out: {name}: {reason}" for name, reason in snapshot.get("left_out", {}).items()]


def _print_places(console: Console, driver: Driver, folder: StudyFolder) -> None:
    name, storage = folder.root.name, folder.storage
    where = "" if storage == DEFAULT_STORAGE.absolute() else f" --storage {storage}"
    lines = [f"records and pictures   {folder.root}", f"adapters               {folder.adapters}"]
    if driver.best is not None:
        lines.append(f"best adapter           {folder.adapters / driver.best.training_key / f'epoch-{driver.best.best[0]:05d}'}")
    lines.append(f"next                   {python_command()} -m analysis tables {name}{where}")
    if driver.n_ended < driver.n_trials:
        lines.append(f"to go on               {python_command()} -m sweep resume {name}{where}: what is done is not done again")
    elif driver.study.kind == "sampled":
        lines.append(f"more trials            the same launch command with --samples {driver.n_trials + 8}")
    if folder.journal.exists():
        lines.append(f"the sampler's view     optuna-dashboard {folder.journal}")
    for line in lines:
        console.print(line, highlight=False, soft_wrap=True)


def python_command() -> str:
    """What to type for this Python: its path where `python` is another one, as in an environment that was not activated."""
    found = shutil.which("python")
    if found and os.path.samefile(found, sys.executable):
        return "python"
    relative = os.path.relpath(sys.executable)
    return sys.executable if relative.startswith("..") else relative


def _trial_line(trial: Trial, evaluations: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    epoch, objective, *keys = trial.best
    scored = [evaluations[key] for key in keys if key in evaluations]
    baseline = " (baseline)" if trial.labels.get("baseline") else ""
    return {
        "rank": "",
        "trial": trial.id + baseline,
        "objective": objective,
        "spread": trial.spread,
        "epoch": epoch,
        "lpips": _mean_of("lpips", scored),
        "fid": _mean_of("fid", scored),
        "state": WORDS[trial.state],
        # What a label repeats of the configuration is said once.
        "labels": configuration_text({k: v for k, v in trial.labels.items() if k != "baseline" and k not in trial.configuration}),
        "configuration": configuration_text(trial.configuration),
    }


def _mean_of(metric: str, rows: list[Mapping[str, Any]]) -> float | None:
    values = [row[metric] for row in rows if row.get(metric) is not None]
    return statistics.fmean(values) if values else None


def _control_line(driver: Driver, row: Mapping[str, Any]) -> dict[str, Any] | None:
    backbones = {"perceptual": row["perceptual_backbone"], "pooled": row["pooled_backbone"]}
    values = {name: row.get(name) for name in driver.study.objective.weights if row.get(name) is not None}
    try:
        objective = driver.study.objective.value(values, backbones)
    except Exception:  # a control without a value has no line
        return None
    shown = {name: row["configuration"].get(name) for name in ("infer_model", "guidance")}
    return {
        "rank": "",
        "trial": "no adapter",
        "objective": objective,
        "spread": None,
        "epoch": 0,
        "lpips": row.get("lpips"),
        "fid": row.get("fid"),
        "state": "control",
        "labels": "",
        "configuration": configuration_text(shown),
    }


def _live_table(driver: Driver, snapshot: Mapping[str, Any]) -> Table:
    table = Table(header_style="bold", box=None, padding=(0, 2, 0, 0))
    for name in ("trial", "epoch", "s/epoch", "loss", "objective"):
        table.add_column(name, justify="left" if name == "trial" else "right", no_wrap=True)
    table.add_column("configuration", overflow="ellipsis", no_wrap=True)
    for trial in driver.live[:MOST_ROWS]:
        training = snapshot.get("trials", {}).get(trial.id, {})
        epoch = f"{training.get('epoch', 0):.3g}/{trial.max_epochs}"
        objective = _number(trial.objective, 4)
        numbers = (_number(training.get("seconds_per_epoch"), 1), _number(training.get("mean_loss"), 4), objective)
        table.add_row(trial.id, epoch, *numbers, configuration_text(trial.configuration))
    return table


def _worker_lines(snapshot: Mapping[str, Any]) -> list[Text]:
    lines = [Text(f"{worker}: {doing}", style="dim") for worker, doing in snapshot.get("workers", {}).items()]
    return [*lines, *(Text(line) for line in mishaps(snapshot))]


def _training_lines(driver: Driver, snapshot: Mapping[str, Any]) -> list[Text]:
    """The epoch and rate of each trial in one line, for where there is no table."""
    words = []
    for trial in driver.live:
        training = snapshot.get("trials", {}).get(trial.id, {})
        rate = _number(training.get("seconds_per_epoch"), 1)
        words.append(f"{trial.id} epoch {training.get('epoch', 0):.3g}/{trial.max_epochs}" + (f" at {rate} s" if rate else ""))
    return [Text(", ".join(words), style="dim")] if words else []


def _share_done(trial: Trial, snapshot: Mapping[str, Any]) -> float:
    epoch = snapshot.get("trials", {}).get(trial.id, {}).get("epoch", 0.0)
    return min(1.0, epoch / trial.max_epochs) if trial.max_epochs else 0.0


def _number(value: Any, digits: int) -> str:
    return f"{value:.{digits}f}" if isinstance(value, (int, float)) and math.isfinite(value) else ""
