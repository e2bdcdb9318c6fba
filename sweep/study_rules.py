"""What a study may say: the rules that are checked when a Study is made, each with its way out. Changes nothing."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from sweep.errors import ConfigError, ModelError, StudyError
from sweep.loggers import check_loggers
from sweep.objective import DEFAULT_SCALES, Objective
from sweep.parameters import expand, require_known
from sweep.pareto import AXES, EPOCHS
from sweep.scale import check_scales
from sweep.space import (
    contains,
    describe_domain,
    grid_of,
    is_define_by_run,
    is_grid,
    nearest,
    probes_of,
    random_configurations,
    require_domain,
)
from trainables.config import EVAL_PARAMETERS
from trainables.metric_weights import metric_name_of
from trainables.storage import require_plain_name

if TYPE_CHECKING:
    from sweep.study import Study

SAMPLERS = ("tpe", "random", "grid", "nsga2")
LIMITS = ("samples", "max_concurrent", "budget_hours", "budget_gpu_hours")
"""Fields that say how much is tried, not what: they can change while a study runs."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def check_study(study: Study) -> None:
    """Raises: StudyError for the first rule that the study breaks."""
    _check_fields(study)
    check_scales(study)
    _check_names(study)
    _check_fan_out(study)
    _check_replicates(study)
    _check_start_points(study)
    _check_trial_ids(study)
    _check_values(study)
    _check_lengths(study)


def _check_fields(study: Study) -> None:
    if study.name and not _NAME.fullmatch(study.name):
        raise StudyError(
            f"A study's name is made of A-Z a-z 0-9 . _ - and begins with a letter or digit, but it is {study.name!r}. Use e.g. --name mine."
        )
    if study.name:
        require_plain_name(study.name, "A study's name")
    if study.sampler not in SAMPLERS:
        raise StudyError(f"`sampler` must be one of {', '.join(SAMPLERS)}, but it is {study.sampler!r}.{nearest(study.sampler, SAMPLERS)}")
    if not isinstance(study.objective, Objective):
        raise StudyError(f"`objective` must be an Objective, but it is {study.objective!r}. Use e.g. Objective(lpips=0.5, fid=0.5).")
    for name, metric in (("perceptual", "lpips"), ("pooled", "fid")):
        known = tuple(backbone for scaled, backbone in DEFAULT_SCALES if scaled == metric)
        if (value := getattr(study, name)) is not None and value not in known:
            raise StudyError(f"`{name}` must be one of {', '.join(known)}, but it is {value!r}.{nearest(str(value), known)}")
    _check_metrics(study)
    check_loggers(study.loggers)
    _check_pareto(study)
    check_limits({name: getattr(study, name) for name in LIMITS})
    _require_whole("train_seeds", study.train_seeds, minimum=1, optional=False)
    _require_whole("study_seed", study.study_seed, minimum=0, optional=False)
    _require_above("early_stopping", None if study.early_stopping == "auto" else study.early_stopping, above=1, example="3, or 'off'")


def check_limits(limits: Mapping[str, Any]) -> None:
    """Raises: StudyError for a name that is none of LIMITS, or a value that breaks its rule."""
    for name, value in limits.items():
        if name not in LIMITS:
            raise StudyError(f"`{name}` is none of the limits {', '.join(LIMITS)}.{nearest(name, LIMITS)}")
        if name.startswith("budget_"):
            _require_above(name, value, above=0, example="8")
        else:
            _require_whole(name, value, minimum=1, optional=True)


def _check_metrics(study: Study) -> None:
    if not isinstance(study.metrics, tuple):
        raise StudyError(f"`metrics` must be a list of further metrics, but it is {study.metrics!r}. Use e.g. ('dinov2', 'clip_t').")
    try:
        names = [metric_name_of(text) for text in study.metrics]
    except ModelError as error:
        raise StudyError(f"`metrics`: {error}") from error
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise StudyError(f"A further metric has one network in a study, but `metrics` names {twice} twice. Use `sweep rescore` for the other.")
    for name in study.objective.further_metrics:
        if name not in names:
            raise StudyError(f"The objective uses `{name}`, but the study does not compute it. Use metrics=({name!r},), or {name}=FOLDER.")


def _check_pareto(study: Study) -> None:
    axes = study.pareto
    if not isinstance(axes, tuple) or not all(isinstance(axis, str) for axis in axes):
        raise StudyError(f"`pareto` must be a list of metrics, but it is {axes!r}. Use e.g. ('lpips', 'fid').")
    for axis in axes:
        if axis not in AXES:
            raise StudyError(f"`pareto` knows no metric `{axis}`.{nearest(axis, AXES)} It knows {', '.join(AXES)}.")
    if axes and (len(axes) not in (2, 3) or len(set(axes)) < len(axes)):
        raise StudyError(f"`pareto` weighs two or three different metrics, but it is {list(axes)}. Use e.g. ('lpips', 'fid'), or an objective.")
    if study.sampler == "nsga2" and not axes:
        raise StudyError("sampler='nsga2' weighs metrics against each other, but the study names none. Use pareto=('lpips', 'fid'), or 'tpe'.")
    if axes and study.early_stopping not in (None, "auto"):
        raise StudyError(
            f"Early stopping takes one order of the trials, but `early_stopping` is {study.early_stopping!r} beside "
            f"pareto={axes!r}. Leave it out, or leave out `pareto`."
        )
    for name in study.needed_metrics:
        if name not in [metric_name_of(text) for text in study.metrics]:
            raise StudyError(f"`pareto` uses `{name}`, but the study does not compute it. Use metrics=({name!r},), or {name}=FOLDER.")


def _check_lengths(study: Study) -> None:
    if EPOCHS in study.pareto and not any(EPOCHS in configuration for configuration in study.telling_configurations(EPOCHS)):
        raise StudyError(
            "`pareto` weighs `epochs` only between trials of different lengths, but none is searched. Add e.g. 'epochs': tune.choice([3, 6, 12]) to "
            "`space`; for what each rung bought, use `analysis tables --table epochs`."
        )


def _check_names(study: Study) -> None:
    require_known(study.fixed, "`fixed`")
    require_known(study.fan_out, "`fan_out`")
    if "epochs" in study.fixed:
        raise StudyError(f"The length is a field of its own, but `fixed` sets `epochs`. Use Study(epochs={study.fixed['epochs']!r}).")
    _require_apart("fixed", study.fixed, "fan_out", study.fan_out)
    if study.rows and (is_define_by_run(study.space) or study.space):
        raise StudyError("A study has `rows` or a `space`, but this one has both. Use try_first=[...] for start points of a space.")
    if is_define_by_run(study.space):
        if study.sampler == "grid":
            raise StudyError("sampler='grid' enumerates, but `space` is a define-by-run function. Use sampler='tpe' or 'random'.")
        return
    if not isinstance(study.space, Mapping):
        raise StudyError(f"`space` maps names to search domains, but it is {study.space!r}. Use e.g. {{'rank': tune.choice([8, 16])}}.")
    require_known(study.space, "`space`")
    _require_apart("fixed", study.fixed, "space", study.space)
    _require_apart("fan_out", study.fan_out, "space", study.space)


def _check_fan_out(study: Study) -> None:
    for name, values in study.fan_out.items():
        if name not in EVAL_PARAMETERS:
            raise StudyError(f"`fan_out` takes evaluation parameters, but `{name}` is none. Put it into `space`.")
        if not isinstance(values, (list, tuple)) or not values:
            raise StudyError(f"`fan_out` maps a name to a list of values, but `{name}` is {values!r}. Use e.g. [4.0, 6.0, 7.5].")
        for value in values:
            _try(study, {name: value}, "fan_out")


def _check_replicates(study: Study) -> None:
    if study.train_seeds > 1 and any("train_seed" in configuration for configuration in study.telling_configurations("train_seed")):
        raise StudyError(
            f"Replicates train every configuration under {study.train_seeds} seeds, but `train_seed` is searched as well. "
            f"Take it out of the space and rows, or use train_seeds=1."
        )


def _check_start_points(study: Study) -> None:
    if is_define_by_run(study.space) or not study.space:
        return
    for row in study.try_first:
        _require_in_space(study, row.configuration)  # type: ignore[union-attr]
        if study.sampler == "grid":
            _require_every_name(study, row.configuration, "try_first")  # type: ignore[union-attr]
    if study.baseline:  # what the others are compared with need be none of them
        configuration = study.baseline.configuration  # type: ignore[union-attr]
        require_known(configuration, "`baseline`")
        _require_apart("baseline", configuration, "fan_out", study.fan_out)
        _require_every_name(study, configuration, "baseline")


def _check_trial_ids(study: Study) -> None:
    points = (*((study.baseline,) if study.baseline else ()), *study.try_first)
    ids = [row.trial for row in (*points, *study.rows)]  # type: ignore[union-attr]
    if not any(ids):
        return
    for name in ids:
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise StudyError(
                f"Either all rows name their trial or none does, by A-Z a-z 0-9 . _ -, but one of "
                f"`rows` has {name!r}. Use e.g. 'trial': 't0007', or leave it out everywhere."
            )
        if ids.count(name) > 1:
            raise StudyError(
                f"A trial has an id of its own, but `rows` names {name!r} {ids.count(name)} times. "
                "Give each row another."
            )
    if points:
        raise StudyError(
            f"Only `rows` name their trials, but there are start points, too, and one is "
            f"{points[0].trial!r}. Leave out `baseline` and `try_first`, or the names."
        )


def _require_in_space(study: Study, configuration: Mapping[str, Any]) -> None:
    for name, value in configuration.items():
        if name not in study.space:  # type: ignore[operator]
            known = nearest(name, study.space)  # type: ignore[arg-type]
            raise StudyError(
                f"`try_first` gives values of the space, but `{name}` is not in it.{known} Add it "
                "to `space`, or use `fixed`."
            )
        domain = study.space[name]  # type: ignore[index]
        if not contains(domain, value):
            raise StudyError(
                f"`try_first` gives values of the space, but {name}={value!r} is outside of "
                f"{describe_domain(domain)}. Add it."
            )


def _require_every_name(study: Study, configuration: Mapping[str, Any], place: str) -> None:
    given = expand(configuration)
    missing = [
        name
        for name in study.space
        if name not in configuration and not set(expand({name: None})) <= set(given)
    ]  # type: ignore[union-attr]
    if missing:
        raise StudyError(f"`{place}` must give every name of the space here, but {', '.join(missing)} is missing. Add a value for each.")


def _check_values(study: Study) -> None:
    _try(study, {}, "fixed")
    if is_define_by_run(study.space):
        _check_draws(study)
    else:
        _check_domains(study, study.space)
    for row in study.rows:
        _try(study, row.configuration, "rows")  # type: ignore[union-attr]
    for row in study.try_first:
        _try(study, row.configuration, "try_first")  # type: ignore[union-attr]
    if study.baseline:
        _try(study, study.baseline.configuration, "baseline")  # type: ignore[union-attr]


def _check_domains(study: Study, space: Mapping[str, Any]) -> None:
    for name, domain in space.items():
        require_domain(name, domain)
        if is_grid(domain) and study.sampler != "grid":
            raise StudyError(f"tune.grid_search needs sampler='grid', but `{name}` is one under {study.sampler!r}. Use tune.choice.")
        for value in probes_of(domain):
            _try(study, {name: value}, "space")
    if study.sampler == "grid":
        next(iter(grid_of(space)))


def _check_draws(study: Study) -> None:
    for configuration in random_configurations(study.space, 8, seed=0):
        require_known(configuration, "`space`")
        _require_apart("fixed", study.fixed, "space", configuration)
        _require_apart("fan_out", study.fan_out, "space", configuration)
        _try(study, configuration, "space")


def _try(study: Study, configuration: Mapping[str, Any], place: str) -> None:
    try:
        study.split(configuration)
    except (ConfigError, StudyError) as error:
        given = ", ".join(f"{name}={value!r}" for name, value in configuration.items())
        raise StudyError(f"`{place}`{f' gives {given}' if given else ''}: {error}") from error


def _require_apart(place: str, names: Iterable[str], other: str, others: Iterable[str]) -> None:
    for name in sorted(set(expand(dict.fromkeys(names))) & set(expand(dict.fromkeys(others)))):
        raise StudyError(f"A parameter is set in one place, but `{name}` is in `{place}` and in `{other}`. Take it out of one of them.")


def _require_whole(name: str, value: Any, *, minimum: int, optional: bool) -> None:
    if value is None and optional:
        return
    if isinstance(value, bool) or not isinstance(value, int) or value < minimum:
        raise StudyError(f"`{name}` must be an integer of at least {minimum}, but it is {value!r}. Use e.g. {max(minimum, 16)}.")


def _require_above(name: str, value: Any, *, above: float, example: str) -> None:
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value) or value <= above:
        raise StudyError(f"`{name}` must be a number greater than {above}, but it is {value!r}. Use e.g. {example}.")
