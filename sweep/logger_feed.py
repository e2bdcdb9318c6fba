"""What loggers are told, and when: every state of every trial that reaches the records, each logger on a thread of its own.

The records are the truth and come first. A logger that is slow delays nobody, and one that fails is said once and left out; the next
launch tells it what it missed."""

from __future__ import annotations

import json
import logging
import math
import queue
import statistics
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

from ray.tune.result import TRAINING_ITERATION

from sweep.driver import TrialRecords
from sweep.folder import StudyFolder
from sweep.loggers import LoggedTrial, TrialLogger, event_folder, make_logger
from sweep.messages import Outcome
from sweep.records import Records
from sweep.searcher import FAIL, RUNNING
from sweep.trial_rows import is_unfinished
from sweep.worker import known_outcomes, outcome_of_row

logger = logging.getLogger(__name__)

PATIENCE_S = 60.0
"""How long the end of a launch waits for loggers that still have something to say."""


class Feeds:
    """The loggers of a study. A context: leaving it waits until they have heard all."""

    def __init__(self, names: Iterable[str], folder: StudyFolder) -> None:
        self._folder = folder
        self._names = tuple(names)
        self._feeds: list[Feed] = []

    def __enter__(self) -> Feeds:
        return self

    def __exit__(self, *exception: object) -> None:
        deadline = time.monotonic() + PATIENCE_S
        for feed in self._feeds:
            feed.close(deadline - time.monotonic())

    def start(self, past_rows: Iterable[Mapping[str, Any]]) -> None:
        """Tell what earlier launches have recorded, if anything: the latest row of each trial, decoded."""
        self._feeds = [
            Feed(name, partial(make_logger, name, self._folder), _Outcomes(self._folder), event_folder=str(event_folder(self._folder)))
            for name in self._names
        ]
        for row in past_rows if self._feeds else ():
            if not is_unfinished(row):  # the others are tried again, and then tell it themselves
                self.put(row)

    def over(self, records: TrialRecords) -> TrialRecords:
        """Records whose rows of trials reach the loggers, too."""
        return _Overheard(records, self) if self._feeds else records

    def put(self, row: Mapping[str, Any]) -> None:
        for feed in self._feeds:
            feed.put(row)


class _Overheard:
    def __init__(self, records: TrialRecords, feeds: Feeds) -> None:
        self._records, self._feeds = records, feeds

    def append_trial(self, row: Mapping[str, Any]) -> None:
        self._records.append_trial(row)
        self._feeds.put(row)


class Feed:
    """One logger and the thread that it lives on."""

    def __init__(self, name: str, make: Callable[[], TrialLogger], outcome_of: Callable[[str], Outcome], *, event_folder: str) -> None:
        self._name, self._make, self._outcome_of, self._event_folder = name, make, outcome_of, event_folder
        self._rows: queue.SimpleQueue[Mapping[str, Any] | None] = queue.SimpleQueue()
        self._n_told: dict[str, int] = {}  # rungs that were told in this launch, by live trial
        self._thread = threading.Thread(target=self._run, name=f"logger-{name}", daemon=True)
        self._has_begun = False

    def put(self, row: Mapping[str, Any]) -> None:
        if not self._has_begun:  # a launch that never began leaves nothing behind
            self._has_begun = True
            self._thread.start()
        self._rows.put({**row, "configuration": dict(row["configuration"] or {}), "train_losses": dict(row.get("train_losses") or {})})

    def close(self, timeout_s: float) -> None:
        if not self._has_begun:
            return
        self._rows.put(None)
        self._thread.join(max(0.0, timeout_s))
        if self._thread.is_alive():
            logger.warning(f"the logger {self._name} has not taken all within {PATIENCE_S:.0f} s. The records have it; the next launch tells it again.")

    def _run(self) -> None:
        try:
            trial_logger = self._make()
            while (row := self._rows.get()) is not None:
                self._tell(trial_logger, row)
        except Exception as error:  # a server, a network, a disk, a package of somebody else's: a study does not depend on them
            said = (str(error).strip().splitlines() or ["no message"])[0]
            logger.warning(
                f"the logger {self._name} has stopped ({type(error).__name__}: {said}). The study goes on, and the next launch tells it what it missed."
            )

    def _tell(self, trial_logger: TrialLogger, row: Mapping[str, Any]) -> None:
        if trial_logger.has_ended(row["trial"]):
            return
        trial = self._as_logged(row)
        if trial.trial_id not in self._n_told:
            trial_logger.log_trial_start(trial)
        rungs = row["rung_values"] or []
        for iteration, rung in enumerate(rungs[self._n_told.get(trial.trial_id, 0) :]):
            trial_logger.log_trial_result(iteration, trial, self._result(row, rung))
        self._n_told[trial.trial_id] = len(rungs)
        if row["state"] != RUNNING:
            del self._n_told[trial.trial_id]
            trial_logger.log_trial_end(trial, failed=row["state"] == FAIL)

    def _as_logged(self, row: Mapping[str, Any]) -> LoggedTrial:
        config = {name: value if isinstance(value, (str, int, float)) else _text(value) for name, value in row["configuration"].items()}
        is_end = row["state"] != RUNNING and not is_unfinished(row)
        return LoggedTrial(row["trial"], config, f"{self._event_folder}/{row['trial']}", end=_end_of(row) if is_end else {})

    def _result(self, row: Mapping[str, Any], rung: list[Any]) -> dict[str, Any]:
        """Everything that is known of a rung; of several training seeds, the mean."""
        epoch, objective, *keys = rung
        outcomes = [self._outcome_of(key).values for key in keys]
        metrics = {name: statistics.fmean(values[name] for values in outcomes) for name in outcomes[0] if all(name in values for values in outcomes)}
        losses = {int(at): loss for at, loss in row["train_losses"].items()}
        numbers = {**metrics, "train_loss": losses.get(epoch), "objective": objective}
        return {TRAINING_ITERATION: epoch, **{name: value for name, value in numbers.items() if value is not None and math.isfinite(value)}}


def _end_of(row: Mapping[str, Any]) -> dict[str, Any]:
    """How a trial ended: its state in words, and the numbers of the whole of it."""
    end = {
        "state": row["state"],
        "reason": row["reason"],
        "best_objective": row["objective"],
        "best_epoch": row["best_epoch"],
        "epochs": row["epochs"],
        "shared_epochs": row["shared_epochs"],
        "seconds": row["seconds"],
    }
    return {name: value for name, value in end.items() if value is not None}


def _text(value: Any) -> str:
    return json.dumps(value, default=str)


class _Outcomes:
    """Outcomes of a study by evaluation key, from its records; read when the first one is asked for."""

    def __init__(self, folder: StudyFolder) -> None:
        self._records = Records(folder.root)
        self._known: dict[str, Outcome] | None = None

    def __call__(self, key: str) -> Outcome:
        if self._known is None:
            self._known = known_outcomes(self._records)
        if key not in self._known and (row := self._records.evaluation(key)) is not None:
            self._known[key] = outcome_of_row(row)
        return self._known.get(key, Outcome())
