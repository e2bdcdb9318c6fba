"""What trials, the pool and workers say to one another: plain frozen values that travel between processes. No behaviour."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from sweep.causes import Cause
from trainables.activity import Phase
from trainables.config import EvalConfig, TrainConfig


@dataclass(frozen=True)
class Rung:
    """An epoch at which a trial is evaluated, and the evaluation that does it."""

    epoch: int
    evaluation_key: str
    config: EvalConfig


@dataclass(frozen=True)
class Subscription:
    """What a trial asks of the pool: one training, and evaluations of its adapters at some epochs, ascending.

    `replicates` are the same under further training seeds, at the same epochs: a rung is answered when all of them are scored."""

    trial: str
    training_key: str
    config: TrainConfig
    rungs: tuple[Rung, ...]
    replicates: tuple[Subscription, ...] = ()

    @property
    def under_each_seed(self) -> tuple[Subscription, ...]:
        return (self, *self.replicates)

    def rung_at(self, epoch: int) -> Rung:
        return next(rung for rung in self.rungs if rung.epoch == epoch)


@dataclass(frozen=True)
class Outcome:
    """What an evaluation gave. `error` is None, or says why there are no values; `cause` then says it as a value."""

    values: Mapping[str, float] = field(default_factory=dict)
    backbones: Mapping[str, str] = field(default_factory=dict)
    error: str | None = None
    cause: Cause | None = None


@dataclass(frozen=True)
class Answer:
    """What a trial hears when it asks for its next rung. `replicates`: evaluation key and outcome under each further training seed."""

    kind: Literal["wait", "rung", "failed", "closed"]
    epoch: int = 0
    evaluation_key: str = ""
    outcome: Outcome = Outcome()
    is_last: bool = False
    shared_epochs: int = 0  # of `epoch` epochs under each seed, those that this trial did not cause to be trained
    reason: str = ""
    cause: Cause | None = None  # of "failed" and "closed"
    replicates: tuple[tuple[str, Outcome], ...] = ()
    train_loss: float | None = None  # mean over the epoch that ends here, and over the seeds; None where an earlier launch trained it

    @property
    def under_each_seed(self) -> tuple[tuple[str, Outcome], ...]:
        return ((self.evaluation_key, self.outcome), *self.replicates)


@dataclass(frozen=True)
class TrainingOrder:
    """A training for a worker: store adapters at `epochs`. What is stored already need not be trained again."""

    key: str
    config: TrainConfig
    epochs: tuple[int, ...]
    total_epochs: int | None  # only where the learning rate depends on the length
    lost_by: tuple[str, ...] = ()  # workers that had it and are gone: their leases hold nobody off


PHOTOGRAPHS = "photographs"
"""The training key of the evaluation of the subject's held-out photographs, which nothing was trained or generated for."""


@dataclass(frozen=True)
class EvaluationOrder:
    """An image set for a worker. `training_key` None is the control: no adapter; PHOTOGRAPHS are scored as if they were generated."""

    key: str
    training_key: str | None
    epoch: int
    config: EvalConfig
    subject: str
    caption: str | None = None  # the version that says which prompts are seen: the training's; of a control, that of the trial that asks for it


@dataclass(frozen=True)
class TrainingReport:
    """How far a training is on its worker. `stored` are the epochs whose adapters lie in the store.

    `error`: why it has ended there; whether it is tried again depends on the `cause`."""

    key: str
    epoch: float
    stored: tuple[int, ...] = ()
    mean_loss: float = math.nan
    seconds_per_epoch: float = math.nan
    error: str | None = None
    cause: Cause | None = None

    @property
    def is_lost(self) -> bool:
        """Whether it ended through no fault of its configuration: it is tried again."""
        return self.cause is not None and self.cause.is_tried_again


@dataclass(frozen=True)
class EvaluationReport:
    """What came out of an evaluation, or why nothing did."""

    key: str
    outcome: Outcome = Outcome()

    @property
    def is_lost(self) -> bool:
        """Whether nothing came out through no fault of what was evaluated: it is tried again."""
        return self.outcome.cause is not None and self.outcome.cause.is_tried_again


@dataclass(frozen=True, kw_only=True)
class Sync:
    """A worker's side of one exchange: what it holds, what has happened since the last one."""

    held: tuple[str, ...] = ()
    n_slots: int = 0  # trainings that it can hold at a time
    n_image_sets: int = 1  # evaluations that it can score at a time
    doing: str = ""
    phase: Phase = Phase.WAITING
    ready: bool = True  # False: it only says that it exists
    device: str = ""  # the name of the device that it owns; "": as the worker
    trainings: tuple[TrainingReport, ...] = ()
    evaluations: tuple[EvaluationReport, ...] = ()


@dataclass(frozen=True)
class Orders:
    """The pool's side. `keep` maps each held training to the epochs that are still wanted of it; a held one that is not there ends."""

    start: tuple[TrainingOrder, ...] = ()
    keep: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    evaluate: tuple[EvaluationOrder, ...] = ()
    undecided: bool = False  # a trial of a held training has a rung to decide about
    closed: bool = False
