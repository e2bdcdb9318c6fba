"""The searcher: which configuration a study tries next, over Optuna's ask and tell. One Optuna trial per trial, listed ones too.

Nothing here knows of Ray, trainings or records. Optuna's storage is a view, built anew from the past at every launch, for the
sampler and for optuna-dashboard; it is never read back. A seeded study repeats itself, trial by trial, at concurrency 1."""

from __future__ import annotations

import logging
import math
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sweep.distributions import dimensions_of, in_optuna
from sweep.errors import SweepError
from sweep.journal import JournalView
from sweep.pareto import directions_of, generation_size
from sweep.space import drawn_from, is_define_by_run
from sweep.values import json_text

if TYPE_CHECKING:
    import optuna

    from sweep.study import Row, Study

RUNNING, COMPLETE, PRUNED, FAIL = "RUNNING", "COMPLETE", "PRUNED", "FAIL"

MAX_STARTUP_TRIALS = 10
"""Random trials before TPE begins: a third of a short study, this many of a long one."""


def trial_id(number: int) -> str:
    """Stable across relaunches: it is made of the trial's number in its study, unless a row names
    its own."""
    return f"t{number:04d}"


@dataclass(frozen=True)
class Suggestion:
    """A configuration to try. `sampled` is what the sampler drew: other names than the configuration's in a define-by-run space."""

    trial: str
    number: int
    configuration: Mapping[str, Any]
    labels: Mapping[str, Any] = field(default_factory=dict)
    sampled: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class PastTrial:
    """A trial of an earlier launch. State RUNNING: it did not finish and is tried again under its number."""

    number: int
    state: str
    configuration: Mapping[str, Any]
    sampled: Mapping[str, Any] = field(default_factory=dict)
    labels: Mapping[str, Any] = field(default_factory=dict)
    rungs: tuple[tuple[int, float], ...] = ()
    vector: tuple[float, ...] = ()  # on the axes of the study's `pareto`; empty where that is not known
    vectors: Mapping[int, tuple[float, ...]] = field(default_factory=dict)  # of each rung, by epoch
    trial: str = ""  # its id; "": made of its number

    @property
    def asked(self) -> dict[str, Any]:
        """The configuration as it was asked for."""
        length = {} if self.asked_epochs is None else {"epochs": self.asked_epochs}
        return {**self.configuration, **length}

    @property
    def asked_epochs(self) -> int | None:
        """The length that was drawn for it; its configuration has the one where it was stopped."""
        return self.sampled.get("epochs", self.configuration.get("epochs"))


@dataclass(frozen=True)
class Result:
    """What a trial is told by: a value, and the epochs at which it was reached."""

    epochs: int
    value: float
    vector: tuple[float, ...] = ()


class Searcher:
    """Guarantees: numbers count from 0 without a gap; listed configurations come first, in their order; every trial that was
    asked for is told of once; what is told is finite."""

    def __init__(self, study: Study, *, journal: Path | None = None, past: Iterable[PastTrial] = ()) -> None:
        """`journal`: where Optuna's view is written, replacing one that is there; None keeps it in memory."""
        self._study = study
        self._storage, self._optuna = _new_optuna_study(study.name or "study", journal, axes=study.pareto)
        self._dimensions = dimensions_of(study)
        self._distributions = {name: dimension.distribution for name, dimension in self._dimensions.items()}
        self._waiting: deque[Suggestion] = deque()
        self._open: dict[str, optuna.Trial] = {}
        # Listed trials that the space does not hold: no news for the sampler.
        self._outside: set[str] = set()
        self._asked: dict[str, Mapping[str, Any]] = {}  # configurations of the open ones
        self._rungs: dict[str, dict[int, float]] = {}  # values of the open ones, by epoch
        self._n_created = 0  # in Optuna's study, those that wait included
        past = sorted(past, key=lambda trial: trial.number)
        rows = deque(_not_yet_tried(study, past))
        for trial in past:
            self._ask_again_for_lost(trial.number, rows)
            self._replay(trial)
        self._n_past = self._n_taken = self._n_created  # numbers that some launch has begun: before this one, and in all
        self._limit: int | None = None  # how many trials are wanted, where that was changed while the study runs
        for row in rows:
            self._enqueue(row.configuration, row.labels, trial=row.trial)
        self._n_listed = len(study.listed)

    @property
    def n_trials(self) -> int:
        """Trials in all; more than the study asks for where more have begun."""
        if self._limit is not None:
            return max(self._limit, self._n_taken)
        return max(self._study.n_trials, self._n_created)

    @property
    def exhausted(self) -> bool:
        if not self._waiting:
            return self._n_created >= self._study.n_trials
        return self._limit is not None and self._waiting[0].number >= max(self._limit, self._n_past)

    def change(self, study: Study) -> None:
        """Go on with other limits: the study is the same but for how much of it is tried."""
        if study.n_trials != self._study.n_trials:
            self._limit = study.n_trials
        self._study = study
        for row in study.listed[self._n_listed :]:
            self._enqueue(row.configuration, row.labels, trial=row.trial)
        self._n_listed = max(self._n_listed, len(study.listed))

    def ask(self) -> Suggestion | None:
        """The next configuration, or None when there is none left."""
        if self.exhausted:
            return None
        queued = self._waiting.popleft() if self._waiting else None
        number = queued.number if queued else self._n_created
        self._optuna.sampler = self._sampler_for(number)
        trial = self._optuna.ask(self._distributions)
        assert trial.number == number, (trial.number, number)
        self._n_created = max(self._n_created, number + 1)
        self._n_taken = max(self._n_taken, number + 1)
        name = queued.trial if queued else trial_id(number)
        self._open[name] = trial
        configuration = {**self._drawn(trial), **(queued.configuration if queued else {})}
        self._asked[name], self._rungs[name] = configuration, {}
        labels = queued.labels if queued else {}
        return Suggestion(name, number, configuration, labels, dict(trial.params))

    def report(self, trial: str, epoch: int, value: float) -> None:
        """A rung's value, by epoch."""
        assert math.isfinite(value), (trial, epoch, value)
        self._rungs[trial][epoch] = value
        if not self._study.pareto:  # Optuna takes rungs only where there is one objective, to stop by it
            self._open[trial].report(value, epoch)

    def finish(
        self,
        trial: str,
        state: str,
        *,
        value: float | None = None,
        vector: Sequence[float] = (),
        vectors: Mapping[int, Sequence[float]] | None = None,
        reason: str = "",
    ) -> None:
        """The end of a trial: COMPLETE with its best value, PRUNED by its rungs, or FAIL.

        `vector`: what counts instead of `value` in a study with `pareto`; `vectors`: the same at
        each rung. Where the length is sampled, Optuna gets a rung's value with that rung's epochs
        as the length, or, where the space has no such length, a PRUNED trial."""
        optuna_trial, asked, rungs = self._open.pop(trial), self._asked.pop(trial), self._rungs.pop(trial)
        if reason:
            optuna_trial.set_user_attr("reason", reason)
        if state == COMPLETE and "epochs" in asked and rungs:
            result = self._result(
                asked,
                asked["epochs"],
                optuna_trial.distributions.get("epochs"),
                rungs,
                vectors or {},
            )
            if result is None:
                state = PRUNED
            else:
                self._set_param(optuna_trial, "epochs", result.epochs)
                value, vector = result.value, result.vector or vector
        if trial in self._outside:
            state = FAIL
            optuna_trial.set_user_attr("reason", reason or "outside of the space")
        values = list(vector) if self._study.pareto else value
        self._optuna.tell(optuna_trial, values=values if state == COMPLETE else None, state=_optuna_state(state))

    def _result(
        self,
        configuration: Mapping[str, Any],
        asked_epochs: int,
        lengths: optuna.distributions.BaseDistribution | None,
        rungs: Mapping[int, float],
        vectors: Mapping[int, Sequence[float]],
    ) -> Result | None:
        """The best of a trial's results that are those of a trial of the space; None where no
        rung's epochs are a length there.

        A rung of a longer training is the result of a training of that length, unless the learning
        rate depends on the length."""
        train = self._study.split(configuration)[0]
        results = {epoch: value for epoch, value in rungs.items() if math.isfinite(value)}
        fits = [
            e
            for e in results
            if e == asked_epochs
            or (not train.length_dependent and lengths is not None and _fits(lengths, e))
        ]
        best = min(fits, key=results.__getitem__, default=None)
        return None if best is None else Result(best, results[best], tuple(vectors.get(best, ())))

    def _set_param(self, trial: optuna.Trial, name: str, param: Any) -> None:
        """Let Optuna know the trial by this value of a parameter that it drew; where it drew none
        of that name, there is nothing to set."""
        distribution = trial.distributions.get(name)
        if distribution is not None and trial.params[name] != param:
            self._storage.set_trial_param(
                trial._trial_id, name, distribution.to_internal_repr(param), distribution
            )

    def _drawn(self, trial: optuna.Trial) -> dict[str, Any]:
        if is_define_by_run(self._study.space):
            return drawn_from(self._study.space, trial)
        drawn = {name: self._dimensions[name].drawn(param) for name, param in trial.params.items()}
        for name, value in drawn.items():  # of what Optuna cannot quantise it knows what was tried
            if self._dimensions[name].range is not None:
                self._set_param(trial, name, value)
        return drawn

    def _sampler_for(self, number: int) -> optuna.samplers.BaseSampler:
        # A sampler with the same seed repeats its first draws after a relaunch: hence one seed per trial number.
        import optuna

        seed = int(np.random.SeedSequence([self._study.study_seed, number]).generate_state(1)[0])
        if self._study.sampler == "nsga2":
            from sweep.generations import Generations

            return Generations(population_size=generation_size(self._study.n_trials), seed=seed)
        if self._study.sampler != "tpe":
            return optuna.samplers.RandomSampler(seed=seed)
        conditional = {"group": True, "multivariate": True} if is_define_by_run(self._study.space) else {}
        n_startup = min(MAX_STARTUP_TRIALS, max(4, self._study.n_trials // 3))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            return optuna.samplers.TPESampler(seed=seed, n_startup_trials=n_startup, **conditional)

    # ---- what is known beforehand

    def _enqueue(
        self,
        configuration: Mapping[str, Any],
        labels: Mapping[str, Any],
        sampled: Mapping[str, Any] | None = None,
        *,
        trial: str = "",
    ) -> None:
        name = trial or trial_id(self._n_created)
        if not is_define_by_run(self._study.space):
            drawn = {
                name: in_optuna(value)
                for name, value in configuration.items()
                if name in self._dimensions and self._dimensions[name].holds(value)
            }
            if self._study.kind != "rows" and len(drawn) < len(configuration):
                self._outside.add(name)
        else:
            drawn = dict(sampled or configuration)
        self._optuna.enqueue_trial(drawn, user_attrs={"labels": json_text(dict(labels))})
        self._waiting.append(Suggestion(name, self._n_created, dict(configuration), dict(labels)))
        self._n_created += 1

    def _ask_again_for_lost(self, number: int, rows: deque[Row]) -> None:
        """Fill the numbers below this one whose rows in the records were lost: with a listed row that
        nobody has tried, else with a new draw. Where neither is wanted, the number stays taken."""
        import optuna

        while self._n_created < number:
            if rows:
                row = rows.popleft()
                self._enqueue(row.configuration, row.labels, trial=row.trial)
            elif self._study.kind == "sampled" and self._n_created < self._study.n_trials:
                self._enqueue({}, {})
            else:
                self._add(optuna.trial.create_trial(state=optuna.trial.TrialState.FAIL))

    def _replay(self, past: PastTrial) -> None:
        """A trial of an earlier launch in Optuna's terms, under its number."""
        if past.state == RUNNING:
            self._enqueue(past.configuration, past.labels, past.sampled, trial=past.trial)
        else:
            self._add(self._past_in_optuna(past))

    def _add(self, trial: optuna.trial.FrozenTrial) -> None:
        self._optuna.add_trial(trial)
        self._n_created += 1

    def _past_in_optuna(self, past: PastTrial) -> optuna.trial.FrozenTrial:
        import optuna

        params, distributions, drawn = self._params_of(past)
        state, value, vector = (
            past.state,
            min((v for _, v in past.rungs if math.isfinite(v)), default=None),
            past.vector,
        )
        if state == PRUNED:
            value = next((v for _, v in reversed(past.rungs) if math.isfinite(v)), None)
        if params is None or value is None:
            state = FAIL  # outside of the space as it is now, it is no news for the sampler
        elif state == COMPLETE and drawn is not None and "epochs" in drawn:
            lengths = distributions.get("epochs")
            try:
                result = self._result(
                    drawn, drawn["epochs"], lengths, dict(past.rungs), past.vectors
                )
            except SweepError:  # the study has changed, and its configuration is no longer one
                state, result = FAIL, None
            if result is not None:
                params |= {"epochs": result.epochs} if "epochs" in params else {}
                value, vector = result.value, result.vector or vector
            elif state == COMPLETE:
                state, value = PRUNED, past.rungs[-1][1]
        if self._study.pareto and not vector:
            state = FAIL  # nor is it where its place on the axes is not known
        found: dict[str, Any]
        if self._study.pareto:
            found = {"values": list(vector) if state == COMPLETE else None}
        else:
            found = {"value": None if state == FAIL else value, "intermediate_values": dict(past.rungs) if state != FAIL else {}}
        return optuna.trial.create_trial(state=_optuna_state(state), params=params or {}, distributions=distributions, **found)

    def _params_of(
        self, past: PastTrial
    ) -> tuple[dict[str, Any] | None, dict[str, Any], Mapping[str, Any] | None]:
        """Its parameters under the space as it is now, their distributions, and the configuration
        as it was drawn; None for parameters that do not fit."""
        if is_define_by_run(self._study.space):
            return _rerun(self._study.space, past.sampled)
        drawn = past.asked
        if not all(
            dimension.holds(drawn.get(name)) for name, dimension in self._dimensions.items()
        ):
            return None, {}, None
        if past.labels.get("baseline") and self._study.kind != "rows":
            if not set(past.configuration) <= set(self._dimensions):  # it alone may set others
                return None, {}, None
        return {name: in_optuna(drawn.get(name)) for name in self._dimensions}, self._distributions, drawn


def _new_optuna_study(name: str, journal: Path | None, *, axes: Sequence[str]) -> tuple[optuna.storages.BaseStorage, optuna.Study]:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    logging.getLogger("optuna").setLevel(logging.WARNING)
    if journal is None:
        storage: optuna.storages.BaseStorage = optuna.storages.InMemoryStorage()
    else:
        storage = optuna.storages.JournalStorage(JournalView(journal))
    if not axes:
        return storage, optuna.create_study(study_name=name, storage=storage)
    study = optuna.create_study(study_name=name, storage=storage, directions=directions_of(axes))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        study.set_metric_names(list(axes))
    return storage, study


def _not_yet_tried(study: Study, past: list[PastTrial]) -> list[Any]:
    """Listed rows without a past trial of their own. A start point may leave names open: any trial that has its values is its."""
    untaken = [trial.asked for trial in past]
    rows = []
    for row in study.listed:
        wanted = dict(row.configuration)
        twin = next((c for c in untaken if _same({n: c.get(n) for n in wanted} if study.kind == "sampled" else c, wanted)), None)
        if twin is None:
            rows.append(row)
        else:
            untaken.remove(twin)
    return rows


def _same(a: Any, b: Any) -> bool:
    return a == b or json_text(a) == json_text(b)


def _fits(distribution: optuna.distributions.BaseDistribution, value: Any) -> bool:
    try:
        return distribution._contains(distribution.to_internal_repr(value))
    except (ValueError, TypeError):
        return False


def _rerun(
    space: Callable[[Any], Any], sampled: Mapping[str, Any]
) -> tuple[dict[str, Any] | None, dict[str, Any], Mapping[str, Any] | None]:
    import optuna

    trial = optuna.trial.FixedTrial(dict(sampled))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # a value outside of its range only warns
            drawn = drawn_from(space, trial)
    except (
        Exception
    ):  # the function has changed: whatever it raises, the old draw is none of its own any more
        return None, {}, None
    return trial.params, trial.distributions, drawn


def _optuna_state(state: str) -> optuna.trial.TrialState:
    import optuna

    return optuna.trial.TrialState[state]
