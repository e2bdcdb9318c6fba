"""What mattered: how much of the good trials each parameter explains, what its values are worth, and where two act together.

Optuna is imported inside `importances_of` alone. A sampler and early stopping favour good regions: outside a grid, the values of one
parameter met different values of the others, and an effect is of the trials that there are, not of the parameter alone."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pandas as pd

from analysis.load import FAILED, StudyRecords
from analysis.stats import mean_interval
from analysis.tables import best_evaluations
from sweep.records import RecordsError, best_of, more_is_better

MANY_VALUES = 6
"""A parameter of numbers with more values than this is continuous: effects are those of its quarters."""

N_QUARTERS = 4
ENOUGH_TRIALS = 10
"""PED-ANOVA wants at least 5 trials among the good ones, and these can at most be the better half."""

METHODS = ("ped-anova", "fanova")


def importances_of(records: StudyRecords, *, value: str = "objective", method: str = "ped-anova", seed: int = 0) -> pd.DataFrame:
    """One row per searched parameter with more than one value, the most important first: `importance` (they add up to 1) and n trials.

    PED-ANOVA (Watanabe et al., arXiv:2304.10255) says how much a parameter tells of being among the best tenth of trials, or the best five
    where a tenth is fewer; fANOVA (Hutter et al., ICML 2014; a forest of seed `seed`) what share of the variance over the whole space it
    explains. Failed trials do not count. Below 10 trials importances are missing.

    Raises:
        RecordsError: another method, a `value` that no trial has, or fANOVA without scikit-learn."""
    if method not in METHODS:
        raise RecordsError(f"Importance is computed by {' or '.join(METHODS)}, but {method!r} was asked for.")
    trials = scored_trials(records, value)
    searched = [name for name in records.parameters if trials[name].astype(str).nunique() > 1]
    if len(trials) < ENOUGH_TRIALS or not searched or trials[value].nunique() < 2:
        return pd.DataFrame({"parameter": searched, "importance": math.nan, "n": len(trials)})
    found = _importances(trials, searched, value, method=method, seed=seed)
    rows = [{"parameter": name, "importance": found.get(name, math.nan), "n": len(trials)} for name in searched]
    return pd.DataFrame(rows).sort_values("importance", ascending=False, kind="stable", ignore_index=True)


def main_effects(records: StudyRecords, *parameters: str, value: str = "objective", seed: int = 0) -> pd.DataFrame:
    """One row per parameter and value (or quarter of a continuous one): n trials, best, mean with its bootstrap interval over trials, and
    `effect`, the mean less that of all trials. Without `parameters`, of every one that has more than one value.

    Raises:
        RecordsError: a parameter that the study did not search, or a `value` that no trial has."""
    trials = scored_trials(records, value)
    names = _searched(records, parameters) or [name for name in records.parameters if trials[name].astype(str).nunique() > 1]
    rows = []
    for name in names:
        for level, group in trials.groupby(levels_of(trials[name]), observed=True):
            interval = mean_interval(group[value], seed=seed)
            ends = {"mean": interval.mean, "low": interval.low, "high": interval.high, "effect": interval.mean - trials[value].mean()}
            rows.append(
                {
                    "parameter": name,
                    "level": str(level),
                    "n": len(group),
                    "best": best_of(group[value], value),
                    **ends,
                }
            )
    return pd.DataFrame(rows, columns=["parameter", "level", "n", "best", "mean", "low", "high", "effect"])


def interaction_of(records: StudyRecords, a: str, b: str, *, value: str = "objective", seed: int = 0, n_resamples: int = 1000) -> pd.DataFrame:
    """One row per pair of values of `a` and `b` that has trials: n, mean, what the two main effects alone would give (`additive`, fitted by
    least squares to all trials, so that unequal n do no harm), and their difference `interaction` with a 95 % interval.

    The interval is a bootstrap over trials within each pair, drawn with `seed`; it is missing unless every pair has two trials.

    Raises:
        RecordsError: a parameter that the study did not search, twice the same, or a `value` that no trial has."""
    if a == b:
        raise RecordsError(f"An interaction is of two parameters, but both are `{a}`.")
    _searched(records, (a, b))
    trials = scored_trials(records, value)
    trials = trials.assign(**{name: levels_of(trials[name]) for name in (a, b)})
    grouped = trials.groupby([a, b], observed=True)[value]
    values = [group.to_numpy(dtype=float) for _, group in grouped]
    cells = grouped.agg(n="count", mean="mean").reset_index()
    design = pd.get_dummies(cells[[a, b]].astype(str)).to_numpy(dtype=float)
    additive = _additive(design, cells["n"].to_numpy(dtype=float), cells["mean"].to_numpy(dtype=float)[None])[0] if len(cells) else []
    low = high = np.full(len(cells), math.nan)
    if len(cells) and cells["n"].min() > 1:
        rng = np.random.default_rng(seed)
        means = np.stack([x[rng.integers(0, len(x), (n_resamples, len(x)))].mean(axis=1) for x in values], axis=1)
        low, high = np.percentile(means - _additive(design, cells["n"].to_numpy(dtype=float), means), [2.5, 97.5], axis=0)
    return cells.assign(additive=additive, interaction=cells["mean"] - additive, low=low, high=high)


def scored_trials(records: StudyRecords, value: str) -> pd.DataFrame:
    """One row per trial that did not fail and has a finite `value` at its best rung."""
    trials = best_evaluations(records).loc[lambda trials: trials["state"] != FAILED]
    if value not in trials or not pd.api.types.is_numeric_dtype(trials[value]):
        raise RecordsError(f"A value is the objective or a metric of the study, e.g. lpips, but there is no `{value}`.")
    values = pd.to_numeric(trials[value]).astype(float)
    return trials.assign(**{value: values})[np.isfinite(values)].reset_index(drop=True)


def levels_of(values: pd.Series) -> pd.Series:
    """The values as ordered levels: as they are, or, of more than six different numbers, by quarters. Missing is a level of its own, '-'."""
    if _is_continuous(values):
        levels = pd.qcut(values.astype(float), N_QUARTERS, duplicates="drop")
        ends = [float(values.min()), *(level.right for level in levels.cat.categories)]  # qcut's own first end is below all values
        texts = ([f"{low:.{digits}g} to {high:.{digits}g}" for low, high in zip(ends, ends[1:])] for digits in (3, 6, 17))
        levels = levels.cat.rename_categories(next(own for own in texts if len(set(own)) == len(own)))
    else:
        is_number = pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values)
        text = values.map(lambda value: f"{value:g}" if is_number else str(value), na_action="ignore")
        order = text[values.sort_values().index] if is_number else text.sort_values()
        levels = text.astype(pd.CategoricalDtype(list(dict.fromkeys(order.dropna())), ordered=True))
    return levels.cat.add_categories("-").fillna("-") if values.isna().any() else levels


def _searched(records: StudyRecords, parameters: tuple[str, ...]) -> list[str]:
    for name in parameters:
        if name not in records.parameters:
            raise RecordsError(f"Effects are of parameters that the study searched, but `{name}` is none of {', '.join(records.parameters)}.")
    return list(parameters)


def _is_continuous(values: pd.Series) -> bool:
    known = values.dropna()
    is_number = pd.api.types.is_numeric_dtype(known) and not pd.api.types.is_bool_dtype(known)
    return is_number and known.nunique() > MANY_VALUES


def _additive(design: np.ndarray, n: np.ndarray, means: np.ndarray) -> np.ndarray:  # design (c, l), n (c,), means (b, c) -> (b, c)
    """Least-squares fit of main effects alone to the trials: to cell means weighted by their n, which is the same."""
    root = np.sqrt(n)[:, None]
    return means @ (design @ np.linalg.pinv(design * root) * root.T).T


def _importances(trials: pd.DataFrame, searched: list[str], value: str, *, method: str, seed: int) -> dict[str, float]:
    import optuna
    from optuna.importance import FanovaImportanceEvaluator, PedAnovaImportanceEvaluator, get_param_importances

    n_good = max(5, len(trials) // 10)
    if method == "ped-anova":
        evaluator = PedAnovaImportanceEvaluator(target_quantile=n_good / len(trials))
    else:
        try:
            evaluator = FanovaImportanceEvaluator(seed=seed)
        except ImportError as error:
            raise RecordsError("fANOVA needs scikit-learn, which is not installed. Install it, or use ped-anova, which needs nothing.") from error
    distributions = {name: _distribution(trials[name]) for name in searched}
    columns = {name: _plain_values(trials[name]) for name in searched}
    with _quiet(optuna):
        study = optuna.create_study(
            study_name="importance", direction="maximize" if more_is_better(value) else "minimize"
        )
        study.add_trials(
            optuna.trial.create_trial(
                params={name: values[i] for name, values in columns.items()}, distributions=distributions, value=float(trials[value].iloc[i])
            )
            for i in range(len(trials))
        )
        return get_param_importances(study, evaluator=evaluator, params=searched)


def _distribution(values: pd.Series) -> Any:
    """Optuna's distribution that covers the values: continuous (on a log scale where they span a factor of 100), else categorical."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    if _is_continuous(values) and not values.isna().any():
        low, high = float(values.min()), float(values.max())
        return FloatDistribution(low, high, log=0 < low <= high / 100)
    return CategoricalDistribution(list(dict.fromkeys(_plain_values(values))))


def _plain_values(values: pd.Series) -> list[Any]:
    """What Optuna takes as a category: missing as None, a list (e.g. of targets) as text. Continuous numbers as floats."""
    if _is_continuous(values) and not values.isna().any():
        return values.astype(float).tolist()
    return [str(value) if isinstance(value, (list, dict, tuple)) else None if pd.isna(value) else value for value in values.tolist()]


@contextmanager
def _quiet(optuna: Any) -> Iterator[None]:
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)
