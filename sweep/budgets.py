"""Budgets: what all launches of a study may use before no new trial starts. Those that run then are finished, not thrown away."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from sweep.study import Study


class Usage(Protocol):
    """What all launches of the study have used until now."""

    @property
    def hours(self) -> float: ...

    @property
    def gpu_hours(self) -> float: ...


class UsageOfThisLaunch:
    """For where no log of launches is kept, and no GPU."""

    gpu_hours = 0.0

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock, self._started_at = clock, clock()

    @property
    def hours(self) -> float:
        return (self._clock() - self._started_at) / 3600


def used_up(study: Study, usage: Usage) -> str | None:
    """Which budget is used up, in words; None where none is."""
    for budget, used, unit in ((study.budget_hours, usage.hours, "hours"), (study.budget_gpu_hours, usage.gpu_hours, "GPU hours")):
        if budget is not None and used > budget:
            return f"the budget of {budget:g} {unit} is used up"
    return None
