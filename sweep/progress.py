"""What a launch tells whoever watches it: the moments and events of a study, for a screen and for `sweep watch`. Decides nothing."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as ProgressBar

from sweep.live_file import LiveFile
from sweep.live_screen import LiveScreen
from sweep.moment import MOST_NOTICES, Moment, Notice, moment_of, mood_text
from sweep.searcher import COMPLETE, FAIL, PRUNED, RUNNING
from sweep.wording import configuration_text

if TYPE_CHECKING:
    from sweep.driver import Driver
    from sweep.folder import StudyFolder
    from sweep.live_report import LiveReport
    from sweep.trial_rows import Trial


class Progress:
    """A View of sweep.runner. Use it as a context: leaving it takes the live table off the terminal."""

    def __init__(
        self,
        console: Console,
        *,
        study: str = "",
        clock: Callable[[], float] = time.monotonic,
        started_at: float | None = None,
        report: LiveReport | None = None,
    ) -> None:
        self._clock = clock
        self._started_at = clock() if started_at is None else started_at
        self._screen = LiveScreen(console, clock=clock)
        self._moment = Moment(study, self._elapsed)
        self._file: LiveFile | None = None
        self._report = report
        self._notices: list[Notice] = []
        self._n_notices = 0
        self._said: dict[str, tuple[str, int]] = {}
        self._best: tuple[str, float] | None = None
        self._left_out: set[str] = set()
        self._n_of_workers = 0
        self._first_scored: float | None = None
        self._mood = ""

    def __enter__(self) -> Progress:
        self._screen.__enter__()
        return self

    def __exit__(self, *exception: object) -> None:
        self._screen.__exit__(*exception)

    @contextmanager
    def during(self, folder: StudyFolder, launch: str) -> Iterator[None]:
        """While the study's folder is this launch's, what the screen shows is there for others to see, and its report for all."""
        with LiveFile(folder.live, launch, self._moment) as self._file:
            try:
                if self._report:
                    self._report.open(folder)
                yield
            finally:
                self._file = None
                if self._report:
                    self._report.stop()

    def phase(self, text: str) -> None:
        """What the launch is doing before there is a trial to show."""
        self._show(replace(self._moment, elapsed_s=self._elapsed, phase=text))

    def update(self, driver: Driver, snapshot: Mapping[str, Any]) -> None:
        """Called a few times a second."""
        self._note_events(driver)
        self._note_left_out(snapshot)
        self._note_workers(snapshot)
        self._look_at_report(driver)
        self._note_mood(driver, mood_text(driver))
        self._show(moment_of(driver, snapshot, self._elapsed, notices=self._notices))

    @property
    def first_scored_s(self) -> float | None:
        """Seconds from the launch to the first score of an adapter."""
        return self._first_scored

    @property
    def _elapsed(self) -> float:
        return self._clock() - self._started_at

    def _show(self, moment: Moment) -> None:
        self._moment = moment
        self._screen.show(moment)
        if self._file:
            self._file.write(moment)
        self._notices = self._notices[-MOST_NOTICES:]

    def _note_events(self, driver: Driver) -> None:
        for trial in driver.trials.values():
            state = (trial.state, len(trial.rungs))
            before = self._said.get(trial.id)
            self._said[trial.id] = state
            if state != before and trial.id in driver.started_now:
                self._note_first(trial)
                if line := event_line(trial, new_rung=before is None or before[1] < len(trial.rungs), is_best=self._is_new_best(driver, trial)):
                    self._note(line, passing=trial.state != FAIL)

    def _is_new_best(self, driver: Driver, trial: Trial) -> bool:
        """Whether it is the best now and was not, or not at this value, when it was last looked at."""
        if driver.best is not trial or self._best == (trial.id, trial.objective):
            return False
        self._best = (trial.id, trial.objective)
        return True

    def _note_first(self, trial: Trial) -> None:
        if trial.rungs and self._first_scored is None:
            self._first_scored = self._elapsed
            self._note(f"first adapter scored after {self._elapsed:.0f} s")

    def _look_at_report(self, driver: Driver) -> None:
        if self._report and not driver.finished:  # at the end it is made once more anyway
            if said := self._report.look(sum(len(trial.rungs) for trial in driver.trials.values())):
                self._note(said)

    def _note_left_out(self, snapshot: Mapping[str, Any]) -> None:
        for name, reason in snapshot.get("left_out", {}).items():
            if name not in self._left_out:
                self._left_out.add(name)
                self._note(f"left out: {name}: {reason}")

    def _note_workers(self, snapshot: Mapping[str, Any]) -> None:
        """What the launch has said of its workers since it was looked at last."""
        texts = snapshot.get("notices", ())
        for text in texts[self._n_of_workers :]:
            self._note(text)
        self._n_of_workers = max(self._n_of_workers, len(texts))

    def _note_mood(self, driver: Driver, mood: str) -> None:
        """A pause or a stop, when it begins: the rungs under way may take a while."""
        before, self._mood = self._mood, mood
        if mood != before and (mood or driver.stopping is None):
            self._note(mood or "going on")

    def _note(self, text: str, *, passing: bool = False) -> None:
        self._n_notices += 1
        self._notices.append(Notice(self._n_notices, self._elapsed, text, passing))


@contextmanager
def counted(console: Console, text: str) -> Iterator[Callable[[int, int], None]]:
    """A bar for work that is counted: call what it gives with (done, total)."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with ProgressBar(*columns, console=console, transient=True) as bar:
        task = bar.add_task(text, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def event_line(trial: Trial, *, new_rung: bool, is_best: bool = False) -> str:
    """One line on what has just happened to a trial; empty where nothing is worth one."""
    scored = f"objective {trial.rungs[-1][1]:.4f} at epoch {trial.epochs}" if trial.rungs else "not scored"
    best = f"; the best so far: {configuration_text(trial.configuration)}" if is_best else ""
    if trial.state == FAIL:  # what ends with its launch is no news of the trial
        return "" if trial.cause and trial.cause.ends_with_launch else f"{trial.id}  failed: {trial.reason}"
    if trial.state == PRUNED:
        return f"{trial.id}  {scored}, stopped early{best}"
    if trial.state == COMPLETE:
        own = f"; its best {trial.objective:.4f} at epoch {trial.best[0]}" if trial.best and trial.best[0] != trial.epochs else ""
        return f"{trial.id}  {scored}, done{own}{best}"
    return f"{trial.id}  {scored}{best}" if trial.rungs and new_rung and trial.state == RUNNING else ""
