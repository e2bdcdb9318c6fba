"""NSGA-II (Deb et al. 2002) for studies that are rebuilt: Optuna's, but its generations follow from the complete trials alone.

Optuna's own sampler notes the generation of a trial when it draws it, and the parents of a generation when they are first wanted, in
the order of merit then and of numbers later. A rebuilt study has none of these notes, and a listed trial never gets one. Here each
`population_size` complete trials, by number, are a generation, so a study that was cut off draws what it would have drawn."""

from __future__ import annotations

import optuna
from optuna.trial import FrozenTrial, TrialState


class Generations(optuna.samplers.NSGAIISampler):
    """For one draw: what it has found out of the trials holds as long as none is added."""

    def __init__(self, *, population_size: int, seed: int) -> None:
        super().__init__(population_size=population_size, seed=seed)
        self._parents: list[list[FrozenTrial]] = [[]]  # of each generation; the first one has none
        self._size = population_size

    def get_trial_generation(self, study: optuna.Study, trial: FrozenTrial) -> int:
        return len(_complete(study)) // self._size

    def get_population(self, study: optuna.Study, generation: int) -> list[FrozenTrial]:
        return _complete(study)[generation * self._size : (generation + 1) * self._size]

    def get_parent_population(self, study: optuna.Study, generation: int) -> list[FrozenTrial]:
        while len(self._parents) <= generation:
            # It asks for the parents before them, which are there: so a thousand generations are no thousand calls deep.
            self._parents.append(self.select_parent(study, len(self._parents)))
        return self._parents[generation]


def _complete(study: optuna.Study) -> list[FrozenTrial]:
    return study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
