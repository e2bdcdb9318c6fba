"""The loggers that a study can tell its trials to, beside its records: their names, what each needs, and what one guarantees.

Imports none of them. What they are told, and when, is logger_feed.py's; how each says it is in *_logger.py. Ray Tune's own loop feeds
none: it sees only a few of a study's trials, the others are judged from the pool's snapshots."""

from __future__ import annotations

import importlib.util
import json
import logging
import threading
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from sweep.errors import StudyError
from sweep.record_files import read_view, write_atomically
from sweep.space import nearest

if TYPE_CHECKING:
    from sweep.folder import StudyFolder

logger = logging.getLogger(__name__)

TENSORBOARD, WANDB, MLFLOW = "tensorboard", "wandb", "mlflow"
MODULES = {TENSORBOARD: "tensorboardX", WANDB: "wandb", MLFLOW: "mlflow"}
"""What each is imported as. Its extra in pyproject.toml has the logger's name."""

OFF = "off"

_ONE_AT_A_TIME = threading.Lock()  # each logger is made on a thread of its own


@dataclass(frozen=True)
class LoggedTrial:
    """A trial as loggers read it, under the names of Ray Tune's Trial. Equal ids are one trial."""

    trial_id: str
    config: Mapping[str, Any] = field(default_factory=dict, compare=False)  # text, truth values and numbers
    local_path: str = field(default="", compare=False)  # a folder for its files
    end: Mapping[str, Any] = field(default_factory=dict, compare=False)  # how it ended; empty while it has not

    @property
    def evaluated_params(self) -> dict[str, Any]:
        """Hyperparameters, which TensorBoard gets when the trial has ended."""
        return {**self.config, **{name: self.end[name] for name in ("state", "reason") if self.end.get(name)}} if self.end else {}

    def init_local_path(self) -> None:
        Path(self.local_path).mkdir(parents=True, exist_ok=True)

    def __str__(self) -> str:
        return self.trial_id


class TrialLogger(Protocol):
    """Ray Tune's LoggerCallback, as far as it is used, and what relaunches need. Called from one thread.

    Guarantees: a trial is one run for ever, whichever launch tells of it; a result of an epoch that the run has is in it once."""

    def has_ended(self, trial_id: str) -> bool:
        """Whether the run was told the trial's end: then there is nothing left to tell."""

    def log_trial_start(self, trial: LoggedTrial) -> None:
        """Begin the trial's run, or go on with it."""

    def log_trial_result(self, iteration: int, trial: LoggedTrial, result: Mapping[str, Any]) -> None:
        """What a rung gave: numbers by name, and the epoch as `training_iteration`."""

    def log_trial_end(self, trial: LoggedTrial, failed: bool = False) -> None:
        """The run's end or, where `trial.end` is empty, a break: the next launch goes on with it."""


def check_loggers(names: Any) -> None:
    """Raises: StudyError for what is no list of loggers."""
    if not isinstance(names, tuple):
        raise StudyError(f"`loggers` must be a list of loggers, but it is {names!r}. Use e.g. ({TENSORBOARD!r},).")
    for name in names:
        if name not in MODULES:
            raise StudyError(f"`loggers` are of {', '.join(MODULES)}, but one is {name!r}.{nearest(str(name), MODULES)}")
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise StudyError(f"`loggers` names each logger once, but {twice} twice. Leave one out.")


def require_loggers(names: Sequence[str]) -> None:
    """Raises: StudyError for a logger whose package is not installed, or that could not log in."""
    for name in names:
        spec = importlib.util.find_spec(MODULES[name])
        if spec is None or spec.origin is None:  # no origin: a folder here that is called so, as W&B makes them
            raise StudyError(
                f"The logger {name} needs the package {MODULES[name]}, but it is not installed here. "
                f"Use `pip install 'lora-sweep[{name}]'` (or -e '.[{name}]'), or --logger {OFF}."
            )
    if WANDB in names:
        from sweep.wandb_logger import require_login

        require_login()


def make_logger(name: str, folder: StudyFolder) -> TrialLogger:
    """The logger of a study. It may take seconds, and raises whatever the logger's package does."""
    if name == TENSORBOARD:
        from sweep.tensorboard_logger import TensorBoardLogger

        if folder.here != folder.root:
            logger.warning(f"TensorBoard's files cannot lie in {folder.storage}: they are in {event_folder(folder)} on this machine.")
        return TensorBoardLogger(event_folder(folder))
    if name == WANDB:
        from sweep.wandb_logger import WandbLogger

        return WandbLogger(folder.root.name, _study_id(folder), marks=folder.root / "wandb.json", folder=folder.here)
    from sweep.mlflow_logger import MlflowLogger

    return MlflowLogger(folder.root.name, _study_id(folder))


def event_folder(folder: StudyFolder) -> Path:
    """Where TensorBoard's files lie, a folder for each trial."""
    return folder.here / TENSORBOARD


def _study_id(folder: StudyFolder) -> str:
    """What tells this study's runs from those of another one of its name; it moves with the study's folder."""
    path = folder.root / "loggers.json"
    with _ONE_AT_A_TIME:
        if not path.exists():
            write_atomically(path, lambda file: file.write(json.dumps({"study_id": uuid.uuid4().hex[:8]}).encode()))
        found = (read_view(path) or {}).get("study_id")
    if not isinstance(found, str):
        raise StudyError(
            f"Loggers know a study's runs by the id in {path}, but the file is damaged. Restore it, or remove it: "
            "its trials are then logged as new runs."
        )
    return found
