"""A study's space in Optuna's terms: a distribution for each parameter, and values to and fro.

Optuna's storage holds numbers and texts only, and has no quantum on a log scale. What it cannot
hold has another form there: a list its JSON text, a quantised value on a log scale itself, without
the quantum. Define-by-run spaces talk to Optuna themselves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from sweep.space import Range, choices_of, is_define_by_run, range_of
from sweep.values import json_text

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

    from sweep.study import Study


@dataclass(frozen=True)
class Dimension:
    """A parameter as Optuna knows it. `values`: those of a choice; `range`: of numbers. One of the
    two."""

    distribution: BaseDistribution
    values: tuple[Any, ...] = ()
    range: Range | None = None

    def drawn(self, param: Any) -> Any:
        """The value that Optuna's parameter stands for."""
        if self.range is not None:
            return self.range.on_grid(param) if self.range.quantum is not None else param
        return next(
            (
                value
                for value in self.values
                if type(in_optuna(value)) is type(param) and in_optuna(value) == param
            ),
            param,
        )

    def holds(self, value: Any) -> bool:
        """Whether a trial with this value is one of the space."""
        try:
            return self.distribution._contains(self.distribution.to_internal_repr(in_optuna(value)))
        except (ValueError, TypeError):
            return False


def in_optuna(value: Any) -> Any:
    """The value in the form that Optuna's storage holds."""
    return json_text(value) if isinstance(value, (list, dict)) else value


def dimensions_of(study: Study) -> dict[str, Dimension]:
    """Every parameter of the study's space; without a space, what all listed configurations give,
    a choice among their values.

    A define-by-run space has none."""
    if is_define_by_run(study.space):
        return {}
    if study.space:
        return {name: _dimension(domain) for name, domain in study.space.items()}
    # All of them, however few are wanted now: Optuna has no way to widen a choice while a study
    # runs.
    listed = [row.configuration for row in replace(study, samples=None).listed]
    return {
        name: _choice(list({json_text(c[name]): c[name] for c in listed}.values()))
        for name in _common_names(listed)
    }


def _dimension(domain: Any) -> Dimension:
    from optuna.distributions import FloatDistribution, IntDistribution

    choices = choices_of(domain)
    if choices is not None:
        return _choice(choices)
    own = range_of(domain)
    step = None if own.is_log else own.quantum
    if own.is_whole:
        return Dimension(
            IntDistribution(own.low, own.high, log=own.is_log, step=step or 1), range=own
        )
    return Dimension(FloatDistribution(own.low, own.high, log=own.is_log, step=step), range=own)


def _choice(values: Sequence[Any]) -> Dimension:
    from optuna.distributions import CategoricalDistribution

    return Dimension(
        CategoricalDistribution([in_optuna(value) for value in values]), values=tuple(values)
    )


def _common_names(configurations: Sequence[Mapping[str, Any]]) -> list[str]:
    """Names that every row gives; what only some give is the others' default, and Optuna need not
    know it."""
    if not configurations:
        return []
    return [name for name in configurations[0] if all(name in c for c in configurations)]
