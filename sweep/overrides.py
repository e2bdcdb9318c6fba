"""`--set name=value`: what a text on the command line changes in a study. The file itself stays as it is.

A parameter becomes fixed and leaves the space, the rows, the start points and fan_out; a field of the study is replaced;
`alias.NAME=DIR` redirects the model called NAME wherever it occurs; `space.caption=v1,v2` leaves a
searched parameter these choices, and leaves out the start points that have another one."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from sweep.errors import StudyError
from sweep.parameters import MODEL_PARAMETERS, PARAMETERS, SHORT_NAMES, expand, is_text
from sweep.space import contains, is_define_by_run, nearest
from sweep.study_file import literal

if TYPE_CHECKING:
    from sweep.study import Row, Study

TEXT_FIELDS = ("name", "model", "subject", "sampler", "perceptual", "pooled", "metrics", "pareto", "loggers", "scale")
VALUE_FIELDS = ("samples", "early_stopping", "max_concurrent", "study_seed", "train_seeds", "budget_hours", "budget_gpu_hours")
FILE_FIELDS = ("fixed", "space", "rows", "try_first", "baseline", "fan_out", "objective", "aliases", "scales")
_PLACES = ("fixed", "fan_out", "space", "rows", "try_first", "baseline")


def changes_of(study: Study, overrides: Mapping[str, str]) -> dict[str, Any]:
    """The fields of the study that the texts change, with their new values.

    Raises:
        StudyError: a name that is neither a parameter, a field that can be set, nor an alias of a model in use."""
    changed = {place: getattr(study, place) for place in (*_PLACES, "notes")}
    changed["aliases"] = dict(study.aliases)
    for name, text in overrides.items():
        if name.startswith("alias."):
            changed["aliases"][name.removeprefix("alias.")] = text
        elif name.startswith("space."):
            changed |= _with_choices(changed, name.removeprefix("space."), text)
        elif name == "model" or name == "epochs":
            changed |= _without(changed, name) | {name: text if name == "model" else literal(text)}
        elif name in TEXT_FIELDS + VALUE_FIELDS:
            changed[name] = text if name in TEXT_FIELDS else literal(text)
        else:
            _require_settable(name)
            changed |= _without(changed, name)
            changed["fixed"] = {**changed["fixed"], name: _value(name, text)}
    _require_used(replace(study, **changed), overrides)
    return changed


def _with_choices(changed: Mapping[str, Any], name: str, text: str) -> dict[str, Any]:
    """The space with that parameter chosen from the values between the commas, and the start points
    that lie in it."""
    from ray import tune  # the study file has imported it already

    space = changed["space"]
    if is_define_by_run(space) or name not in space:
        known = "" if is_define_by_run(space) else nearest(name, space)
        raise StudyError(f"`--set space.{name}` needs a parameter of the space, but `{name}` is none by name.{known} Change the study file.")
    domain = tune.choice([_value(name, value.strip()) for value in text.split(",")])
    rows = changed["try_first"]
    outside = [
        row
        for row in rows
        if name in row.configuration and not contains(domain, row.configuration[name])
    ]
    notes = [
        f"the start point with {name}={row.configuration[name]!r} is left out, "
        f"since `--set space.{name}` leaves {', '.join(map(str, domain.categories))}"
        for row in outside
    ]
    return {
        "space": {**space, name: domain},
        "try_first": tuple(row for row in rows if row not in outside),
        "notes": (*changed["notes"], *notes),
    }


def _require_settable(name: str) -> None:
    if name in FILE_FIELDS:
        raise StudyError(f"`--set` takes single values, but `{name}` is a part of the study file. Change it there.")
    if name not in PARAMETERS:
        known = (*PARAMETERS, *TEXT_FIELDS, *VALUE_FIELDS)
        raise StudyError(f"`--set` knows parameters and fields of a study, but there is none called `{name}`.{nearest(name, known)}")


def _value(name: str, text: str) -> Any:
    if is_text(name):
        return None if text == "None" else text
    return literal(text)


def _without(changed: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Every place of the study without this parameter, however it is spelt there."""
    names = set(SHORT_NAMES.get(name, (name,)))
    drop = functools.partial(_dropped, names=names)
    space = changed["space"]
    return {
        "fixed": drop(changed["fixed"]),
        "fan_out": drop(changed["fan_out"]),
        "space": _narrowed(space, names) if is_define_by_run(space) else drop(space),
        "rows": tuple(_row_without(row, names) for row in changed["rows"]),
        "try_first": tuple(_row_without(row, names) for row in changed["try_first"]),
        "baseline": _row_without(changed["baseline"], names) if changed["baseline"] else None,
    }


def _dropped(values: Mapping[str, Any], names: set[str]) -> dict[str, Any]:
    """`values` without `names`; a short name that covers one of them is spelt out first, so that its other half stays."""
    covered = any(names & set(longs) for short, longs in SHORT_NAMES.items() if short in values)
    spelt = expand(values) if covered else dict(values)
    return {name: value for name, value in spelt.items() if name not in names}


def _row_without(row: Row, names: set[str]) -> Row:
    return replace(row, configuration=_dropped(row.configuration, names))


def _narrowed(space: Callable[[Any], Mapping[str, Any]], names: set[str]) -> Callable[[Any], Mapping[str, Any]]:
    @functools.wraps(space)  # the source that describes it is still the user's
    def narrowed(trial: Any) -> Mapping[str, Any]:
        return _dropped(space(trial), names)

    return narrowed


def _require_used(study: Study, overrides: Mapping[str, str]) -> None:
    aliases = [name.removeprefix("alias.") for name in overrides if name.startswith("alias.")]
    if not aliases:
        return
    plain_study = replace(study, aliases={})
    used = {plain_study.values_of(c).get(name) for name in MODEL_PARAMETERS for c in plain_study.telling_configurations(name)}
    used |= {value for name, values in study.fan_out.items() if name in MODEL_PARAMETERS for value in values}
    for alias in aliases:
        if alias not in used:
            names = ", ".join(sorted(str(name) for name in used if name)) or "the defaults"
            raise StudyError(f"alias.{alias} redirects a model of the study, but none is called {alias!r}. It uses {names}.")
