"""TensorBoard: Ray Tune's own callback, and files that a relaunch does not double.

Event files are only ever appended to. So a trial that has not ended is written anew by the launch that tries it again, which hears all of
its rungs once more; one that has ended is marked, and left alone."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ray.tune.logger import TBXLoggerCallback
from ray.tune.result import TRAINING_ITERATION

from sweep.loggers import LoggedTrial

MARK = ".ended"


class TensorBoardLogger:
    """A TrialLogger that writes event files, flushed at every result."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._callback = TBXLoggerCallback()

    def has_ended(self, trial_id: str) -> bool:
        return (self._folder / trial_id / MARK).exists()

    def log_trial_start(self, trial: LoggedTrial) -> None:
        shutil.rmtree(trial.local_path, ignore_errors=True)
        self._callback.log_trial_start(trial)

    def log_trial_result(self, iteration: int, trial: LoggedTrial, result: Mapping[str, Any]) -> None:
        self._callback.log_trial_result(iteration, trial, dict(result))

    def log_trial_end(self, trial: LoggedTrial, failed: bool = False) -> None:
        if trial.end:
            # The callback takes the last result for the metrics of the hyperparameters, and writes none without one.
            numbers = {name: value for name, value in trial.end.items() if isinstance(value, (int, float))}
            self._callback.log_trial_result(0, trial, {TRAINING_ITERATION: trial.end["epochs"], **numbers})
        self._callback.log_trial_end(trial, failed=failed)
        if trial.end:
            (Path(trial.local_path) / MARK).touch()
