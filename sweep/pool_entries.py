"""What the pool keeps of each worker, trial, training and evaluation. Values that know what they hold; who gets what is for pool.py to say."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from sweep.attempts import Attempts
from sweep.messages import EvaluationOrder, Outcome, Rung, Subscription, TrainingReport
from trainables.activity import Phase
from trainables.config import TrainConfig


@dataclass
class WorkerEntry:
    """A worker that is there."""

    device: str
    doing: str = ""
    phase: Phase = Phase.LOADING
    heard_at: float = 0.0
    n_slots: float = math.inf  # until it is ready


class TrainingEntry:
    """A training that some trial asked for, from its first subscriber to the end of the study."""

    def __init__(self, key: str, config: TrainConfig, total_epochs: int | None) -> None:
        self.key = key
        self.config = config
        self.total_epochs = total_epochs
        self.trials: list[str] = []  # live subscribers, the oldest first
        self.worker: str | None = None
        self.attempts = Attempts()
        self.failed: Outcome | None = None  # why it is not trained any more
        self.epoch = 0.0
        self.stored: set[int] = set()
        self.requested: set[int] = set()  # epochs whose adapter is asked for itself, whatever trials want
        self.mean_loss = self.seconds_per_epoch = math.nan
        self.losses: dict[int, float] = {}  # mean training loss by epoch, of those that were trained in this launch
        self._paid_by: dict[int, str | None] = {}

    def take(self, report: TrainingReport, *, payer: str | None) -> None:
        for epoch in range(math.floor(self.epoch) + 1, math.floor(report.epoch) + 1):
            if not math.isnan(report.seconds_per_epoch):  # read from the store otherwise
                self._paid_by.setdefault(epoch, payer)
        self.epoch = report.epoch
        if not self.stored.issuperset(report.stored):
            self.attempts.came_forward()
        self.stored.update(report.stored)
        if report.error is not None:
            self.failed = Outcome(error=report.error, cause=report.cause)
        if not math.isnan(report.seconds_per_epoch):
            self.mean_loss, self.seconds_per_epoch = report.mean_loss, report.seconds_per_epoch
            if float(report.epoch).is_integer():
                self.losses[int(report.epoch)] = report.mean_loss

    @property
    def is_requested(self) -> bool:
        """Whether an adapter that was asked for itself is still to come."""
        return self.failed is None and not self.requested <= self.stored

    @property
    def n_trained(self) -> int:
        return len(self._paid_by)

    def shared_epochs(self, trial: str, epoch: int) -> int:
        return sum(self._paid_by.get(e) != trial for e in range(1, epoch + 1))

    def describe(self) -> dict[str, Any]:
        return {
            "training_key": self.key,
            "worker": self.worker,
            "epoch": self.epoch,
            "mean_loss": self.mean_loss,
            "seconds_per_epoch": self.seconds_per_epoch,
        }


class EvaluationEntry:
    """An evaluation that somebody waits for."""

    def __init__(self, order: EvaluationOrder) -> None:
        self.order = order
        self.requested = False
        self.worker: str | None = None
        self.attempts = Attempts()


class TrialEntry:
    """A live trial: what it asked for, and the rungs that it has gone past."""

    def __init__(self, subscription: Subscription) -> None:
        self.subscription = subscription
        self.after_epoch = 0

    def rungs_left(self, training_key: str) -> list[Rung]:
        """Those of one of its trainings that it has not heard of, or not gone past."""
        one = next(one for one in self.subscription.under_each_seed if one.training_key == training_key)
        return [rung for rung in one.rungs if rung.epoch > self.after_epoch]

    def keys_at(self, epoch: int) -> list[str]:
        return [one.rung_at(epoch).evaluation_key for one in self.subscription.under_each_seed]

    @property
    def next_epoch(self) -> int | None:
        return next((rung.epoch for rung in self.subscription.rungs if rung.epoch > self.after_epoch), None)

    @property
    def last_epoch(self) -> int:
        return self.subscription.rungs[-1].epoch
