"""How far training seeds scatter, and by how much a mean over a few of them, or a difference of two
such means, may be off.

A trial has two, three or five training seeds, which alone say next to nothing of how far they
scatter: Student's factor of two seeds is 12.7. All trials of a study are trained under the same
seeds, so they are asked together, as the analysis of variance of randomised blocks does
(Scheffe, The Analysis of Variance, 1959). Nothing here knows of pictures or of records."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from trainables.mean_intervals import CONFIDENCE

STANDS_ALONE = 0.001
"""A trial that scatters so improbably more than the others is judged by its own seeds, and the
others without it."""

IN_COMMON = 0.01
"""Seeds that move all trials alike more than chance would, by an F test of this level, are few,
however many trials there are."""


@dataclass(frozen=True)
class Component:
    """An independent part of an estimate's variance and the degrees of freedom behind it, each
    (m,)."""

    variance: np.ndarray
    freedom: np.ndarray


def half_width(
    components: Sequence[Component], *, confidence: float = CONFIDENCE
) -> np.ndarray:  # -> (m,)
    """Half of the interval around an estimate whose variance is the sum of the components.

    Of one component it is Student's. Of several, the root of the sum of the squares of each
    one's: it covers at least what it says whichever of them is large, as P(z^2 <= c) is concave
    in c (Banerjee, Sankhya 22, 1960). Degrees of freedom after Satterthwaite do not: with two
    seeds they cover 0.89 instead of 0.95."""
    from scipy.stats import t  # 1.3 s

    return np.sqrt(
        sum(t.isf((1 - confidence) / 2, one.freedom) ** 2 * one.variance for one in components)
    )


def p_value(
    distance: np.ndarray, components: Sequence[Component]
) -> np.ndarray:  # distance (m,) -> (m,)
    """Two-sided p of an estimate at this distance from 0: where the interval of `half_width` begins
    to hold 0.

    Without any spread, 1 at distance 0 and 0 elsewhere."""
    from scipy.stats import t

    d = np.abs(np.asarray(distance, dtype=float))
    variance, freedom = (
        np.stack([np.broadcast_to(getattr(one, name), d.shape) for one in components])
        for name in ("variance", "freedom")
    )
    total, single = variance.sum(axis=0), np.argmax(variance, axis=0)[None]
    with np.errstate(divide="ignore", invalid="ignore"):
        p = 2 * t.sf(d / np.sqrt(total), np.take_along_axis(freedom, single, 0)[0])
    p = np.where(total > 0, p, np.where(d > 0, 0.0, 1.0))
    mixed = np.flatnonzero(((variance > 0).sum(axis=0) > 1) & np.isfinite(d) & np.isfinite(total))
    p[mixed] = _solved(d[mixed] ** 2, variance[:, mixed], freedom[:, mixed])
    return np.where(np.isfinite(d) & np.isfinite(total), p, np.nan)


@dataclass(frozen=True)
class SeedScatter:
    """`values` (m, s): m trials under the same s training seeds, in the same order; NaN where a
    trial has fewer, or none.

    `trainings` (m,) names the training of each, where several trials may be of one: their seeds
    are the same adapters, and say a thing once."""

    values: np.ndarray
    trainings: Sequence[object] | None = None

    def of_means(self) -> list[Component]:
        """The components of each trial's mean over its seeds; without variance for what was not
        trained (a control) and where no trial has two seeds."""
        n_seeds, s = np.isfinite(self.values).sum(axis=1), self.values.shape[1]
        per_mean = np.where(n_seeds > 0, 1 / np.maximum(n_seeds, 1), 0.0)
        parts = [Component(one.variance * per_mean, one.freedom) for one in self._of_one_seed]
        own = Component(
            np.where(self._is_alone, self._own / s, 0.0),
            np.full(len(self.values), max(1.0, s - 1.0)),
        )
        return [
            *(
                Component(np.where(self._is_alone, 0.0, part.variance), part.freedom)
                for part in parts
            ),
            own,
        ]

    def of_differences(self, rival: int) -> list[Component]:
        """The components of each trial's mean less that of trial number `rival`: seed by seed
        where both have all of them, so that what a seed does to either cancels."""
        m, s = self.values.shape
        has_both = self._has_all & self._has_all[rival] & (s > 1)
        in_block = has_both & ~self._is_alone & (not self._is_alone[rival]) & (self._n_calm > 1)
        by_itself = has_both & ~in_block
        own = _between(self.values - self.values[rival], by_itself)
        parts = [
            Component(
                np.where(in_block, 2 * self._interaction / s, 0.0), np.full(m, self._freedom)
            ),
            Component(own / s, np.full(m, max(1.0, s - 1.0))),
        ]
        for one in self.of_means():  # seeds of which one side has fewer do not cancel
            parts += [
                Component(np.where(has_both, 0.0, v), one.freedom)
                for v in (one.variance, one.variance[rival])
            ]
        is_other = np.arange(m) != rival
        return [Component(np.where(is_other, part.variance, 0.0), part.freedom) for part in parts]

    # -- private: the block design
    # ------------------------------------------------------------------------------------

    @cached_property
    def _has_all(self) -> np.ndarray:
        return np.isfinite(self.values).all(axis=1)

    @cached_property
    def _own(self) -> np.ndarray:
        """Each trial's own variance between its seeds; 0 where it lacks some."""
        return _between(self.values, self._has_all)

    @cached_property
    def _is_alone(self) -> np.ndarray:
        """Trials that are judged by their own seeds: all where there is but one, else those that
        scatter far more than the others."""
        return self._has_all & ~np.isin(self._training, self._training[self._pooled])

    @cached_property
    def _training(self) -> np.ndarray:
        """The number of each trial's training."""
        if self.trainings is None:
            return np.arange(len(self.values))
        known: dict[object, int] = {}
        return np.array([known.setdefault(one, len(known)) for one in self.trainings], dtype=int)

    @cached_property
    def _pooled(self) -> np.ndarray:
        """The trials that are asked together, one of each training; none where that would be
        one."""
        rows = np.flatnonzero(self._has_all & (self.values.shape[1] > 1))
        rows = rows[np.unique(self._training[rows], return_index=True)[1]]
        while len(rows) > 2:  # two cannot be told apart by what is left of their common seeds
            p = _p_of_more(self.values[rows])
            if p.min() >= STANDS_ALONE:
                break
            rows = np.delete(rows, p.argmin())
        return rows if len(rows) > 1 else rows[:0]

    @cached_property
    def _calm(self) -> np.ndarray:
        return self.values[self._pooled]

    @property
    def _n_calm(self) -> int:
        return len(self._calm)

    @property
    def _freedom(self) -> float:
        return float(max(1, (self._n_calm - 1) * (self.values.shape[1] - 1)))

    @cached_property
    def _interaction(self) -> float:
        """The mean square of what trials and seeds together leave over: the variance of a
        trial's value under a seed, but for what that seed does to all trials."""
        return (
            float((_left_over(self._calm) ** 2).sum() / self._freedom) if self._n_calm > 1 else 0.0
        )

    @cached_property
    def _of_one_seed(self) -> list[Component]:
        """The components of the variance of a trial's value under one seed: what seeds do to all
        trials alike, with few degrees of freedom, and the rest; the two as one (Satterthwaite)
        where an F test does not tell the former from chance."""
        m, s = self.values.shape
        if self._n_calm < 2:
            known = self._own[self._has_all]
            return [
                Component(
                    np.full(m, known.mean() if len(known) else 0.0), np.full(m, max(1.0, s - 1.0))
                )
            ]
        from scipy.stats import f

        u = self._n_calm
        between = u * self._calm.mean(axis=0).var(ddof=1)
        common, rest = between / u, (1 - 1 / u) * self._interaction
        is_common = rest == 0 or f.sf(between / self._interaction, s - 1, self._freedom) < IN_COMMON
        if is_common:
            return [
                Component(np.full(m, common), np.full(m, s - 1.0)),
                Component(np.full(m, rest), np.full(m, self._freedom)),
            ]
        freedom = (common + rest) ** 2 / (common**2 / (s - 1) + rest**2 / self._freedom)
        return [Component(np.full(m, common + rest), np.full(m, freedom))]


def _between(values: np.ndarray, rows: np.ndarray) -> np.ndarray:  # (m, s), (m,) of bool -> (m,)
    """The variance between the seeds of each of these rows; 0 of the others, and of a single
    seed."""
    if values.shape[1] < 2:
        return np.zeros(len(values))
    return np.where(rows[:, None], values, 0.0).var(axis=1, ddof=1)


def _p_of_more(x: np.ndarray) -> np.ndarray:  # (m, s) -> (m,)
    """One-sided p of each trial scattering more than the others, which are taken without it: F
    of what it adds to the sum of squares."""
    from scipy.stats import f

    m, s = x.shape
    squares = _left_over(x) ** 2
    own = squares.sum(axis=1) * m / (m - 1)
    rest = np.maximum(squares.sum() - own, 1e-12 * squares.sum())
    return f.sf(own * (m - 2) / rest, s - 1, (m - 2) * (s - 1)) if squares.any() else np.ones(m)


def _left_over(x: np.ndarray) -> np.ndarray:  # (m, s) -> (m, s)
    """What neither the trial nor the seed explains."""
    return x - x.mean(axis=1, keepdims=True) - x.mean(axis=0, keepdims=True) + x.mean()


def _solved(
    square: np.ndarray, variance: np.ndarray, freedom: np.ndarray
) -> np.ndarray:  # (k,), (c, k), (c, k) -> (k,)
    """The p at which the sum of t(p)^2 times the variances is `square`, by bisection of its
    logarithm."""
    from scipy.stats import t

    low, high = (
        np.full(len(square), -37.0),
        np.zeros(len(square)),
    )  # below e^-37 nobody tells a p from 0
    for _ in range(40):
        middle = (low + high) / 2
        is_wider = (t.isf(np.exp(middle)[None] / 2, freedom) ** 2 * variance).sum(axis=0) > square
        low, high = np.where(is_wider, middle, low), np.where(is_wider, high, middle)
    return np.exp((low + high) / 2)
