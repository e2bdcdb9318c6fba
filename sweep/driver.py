"""The driver: what a study decides. Which trial starts, what a rung means for it, how it ends; and a row for each of these.

It knows the searcher, the scheduler, the pool and the records, but neither Ray nor torch: sweep/runner.py lets Ray Tune run the
trials that it starts, `run_here` runs them in this process."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any, Protocol

from sweep.attendance import Attendance
from sweep.budgets import Usage, UsageOfThisLaunch, used_up
from sweep.causes import Cause, cause_of, sentence
from sweep.clocks import AwakeClock
from sweep.errors import LeaseLostError, ObjectiveError, RecordsError, StudyError, SweepError
from sweep.keys import Keys
from sweep.messages import Answer, EvaluationOrder, Subscription, TrainingOrder
from sweep.pareto import vector_of
from sweep.scheduler import Asha
from sweep.searcher import COMPLETE, FAIL, PRUNED, RUNNING, Searcher, Suggestion
from sweep.study import Study
from sweep.trial_rows import Trial, trial_row

PROCESS_PATIENCE_S = 30.0
"""How long a trial's process may keep an answer to itself before the trial is judged without it."""
MAX_PROCESSES = 3
"""How many of its processes a trial may lose. Then it does without: its rungs are judged from the pool's snapshots."""


class PoolClient(Protocol):
    def subscribe(self, subscription: Subscription) -> None: ...

    def release(self, trial: str) -> None: ...

    def decided(self, trial: str, epoch: int) -> None: ...

    def request(self, orders: Iterable[EvaluationOrder], trainings: Iterable[TrainingOrder] = ()) -> None: ...

    def close(self, reason: str) -> None: ...


class TrialRecords(Protocol):
    def append_trial(self, row: Mapping[str, Any]) -> None: ...


class Driver:
    """Guarantees: a trial that started has a row, and ends in exactly one of COMPLETE, PRUNED and FAIL, with a reason if it failed;
    never are more than `max_concurrent` trials live; an unusable configuration is a failed trial, not the end of the study.

    While it is paused, and after `wind_down`, no trial trains past its next rung. A trial that is held by a pause has given its
    training back to the pool, which continues it from its last adapter."""

    def __init__(
        self,
        study: Study,
        keys: Keys,
        searcher: Searcher,
        asha: Asha,
        pool: PoolClient,
        records: TrialRecords,
        *,
        max_concurrent: int,
        past: Iterable[Trial] = (),
        usage: Usage | None = None,
        gone_adapters: Collection[tuple[str, int]] = (),
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`usage`: what budgets are compared with; None: what this launch alone has used. `gone_adapters`: those by training key and
        epoch that are trained again although their trials have ended."""
        self.study = study
        self.trials: dict[str, Trial] = {}
        self.started_now: set[str] = set()  # ids of the trials that this launch has started
        self.stopping: str | None = None  # why no new trial starts
        self.stop_cause: Cause | None = None  # of `stopping`; None where the study's own limits are reached
        self.paused = False
        self.fatal: SweepError | None = None  # what ended the study
        self._keys = keys
        self._searcher = searcher
        self._asha = asha
        self._pool = pool
        self._records = records
        self.max_concurrent = max_concurrent  # it may change while the study runs
        self._clock = clock
        self._gone_adapters = frozenset(gone_adapters)
        self._usage = usage or UsageOfThisLaunch(clock)
        self._over_budget = self._winding_down = self._is_abandoned = self._is_ending = False
        self.metrics: dict[str, Mapping[str, float]] = {}  # of scored adapters, by evaluation key
        self._live: dict[str, Subscription] = {}
        self._held: set[str] = set()  # live trials that wait for the end of a pause
        self._attendance = Attendance()
        self._awake = AwakeClock(clock)
        self._due_since: dict[tuple[str, int, str], float] = {}  # answers that a trial's process has not passed on yet
        self.controls: set[str] = set()  # evaluation keys of the controls that belong to the study as it is now
        self.photographs: set[str] = set()  # and of the subject's held-out photographs
        self._unfinished: dict[str, Trial] = {}
        for trial in past:
            self._take_past(trial)

    @property
    def n_trials(self) -> int:
        """Trials in all."""
        return self._searcher.n_trials

    @property
    def n_ended(self) -> int:
        """Trials that have ended, and will not be tried again."""
        return sum(not trial.is_unfinished for trial in self.trials.values())

    @property
    def live(self) -> list[Trial]:
        return [self.trials[name] for name in self._live]

    @property
    def finished(self) -> bool:
        return not self._live and (self.stopping is not None or self._searcher.exhausted)

    @property
    def best(self) -> Trial | None:
        scored = [trial for trial in self.trials.values() if trial.rungs and trial.state != FAIL]
        return min(scored, key=lambda trial: trial.objective, default=None)

    def ask_for_what_is_missing(self) -> None:
        """Controls, scores and fan-out values of the trials of earlier launches, where the records do not hold them: new ones, or lost
        ones; and the adapters that are known to be gone."""
        for trial in self.trials.values():
            if trial.state != FAIL and trial.rungs:
                self._ask_again(trial)

    def fill(self) -> None:
        """Start trials until enough are live: their trainings begin at once, before anybody asks for their rungs."""
        self._stop_if_over_budget()
        while self.stopping is None and not self.paused and len(self._live) < self.max_concurrent:
            try:
                suggestion = self._searcher.ask()
            except SweepError as error:  # a define-by-run space gave something else than parameters
                self.fail(error)
                return
            if suggestion is None:
                return
            self._start(suggestion)

    def next_to_run(self) -> str | None:
        """A trial that is live and was not yet handed out."""
        self.fill()
        return self._attendance.hand_out()

    def hear(self, trial_id: str, answer: Answer) -> bool:
        """Take in what the pool told a trial; says whether the trial goes on, and its process with it."""
        # A process that must leave hears that its training was given back: it is no news of the trial, which may run again already.
        goes_on = not self._attendance.is_leaving(trial_id) and self._hear(trial_id, answer)
        if goes_on:  # its process would say so when it asks for the next rung; but it may stop before
            self._pool.decided(trial_id, answer.epoch)
        return goes_on

    def _hear(self, trial_id: str, answer: Answer) -> bool:
        if trial_id not in self._live or trial_id in self._held:
            return False
        if answer.kind == "rung" and answer.epoch > self.trials[trial_id].epochs:  # else it was heard on the other way
            self._take_rung(self.trials[trial_id], answer)
        elif answer.kind == "failed":
            self._end(trial_id, FAIL, reason=answer.reason, cause=answer.cause or Cause.CONFIGURATION)
        elif answer.kind == "closed":
            self._end(trial_id, FAIL, reason=answer.reason, cause=answer.cause or Cause.INTERRUPTED)
        return trial_id in self._live and trial_id not in self._held

    def attend(self, trial_id: str) -> None:
        """A process now asks for this trial's rungs."""
        self._attendance.attend(trial_id)

    def hear_unattended(self, answers: Mapping[str, Answer]) -> None:
        """Judge trials whose process is still starting, or has stopped: their trainings must not train on because nobody decides."""
        self._take_from_silent_processes(answers)
        for name, answer in answers.items():
            if name in self._live and not self._attendance.is_attended(name) and self._hear(name, answer):
                self._pool.decided(name, answer.epoch)

    def _take_from_silent_processes(self, answers: Mapping[str, Answer]) -> None:
        """A process that has not passed on an answer for PROCESS_PATIENCE_S loses its trial."""
        now = self._awake()
        attended = {name: answer for name, answer in answers.items() if name in self._live and self._attendance.is_attended(name)}
        due = {(name, a.epoch, a.kind) for name, a in attended.items() if a.kind != "rung" or a.epoch > self.trials[name].epochs}
        self._due_since = {news: self._due_since.get(news, now) for news in due}
        for (name, *_), since in self._due_since.items():
            if now - since >= PROCESS_PATIENCE_S:
                self._attendance.take_away(name)

    def lost(self, trial_id: str) -> None:
        """A trial's process is gone. It only waited: the trial goes on, with another process or, after MAX_PROCESSES, with none."""
        n_had = self._attendance.gone(trial_id)
        if trial_id in self._live and trial_id not in self._held and n_had < MAX_PROCESSES:
            self._attendance.add(trial_id)

    def pause(self, under_way: Iterable[str] = ()) -> None:
        """Start no trial, and let none train past its next rung; hold at once those that are not under way to one."""
        self.paused = True
        for name in self._live.keys() - self._held - set(under_way):
            self._hold(name)

    def go_on(self) -> None:
        """End a pause: what was held asks for its training again."""
        self.paused = False
        for name in sorted(self._held):
            self._held.remove(name)
            self._pool.subscribe(self._live[name])
            self._pool.decided(name, self.trials[name].epochs)
            self._attendance.add(name)
        self.fill()

    def change_limits(self, limits: Mapping[str, Any]) -> None:
        """Go on with other limits, as study_rules.LIMITS.

        Raises:
            StudyError: a value that breaks its rule; nothing has changed."""
        self.study = replace(self.study, **limits)
        self._searcher.change(self.study)
        self.max_concurrent = limits.get("max_concurrent") or self.max_concurrent
        if self._over_budget:  # whether it still is, `fill` says
            self._over_budget, self.stopping = False, None
        self.fill()

    def wind_down(self, reason: str = Cause.INTERRUPTED, under_way: Iterable[str] = ()) -> None:
        """End the study early, each trial at its next rung; at once those that are not under way to one."""
        self.stopping, self.stop_cause, self._winding_down = str(reason), Cause.INTERRUPTED, True
        for name in self._live.keys() - set(under_way) | self._held:
            if name in self._live:  # else the study was abandoned meanwhile
                self._end(name, FAIL, reason=str(reason), cause=Cause.INTERRUPTED)

    def stop(self, reason: str = Cause.INTERRUPTED, cause: Cause = Cause.INTERRUPTED) -> None:
        """End the study early: live trials hear of it from the pool, no new one starts."""
        self.stopping, self.stop_cause = str(reason), cause
        self._pool.close(self.stopping)

    def abandon(self, error: SweepError) -> None:
        """Another launch has this study now, and its records: write nothing more."""
        self.fatal, self.stopping, self._is_abandoned = error, str(error), True
        for of_this_launch in (self._live, self._held, self._unfinished):
            of_this_launch.clear()
        self._pool.close(str(error))

    def fail(self, error: SweepError) -> None:
        """End the study early by what makes it useless to go on; the trials that were live are tried again at its next launch."""
        self.fatal = self.fatal or error
        cause = Cause.DISK if cause_of(error, passing=()) is Cause.DISK else Cause.INTERRUPTED
        self.stop(str(error), cause)
        self.end_all(sentence(cause, str(error)), cause)

    def end_all(self, reason: str = Cause.INTERRUPTED, cause: Cause = Cause.INTERRUPTED) -> None:
        """End what is still live, without waiting for anybody: nothing stays RUNNING, and nothing that a killed launch left so."""
        self._is_ending = True
        if self._live and self.stopping is None:
            self.stopping, self.stop_cause = str(reason), cause  # before the first one ends, which would start another
        while self._live:
            self._end(next(iter(self._live)), FAIL, reason=str(reason), cause=cause)
        for trial in list(self._unfinished.values()):
            if trial.cause is None:
                trial.state, trial.cause = FAIL, Cause.INTERRUPTED
                trial.reason = sentence(trial.cause, "its launch ended unexpectedly")
                self._append(trial)

    # ---- private, in the order of a trial's life

    def _take_past(self, trial: Trial) -> None:
        if trial.state == RUNNING:
            self._unfinished[trial.id] = trial
            return
        self.trials[trial.id] = trial
        for epoch, value, *_ in trial.rungs:
            self._asha.record(trial.id, epoch, value)

    def _start(self, suggestion: Suggestion) -> None:
        trial = Trial(
            suggestion.trial,
            suggestion.number,
            dict(suggestion.configuration),
            dict(suggestion.labels),
            dict(suggestion.sampled),
            started_at=self._clock(),
        )
        if trial.id in self._unfinished:
            before = self._unfinished.pop(trial.id)
            trial.train_losses = before.train_losses  # of rungs that are read from the store now
            trial.n_rows, trial.epochs_paid_before = before.n_rows, self.study.train_seeds * before.epochs - before.shared_epochs
        self.trials[trial.id] = trial
        self.started_now.add(trial.id)
        try:
            subscription = self._keys.subscription(trial.id, trial.configuration)
        except SweepError as error:
            self._record_end(trial, FAIL, reason=str(error), cause=Cause.CONFIGURATION)
            return
        trial.training_key, trial.max_epochs = subscription.training_key, subscription.rungs[-1].epoch
        self._live[trial.id] = subscription
        self._attendance.add(trial.id)
        self._write(trial)
        self._pool.subscribe(subscription)
        self._request_controls(subscription)

    def _ask_again(self, trial: Trial) -> None:
        try:
            subscription = self._keys.subscription(trial.id, trial.configuration)
        except SweepError:  # the study has changed, and its configuration is no longer one
            return
        if subscription.training_key == trial.training_key:
            self._request_controls(subscription)
            orders = [*_recorded_rungs(trial, subscription), *self._keys.fan_out(subscription, trial.epochs)]
            self._pool.request(orders, [_training_order(one, self._gone_adapters) for one in subscription.under_each_seed])

    def _request_controls(self, subscription: Subscription) -> None:
        orders = [order for order in self._keys.controls(subscription) if order.key not in self.controls]
        self.controls |= {order.key for order in orders}
        photographs = [order for order in self._keys.photographs(subscription) if order.key not in self.photographs]
        self.photographs |= {order.key for order in photographs}
        self._pool.request([*orders, *photographs])

    def _take_rung(self, trial: Trial, answer: Answer) -> None:
        self.metrics.update({key: outcome.values for key, outcome in answer.under_each_seed})
        outcomes = [outcome for _, outcome in answer.under_each_seed]
        try:
            values = [self.study.objective.value(outcome.values, outcome.backbones) for outcome in outcomes]
            trial.formula = self.study.objective.describe(answer.outcome.backbones)
            if self.study.pareto:
                trial.vectors[answer.epoch] = vector_of(self.study.pareto, answer.epoch, [outcome.values for outcome in outcomes])
        except ObjectiveError as error:
            self._end(trial.id, FAIL, reason=str(error), cause=Cause.CONFIGURATION)
            return
        except StudyError as error:  # the same for every trial: no use in going on
            self.fail(error)
            return
        value = statistics.fmean(values)
        trial.rungs.append((answer.epoch, value, *(key for key, _ in answer.under_each_seed)))
        if len(values) > 1:
            trial.seed_objectives[answer.epoch] = tuple(values)
        if answer.train_loss is not None:
            trial.train_losses[answer.epoch] = answer.train_loss
        trial.shared_epochs = max(0, answer.shared_epochs - trial.epochs_paid_before)
        self._searcher.report(trial.id, answer.epoch, value)
        self._decide(trial, answer, value)

    def _decide(self, trial: Trial, answer: Answer, value: float) -> None:
        kept = self._asha.keeps(trial.id, answer.epoch, value)
        if answer.is_last:
            self._end(trial.id, COMPLETE)
        elif not kept and not trial.labels.get("baseline"):  # the others are paired with the baseline, rung by rung
            best = f"the best 1/{self._asha.reduction_factor:g}"
            self._end(trial.id, PRUNED, reason=f"stopped early: not among {best} at epoch {answer.epoch}")
        elif self._winding_down:
            self._end(trial.id, FAIL, reason=self.stopping or str(Cause.INTERRUPTED), cause=Cause.INTERRUPTED)
        else:
            self._write(trial)
            if self.paused:
                self._hold(trial.id)

    def _hold(self, name: str) -> None:
        self._held.add(name)
        self._attendance.take_away(name)
        self._pool.release(name)

    def _end(self, name: str, state: str, *, reason: str = "", cause: Cause | None = None) -> None:
        trial = self.trials[name]
        subscription = self._live.pop(name)
        self._held.discard(name)
        self._attendance.forget(name)
        if (
            state == PRUNED
            and "epochs" in trial.configuration
            and not subscription.config.length_dependent
        ):
            # The length was sampled: 300 epochs that were stopped at 100 are a result of 100
            # epochs, unless the learning rate was that of 300.
            state, trial.configuration["epochs"] = COMPLETE, trial.epochs
        self._record_end(trial, state, reason=reason, cause=cause)
        if state != FAIL:
            self._pool.request(self._keys.fan_out(subscription, trial.epochs))
        # First the new trial, then the release: the worker, which waits for decisions, then refills the slot at once.
        self.fill()
        self._pool.release(name)

    def _record_end(self, trial: Trial, state: str, *, reason: str, cause: Cause | None) -> None:
        trial.state, trial.reason, trial.cause = state, reason, cause
        self._write(trial)
        value = trial.objective if state == COMPLETE else None
        self._searcher.finish(trial.id, state, value=value, vector=trial.vector, vectors=trial.vectors, reason=reason)

    def _write(self, trial: Trial) -> None:
        trial.seconds = self._clock() - trial.started_at
        self._append(trial)

    def _append(self, trial: Trial) -> None:
        if self._is_abandoned:
            return
        try:
            self._records.append_trial(trial_row(trial, self.study.name))
            trial.n_rows += 1
        except LeaseLostError as error:
            self.abandon(error)
        except RecordsError as error:  # at the end, a trial whose last row is refused stays RUNNING there, and is tried again all the same
            if not self._is_ending:
                raise
            self.fatal = self.fatal or error

    def _stop_if_over_budget(self) -> None:
        if self.stopping is None and (reason := used_up(self.study, self._usage)) is not None:
            self.stopping, self._over_budget = reason, True


def _recorded_rungs(trial: Trial, subscription: Subscription) -> Iterator[EvaluationOrder]:
    """The evaluations that a trial's rungs are made of, as far as they are still those of its configuration."""
    for epoch, _, *keys in trial.rungs:
        for one, key in zip(subscription.under_each_seed, keys, strict=False):
            for rung in one.rungs:
                if (rung.epoch, rung.evaluation_key) == (epoch, key):
                    yield EvaluationOrder(key, one.training_key, epoch, rung.config, one.config.subject)


def _training_order(one: Subscription, gone_adapters: Collection[tuple[str, int]]) -> TrainingOrder:
    """One of a trial's trainings, for the adapters that are gone."""
    epochs = tuple(sorted(epoch for key, epoch in gone_adapters if key == one.training_key))
    return TrainingOrder(one.training_key, one.config, epochs, one.rungs[-1].epoch if one.config.length_dependent else None)


def run_here(driver: Driver, pool: Any, turn: Callable[[], bool], *, on_change: Callable[[], None] = lambda: None) -> None:
    """Run the study in this process: trials are asked for in turn, `turn` is the worker's. For `sweep trial`, and for tests."""
    driver.ask_for_what_is_missing()
    driver.fill()
    while not driver.finished:
        for trial in driver.live:
            driver.hear(trial.id, pool.next_rung(trial.id, trial.epochs))
        on_change()
        if not driver.finished and not turn():
            driver.end_all()
    while pool.snapshot()["requests_open"] and driver.stopping is None:
        turn()

