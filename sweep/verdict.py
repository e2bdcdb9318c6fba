"""What came of a confirmation: the winner holds, does not hold, or that is not settled.

The rival is fixed beforehand: the study's second best. Against it the winner is tested once. That
another finalist is better than the winner is tested against each, and corrected for how many there
are. How far training seeds scatter is taken from all finalists together (seed_scatter.py). The
values are given; nothing here knows of pictures."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np

from sweep.searcher import FAIL
from sweep.seed_scatter import SeedScatter, p_value
from sweep.trial_rows import Trial

P_HOLDS = 0.035
P_DOES_NOT_HOLD = 0.015
"""One-sided, 5 % together: so often are equal finalists told apart at most. Most of it is spent on
what a confirmation is made for."""


class Verdict(Enum):
    HOLDS = "holds"
    DOES_NOT_HOLD = "does not hold"
    NOT_SETTLED = "not settled"


@dataclass(frozen=True)
class Difference:
    """The winner's mean objective less a rival's. Standard error and p are NaN where one training
    seed says nothing of how far they scatter. `p_better`, `p_worse`: one-sided, of the winner."""

    rival: str
    mean: float
    standard_error: float
    p_better: float
    p_worse: float  # corrected for the number of rivals


@dataclass(frozen=True)
class Judgement:
    """`ranked`: the finalists that were scored again and their mean objective, the lowest first.
    `fixed`: the difference to the rival that was chosen beforehand; None without one. `worst`: to
    the rival that speaks most against the winner."""

    verdict: Verdict
    winner: str
    ranked: tuple[tuple[str, float], ...]
    n_seeds: int
    fixed: Difference | None = None
    worst: Difference | None = None

    @property
    def place(self) -> int:
        """The winner's place now, from 1; 0 where it was not scored."""
        return next((i for i, (name, _) in enumerate(self.ranked, 1) if name == self.winner), 0)


def judge(finalists: Sequence[str], values: Mapping[str, Sequence[float]]) -> Judgement:
    """The verdict on the first of the finalists (names, the study's best first) by the objective of
    each under the same training seeds; one without values could not be scored."""
    scored = [name for name in finalists if name in values]
    means = {name: float(np.mean(values[name])) for name in scored}
    ranked = tuple(sorted(means.items(), key=lambda pair: pair[1]))
    n_seeds = min((len(values[name]) for name in scored), default=0)
    winner, rivals = finalists[0], [name for name in scored if name != finalists[0]]
    if winner not in values or not rivals:
        return Judgement(Verdict.NOT_SETTLED, winner, ranked, n_seeds)
    table = np.array([values[name][:n_seeds] for name in (winner, *rivals)], dtype=float)
    found = _differences(table, rivals)
    fixed, worst = found[0], min(found, key=lambda one: (one.p_worse, -one.mean))
    if worst.p_worse <= P_DOES_NOT_HOLD:
        verdict = Verdict.DOES_NOT_HOLD
    elif fixed.p_better <= P_HOLDS and ranked[0][0] == winner:
        verdict = Verdict.HOLDS
    else:
        verdict = Verdict.NOT_SETTLED
    return Judgement(verdict, winner, ranked, n_seeds, fixed, worst)


def verdict_of(finalists: Sequence[Mapping[str, Any]], trials: Sequence[Trial]) -> list[str]:
    """What came of it, in a line for each thing to know: `finalists` are rows of the study's
    trials, `trials` those of the confirmation, which call themselves by the study's ids."""
    names = [row["trial"] for row in finalists]
    scored = [trial for trial in trials if trial.state != FAIL and trial.best]
    values = {trial.labels.get("was", trial.id): _values(trial) for trial in scored}
    return lines_of(judge(names, values))


def lines_of(found: Judgement) -> list[str]:
    """The judgement in words, the verdict first."""
    lines = [f"{found.verdict.value}: {_reason(found)}."]
    for one in dict.fromkeys(one for one in (found.fixed, found.worst) if _is_news(one, found)):
        role = ", which was second in the study" if one is found.fixed else ""
        lines.append(f"{found.winner} less {one.rival}{role}: {_numbers(one, found)}.")
    if found.n_seeds == 1:
        lines.append(
            "One training seed does not tell how far seeds scatter, so nothing is settled by it. "
            "Use --seeds 3 or more."
        )
    if found.fixed is not None:
        lines.append(
            "The confirmation may have another number of pictures than the study, and FID depends "
            "on that number: compare the finalists only with each other."
        )
    return lines


def _differences(table: np.ndarray, rivals: Sequence[str]) -> list[Difference]:
    """The winner (row 0 of the k x s table of finalists and seeds) less each rival."""
    means = table[0].mean() - table.mean(axis=1)
    if table.shape[1] < 2:
        error = p_better = p_worse = np.full(len(table), math.nan)
    else:
        components = SeedScatter(table).of_differences(0)
        error = np.sqrt(sum(one.variance for one in components))
        p = p_value(means, components)  # two-sided
        p_better, p_worse = (np.where(sign * means > 0, p / 2, 1 - p / 2) for sign in (-1, 1))
    corrected = np.minimum(1.0, len(rivals) * p_worse)
    rows = zip(rivals, means[1:], error[1:], p_better[1:], corrected[1:], strict=True)
    return [Difference(name, *map(float, numbers)) for name, *numbers in rows]


def _values(trial: Trial) -> tuple[float, ...]:
    """Its objective under each training seed, in their order."""
    return trial.seed_objectives.get(trial.best[0], (trial.objective,)) if trial.best else ()


def _reason(found: Judgement) -> str:
    if not found.place:
        return f"{found.winner}, which won, could not be scored again"
    if found.fixed is None:
        return f"no rival of {found.winner} could be scored again"
    value, (best, lowest) = dict(found.ranked)[found.winner], found.ranked[0]
    n = len(found.ranked)
    place = (
        f"is the best of {n} again" if found.place == 1 else f"is number {found.place} of {n} now"
    )
    ahead = "" if found.place == 1 else f", and {best} is the best, {lowest:.4f}"
    if found.verdict is Verdict.DOES_NOT_HOLD:
        return f"{found.winner} {place}, {value:.4f}{ahead}; {found.worst.rival} is better than it"
    if found.verdict is Verdict.HOLDS:
        return f"{found.winner} {place}, {value:.4f}, and better than {found.fixed.rival}"
    return f"{found.winner} {place}, {value:.4f}{ahead}; the difference is within what seeds do"


def _is_news(one: Difference | None, found: Judgement) -> bool:
    """The rival of before always; the one that speaks against the winner where it is ahead of
    it."""
    return one is not None and (one is found.fixed or one.mean > 0)


def _numbers(one: Difference, found: Judgement) -> str:
    seeds = f"{found.n_seeds} training seed{'s' * (found.n_seeds != 1)}"
    if math.isnan(one.standard_error):
        return f"{one.mean:.4f} over {seeds}"
    is_better = one.mean < 0
    p, word = (one.p_better, "better") if is_better else (one.p_worse, "worse")
    return (
        f"{one.mean:.4f}, standard error {one.standard_error:.4f} over {seeds}; "
        f"p {p:.3f} for {word}, one-sided"
        f"{'' if is_better else f', corrected for {len(found.ranked) - 1} rivals'}"
    )
