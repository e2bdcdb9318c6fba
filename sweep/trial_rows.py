"""A trial as the driver knows it, and as a row of the records says it: there and back. Nothing here decides anything."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from sweep import causes
from sweep.causes import Cause
from sweep.record_schema import TRIALS
from sweep.searcher import FAIL, RUNNING, PastTrial
from sweep.values import with_prompts_read


def is_unfinished(row: Mapping[str, Any]) -> bool:
    """Whether a trial runs, by its latest row, or is tried again by the next launch: what ended it was not its configuration."""
    return causes.is_unfinished(row["state"], causes.recorded_cause(row.get("cause")))


@dataclass
class Trial:
    """A trial as the driver knows it. `rungs` are (epoch, objective, evaluation key), and a further key per further training seed:
    the objective is then the mean of those in `seed_objectives`, which holds them by epoch."""

    id: str
    number: int
    configuration: dict[str, Any]
    labels: dict[str, Any] = field(default_factory=dict)
    sampled: dict[str, Any] = field(default_factory=dict)
    state: str = RUNNING
    rungs: list[tuple[Any, ...]] = field(default_factory=list)
    seed_objectives: dict[int, tuple[float, ...]] = field(default_factory=dict)
    train_losses: dict[int, float] = field(default_factory=dict)  # mean training loss of the epoch that ends at a rung, by epoch
    vectors: dict[int, tuple[float, ...]] = field(default_factory=dict)  # by epoch, on the axes of the study's `pareto`
    training_key: str = ""
    max_epochs: int = 0
    formula: str = ""
    shared_epochs: int = 0
    reason: str = ""
    cause: Cause | None = None  # of FAIL
    started_at: float = 0.0
    seconds: float = 0.0
    n_rows: int = 0  # rows written of it, in this launch and before
    epochs_paid_before: int = 0  # that it caused to be trained in an earlier launch, which did not end it

    @property
    def epochs(self) -> int:
        return self.rungs[-1][0] if self.rungs else 0

    @property
    def best(self) -> tuple[Any, ...] | None:
        """Its best rung: a trial's value is that of the epoch at which it was best."""
        return min(self.rungs, key=lambda rung: rung[1], default=None)

    @property
    def is_unfinished(self) -> bool:
        return causes.is_unfinished(self.state, self.cause)

    @property
    def objective(self) -> float:
        return self.best[1] if self.best else math.nan

    @property
    def vector(self) -> tuple[float, ...]:
        """Its value on each axis of the study's `pareto`, at its best rung; empty where that is not known."""
        return self.vectors.get(self.best[0], ()) if self.best else ()

    @property
    def spread(self) -> float | None:
        """The standard deviation of its objective between training seeds; None where there is one."""
        values = self.seed_objectives.get(self.best[0], ()) if self.best else ()
        return statistics.stdev(values) if len(values) > 1 else None


def equals_of(trials: Iterable[Trial]) -> list[list[Trial]]:
    """The trials that were scored, of equal configurations together, which are one adapter; the best
    first, among equal ones too."""
    scored = (trial for trial in trials if trial.rungs and trial.state != FAIL)
    found: dict[str, list[Trial]] = {}
    for trial in sorted(scored, key=lambda trial: trial.objective):
        found.setdefault(_identity(trial), []).append(trial)
    return list(found.values())


def trial_row(trial: Trial, study_name: str) -> dict[str, Any]:
    """The trial's row in the records, as it stands."""
    best = trial.best
    row = {
        "study": study_name,
        "trial": trial.id,
        "number": trial.number,
        "state": trial.state,
        "configuration": trial.configuration,
        "sampled": trial.sampled,
        "labels": trial.labels,
        "training_key": trial.training_key or None,
        "epochs": trial.epochs,
        "best_epoch": best[0] if best else None,
        "objective": best[1] if best else None,
        "objective_formula": trial.formula or None,
        "rung_values": [list(rung) for rung in trial.rungs],
        "seed_objectives": list(trial.seed_objectives[best[0]]) if best and best[0] in trial.seed_objectives else None,
        "train_losses": trial.train_losses or None,
        "reason": trial.reason or None,
        "cause": str(trial.cause) if trial.cause else None,
        "seconds": trial.seconds,
        "shared_epochs": trial.shared_epochs,
        "started_at": trial.started_at,
        "sequence": trial.n_rows,
    }
    return {name: value for name, value in row.items() if name in TRIALS.columns}


def trial_of_row(row: Mapping[str, Any]) -> Trial:
    """A trial from its latest row, decoded. One that did not finish, or failed through no fault of its own, is RUNNING: it runs again."""
    trial = Trial(
        id=row["trial"],
        number=int(row["number"]),
        configuration=with_prompts_read(row["configuration"] or {}),
        labels=row["labels"] or {},
        sampled=row.get("sampled") or {},
        state=row["state"],
        rungs=[(int(epoch), float(value), *keys) for epoch, value, *keys in row["rung_values"] or [] if value is not None],
        seed_objectives={int(row["best_epoch"]): tuple(row["seed_objectives"])} if row.get("seed_objectives") else {},
        train_losses={int(epoch): loss for epoch, loss in (row.get("train_losses") or {}).items()},
        training_key=row["training_key"] or "",
        shared_epochs=int(row["shared_epochs"] or 0),
        reason=row["reason"] or "",
        cause=causes.recorded_cause(row.get("cause")),
        started_at=row["started_at"],
        seconds=row["seconds"],
        n_rows=int(row["sequence"]) + 1,
    )
    if trial.is_unfinished:
        trial.state = RUNNING
    return trial


def past_of(trial: Trial) -> PastTrial:
    """What the searcher has to know of it."""
    rungs = tuple((epoch, value) for epoch, value, *_ in trial.rungs)
    return PastTrial(
        trial.number,
        trial.state,
        trial.configuration,
        trial.sampled,
        trial.labels,
        rungs,
        trial.vector,
        trial.vectors,
        trial.id,
    )


def _identity(trial: Trial) -> str:
    labels = {name: own for name, own in trial.labels.items() if name != "baseline"}
    parts = [trial.training_key or trial.id, trial.configuration, labels]
    return json.dumps(parts, sort_keys=True, default=str)
