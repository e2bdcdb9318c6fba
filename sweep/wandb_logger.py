"""Weights & Biases: a group of the study's name in a project, a run for each trial, online or offline as WANDB_MODE says.

By the package itself and not Ray Tune's callback, which starts two processes for every trial and begins its run anew at every launch."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ray.tune.result import TRAINING_ITERATION

from sweep.errors import StudyError
from sweep.loggers import LoggedTrial
from sweep.record_files import read_view, write_atomically
from trainables.storage import Place

if TYPE_CHECKING:
    from wandb import Run

DEFAULT_PROJECT = "lora-sweep"
INIT_WITHIN_S = 45.0
"""How long a run may take to begin. Without a network it never does."""
ENDED = "ended"
WITHOUT_LOGIN = ("offline", "dryrun", "disabled")


class WandbLogger:
    """A TrialLogger. An offline run cannot be read back, so what was told stands in a file of the study's folder, once W&B has it for sure.

    That is when a run finishes: W&B writes the file of an offline run in blocks of 32 KiB, and a kill takes the last one along. What a
    killed launch told is told again; online W&B drops what it has, as its steps only ever rise."""

    def __init__(self, study_name: str, study_id: str, *, marks: Place, folder: Path) -> None:
        """`marks`: the file. `folder`: where W&B keeps what it has not sent, in wandb/."""
        self._study_name, self._study_id, self._marks, self._folder = study_name, study_id, marks, folder
        self._told: dict[str, list[int | str]] = {name: told for name, told in (read_view(marks) or {}).items() if isinstance(told, list)}
        self._runs: dict[str, Run] = {}
        self._unsure: dict[str, list[int | str]] = {}  # epochs told to the runs that are live

    def has_ended(self, trial_id: str) -> bool:
        return ENDED in self._told.get(trial_id, ())

    def log_trial_start(self, trial: LoggedTrial) -> None:
        import wandb

        self._unsure[trial.trial_id] = []
        self._runs[trial.trial_id] = wandb.init(
            project=os.environ.get("WANDB_PROJECT") or DEFAULT_PROJECT,
            group=self._study_name,
            name=trial.trial_id,
            id=f"{self._study_id}-{trial.trial_id}",
            resume="allow",
            reinit="create_new",  # several runs at a time
            config=dict(trial.config),
            dir=str(self._folder),
            settings=wandb.Settings(console="off", silent=True, init_timeout=INIT_WITHIN_S, x_disable_stats=True),
        )

    def log_trial_result(self, iteration: int, trial: LoggedTrial, result: Mapping[str, Any]) -> None:
        epoch = result[TRAINING_ITERATION]
        if epoch in self._told.get(trial.trial_id, ()):
            return
        self._runs[trial.trial_id].log({name: value for name, value in result.items() if name != TRAINING_ITERATION}, step=epoch)
        self._unsure[trial.trial_id].append(epoch)

    def log_trial_end(self, trial: LoggedTrial, failed: bool = False) -> None:
        run = self._runs.pop(trial.trial_id)
        run.summary.update(dict(trial.end))
        run.finish(exit_code=int(failed or not trial.end))
        self._told[trial.trial_id] = [*self._told.get(trial.trial_id, ()), *self._unsure.pop(trial.trial_id), *([ENDED] if trial.end else ())]
        write_atomically(self._marks, lambda file: file.write(json.dumps(self._told).encode()))


def require_login() -> None:
    """Raises: StudyError where W&B would ask for a key, which nobody could answer while a study runs."""
    import wandb

    if wandb.setup().settings.mode not in WITHOUT_LOGIN and not wandb.login(prompt=False, verify=False):
        raise StudyError("The logger wandb needs a W&B login, but there is none here. Use `wandb login`, WANDB_API_KEY, or WANDB_MODE=offline.")
