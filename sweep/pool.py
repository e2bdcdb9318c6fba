"""The one authority on trainings and evaluations: who wants them, which worker has them, what is done, what has failed.

Trials subscribe to a training and ask for their next rung. Workers ask what to do and report what they did. Equal keys are one
training and one evaluation, whoever asks. A plain class: no Ray, no torch, no clock of its own, no file. It is asked from one
thread; sweep/fleet.py wraps it as an actor, `sweep trial` and the tests call it directly."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from sweep.messages import (
    LOST,
    TRIED_AGAIN,
    Answer,
    EvaluationOrder,
    EvaluationReport,
    Orders,
    Outcome,
    Rung,
    Subscription,
    Sync,
    TrainingOrder,
    TrainingReport,
)
from trainables.config import TrainConfig, pack_signature

MAX_LOSSES = 3
"""How often the worker of a training or evaluation may be lost before it counts as failed."""

JOINING_COST = 0.4
"""What one more training adds to a pack's step, where the first costs 1. Of all that is measured only the order of size matters here."""


class Pool:
    """Guarantees: a key is trained by at most one worker at a time; an outcome that was reported is never computed again;
    a training without a subscriber gets no more orders; a failure reaches every trial that waits for it; a rung is answered when it
    is scored under every seed of its trial."""

    def __init__(self, known: Mapping[str, Outcome] | None = None) -> None:
        """`known`: outcomes by evaluation key that the study's records hold already."""
        self._outcomes: dict[str, Outcome] = dict(known or {})
        self._trainings: dict[str, _Training] = {}
        self._evaluations: dict[str, _Evaluation] = {}
        self._trials: dict[str, _Trial] = {}
        self._doing: dict[str, str] = {}
        self._n_slots: dict[str, int] = {}  # of the workers that are ready
        self._closed: str | None = None
        self._n_rungs_scored = 0

    # ---- trials

    def subscribe(self, subscription: Subscription) -> None:
        """Ask for a training and its evaluations. A trial that asks again replaces what it asked before."""
        self.release(subscription.trial)
        self._trials[subscription.trial] = _Trial(subscription)
        for one in subscription.under_each_seed:
            self._subscribe_to_one(one)

    def next_rung(self, trial: str, after_epoch: int) -> Answer:
        """The first rung after `after_epoch`, once it is scored. To ask past a rung is to have decided to go on."""
        if self._closed is not None:
            return Answer("closed", reason=self._closed)
        if trial not in self._trials:
            return Answer("failed", reason=f"trial {trial} has no subscription")
        entry = self._trials[trial]
        entry.after_epoch = max(entry.after_epoch, after_epoch)
        epoch = entry.next_epoch
        return Answer("closed", reason="no rung left") if epoch is None else self._answer(entry, epoch)

    def answers(self) -> dict[str, Answer]:
        """What each trial would hear now, where it is news."""
        answers = {name: self.next_rung(name, 0) for name in self._trials}
        return {name: answer for name, answer in answers.items() if answer.kind != "wait"}

    def release(self, trial: str) -> None:
        """Forget a trial. Its training ends with its last subscriber. Releasing twice, or an unknown trial, is no error."""
        entry = self._trials.pop(trial, None)
        if entry is not None:
            for one in entry.subscription.under_each_seed:
                self._trainings[one.training_key].trials.remove(trial)

    def decided(self, trial: str, epoch: int) -> None:
        """A trial goes on past this rung."""
        if trial in self._trials:
            self._trials[trial].after_epoch = max(self._trials[trial].after_epoch, epoch)

    def request(self, orders: Iterable[EvaluationOrder]) -> None:
        """Ask for evaluations that belong to no trial: the control, or further values at a finished trial's last epoch."""
        for order in orders:
            self._want(order, requested=True)

    def outcome(self, evaluation_key: str) -> Outcome | None:
        return self._outcomes.get(evaluation_key)

    def close(self, reason: str) -> None:
        """End the study: whoever asks from now on, trial or worker, is told so."""
        self._closed = self._closed or reason

    # ---- workers

    def sync(self, worker: str, sync: Sync) -> Orders:
        """Take in a worker's reports and say what to do next."""
        self._doing[worker] = sync.doing
        for report in sync.trainings:
            self._take_training(report)
        for report in sync.evaluations:
            self._take_evaluation(report)
        if self._closed is not None:
            return Orders(closed=True)
        self._reconcile(worker, sync.held)
        if not sync.ready:
            return Orders()
        keep = {key: self._wanted(self._trainings[key]) for key in sync.held if key in self._trainings}
        keep = {key: epochs for key, epochs in keep.items() if epochs and self._trainings[key].worker == worker}
        self._n_slots[worker] = sync.n_slots
        start = self._start(worker, n=sync.n_slots - len(keep))
        evaluate = self._evaluate(worker, busy=bool(keep or start), n=sync.n_image_sets)
        return Orders(start, keep, evaluate, undecided=self._is_undecided(sync.held))

    def worker_lost(self, worker: str) -> None:
        """A worker is gone: what it had goes back to the queue, or fails after the third time."""
        self._doing.pop(worker, None)
        self._n_slots.pop(worker, None)
        for item in [i for i in (*self._trainings.values(), *self._evaluations.values()) if i.worker == worker]:
            item.worker = None
            item.n_losses += 1
            if item.n_losses >= MAX_LOSSES:
                self._give_up(item)

    # ---- who watches

    def snapshot(self) -> dict[str, Any]:
        """What the live view shows: plain values, by worker, trial and training."""
        waiting = self._evaluations.values()
        return {
            "workers": dict(self._doing),
            "trials": {name: self._slowest(trial).describe() for name, trial in self._trials.items()},
            "evaluations_running": sum(e.worker is not None for e in waiting),
            "requests_open": sum(e.requested for e in waiting),
            "epochs_trained": sum(t.n_trained for t in self._trainings.values()),
            "rungs_scored": self._n_rungs_scored,
            "n_trainings": len(self._trainings),
        }

    # ---- private, in the order of use

    def _subscribe_to_one(self, one: Subscription) -> None:
        training = self._trainings.get(one.training_key)
        if training is None:
            total = one.rungs[-1].epoch if one.config.length_dependent else None
            training = self._trainings[one.training_key] = _Training(one.training_key, one.config, total)
        training.trials.append(one.trial)
        for rung in one.rungs:
            self._want(EvaluationOrder(rung.evaluation_key, training.key, rung.epoch, rung.config, training.config.subject))

    def _slowest(self, entry: _Trial) -> _Training:
        """Of the trainings under its seeds the one that it waits for."""
        return min((self._trainings[one.training_key] for one in entry.subscription.under_each_seed), key=lambda training: training.epoch)

    def _want(self, order: EvaluationOrder, *, requested: bool = False) -> None:
        if order.key not in self._outcomes:
            evaluation = self._evaluations.setdefault(order.key, _Evaluation(order))
            evaluation.requested = evaluation.requested or requested

    def _answer(self, entry: _Trial, epoch: int) -> Answer:
        scored = []
        for one in entry.subscription.under_each_seed:
            training, rung = self._trainings[one.training_key], one.rung_at(epoch)
            outcome = self._outcomes.get(rung.evaluation_key)
            seed = f"train_seed {one.config.train_seed}: " if entry.subscription.replicates else ""
            if outcome is not None and outcome.error is not None:
                return Answer("failed", epoch=epoch, evaluation_key=rung.evaluation_key, reason=_named(seed, outcome.error))
            if outcome is None and training.failed is not None and epoch not in training.stored:
                return Answer("failed", epoch=int(training.epoch), reason=_named(seed, training.failed))
            scored.append((rung.evaluation_key, outcome))
        if any(outcome is None for _, outcome in scored):
            return Answer("wait")
        trainings = [self._trainings[one.training_key] for one in entry.subscription.under_each_seed]
        shared = sum(training.shared_epochs(entry.subscription.trial, epoch) for training in trainings)
        return Answer("rung", epoch, *scored[0], epoch == entry.last_epoch, shared, replicates=tuple(scored[1:]))

    def _take_training(self, report: TrainingReport) -> None:
        training = self._trainings[report.key]
        payers = [name for name in training.trials if self._trials[name].last_epoch > training.epoch]
        training.take(report, payer=payers[0] if payers else None)
        if training.failed is not None:
            self._drop_requests(training)

    def _take_evaluation(self, report: EvaluationReport) -> None:
        evaluation = self._evaluations.pop(report.key, None)
        self._n_rungs_scored += evaluation is not None and not evaluation.requested
        self._outcomes[report.key] = report.outcome

    def _drop_requests(self, training: _Training) -> None:
        """What was requested of a training that failed, and is not stored, will never be scored: nobody must wait for it."""
        lost = [e for e in self._evaluations.values() if e.requested and e.order.training_key == training.key]
        for evaluation in lost:
            if evaluation.order.epoch not in training.stored:
                self._take_evaluation(EvaluationReport(evaluation.order.key, Outcome(error=training.failed)))

    def _reconcile(self, worker: str, held: tuple[str, ...]) -> None:
        # What a worker was given and no longer holds has ended there, for whatever reason; and it evaluates nothing while it asks.
        for training in self._trainings.values():
            if training.worker == worker and training.key not in held:
                training.worker = None
        for evaluation in self._evaluations.values():
            if evaluation.worker == worker:
                evaluation.worker = None

    def _wanted(self, training: _Training, *, after: float | None = None) -> tuple[int, ...]:
        """Epochs past `after` (None: past where it stands) whose adapters some trial still waits for."""
        after = training.epoch if after is None else after
        rungs = [rung for name in training.trials for rung in self._rungs_due(self._trials[name], training)]
        epochs = {rung.epoch for rung in rungs if rung.evaluation_key not in self._outcomes}
        # What was requested for a trial whose rungs were known already: nobody has said yet that its adapter is stored.
        epochs |= {e.order.epoch for e in self._evaluations.values() if e.requested and e.order.training_key == training.key}
        return tuple(sorted(e for e in epochs - training.stored if e > after))

    def _rungs_due(self, entry: _Trial, training: _Training) -> list[Rung]:
        """The trial's rungs of this training that may be trained for now: all that are left, but none past the next one before every
        replicate has reached it. Else those that have a slot would train to their ends before anybody could decide."""
        left = entry.rungs_left(training.key)
        others = [one for one in entry.subscription.under_each_seed if one.training_key != training.key]
        return left if all(self._has_reached(one, rung.epoch) for rung in left[:1] for one in others) else left[:1]

    def _has_reached(self, one: Subscription, epoch: int) -> bool:
        training = self._trainings[one.training_key]
        is_scored = one.rung_at(epoch).evaluation_key in self._outcomes
        return is_scored or epoch in training.stored or training.failed is not None

    def _start(self, worker: str, *, n: int) -> tuple[TrainingOrder, ...]:
        waiting = [t for t in self._trainings.values() if t.worker is None and t.failed is None and self._wanted(t, after=0)]
        orders = []
        for training in self._share(worker, waiting)[: max(0, n)]:
            training.worker, training.epoch = worker, 0
            orders.append(TrainingOrder(training.key, training.config, self._wanted(training, after=0), training.total_epochs))
        return tuple(orders)

    def _share(self, worker: str, waiting: list[_Training]) -> list[_Training]:
        """This worker's share if all that wait were spread now, each to where the least is to do then; first what joins a pack of its.

        Workers that are still loading have a share too. What can meet few others in a pack is placed first, the rest around it."""
        packs: dict[str, Counter] = {name: Counter() for name in self._doing}
        for training in self._trainings.values():
            if training.worker in packs and self._wanted(training):
                packs[training.worker][pack_signature(training.config)] += 1
        n_alike = Counter(pack_signature(training.config) for training in waiting)
        has = set(packs[worker])
        mine = []
        for training in sorted(waiting, key=lambda t: n_alike[pack_signature(t.config)]):
            signature = pack_signature(training.config)
            free = [name for name in packs if name == worker or packs[name].total() < self._n_slots.get(name, math.inf)]
            chosen = min(free, key=lambda name: (_load(packs[name] + Counter([signature])), name != worker))
            packs[chosen][signature] += 1
            if chosen == worker:
                mine.append(training)
        return sorted(mine, key=lambda training: (pack_signature(training.config) not in has, waiting.index(training)))

    def _evaluate(self, worker: str, *, busy: bool, n: int) -> tuple[EvaluationOrder, ...]:
        """At most `n`, so that the first of many are told of while the others are still being scored."""
        runnable = [e for e in self._evaluations.values() if self._is_runnable(e, worker, busy=busy)]
        # What no trial waits for joins a batch that is due anyway, or fills an idle moment.
        runnable.sort(key=lambda e: (e.requested, e.order.config.infer_model, e.order.config.steps))
        chosen = runnable[:n] if runnable and not (busy and runnable[0].requested) else []
        for evaluation in chosen:
            evaluation.worker = worker
        return tuple(e.order for e in chosen)

    def _is_runnable(self, evaluation: _Evaluation, worker: str, *, busy: bool) -> bool:
        order = evaluation.order
        if evaluation.worker is not None:
            return False
        training = self._trainings.get(order.training_key) if order.training_key else None
        if training is not None and order.epoch not in training.stored:
            return False
        # A busy worker scores what it trained itself; the rest is for whoever is idle.
        mine = training is None or training.worker in (worker, None)
        return (mine or not busy) and (evaluation.requested or self._is_awaited(order, training))

    def _is_awaited(self, order: EvaluationOrder, training: _Training | None) -> bool:
        trials = [self._trials[name] for name in training.trials] if training is not None else []
        return any(rung.evaluation_key == order.key for entry in trials for rung in entry.rungs_left(training.key))

    def _is_undecided(self, held: tuple[str, ...]) -> bool:
        entries = (self._trials[name] for key in held for name in self._trainings[key].trials)
        return any(e.next_epoch is not None and all(key in self._outcomes for key in e.keys_at(e.next_epoch)) for e in entries)

    def _give_up(self, item: _Training | _Evaluation) -> None:
        reason = f"{LOST}: its worker was lost {item.n_losses} times; see the worker's log in the study's folder for what ended it"
        if isinstance(item, _Training):
            item.failed = reason
            self._drop_requests(item)
        else:
            self._take_evaluation(EvaluationReport(item.order.key, Outcome(error=reason)))


def _load(packs: Counter) -> float:
    """What a step of each of a worker's packs costs; they take turns."""
    return sum(1 + JOINING_COST * (n - 1) for n in packs.values() if n)


class _Training:
    def __init__(self, key: str, config: TrainConfig, total_epochs: int | None) -> None:
        self.key = key
        self.config = config
        self.total_epochs = total_epochs
        self.trials: list[str] = []  # live subscribers, the oldest first
        self.worker: str | None = None
        self.n_losses = 0
        self.failed: str | None = None
        self.epoch = 0.0
        self.stored: set[int] = set()
        self.mean_loss = self.seconds_per_epoch = math.nan
        self._paid_by: dict[int, str | None] = {}

    def take(self, report: TrainingReport, *, payer: str | None) -> None:
        for epoch in range(math.floor(self.epoch) + 1, math.floor(report.epoch) + 1):
            if not math.isnan(report.seconds_per_epoch):  # read from the store otherwise
                self._paid_by.setdefault(epoch, payer)
        self.epoch = report.epoch
        self.stored.update(report.stored)
        self.failed = report.failed or self.failed
        if not math.isnan(report.seconds_per_epoch):
            self.mean_loss, self.seconds_per_epoch = report.mean_loss, report.seconds_per_epoch

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


class _Evaluation:
    def __init__(self, order: EvaluationOrder) -> None:
        self.order = order
        self.requested = False
        self.worker: str | None = None
        self.n_losses = 0


class _Trial:
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


def _named(seed: str, reason: str) -> str:
    """A failure with the seed that it is of; one that begins with what is tried again keeps its beginning."""
    return reason if reason.startswith(TRIED_AGAIN) else seed + reason
