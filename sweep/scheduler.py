"""Asynchronous successive halving as plain arithmetic (Li et al., arXiv:1810.05934), the stopping variant.

Nothing here knows of Ray or Optuna. `sweep/driver.py` asks it; a relaunch refills its rungs from the records."""

from __future__ import annotations

import math
from collections.abc import Iterable


class Asha:
    """Says at each rung whether a trial goes on. Lower values are better.

    A trial that reaches a rung goes on if fewer than ceil(n / reduction_factor) of the n values recorded there, its own
    included, are better than its own. So the first one at a rung always goes on: nothing is known yet to stop it by.

    rungs: epochs, ascending. At the last one nothing is decided: a trial that reaches it is complete.
    reduction_factor: None switches early stopping off."""

    def __init__(self, rungs: Iterable[int], reduction_factor: float | None) -> None:
        self.rungs = tuple(rungs)
        self.reduction_factor = reduction_factor
        self._values: dict[int, dict[str, float]] = {epoch: {} for epoch in self.rungs}

    def record(self, trial: str, epoch: int, value: float) -> None:
        """Fill a rung without deciding anything: a value from the records, or of a trial that may not be stopped.

        A value that is not finite is not recorded, and an epoch that is no rung of the study is not one here."""
        if epoch in self._values and math.isfinite(value):
            self._values[epoch][trial] = value

    def keeps(self, trial: str, epoch: int, value: float) -> bool:
        """Record the value and say whether the trial goes on. Asking twice is recording once."""
        if not math.isfinite(value):
            return False
        self.record(trial, epoch, value)
        if self.reduction_factor is None or epoch not in self.rungs[:-1]:
            return True
        others = self._values[epoch].values()
        n_better = sum(other < value for other in others)
        return n_better < math.ceil(len(others) / self.reduction_factor)

    def n_at(self, epoch: int) -> int:
        """How many trials have a value at this rung."""
        return len(self._values[epoch])
