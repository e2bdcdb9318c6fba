"""MLflow: an experiment of the study's name, a run for each trial, where MLFLOW_TRACKING_URI says.

By MLflow's client and not Ray Tune's callback, which begins a new run at every launch and sends a request for every number."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Mapping
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, Run, RunTag
from ray.tune.result import TRAINING_ITERATION

from sweep.loggers import LoggedTrial

STUDY, TRIAL, ENDED = "lora_sweep.study", "lora_sweep.trial", "lora_sweep.ended"
RUNS_PER_PAGE = 1000


class MlflowLogger:
    """A TrialLogger. What a run has already is read from MLflow itself."""

    def __init__(self, study_name: str, study_id: str, client: MlflowClient | None = None) -> None:
        logging.getLogger("mlflow").setLevel(logging.WARNING)  # it tells of every table of a new database
        self._client = client or MlflowClient()
        experiment = self._client.get_experiment_by_name(study_name)
        self._experiment = experiment.experiment_id if experiment else self._client.create_experiment(study_name)
        self._study_id = study_id
        self._runs: dict[str, str] = {}  # run ids by trial
        self._ended: set[str] = set()
        self._steps: dict[str, set[tuple[str, int]]] = {}  # (metric, step) that a live run has, by trial
        for run in self._earlier_runs():
            trial = run.data.tags[TRIAL]
            self._runs[trial] = run.info.run_id
            self._ended |= {trial} if ENDED in run.data.tags else set()

    def has_ended(self, trial_id: str) -> bool:
        return trial_id in self._ended

    def log_trial_start(self, trial: LoggedTrial) -> None:
        name = trial.trial_id
        if name in self._runs:
            self._steps[name] = self._steps_of(self._runs[name])
            self._client.update_run(self._runs[name], status="RUNNING")
            return
        run = self._client.create_run(self._experiment, run_name=name, tags={STUDY: self._study_id, TRIAL: name})
        self._runs[name], self._steps[name] = run.info.run_id, set()
        self._client.log_batch(run.info.run_id, params=[Param(key, str(value)) for key, value in trial.config.items()])

    def log_trial_result(self, iteration: int, trial: LoggedTrial, result: Mapping[str, Any]) -> None:
        numbers = {name: value for name, value in result.items() if name != TRAINING_ITERATION}
        self._log(trial.trial_id, numbers, step=result[TRAINING_ITERATION])

    def log_trial_end(self, trial: LoggedTrial, failed: bool = False) -> None:
        run = self._runs[trial.trial_id]
        if not trial.end:
            self._client.set_terminated(run, "KILLED")
            return
        numbers = {name: value for name, value in trial.end.items() if isinstance(value, (int, float))}
        self._log(trial.trial_id, numbers, step=trial.end["epochs"])
        texts = {name: str(value) for name, value in trial.end.items() if name not in numbers}
        self._client.set_terminated(run, "FAILED" if failed else "FINISHED")
        self._client.log_batch(run, tags=[RunTag(name, text) for name, text in {**texts, ENDED: "true"}.items()])
        self._ended.add(trial.trial_id)

    def _log(self, trial: str, numbers: Mapping[str, float], *, step: int) -> None:
        now_ms, has = int(time.time() * 1000), self._steps[trial]
        new = {key: value for name, value in numbers.items() if ((key := _key(name)), step) not in has}
        self._client.log_batch(self._runs[trial], metrics=[Metric(key, float(value), now_ms, step) for key, value in new.items()])
        has.update((key, step) for key in new)

    def _earlier_runs(self) -> list[Run]:
        found, token = [], None
        while True:
            page = self._client.search_runs([self._experiment], f"tags.`{STUDY}` = '{self._study_id}'", max_results=RUNS_PER_PAGE, page_token=token)
            found += page
            if not (token := page.token):
                return found

    def _steps_of(self, run: str) -> set[tuple[str, int]]:
        names = self._client.get_run(run).data.metrics
        return {(name, metric.step) for name in names for metric in self._client.get_metric_history(run, name)}


def _key(name: str) -> str:
    """A metric's name in the letters that MLflow takes."""
    return re.sub(r"[^\w. /-]", "_", name)
