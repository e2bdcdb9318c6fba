"""The searcher: which configuration a study tries next, over Optuna's ask and tell. One Optuna trial per trial, listed ones too.

Nothing here knows of Ray, trainings or records. Optuna's storage is a view, built anew from the past at every launch, for the
sampler and for optuna-dashboard; it is never read back. A seeded study repeats itself, trial by trial, at concurrency 1."""

from __future__ import annotations

import json
import logging
import math
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sweep.errors import StudyError
from sweep.pareto import directions_of, generation_size
from sweep.space import is_define_by_run, is_grid

if TYPE_CHECKING:
    import optuna

    from sweep.study import Study

RUNNING, COMPLETE, PRUNED, FAIL = "RUNNING", "COMPLETE", "PRUNED", "FAIL"

MAX_STARTUP_TRIALS = 10
"""Random trials before TPE begins: a third of a short study, this many of a long one."""


def trial_id(number: int) -> str:
    """Stable across relaunches: it is made of the trial's number in its study."""
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


class Searcher:
    """Guarantees: numbers count from 0 without a gap; listed configurations come first, in their order; every trial that was
    asked for is told of once; what is told is finite."""

    def __init__(self, study: Study, *, journal: Path | None = None, past: Iterable[PastTrial] = ()) -> None:
        """`journal`: where Optuna's view is written, replacing one that is there; None keeps it in memory."""
        self._study = study
        self._storage, self._optuna = _new_optuna_study(study.name or "study", journal, axes=study.pareto)
        self._distributions = _distributions_of(study)
        self._waiting: deque[Suggestion] = deque()
        self._open: dict[str, optuna.Trial] = {}
        self._outside: set[str] = set()  # listed trials that the space does not hold: no news for the sampler
        self._n_created = 0  # in Optuna's study, those that wait included
        past = sorted(past, key=lambda trial: trial.number)
        for trial in past:
            self._replay(trial)
        self._n_past = self._n_taken = self._n_created  # numbers that some launch has begun: before this one, and in all
        self._limit: int | None = None  # how many trials are wanted, where that was changed while the study runs
        for row in _not_yet_tried(study, past):
            self._enqueue(row.configuration, row.labels)
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
            self._enqueue(row.configuration, row.labels)
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
        self._open[trial_id(number)] = trial
        configuration = {**self._drawn(trial), **(queued.configuration if queued else {})}
        return Suggestion(trial_id(number), number, configuration, queued.labels if queued else {}, dict(trial.params))

    def report(self, trial: str, epoch: int, value: float) -> None:
        """A rung's value, by epoch."""
        assert math.isfinite(value), (trial, epoch, value)
        if not self._study.pareto:  # Optuna takes rungs only where there is one objective, to stop by it
            self._open[trial].report(value, epoch)

    def finish(
        self,
        trial: str,
        state: str,
        *,
        value: float | None = None,
        vector: Sequence[float] = (),
        epochs: int | None = None,
        reason: str = "",
    ) -> None:
        """The end of a trial: COMPLETE with its best value, PRUNED by its rungs, or FAIL.

        `vector`: what counts instead of `value` in a study with `pareto`. `epochs` tells where it stopped, for a study that samples its
        length."""
        optuna_trial = self._open.pop(trial)
        if reason:
            optuna_trial.set_user_attr("reason", reason)
        if epochs is not None:
            self._shorten(optuna_trial, epochs)
        if trial in self._outside:
            state = FAIL
            optuna_trial.set_user_attr("reason", reason or "outside of the space")
        values = list(vector) if self._study.pareto else value
        self._optuna.tell(optuna_trial, values=values if state == COMPLETE else None, state=_optuna_state(state))

    def _drawn(self, trial: optuna.Trial) -> dict[str, Any]:
        if not is_define_by_run(self._study.space):
            return dict(trial.params)
        drawn = self._study.space(trial)
        if not isinstance(drawn, Mapping):
            raise StudyError(f"A define-by-run space must return a dict of parameters, but it returned {drawn!r}.")
        return dict(drawn)

    def _shorten(self, trial: optuna.Trial, epochs: int) -> None:
        """A trial of 300 epochs that was stopped at 100 is a trial of 100 epochs, where the space has such a thing."""
        distribution = trial.distributions.get("epochs")
        if distribution is not None and _fits(distribution, epochs):
            self._storage.set_trial_param(trial._trial_id, "epochs", distribution.to_internal_repr(epochs), distribution)

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

    def _enqueue(self, configuration: Mapping[str, Any], labels: Mapping[str, Any], sampled: Mapping[str, Any] | None = None) -> None:
        if is_define_by_run(self._study.space):
            drawn = dict(sampled or configuration)
        else:
            known = self._distributions
            drawn = {n: v for n, v in configuration.items() if n in known and _fits(known[n], v)}
            if self._study.kind != "rows" and len(drawn) < len(configuration):
                self._outside.add(trial_id(self._n_created))
        self._optuna.enqueue_trial(dict(drawn), user_attrs={"labels": json.dumps(dict(labels), default=str)})
        self._waiting.append(Suggestion(trial_id(self._n_created), self._n_created, dict(configuration), dict(labels)))
        self._n_created += 1

    def _replay(self, past: PastTrial) -> None:
        """A trial of an earlier launch in Optuna's terms, under its number."""
        import optuna

        while self._n_created < past.number:  # its rows were lost; its number stays taken
            self._add(optuna.trial.create_trial(state=optuna.trial.TrialState.FAIL))
        if past.state == RUNNING:
            self._enqueue(past.configuration, past.labels, past.sampled)
        else:
            self._add(self._past_in_optuna(past))

    def _add(self, trial: optuna.trial.FrozenTrial) -> None:
        self._optuna.add_trial(trial)
        self._n_created += 1

    def _past_in_optuna(self, past: PastTrial) -> optuna.trial.FrozenTrial:
        import optuna

        params, distributions = self._params_of(past)
        values = [value for _, value in past.rungs if math.isfinite(value)]
        # Outside of the space as it is now, or of the axes, it is no news for the sampler.
        state = past.state if params is not None and (past.vector if self._study.pareto else values) else FAIL
        if self._study.pareto:
            found: dict[str, Any] = {"values": list(past.vector) if state == COMPLETE else None}
        else:
            value = {COMPLETE: min(values, default=None), PRUNED: values[-1] if values else None, FAIL: None}[state]
            found = {"value": value, "intermediate_values": dict(past.rungs) if state != FAIL else {}}
        return optuna.trial.create_trial(state=_optuna_state(state), params=params or {}, distributions=distributions, **found)

    def _params_of(self, past: PastTrial) -> tuple[dict[str, Any] | None, dict[str, Any]]:
        """Its parameters under the space as it is now; None where they do not fit it."""
        if is_define_by_run(self._study.space):
            return _rerun(self._study.space, past.sampled)
        params = {name: past.configuration.get(name) for name in self._distributions}
        fits = all(_fits(self._distributions[name], value) for name, value in params.items())
        if past.labels.get("baseline") and self._study.kind != "rows":  # it alone may set what is not searched
            fits = fits and set(past.configuration) <= set(self._distributions)
        return (params, self._distributions) if fits else (None, {})


def _new_optuna_study(name: str, journal: Path | None, *, axes: Sequence[str]) -> tuple[optuna.storages.BaseStorage, optuna.Study]:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    logging.getLogger("optuna").setLevel(logging.WARNING)
    if journal is None:
        storage: optuna.storages.BaseStorage = optuna.storages.InMemoryStorage()
    else:
        journal.unlink(missing_ok=True)
        storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(journal)))
    if not axes:
        return storage, optuna.create_study(study_name=name, storage=storage)
    study = optuna.create_study(study_name=name, storage=storage, directions=directions_of(axes))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        study.set_metric_names(list(axes))
    return storage, study


def _distributions_of(study: Study) -> dict[str, optuna.distributions.BaseDistribution]:
    """Optuna's distribution for every parameter; a listed one is categorical over the values that the rows give it."""
    import optuna

    if is_define_by_run(study.space):
        return {}
    if study.space:
        from ray.tune.search.optuna import OptunaSearch

        as_choice = {n: _categorical(d["grid_search"]) for n, d in study.space.items() if is_grid(d)}
        others = {name: domain for name, domain in study.space.items() if name not in as_choice}
        converted = {**as_choice, **OptunaSearch.convert_search_space(others)}
        return {name: converted[name] for name in study.space}
    # All of them, however few are wanted now: Optuna has no way to widen a choice while a study runs.
    listed = [row.configuration for row in replace(study, samples=None).listed]
    values = {name: list({json.dumps(c[name], default=str): c[name] for c in listed}.values()) for name in _common_names(listed)}
    scalars = (bool, int, float, str, type(None))
    return {
        name: optuna.distributions.CategoricalDistribution(choices)
        for name, choices in values.items()
        if all(isinstance(choice, scalars) for choice in choices)
    }


def _categorical(choices: Iterable[Any]) -> optuna.distributions.CategoricalDistribution:
    import optuna

    return optuna.distributions.CategoricalDistribution(list(choices))


def _common_names(configurations: list[Mapping[str, Any]]) -> list[str]:
    """Names that every row gives; what only some give is the others' default, and Optuna need not know it."""
    if not configurations:
        return []
    return [name for name in configurations[0] if all(name in c for c in configurations)]


def _not_yet_tried(study: Study, past: list[PastTrial]) -> list[Any]:
    """Listed rows without a past trial of their own. A start point may leave names open: any trial that has its values is its."""
    untaken = [dict(trial.configuration) for trial in past]
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
    return a == b or json.dumps(a, default=str, sort_keys=True) == json.dumps(b, default=str, sort_keys=True)


def _fits(distribution: optuna.distributions.BaseDistribution, value: Any) -> bool:
    try:
        return distribution._contains(distribution.to_internal_repr(value))
    except (ValueError, TypeError):
        return False


def _rerun(space: Callable[[Any], Any], sampled: Mapping[str, Any]) -> tuple[dict[str, Any] | None, dict[str, Any]]:
    import optuna

    trial = optuna.trial.FixedTrial(dict(sampled))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # a value outside of its range only warns
            space(trial)
    except Exception:  # the function has changed: whatever it raises, the old draw is none of its own any more
        return None, {}
    return trial.params, trial.distributions


def _optuna_state(state: str) -> optuna.trial.TrialState:
    import optuna

    return optuna.trial.TrialState[state]
