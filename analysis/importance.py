"""What mattered: how much of the good trials each parameter explains, what its values are worth,
and where two act together.

Optuna is imported inside `_Importances` alone. A sampler and early stopping favour good regions:
outside a grid, the values of one parameter met different values of the others, and an effect is
of the trials that there are, not of the parameter alone."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pandas as pd

from analysis.load import FAILED, StudyRecords
from analysis.resampling import FEWEST
from analysis.stats import mean_interval
from analysis.tables import best_evaluations
from sweep.records import CONFIDENCE, RecordsError, best_of, more_is_better

MANY_VALUES = 6
"""A parameter of numbers with more values than this is continuous: effects are those of its quarters."""

N_QUARTERS = 4
ENOUGH_TRIALS = 10
"""PED-ANOVA wants at least 5 trials among the good ones, and these can at most be the better half."""

METHODS = ("ped-anova", "fanova")

TOLD_APART = 0.95
"""A parameter is told from the next if it is the more important in so many resamples."""

MOST_RESAMPLES, LEAST_RESAMPLES, MOST_RESAMPLED = 60, 20, 200
"""Optuna takes a millisecond for each trial of a resample: of many trials there are fewer
resamples, each of at most so many trials."""


def importances_of(records: StudyRecords, *, value: str = "objective", method: str = "ped-anova", seed: int = 0) -> pd.DataFrame:
    """One row per searched parameter with more than one value, the most important first:
    `importance` (they add up to 1), the 2.5 and 97.5 percentiles of it in resamples of the trials
    (`low`, `high`, drawn with `seed`), whether it is told from the next one (`is_told_from_next`),
    and n trials.

    PED-ANOVA (Watanabe et al., arXiv:2304.10255) says how much a parameter tells of being among the
    best tenth of trials, or the best five where a tenth is fewer; fANOVA (Hutter et al., ICML 2014;
    a forest of seed `seed`) what share of the variance over the whole space it explains. Failed
    trials do not count. Below 10 trials importances are missing.

    Raises:
        RecordsError: another method, a `value` that no trial has, or fANOVA without scikit-learn."""
    if method not in METHODS:
        raise RecordsError(f"Importance is computed by {' or '.join(METHODS)}, but {method!r} was asked for.")
    trials = scored_trials(records, value)
    searched = [name for name in records.parameters if trials[name].astype(str).nunique() > 1]
    columns = ["parameter", "importance", "low", "high", "is_told_from_next", "n"]
    unknown = {
        "importance": math.nan,
        "low": math.nan,
        "high": math.nan,
        "is_told_from_next": False,
    }
    if len(trials) < ENOUGH_TRIALS or not searched or trials[value].nunique() < 2:
        return pd.DataFrame({"parameter": searched, **unknown, "n": len(trials)}, columns=columns)
    evaluated = _Importances(trials, searched, value, method=method, seed=seed)
    found = evaluated.of(np.arange(len(trials)))
    order = np.argsort(-found, kind="stable")
    found, resampled = found[order], evaluated.resampled(found, seed=seed)[:, order]
    low, high = np.percentile(resampled, [2.5, 97.5], axis=0)
    is_above = (resampled[:, :-1] > resampled[:, 1:]).mean(axis=0) >= TOLD_APART
    ends = {"low": np.minimum(low, found), "high": np.maximum(high, found)}
    names = [searched[i] for i in order]
    told = {"is_told_from_next": [*is_above.tolist(), False]}
    return pd.DataFrame({"parameter": names, "importance": found, **ends, **told, "n": len(trials)})


def order_note(importances: pd.DataFrame) -> str | None:
    """Which parameters the trials are too few to order, in a sentence; None where they order
    all."""
    known = importances.dropna(subset=["importance"])
    if len(known) < 2:
        return None
    groups = known.groupby(known["is_told_from_next"].shift(fill_value=False).cumsum())["parameter"]
    alike = [", ".join(names) for _, names in groups if len(names) > 1]
    if not alike:
        return None
    return (
        f"{known['n'].iloc[0]} trials are too few to order these: {'; '.join(alike)}. "
        "Intervals are of importances of resampled trials."
    )


def main_effects(records: StudyRecords, *parameters: str, value: str = "objective", seed: int = 0) -> pd.DataFrame:
    """One row per parameter and value (or quarter of a continuous one): n trials, best, mean with
    its interval over trials (from 8 on), and `effect`, the mean less that of all trials. Without
    `parameters`, of every one that has more than one value.

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


def interaction_of(
    records: StudyRecords, a: str, b: str, *, value: str = "objective"
) -> pd.DataFrame:
    """One row per pair of values of `a` and `b` that has trials: n, mean, what the two main effects
    alone would give (`additive`, fitted by least squares to all trials, so that unequal n do no
    harm), and their difference `interaction` with a 95 % interval.

    The interval is Student's t over the spread of trials within all pairs, as in an analysis of
    variance; it is missing below 8 degrees of freedom: trials less pairs.

    Raises:
        RecordsError: a parameter that the study did not search, twice the same, or a `value` that no trial has."""
    if a == b:
        raise RecordsError(f"An interaction is of two parameters, but both are `{a}`.")
    _searched(records, (a, b))
    trials = scored_trials(records, value)
    trials = trials.assign(**{name: levels_of(trials[name]) for name in (a, b)})
    grouped = trials.groupby([a, b], observed=True)[value]
    cells = grouped.agg(n="count", mean="mean").reset_index()
    if cells.empty:
        return cells.assign(additive=[], interaction=[], low=[], high=[])
    design, n = (
        pd.get_dummies(cells[[a, b]].astype(str)).to_numpy(dtype=float),
        cells["n"].to_numpy(dtype=float),
    )
    left = np.eye(len(cells)) - _additive_fit(design, n)  # interactions are linear in the means
    interaction = left @ cells["mean"].to_numpy(dtype=float)
    half = _half_width(
        left, n, squares=float(((trials[value] - grouped.transform("mean")) ** 2).sum())
    )
    additive = cells["mean"] - interaction
    return cells.assign(
        additive=additive, interaction=interaction, low=interaction - half, high=interaction + half
    )


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


def _additive_fit(
    design: np.ndarray, n: np.ndarray
) -> np.ndarray:  # design (c, l), n (c,) -> (c, c)
    """What makes of cell means the least-squares fit of main effects alone to the trials: to the
    means weighted by their n, which is the same."""
    root = np.sqrt(n)[:, None]
    return design @ np.linalg.pinv(design * root) * root.T


def _half_width(
    linear: np.ndarray, n: np.ndarray, *, squares: float
) -> np.ndarray:  # linear (c, c), n (c,) -> (c,)
    """Of Student's intervals of `linear` @ means, where `squares` is the sum of squares within
    the cells."""
    from scipy.stats import t

    freedom = int(n.sum()) - len(n)
    if freedom < FEWEST:
        return np.full(len(n), math.nan)
    return t.ppf((1 + CONFIDENCE) / 2, freedom) * np.sqrt(
        (linear**2 / n).sum(axis=1) * squares / freedom
    )


class _Importances:
    """The importances of some of the trials, or of resamples of them; Optuna's distributions are
    those of all."""

    def __init__(
        self, trials: pd.DataFrame, searched: list[str], value: str, *, method: str, seed: int
    ) -> None:
        self._searched, self._method, self._seed = searched, method, seed
        self._direction = "maximize" if more_is_better(value) else "minimize"
        self._values = trials[value].to_numpy(dtype=float)
        self._distributions = {name: _distribution(trials[name]) for name in searched}
        self._columns = {name: _plain_values(trials[name]) for name in searched}

    def of(self, rows: np.ndarray) -> np.ndarray:  # (k,) -> one number per parameter
        import optuna
        from optuna.importance import get_param_importances

        with _quiet(optuna):
            study = optuna.create_study(study_name="importance", direction=self._direction)
            study.add_trials(
                optuna.trial.create_trial(
                    params={name: values[i] for name, values in self._columns.items()},
                    distributions=self._distributions,
                    value=float(self._values[i]),
                )
                for i in rows.tolist()
            )
            found = get_param_importances(
                study, evaluator=self._evaluator(len(rows)), params=self._searched
            )
        return np.array([found.get(name, math.nan) for name in self._searched])

    def resampled(
        self, found: np.ndarray, *, seed: int
    ) -> np.ndarray:  # (b, one number per parameter)
        """The importances of resamples; of fewer trials than there are, as near to `found` as
        more would be."""
        n, rng = len(self._values), np.random.default_rng(seed)
        n_drawn = min(n, MOST_RESAMPLED)
        n_resamples = max(LEAST_RESAMPLES, min(MOST_RESAMPLES, 64 * MOST_RESAMPLES // n))
        drawn = (rng.integers(0, n, n_drawn) for _ in range(n_resamples))
        known = np.array([self.of(rows) for rows in drawn if np.ptp(self._values[rows]) > 0])
        return (
            known if n_drawn == n else found + (known - known.mean(axis=0)) * math.sqrt(n_drawn / n)
        )

    def _evaluator(self, n: int) -> Any:
        from optuna.importance import FanovaImportanceEvaluator, PedAnovaImportanceEvaluator

        if self._method == "ped-anova":
            return PedAnovaImportanceEvaluator(target_quantile=max(5, n // 10) / n)
        try:
            return FanovaImportanceEvaluator(seed=self._seed)
        except ImportError as error:
            raise RecordsError("fANOVA needs scikit-learn, which is not installed. Install it, or use ped-anova, which needs nothing.") from error


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
