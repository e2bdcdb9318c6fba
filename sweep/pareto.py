"""Trade-offs: metrics that a study weighs against each other, `pareto=("lpips", "fid")`, and the trials that none beats in all of them.

A trial stands for its best rung, by the objective: that is the adapter it hands out. Nothing here samples: that is searcher.py's."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from sweep.errors import ObjectiveError
from sweep.objective import METRICS, finite_value, more_is_better
from sweep.space import is_define_by_run

if TYPE_CHECKING:
    from sweep.messages import Outcome
    from sweep.study import Study
    from sweep.trial_rows import Trial

EPOCHS = "epochs"
"""The one axis that is no metric: how long it took to get there."""

AXES = (*METRICS, EPOCHS)

MOST_OF_A_GENERATION = 50


def generation_size(n_trials: int) -> int:
    """How many complete trials are a generation of NSGA-II. Its first one is random, and Optuna's 50 would be all of a short study."""
    return min(MOST_OF_A_GENERATION, max(4, n_trials // 8))


def directions_of(axes: Sequence[str]) -> list[str]:
    """'minimize' or 'maximize' for each axis, as Optuna says it."""
    return ["maximize" if more_is_better(axis) else "minimize" for axis in axes]


def vector_of(axes: Sequence[str], epoch: int, values: Sequence[Mapping[str, float]]) -> tuple[float, ...]:
    """The values on each axis of an evaluation at that epoch, as they were measured; `values` has an evaluation for each training seed,
    of which it takes the mean.

    Raises:
        ObjectiveError: a metric is missing, NaN or infinite."""
    return tuple(
        float(epoch) if axis == EPOCHS else statistics.fmean(finite_value(axis, one, wanted_by="`pareto`") for one in values) for axis in axes
    )


def add_vectors(trials: Iterable[Trial], axes: Sequence[str], outcomes: Mapping[str, Outcome]) -> None:
    """Give trials that were read from the records the vectors of their rungs, where the evaluations (`outcomes`, by key) have them.

    A rung whose evaluation is lost, or was made before a metric was asked for, has none."""
    for trial in trials if axes else ():
        for epoch, _, *keys in trial.rungs:
            known = [outcomes[key].values for key in keys if key in outcomes]
            if known and len(known) == len(keys):
                with suppress(ObjectiveError):
                    trial.vectors[epoch] = vector_of(axes, epoch, known)


def front_of(trials: Iterable[Trial], axes: Sequence[str]) -> list[Trial]:
    """The trials that no other beats on one axis without being worse on another, the best on the first axis first. Those that tie on
    all axes are all on it; one without a vector is not."""
    signs = [-1 if direction == "maximize" else 1 for direction in directions_of(axes)]
    costs = {trial.id: (tuple(s * v for s, v in zip(signs, trial.vector, strict=True)), trial) for trial in trials if trial.vector}
    front: list[tuple[tuple[float, ...], Trial]] = []
    for own, trial in sorted(costs.values(), key=lambda pair: (pair[0], pair[1].number)):  # whoever beats it comes before it
        if not any(other != own and all(a <= b for a, b in zip(other, own, strict=True)) for other, _ in front):
            front.append((own, trial))
    return [trial for _, trial in front]


def axes_text(axes: Sequence[str]) -> str:
    """'lpips and fid', 'lpips, fid and epochs'."""
    return f"{', '.join(axes[:-1])} and {axes[-1]}"


def notes_on(study: Study) -> list[str]:
    """What a person must know of a study with `pareto` before it runs."""
    if not study.pareto or study.kind != "sampled":
        return []
    wanted = [f"{'high' if direction == 'maximize' else 'low'} {axis}" for axis, direction in zip(study.pareto, directions_of(study.pareto))]
    how = {
        "nsga2": f"NSGA-II, in generations of {generation_size(study.n_trials)},",
        "tpe": "TPE",
        "random": "Random search",
    }[study.sampler]
    notes = [
        f"{how} looks for {axes_text(wanted)} at once. Early stopping is off: whom to stop takes one order. "
        "The table is ranked by the objective; the Pareto front stands beside it."
    ]
    if study.sampler == "nsga2" and is_define_by_run(study.space):
        notes.append("NSGA-II draws at random what only some configurations have; sampler='tpe' learns that too.")
    return notes
