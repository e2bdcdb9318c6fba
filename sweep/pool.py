"""The one authority on trainings and evaluations: who wants them, which worker has them, what is done, what has failed.

Trials subscribe to a training and ask for their next rung. Workers ask what to do and report what they did. Equal keys are one
training and one evaluation, whoever asks. A plain class: no Ray, no torch, no file. It is asked from one thread;
sweep/pool_actor.py wraps it as an actor, `sweep trial` and the tests call it directly."""

from __future__ import annotations

import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from sweep.causes import Cause, sentence
from sweep.messages import (
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
from sweep.pool_entries import EvaluationEntry, TrainingEntry, TrialEntry, WorkerEntry
from sweep.sharing import share_of, with_room
from trainables.activity import Phase


class Pool:
    """Guarantees: a key is trained by at most one worker at a time; an outcome that was reported is never computed again;
    a training without a subscriber gets no more orders; a failure reaches every trial that waits for it; a rung is answered when it
    is scored under every seed of its trial."""

    def __init__(self, known: Mapping[str, Outcome] | None = None, *, clock: Callable[[], float] = time.monotonic) -> None:
        """`known`: outcomes by evaluation key that the study's records hold already. `clock` tells seconds, for waits before another try."""
        self._clock = clock
        self._outcomes: dict[str, Outcome] = dict(known or {})
        self._trainings: dict[str, TrainingEntry] = {}
        self._evaluations: dict[str, EvaluationEntry] = {}
        self._trials: dict[str, TrialEntry] = {}
        self._workers: dict[str, WorkerEntry] = {}  # those that are there
        self._gone: set[str] = set()
        self._n_done: Counter[str] = Counter()  # adapters stored and image sets scored, by worker
        self._n_losses = 0
        self._closed: str | None = None
        self._n_rungs_scored = 0

    # ---- trials

    def subscribe(self, subscription: Subscription) -> None:
        """Ask for a training and its evaluations. A trial that asks again replaces what it asked before."""
        self.release(subscription.trial)
        self._trials[subscription.trial] = TrialEntry(subscription)
        for one in subscription.under_each_seed:
            self._subscribe_to_one(one)

    def next_rung(self, trial: str, after_epoch: int) -> Answer:
        """The first rung after `after_epoch`, once it is scored. To ask past a rung is to have decided to go on."""
        if self._closed is not None:
            return Answer("closed", reason=self._closed, cause=Cause.INTERRUPTED)
        if trial not in self._trials:
            return Answer("failed", reason=f"trial {trial} has no subscription", cause=Cause.CONFIGURATION)
        entry = self._trials[trial]
        entry.after_epoch = max(entry.after_epoch, after_epoch)
        epoch = entry.next_epoch
        return Answer("closed", reason="no rung left", cause=Cause.INTERRUPTED) if epoch is None else self._answer(entry, epoch)

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

    def request(self, orders: Iterable[EvaluationOrder], trainings: Iterable[TrainingOrder] = ()) -> None:
        """Ask for evaluations that belong to no live trial: the control, further values at a finished trial's last epoch, lost ones.

        `trainings`: those that the evaluations are of. They are trained again where their adapters are gone, and so are adapters at
        `epochs` of them, which are asked for themselves."""
        for order in orders:
            self._want(order, requested=True)
        for wanted in trainings:
            if wanted.epochs or self._requested_of(wanted.key):
                training = self._trainings.setdefault(wanted.key, TrainingEntry(wanted.key, wanted.config, wanted.total_epochs))
                training.requested.update(wanted.epochs)

    def outcome(self, evaluation_key: str) -> Outcome | None:
        return self._outcomes.get(evaluation_key)

    def close(self, reason: str) -> None:
        """End the study: whoever asks from now on, trial or worker, is told so."""
        self._closed = self._closed or reason

    # ---- workers

    def sync(self, worker: str, sync: Sync) -> Orders:
        """Take in a worker's reports and say what to do next."""
        if worker in self._gone:  # cut off, not dead: others have taken over what it had
            return Orders(closed=True)
        entry = self._workers.setdefault(worker, WorkerEntry(worker))
        entry.device = sync.device or worker
        entry.doing, entry.phase, entry.heard_at = sync.doing, sync.phase, self._clock()
        for report in sync.trainings:
            self._take_training(worker, report)
        for report in sync.evaluations:
            self._take_evaluation(worker, report)
        if self._closed is not None:
            return Orders(closed=True)
        self._reconcile(worker, sync.held)
        if not sync.ready:
            return Orders()
        keep = {key: self._wanted(self._trainings[key]) for key in sync.held if key in self._trainings}
        keep = {key: epochs for key, epochs in keep.items() if epochs and self._trainings[key].worker == worker}
        entry.n_slots = sync.n_slots
        start = self._start(worker, n=sync.n_slots - len(keep))
        evaluate = self._evaluate(worker, busy=bool(keep or start), n=sync.n_image_sets)
        return Orders(start, keep, evaluate, undecided=self._is_undecided(sync.held))

    def note(self, worker: str, doing: str, phase: Phase) -> None:
        """A sign of life from within a worker's work: what it does now."""
        if worker not in self._gone:
            entry = self._workers.setdefault(worker, WorkerEntry(worker))
            entry.doing, entry.phase, entry.heard_at = doing, phase, self._clock()

    def worker_lost(
        self, worker: str, reason: str = "its worker ended unexpectedly", cause: Cause = Cause.LOST, counts: bool = True
    ) -> None:
        """A worker is gone: what it had is tried again, or fails after MAX_LOSSES times. `counts` False: its whole node is gone."""
        self._gone.add(worker)
        for item in [i for i in (*self._trainings.values(), *self._evaluations.values()) if i.worker == worker]:
            self._lose(item, worker, reason, cause, counts=counts)
        self._workers.pop(worker, None)

    # ---- who watches

    def snapshot(self) -> dict[str, Any]:
        """What the live view shows: plain values, by worker, trial and training."""
        waiting, now = self._evaluations.values(), self._clock()
        return {
            "phases": {name: entry.phase for name, entry in self._workers.items()},
            "silent_s": {name: now - entry.heard_at for name, entry in self._workers.items()},
            "workers": {name: entry.doing for name, entry in self._workers.items()},
            "devices": {name: entry.device for name, entry in self._workers.items()},
            "n_done": dict(self._n_done),
            "n_losses": self._n_losses,
            "trials": {name: self._slowest(trial).describe() for name, trial in self._trials.items()},
            "evaluations_running": sum(e.worker is not None for e in waiting),
            "requests_open": sum(e.requested for e in waiting) + sum(t.is_requested for t in self._trainings.values()),
            "epochs_trained": sum(t.n_trained for t in self._trainings.values()),
            "rungs_scored": self._n_rungs_scored,
            "n_trainings": len(self._trainings),
        }

    # ---- private, in the order of use

    def _subscribe_to_one(self, one: Subscription) -> None:
        training = self._trainings.get(one.training_key)
        if training is None:
            total = one.rungs[-1].epoch if one.config.length_dependent else None
            training = self._trainings[one.training_key] = TrainingEntry(one.training_key, one.config, total)
        training.trials.append(one.trial)
        for rung in one.rungs:
            self._want(EvaluationOrder(rung.evaluation_key, training.key, rung.epoch, rung.config, training.config.subject, training.config.caption))

    def _slowest(self, entry: TrialEntry) -> TrainingEntry:
        """Of the trainings under its seeds the one that it waits for."""
        return min((self._trainings[one.training_key] for one in entry.subscription.under_each_seed), key=lambda training: training.epoch)

    def _want(self, order: EvaluationOrder, *, requested: bool = False) -> None:
        if order.key not in self._outcomes:
            evaluation = self._evaluations.setdefault(order.key, EvaluationEntry(order))
            evaluation.requested = evaluation.requested or requested

    def _requested_of(self, training_key: str) -> list[EvaluationEntry]:
        return [e for e in self._evaluations.values() if e.requested and e.order.training_key == training_key]

    def _answer(self, entry: TrialEntry, epoch: int) -> Answer:
        scored = []
        for one in entry.subscription.under_each_seed:
            training, rung = self._trainings[one.training_key], one.rung_at(epoch)
            outcome = self._outcomes.get(rung.evaluation_key)
            seed = f"train_seed {one.config.train_seed}: " if entry.subscription.replicates else ""
            if outcome is not None and outcome.error is not None:
                return _failure(outcome, seed, epoch=epoch, evaluation_key=rung.evaluation_key)
            if outcome is None and training.failed is not None and epoch not in training.stored:
                return _failure(training.failed, seed, epoch=int(training.epoch))
            scored.append((rung.evaluation_key, outcome))
        if any(outcome is None for _, outcome in scored):
            return Answer("wait")
        trainings = [self._trainings[one.training_key] for one in entry.subscription.under_each_seed]
        shared = sum(training.shared_epochs(entry.subscription.trial, epoch) for training in trainings)
        losses = [training.losses.get(epoch) for training in trainings]
        loss = None if None in losses else statistics.fmean(losses)
        return Answer("rung", epoch, *scored[0], epoch == entry.last_epoch, shared, replicates=tuple(scored[1:]), train_loss=loss)

    def _take_training(self, worker: str, report: TrainingReport) -> None:
        training = self._trainings[report.key]
        if report.is_lost:
            self._lose(training, worker, report.error or "", report.cause or Cause.LOST)
            return
        payers = [name for name in training.trials if self._trials[name].last_epoch > training.epoch]
        self._n_done[worker] += not training.stored.issuperset(report.stored)
        training.take(report, payer=payers[0] if payers else None)
        if training.failed is not None:
            self._drop_requests(training)

    def _take_evaluation(self, worker: str, report: EvaluationReport) -> None:
        if report.is_lost:
            if report.key in self._evaluations:
                self._lose(self._evaluations[report.key], worker, report.outcome.error or "", report.outcome.cause or Cause.LOST)
            return
        self._n_done[worker] += 1
        self._settle(report.key, report.outcome)

    def _settle(self, evaluation_key: str, outcome: Outcome) -> None:
        evaluation = self._evaluations.pop(evaluation_key, None)
        self._n_rungs_scored += evaluation is not None and not evaluation.requested
        self._outcomes[evaluation_key] = outcome

    def _lose(self, item: TrainingEntry | EvaluationEntry, worker: str, reason: str, cause: Cause, *, counts: bool = True) -> None:
        self._n_losses += 1
        item.worker = None
        device = self._workers[worker].device if worker in self._workers else worker
        item.attempts.lose(worker, device=device, reason=reason, cause=cause, now=self._clock(), counts=counts)
        if item.attempts.exhausted:
            self._give_up(item)

    def _give_up(self, item: TrainingEntry | EvaluationEntry) -> None:
        attempts = item.attempts
        reason = sentence(attempts.cause, f"tried {attempts.n_losses} times, the last time: {attempts.reason}")
        failure = Outcome(error=reason, cause=attempts.cause)
        if isinstance(item, TrainingEntry):
            item.failed = failure
            self._drop_requests(item)
        else:
            self._settle(item.order.key, failure)

    def _drop_requests(self, training: TrainingEntry) -> None:
        """What was requested of a training that failed, and is not stored, will never be scored: nobody must wait for it."""
        for evaluation in self._requested_of(training.key):
            if evaluation.order.epoch not in training.stored:
                self._settle(evaluation.order.key, training.failed)

    def _reconcile(self, worker: str, held: tuple[str, ...]) -> None:
        # What a worker was given and no longer holds has ended there, for whatever reason; and it evaluates nothing while it asks.
        for training in self._trainings.values():
            if training.worker == worker and training.key not in held:
                training.worker = None
        for evaluation in self._evaluations.values():
            if evaluation.worker == worker:
                evaluation.worker = None

    def _wanted(self, training: TrainingEntry, *, after: float | None = None) -> tuple[int, ...]:
        """Epochs past `after` (None: past where it stands) whose adapters some trial still waits for."""
        after = training.epoch if after is None else after
        rungs = [rung for name in training.trials for rung in self._rungs_due(self._trials[name], training)]
        epochs = {rung.epoch for rung in rungs if rung.evaluation_key not in self._outcomes}
        # What was requested for a trial whose rungs were known already: nobody has said yet that its adapter is stored.
        epochs |= {e.order.epoch for e in self._requested_of(training.key)} | training.requested
        return tuple(sorted(e for e in epochs - training.stored if e > after))

    def _rungs_due(self, entry: TrialEntry, training: TrainingEntry) -> list[Rung]:
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
        now = self._clock()
        waiting = [t for t in self._trainings.values() if t.worker is None and t.failed is None and self._wanted(t, after=0)]
        held = self._held()
        waiting = with_room([training for training in waiting if training.attempts.may_start(now)], held[worker])
        orders = []
        for training in share_of(worker, waiting, held, self._workers, now)[: max(0, n)]:
            training.worker, training.epoch = worker, 0
            epochs = self._wanted(training, after=0)
            orders.append(TrainingOrder(training.key, training.config, epochs, training.total_epochs, training.attempts.lost_by))
        return tuple(orders)

    def _held(self) -> dict[str, list[TrainingEntry]]:
        """By worker, the trainings that it has and somebody wants."""
        held: dict[str, list[TrainingEntry]] = {name: [] for name in self._workers}
        for training in self._trainings.values():
            if training.worker in held and self._wanted(training):
                held[training.worker].append(training)
        return held

    def _evaluate(self, worker: str, *, busy: bool, n: int) -> tuple[EvaluationOrder, ...]:
        """At most `n`, so that the first of many are told of while the others are still being scored."""
        now, device, devices = self._clock(), self._workers[worker].device, {entry.device for entry in self._workers.values()}
        waiting = [e for e in self._evaluations.values() if e.attempts.may_start(now) and e.attempts.suits(device, devices, now)]
        runnable = [e for e in waiting if self._is_runnable(e, worker, busy=busy)]
        # What no trial waits for joins a batch that is due anyway, or fills an idle moment.
        runnable.sort(key=lambda e: (e.requested, e.order.config.infer_model, e.order.config.steps))
        if runnable and runnable[0].attempts.is_last:
            n = 1
        else:
            runnable = [e for e in runnable if not e.attempts.is_last]
        chosen = runnable[:n] if runnable and not (busy and runnable[0].requested) else []
        for evaluation in chosen:
            evaluation.worker = worker
        return tuple(e.order for e in chosen)

    def _is_runnable(self, evaluation: EvaluationEntry, worker: str, *, busy: bool) -> bool:
        order = evaluation.order
        if evaluation.worker is not None:
            return False
        training = self._trainings.get(order.training_key) if order.training_key else None
        if training is not None and order.epoch not in training.stored:
            return False
        # A busy worker scores what it trained itself; the rest is for whoever is idle.
        mine = training is None or training.worker in (worker, None)
        return (mine or not busy) and (evaluation.requested or self._is_awaited(order, training))

    def _is_awaited(self, order: EvaluationOrder, training: TrainingEntry | None) -> bool:
        trials = [self._trials[name] for name in training.trials] if training is not None else []
        return any(rung.evaluation_key == order.key for entry in trials for rung in entry.rungs_left(training.key))

    def _is_undecided(self, held: tuple[str, ...]) -> bool:
        entries = (self._trials[name] for key in held for name in self._trainings[key].trials)
        return any(e.next_epoch is not None and all(key in self._outcomes for key in e.keys_at(e.next_epoch)) for e in entries)


def _failure(failed: Outcome, seed: str, **where: Any) -> Answer:
    """The answer for a trial that cannot be scored. `seed`: names the training seed, which matters where the configuration is to blame."""
    cause = failed.cause or Cause.CONFIGURATION
    reason = failed.error or ""
    return Answer("failed", reason=reason if cause.is_tried_again else seed + reason, cause=cause, **where)
