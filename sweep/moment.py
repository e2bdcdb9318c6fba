"""How a launch stands at one moment, as plain numbers: what the live view draws, and what a launch writes down for `sweep watch`.

Made from the driver and the pool, and sent as JSON; nothing here draws, and nothing decides."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

from sweep.causes import Cause
from sweep.searcher import RUNNING
from sweep.wording import UNFINISHED

if TYPE_CHECKING:
    from sweep.driver import Driver
    from sweep.trial_rows import Trial

MOST_TRIALS = 64
"""Running trials that a moment tells of one by one."""
MOST_NOTICES = 40
"""Notices that are written down for others, who look every second or so."""
TRAINS, WAITS, IS_SCORED = "trains", "waits", "is scored"
SILENT_AFTER_S = 60.0
"""A worker that has shown no progress for so long is said to be silent."""


@dataclass(frozen=True)
class Notice:
    """Something that has happened. `number` counts a launch's; a passing one is worth a line in a log, but not one that stays on a screen."""

    number: int
    at_s: float  # since the launch began
    text: str
    passing: bool = False


@dataclass(frozen=True)
class WorkerNow:
    name: str
    device: str
    doing: str
    n_done: int = 0  # adapters stored and image sets scored
    phase: str = ""  # as trainables.activity.Phase: what many workers do is counted by it
    silent_s: float = 0.0  # since it last showed progress


@dataclass(frozen=True)
class TrialNow:
    """A running trial. What is not known yet is None. `left_s`: of its training, up to its last epoch."""

    id: str
    doing: str  # TRAINS, WAITS, IS_SCORED
    epoch: float
    max_epochs: int
    loss: float | None = None
    left_s: float | None = None
    objective: float | None = None
    configuration: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class BestNow:
    trial: str
    objective: float
    epoch: int
    metrics: Mapping[str, float] = field(default_factory=dict)  # of the objective, means over training seeds
    configuration: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Moment:
    """`phase`: what the launch does before there is a trial; empty from then on."""

    study: str
    elapsed_s: float  # since the launch began
    phase: str = ""
    n_trials: int = 0
    counts: Mapping[str, int] = field(default_factory=dict)  # trials by state, or UNFINISHED
    mood: str = ""  # why no further trial starts now
    paused: bool = False
    left_s: float | None = None
    best: BestNow | None = None
    workers: Sequence[WorkerNow] = ()
    n_losses: int = 0
    trials: Sequence[TrialNow] = ()  # at most MOST_TRIALS of those that run, those that train first
    asked: tuple[int, int] = (0, 0)  # epochs and scores that this launch's trials have needed so far, each alone
    done: tuple[int, int] = (0, 0)  # epochs and scores that were computed for them
    notices: Sequence[Notice] = ()  # what has happened of late, the last MOST_NOTICES at least

    @property
    def n_running(self) -> int:
        return self.counts.get(RUNNING, 0)

    @property
    def n_ended(self) -> int:
        return sum(self.counts.values()) - self.n_running - self.counts.get(UNFINISHED, 0)

    @property
    def slowest(self) -> TrialNow | None:
        """The trial that trains longest still."""
        return max((trial for trial in self.trials if trial.left_s is not None), key=lambda trial: trial.left_s or 0.0, default=None)

    def later(self, seconds: float) -> Moment:
        """The same so many seconds later, if all goes as it was thought to."""
        left_s = None if self.left_s is None else max(0.0, self.left_s - seconds)
        return replace(self, elapsed_s=self.elapsed_s + seconds, left_s=left_s)


def moment_of(driver: Driver, snapshot: Mapping[str, Any], elapsed_s: float, *, notices: Sequence[Notice] = ()) -> Moment:
    """snapshot: the pool's, as Pool.snapshot."""
    trainings = snapshot.get("trials", {})
    trials = sorted((_trial_now(trial, trainings.get(trial.id, {})) for trial in driver.live), key=lambda trial: (trial.doing == WAITS, trial.id))
    return Moment(
        study=driver.study.name,
        elapsed_s=elapsed_s,
        n_trials=driver.n_trials,
        counts=counts_of(driver.trials.values()),
        mood=mood_text(driver),
        paused=driver.paused and not driver.stopping,
        left_s=None if driver.paused else seconds_left(driver, snapshot, elapsed_s),
        best=_best_now(driver),
        workers=_workers_now(snapshot),
        n_losses=snapshot.get("n_losses", 0),
        trials=tuple(trials[:MOST_TRIALS]),
        asked=_asked(driver, trainings),
        done=(snapshot.get("epochs_trained", 0), snapshot.get("rungs_scored", 0)),
        notices=tuple(notices),
    )


def counts_of(trials: Iterable[Trial]) -> dict[str, int]:
    """How many there are by state, or UNFINISHED."""
    return dict(Counter(UNFINISHED if trial.state != RUNNING and trial.is_unfinished else trial.state for trial in trials))


def mood_text(driver: Driver) -> str:
    """Why no further trial starts now; empty where they do, or where all have ended."""
    if driver.stopping and driver.live:
        if driver.stop_cause is Cause.INTERRUPTED:
            return f"{driver.stopping}: the rungs under way are finished; Ctrl+C again ends it at once"
        return f"{driver.stopping}: the trials that run are finished"
    return "paused; `sweep resume` goes on" if driver.paused else ""


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


def to_json(moment: Moment, launch: str) -> str:
    """The moment of the launch with this id. Numbers that are not finite are null."""
    short = replace(moment, notices=moment.notices[-MOST_NOTICES:])
    return json.dumps({"launch": launch, **_finite(asdict(short))}, default=str, allow_nan=False)


def from_json(text: str) -> tuple[Moment, str]:
    """A moment, and the id of its launch.

    Raises:
        ValueError, TypeError, KeyError, AttributeError: the text is none of ours."""
    said = json.loads(text)
    launch = said.pop("launch")
    said["best"] = said["best"] and BestNow(**said["best"])
    for name, kind in (("workers", WorkerNow), ("trials", TrialNow), ("notices", Notice)):
        said[name] = tuple(kind(**one) for one in said[name])
    for name in ("asked", "done"):
        said[name] = tuple(said[name])
    return Moment(**said), str(launch)


# ---- private, in the order of use


def _in_order(worker: tuple[str, str]) -> tuple[int, str]:
    return len(worker[0]), worker[0]  # worker-2 before worker-10


def _workers_now(snapshot: Mapping[str, Any]) -> tuple[WorkerNow, ...]:
    devices, n_done, phases, silent_s = (snapshot.get(name, {}) for name in ("devices", "n_done", "phases", "silent_s"))
    return tuple(
        WorkerNow(name, devices.get(name, ""), doing, n_done.get(name, 0), str(phases.get(name, "")), silent_s.get(name, 0.0))
        for name, doing in sorted(snapshot.get("workers", {}).items(), key=_in_order)
    )


def _trial_now(trial: Trial, training: Mapping[str, Any]) -> TrialNow:
    """training: as TrainingEntry.describe."""
    # What waits for the end of a pause has no training at the pool.
    epoch, rate = max(training.get("epoch", 0.0), trial.epochs), _known(training.get("seconds_per_epoch"))
    is_at_end = bool(trial.max_epochs) and epoch >= trial.max_epochs
    doing = IS_SCORED if is_at_end else WAITS if training.get("worker") is None else TRAINS
    left_s = (trial.max_epochs - epoch) * rate if rate is not None and doing == TRAINS else None
    loss, objective = _known(training.get("mean_loss")), _known(trial.objective)
    return TrialNow(trial.id, doing, epoch, trial.max_epochs, loss, left_s, objective, trial.configuration)


def _best_now(driver: Driver) -> BestNow | None:
    trial = driver.best
    if trial is None:
        return None
    epoch, objective, *keys = trial.best
    scored = [driver.metrics[key] for key in keys if key in driver.metrics]
    names = [name for name in driver.study.objective.weights if scored and all(name in values for values in scored)]
    metrics = {name: sum(values[name] for values in scored) / len(scored) for name in names}
    return BestNow(trial.id, objective, epoch, metrics, trial.configuration)


def _asked(driver: Driver, trainings: Mapping[str, Mapping[str, Any]]) -> tuple[int, int]:
    trials = [trial for trial in driver.trials.values() if trial.id in driver.started_now]
    epochs = (max(trial.epochs, math.floor(trainings.get(trial.id, {}).get("epoch", 0))) for trial in trials)
    return driver.study.train_seeds * sum(epochs), driver.study.train_seeds * sum(len(trial.rungs) for trial in trials)


def _share_done(trial: Trial, snapshot: Mapping[str, Any]) -> float:
    epoch = snapshot.get("trials", {}).get(trial.id, {}).get("epoch", 0.0)
    return min(1.0, epoch / trial.max_epochs) if trial.max_epochs else 0.0


def _known(number: Any) -> float | None:
    return number if isinstance(number, (int, float)) and math.isfinite(number) else None


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _finite(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
