"""What Ray Tune sees of a study: its searcher, scheduler, callback and stopper, each of which hands on to the driver.

Facts of Ray Tune that shape it: a stop by the scheduler never reaches on_trial_result of the searcher, and an early stop, an end
and a user's stop look alike there; so every answer is judged in one place, the scheduler's on_trial_result, which is called for
each result that does not say `done`. Tune's own experiment state is never used: our records are the truth."""

from __future__ import annotations

import logging
import os
import tempfile
import time
from collections.abc import Callable
from typing import Any

from ray import tune
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher as RaySearcher

from sweep.driver import Driver
from sweep.errors import SweepError
from sweep.trial import ANSWER, RungTrial
from trainables.cores import n_cores

SETTINGS = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # our result is one answer, the driver knows what it is worth
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # we have our own: Tune's ends with exit code 0
    "TUNE_GLOBAL_CHECKPOINT_S": "1000000",
    "TUNE_MAX_PENDING_TRIALS_PG": "1",  # trials' processes start one after another: their trainings do not wait for them
    "TUNE_RESULT_BUFFER_LENGTH": "1",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_AIR_NEW_OUTPUT": "0",  # the new one prints a table however silent it is asked to be
}

CPU_PER_TRIAL = 0.001
"""A trial only waits. Not 0: Ray Tune wants a resource to place it by."""


LEAST_PROCESSES = 2
"""Trials of which a process waits for the next rung, at a time, or as many as there are cores. The others are judged from the pool's
snapshots and lose nothing by it, whereas a process takes seconds of a core to start and 100 MB to live: 300 trials on 40 GPUs must not
need 300 of them here."""

PATIENCE_S = 60.0
"""The longest that trials go without their processes. These only wait for a score, and would take the cores from the first one."""


def run_trials(driver: Driver, *, pool_name: str, namespace: str, on_step: Callable[[], None], folder: str) -> None:
    """Let Ray Tune run the driver's trials until the driver is finished. `on_step` is called ten times a second or so. `folder`: for
    files that nobody needs afterwards."""
    os.environ.update(SETTINGS)
    logging.getLogger("ray").setLevel(logging.CRITICAL)
    with tempfile.TemporaryDirectory(prefix="tune-", dir=folder, ignore_cleanup_errors=True) as storage:
        tuner = tune.Tuner(
            tune.with_resources(RungTrial, {"cpu": CPU_PER_TRIAL}),
            tune_config=tune.TuneConfig(
                search_alg=_Searcher(driver, {"pool": pool_name, "namespace": namespace}, on_step),
                scheduler=_Scheduler(driver),
                num_samples=-1,
                reuse_actors=True,
                trial_name_creator=_trial_name,
                trial_dirname_creator=_trial_name,
            ),
            run_config=tune.RunConfig(
                name="tune",
                storage_path=storage,
                stop=_Stopper(driver),
                callbacks=[_Callback(driver, on_step)],
                failure_config=tune.FailureConfig(max_failures=0),
                verbose=0,
            ),
        )
        tuner.fit()


class _NotPickled:
    """Ray Tune pickles all that it is given, for a restore that we never ask for."""

    def __getstate__(self) -> dict[str, Any]:
        return {}


class _Searcher(_NotPickled, RaySearcher):
    """Hands out what the driver has started."""

    def __init__(self, driver: Driver, constants: dict[str, Any], on_step: Callable[[], None]) -> None:
        super().__init__(metric="objective", mode="min")
        self._driver = driver
        self._on_step = on_step
        self._constants = constants
        self._names: dict[str, str] = {}  # Ray's trial id -> ours
        self._patient_until = time.monotonic() + PATIENCE_S
        self._most_processes = max(LEAST_PROCESSES, n_cores())

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        try:
            return self._suggest(trial_id)
        except SweepError as error:  # records that cannot be written: Ray Tune would wrap it beyond recognition
            self._driver.fatal = self._driver.fatal or error
            return None

    def _suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        if not self._names:
            self._on_step()  # with no trial at all, Ray Tune asks here again and again, and does nothing else
        if not self._driver.finished and self._driver.best is None and time.monotonic() < self._patient_until:
            return None
        if len(self._names) >= self._most_processes and not self._driver.finished:
            self._driver.fill()
            return None
        name = self._driver.next_to_run()
        if name is None:
            if not self._names and not self._driver.finished:  # its trials do without processes: nobody else calls it
                self._on_step()
            # None means "ask again", FINISHED is for ever.
            return self.FINISHED if self._driver.finished else None
        self._names[trial_id] = name
        return {"trial": name, **self._constants}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        # A trial that ended as it should has been told of by the scheduler; whatever is still live here has lost its process.
        self._driver.lost(self._names.pop(trial_id, ""))

    def save(self, checkpoint_path: str) -> None:
        """Nothing: a relaunch rebuilds everything from the records."""
        open(checkpoint_path, "wb").close()

    def restore(self, checkpoint_path: str) -> None:
        raise NotImplementedError("a study is relaunched from its records, not from Ray Tune's state")


class _Scheduler(_NotPickled, FIFOScheduler):
    """Passes each answer of the pool to the driver, and the driver's decision to Ray Tune."""

    def __init__(self, driver: Driver) -> None:
        super().__init__()
        self._driver = driver

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        try:
            goes_on = self._driver.hear(trial.config["trial"], result[ANSWER])
        except SweepError as error:  # records that cannot be written: Ray Tune would wrap it beyond recognition
            self._driver.fatal = self._driver.fatal or error
            return TrialScheduler.STOP
        return TrialScheduler.CONTINUE if goes_on else TrialScheduler.STOP


class _Stopper(_NotPickled, tune.Stopper):
    """Ends everything at once when the driver has ended its last trial, whatever process may still be starting."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        return self._driver.finished


class _Callback(_NotPickled, tune.Callback):
    def __init__(self, driver: Driver, on_step: Callable[[], None]) -> None:
        self._driver = driver
        self._on_step = on_step

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._driver.attend(trial.config["trial"])

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        self._on_step()


def _trial_name(trial: Any) -> str:
    return str(trial.config["trial"])
