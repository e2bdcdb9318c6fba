"""Study: a subject, models, a space, an evaluation protocol, an objective and a budget; and what of a configuration is
a training, a length or an evaluation. What it will cost is in plan.py; nothing here looks at a subject, a model or a device.

    study = Study(space={"rank": tune.choice([8, 16]), "guidance": tune.choice([2.0, 4.0])}, epochs=Epochs(max=12, rungs=(3, 6)))
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any

from sweep.comparison import compare_studies
from sweep.errors import StudyError, SweepError
from sweep.loggers import OFF
from sweep.objective import METRICS, Objective, is_similarity
from sweep.overrides import changes_of
from sweep.parameters import MODEL_PARAMETERS, expand, require_known, spellings
from sweep.scale import AUTO, Scale, at_scale, chosen_scale
from sweep.space import Space, describe_space, grid_of, is_define_by_run, probes_of, random_configurations
from sweep.study_file import execute, only_instance, read_source
from sweep.study_rules import check_study
from sweep.values import carried, carried_values, plain
from trainables.config import EVAL_PARAMETERS, NUMERICS_VERSION, TRAIN_PARAMETERS, EvalConfig, TrainConfig
from trainables.metric_weights import metric_name_of

__all__ = ["DEFAULT_EPOCHS", "DEFAULT_SAMPLES", "Epochs", "Row", "Scale", "Study", "compare_studies", "load_study"]

DEFAULT_SAMPLES = 16
DEFAULT_REDUCTION_FACTOR = 3.0
_DEFAULT_MODELS = {"train_model": TrainConfig().train_model, "infer_model": EvalConfig().infer_model}


def load_study(path: str | Path, overrides: Mapping[str, str] | None = None, *, source: str | None = None) -> Study:
    """The study that the file defines, at its scale, with `--set name=value` texts applied; `.source` is its text, `.file` its path.

    `source` is executed in place of the file's text, as if it stood there: what a study's folder has stored.

    Raises:
        StudyError: the file is missing, raises, or defines no study or several; a value breaks a rule."""
    file = Path(path)
    source = read_source(file) if source is None else source
    study = only_instance(execute(source, file), Study, file)
    try:
        study = replace(study, file=str(file), source=source)
        scale = chosen_scale(study.with_overrides(overrides or {}))  # it is the models asked for that decide
        study = at_scale(study, scale, without=overrides or {}).with_overrides(overrides or {})
        return replace(study, name=study.name or file.stem, overrides=dict(overrides or {}))
    except SweepError as error:
        sets = " ".join(f"--set {name}={text}" for name, text in (overrides or {}).items())
        raise StudyError(f"{file}{f' with {sets}' if sets else ''}: {error}") from error


@dataclass(frozen=True, kw_only=True)
class Epochs:
    """The length axis: every trial is evaluated at each rung, up to `max`, which is always the last one."""

    max: int
    rungs: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        given = tuple(self.rungs)
        for epoch in (*given, self.max):
            if isinstance(epoch, bool) or not isinstance(epoch, int) or epoch < 1:
                raise StudyError(f"`epochs` must be positive integers, but one is {epoch!r}. Use e.g. Epochs(max=12, rungs=(3, 6, 12)).")
        if any(later <= earlier for earlier, later in zip(given, given[1:], strict=False)) or given[-1:] > (self.max,):
            raise StudyError(f"`rungs` must increase up to max={self.max}, but they are {list(given)}. Use e.g. rungs=(3, 6, 12).")
        object.__setattr__(self, "rungs", given if given[-1:] == (self.max,) else (*given, self.max))

    @classmethod
    def geometric(cls, max: int, first: int, factor: float = 3) -> Epochs:
        """Rungs at first, first * factor, first * factor^2 ... below `max`, and at `max`."""
        if not factor > 1 or first < 1:
            raise StudyError(f"Geometric epochs need factor > 1 and first >= 1, but they are {factor!r} and {first!r}. Use e.g. factor=3.")
        rungs, rung = [], float(first)
        while round(rung) < max:
            rungs.append(round(rung))
            rung *= factor
        return cls(max=max, rungs=tuple(dict.fromkeys(rungs)))


DEFAULT_EPOCHS = Epochs(max=12, rungs=(3, 6))


@dataclass(frozen=True)
class Row:
    """One listed configuration, and free labels that only tables read."""

    configuration: Mapping[str, Any]
    labels: Mapping[str, Any] = field(default_factory=dict)
    trial: str = ""  # the id of its trial; "": made of the trial's number


@dataclass(frozen=True, kw_only=True)
class Study:
    """What a study file defines. Every field has a default that suits the embedded subject.

    Raises:
        StudyError: a value breaks a rule; the message names it, and the way out."""

    name: str = ""  # "": the file's stem
    subject: str = "embedded:subject"
    model: str | None = None  # short for fixed={"train_model": ..., "infer_model": ...}
    aliases: Mapping[str, str] = field(default_factory=dict)  # model name -> what it stands for here
    fixed: Mapping[str, Any] = field(default_factory=dict)
    space: Space = field(default_factory=dict)  # name -> domain of Ray Tune, or callable(optuna.Trial) -> dict
    epochs: Epochs | int | Sequence[int] | None = None  # None: DEFAULT_EPOCHS, or no rungs below a sampled length
    rows: Sequence[Row | Mapping[str, Any]] = ()  # instead of a space; "labels" in a mapping is free
    try_first: Sequence[Row | Mapping[str, Any]] = ()
    # Tried before everything else, also outside of the space; the others are paired with it.
    baseline: Row | Mapping[str, Any] | None = None
    fan_out: Mapping[str, Sequence[Any]] = field(default_factory=dict)  # evaluation values scored at each trial's last epoch
    sampler: str = "tpe"  # "tpe", "random", "grid"; with `pareto` also "nsga2"
    samples: int | None = None  # None: 16 where sampled, all where listed
    objective: Objective = field(default_factory=Objective)  # ranks the trials
    pareto: Sequence[str] = ()  # two or three metrics that the sampler weighs against each other instead, e.g. ("lpips", "fid"), ("lpips", "epochs")
    perceptual: str | None = None  # network of LPIPS; None: the embedded one for embedded models, lpips:alex for others
    pooled: str | None = None  # network of FID and KID; None: the embedded one for embedded models, inception for others
    metrics: Sequence[str] = ()  # further ones: "dinov2", "clip_i", "clip_t", "face", each also as "NAME=FOLDER"
    loggers: Sequence[str] = ()  # "tensorboard", "wandb", "mlflow": where trials are told of, beside the records
    early_stopping: float | str | None = "auto"  # reduction factor; None or "off"; "auto": 3 where sampled, off where listed or with `pareto`
    max_concurrent: int | None = None
    study_seed: int = 0
    train_seeds: int = 1  # how often each configuration is trained, under train_seed, train_seed + 1, ...; its value is the mean
    budget_hours: float | None = None  # wall time of all its launches after which no new trial starts; `samples` limits the trials
    budget_gpu_hours: float | None = None  # the same for GPUs held times hours
    scales: Mapping[str, Scale] = field(default_factory=dict)  # other sizes of the numbers above, by name
    scale: str = AUTO  # "full": the numbers as they stand; "auto": `embedded` where all models are embedded ones, else full
    scale_text: str = field(default="", compare=False)  # what load_study has made of it, for whoever reads the tables
    file: str = field(default="", compare=False)
    source: str = field(default="", compare=False, repr=False)
    overrides: Mapping[str, str] = field(default_factory=dict, compare=False, repr=False)  # the texts that load_study applied
    notes: tuple[str, ...] = field(default=(), compare=False, repr=False)  # what they left out

    def __post_init__(self) -> None:
        for name, value in _normalised(self).items():
            object.__setattr__(self, name, value)
        check_study(self)

    @property
    def kind(self) -> str:
        """'rows', 'grid' or 'sampled': where its trials come from. An empty study is one row of defaults."""
        if self.rows or not (is_define_by_run(self.space) or self.space):
            return "rows"
        return "grid" if self.sampler == "grid" else "sampled"

    @property
    def n_trials(self) -> int:
        """How many trials the study asks for."""
        if self.kind == "sampled":
            return DEFAULT_SAMPLES if self.samples is None else self.samples
        return len(self.listed)

    @cached_property
    def listed(self) -> tuple[Row, ...]:
        """The configurations that are known beforehand, in the order in which they run; the baseline comes first.

        For rows and grids all of the study (or its first `samples`); else the start points, which may leave names open."""
        points = (*((self.baseline,) if self.baseline else ()), *self.try_first)
        rows: tuple[Row, ...] = ()
        if self.kind == "rows":
            rows = tuple(self.rows) or (() if points else (Row({}),))
        elif self.kind == "grid":
            rows = tuple(Row(configuration) for configuration in grid_of(self.space))  # type: ignore[arg-type]
        return _points_before_rows(points, rows)[: self.samples]  # type: ignore[arg-type]

    @property
    def rungs(self) -> tuple[int, ...]:
        """The epochs of the length axis; where `epochs` is sampled, the rungs that every longer trial passes."""
        return self.epochs.rungs if isinstance(self.epochs, Epochs) else ()

    @property
    def reduction_factor(self) -> float | None:
        """Early stopping keeps the best 1 / reduction_factor at each rung; None: nothing is stopped."""
        if self.early_stopping == "auto":
            return DEFAULT_REDUCTION_FACTOR if self.kind == "sampled" and not self.pareto else None
        return None if self.early_stopping is None else float(self.early_stopping)

    @property
    def needed_metrics(self) -> tuple[str, ...]:
        """The further metrics without which no trial has a value, by name: the objective's, and those of `pareto`."""
        weighed = (METRICS[axis][0] for axis in self.pareto if axis in METRICS and is_similarity(axis))
        return tuple(dict.fromkeys([*self.objective.further_metrics, *weighed]))

    @property
    def backbones(self) -> dict[str, str]:
        """The feature networks that score the study, by kind."""
        models = {self.values_of(c)["infer_model"] for c in self.telling_configurations("infer_model")}
        small = all(model.startswith("embedded:") for model in models)
        defaults = ("embedded:perceptual", "embedded:pooled") if small else ("lpips:alex", "inception")
        return {"perceptual": self.perceptual or defaults[0], "pooled": self.pooled or defaults[1]}

    def split(self, configuration: Mapping[str, Any]) -> tuple[TrainConfig, tuple[int, ...], EvalConfig]:
        """What a configuration is: a training, the epochs at which it is evaluated (the last one its length), an evaluation.

        Raises:
            ConfigError, StudyError: a name or value that breaks a rule."""
        values = self.values_of(configuration)
        rungs = self._rungs_of(values.pop("epochs", None))
        train = {name: values[name] for name in TRAIN_PARAMETERS if name in values}
        evaluation = {name: values[name] for name in EVAL_PARAMETERS if name in values}
        training = TrainConfig(**train)
        if training.schedule_epochs is not None and training.schedule_epochs < rungs[-1]:
            raise StudyError(
                f"A learning-rate schedule cannot be shorter than its training, but "
                f"`schedule_epochs` is {training.schedule_epochs} for "
                f"{rungs[-1]} epochs. Use schedule_epochs={rungs[-1]} or more, or leave it out."
            )
        return training, rungs, EvalConfig(**evaluation)

    def replicates(self, train: TrainConfig) -> tuple[TrainConfig, ...]:
        """The training under each of its seeds, its own first."""
        return tuple(replace(train, train_seed=train.train_seed + i) for i in range(self.train_seeds))

    def values_of(self, configuration: Mapping[str, Any]) -> dict[str, Any]:
        """Every parameter that the study or the configuration sets: short names spelt out, aliases followed."""
        require_known(configuration, "A configuration")
        values: dict[str, Any] = {"subject": self.subject, **_DEFAULT_MODELS}
        first_values = {name: wanted[0] for name, wanted in self.fan_out.items()}
        for layer in ({"model": self.model} if self.model else {}, self.fixed, first_values, configuration):
            values.update(expand(layer))
        return self._aliased(values)

    def fan_out_configs(self, evaluation: EvalConfig) -> tuple[EvalConfig, ...]:
        """The further evaluations of a trial's last epoch: every combination of `fan_out` but the first, which is `evaluation`."""
        combinations = [dict(zip(self.fan_out, values, strict=True)) for values in product(*self.fan_out.values())][1:]
        return tuple(replace(evaluation, **self._aliased(combination)) for combination in combinations)

    def require_captions(self, available: Sequence[str]) -> None:
        """Raises: StudyError where the study names a caption version that the subject does not have."""
        trainings = self.telling_trainings("caption")
        versions = dict.fromkeys(training.caption for training in trainings)
        missing = [repr(version) for version in versions if version not in available]
        if missing:
            baseline = self.split(self.baseline.configuration)[0].caption if self.baseline else ""  # type: ignore[union-attr]
            is_searched = not is_define_by_run(self.space) and "caption" in self.space
            narrowed = is_searched and baseline in ("", *available)  # a baseline stays as it is
            way_out = f"space.caption={','.join(available)}" if narrowed else f"caption={available[-1]}"
            raise StudyError(
                f"A study sweeps only the caption versions that its subject has, but it asks for "
                f"{', '.join(missing)} and {self.subject} has {', '.join(available)}. "
                f"Use --set {way_out}, or write the captions."
            )

    def telling_configurations(self, name: str) -> list[Mapping[str, Any]]:
        """Configurations that together take every value of `name` that can be told beforehand; never empty."""
        if is_define_by_run(self.space):
            return [*random_configurations(self.space, 32, seed=0), *(row.configuration for row in self.listed)]
        names = spellings(name)
        choices = [{spelt: value} for spelt in names & set(self.space) for value in probes_of(self.space[spelt])]  # type: ignore[index]
        rows = [row.configuration for row in (*self.listed, *self.rows) if names & set(row.configuration)]  # type: ignore[union-attr]
        every_row_says = bool(self.rows) and all(names & set(row.configuration) for row in self.rows)  # type: ignore[union-attr]
        return [*choices, *rows] if choices or every_row_says else [*rows, {}]

    def telling_trainings(self, *names: str) -> list[TrainConfig]:
        """The trainings of the configurations that tell of these parameters."""
        return [self.split(configuration)[0] for name in names for configuration in self.telling_configurations(name)]

    def with_overrides(self, overrides: Mapping[str, str]) -> Study:
        """The study with `--set name=value` texts applied: a parameter becomes fixed and leaves space, rows and fan_out.

        Raises:
            StudyError: a name that cannot be set, or a value that breaks a rule."""
        return replace(self, **changes_of(self, overrides)) if overrides else self

    def describe(self) -> dict[str, Any]:
        """The study as JSON, field by field, for its records and for compare_studies."""
        words = {
            "name": self.name,
            "numerics": NUMERICS_VERSION,
            "subject": self.subject,
            "aliases": dict(self.aliases),
            "fixed": {**self._fixed_parameters(), **self.backbones, **self._metrics_of_objective()},
            "space": describe_space(self.space),
            "epochs": asdict(self.epochs) if isinstance(self.epochs, Epochs) else None,
            "rows": [_row_words(row) for row in self.rows],  # type: ignore[arg-type]
            "try_first": [_row_words(row) for row in self.try_first],  # type: ignore[arg-type]
            "baseline": _row_words(self.baseline) if isinstance(self.baseline, Row) else None,
            "fan_out": {name: list(values) for name, values in self.fan_out.items()},
            "sampler": self.sampler,
            "samples": self.n_trials,
            "objective": self.objective.as_json(),
            "early_stopping": self.reduction_factor,
            "max_concurrent": self.max_concurrent,
            "study_seed": self.study_seed,
            "train_seeds": self.train_seeds,
            "budget_hours": self.budget_hours,
            "scale": self.scale_text,
        }
        words |= {"metrics": list(self.metrics)} if self.metrics else {}
        words |= {"loggers": list(self.loggers)} if self.loggers else {}
        words |= {"pareto": list(self.pareto)} if self.pareto else {}
        words |= {"budget_gpu_hours": self.budget_gpu_hours} if self.budget_gpu_hours is not None else {}
        return json.loads(json.dumps(words, default=_jsonable))

    def _metrics_of_objective(self) -> dict[str, str]:
        """Which network each further metric of the objective is asked to use: another one gives other objectives."""
        used = self.objective.further_metrics
        return {f"metric {metric_name_of(text)}": text for text in self.metrics if metric_name_of(text) in used}

    def _rungs_of(self, sampled_epochs: Any) -> tuple[int, ...]:
        if sampled_epochs is None:
            return self.rungs or DEFAULT_EPOCHS.rungs
        Epochs(max=sampled_epochs)  # a positive integer, before it is compared
        return Epochs(max=sampled_epochs, rungs=tuple(rung for rung in self.rungs if rung < sampled_epochs)).rungs

    def _aliased(self, values: Mapping[str, Any]) -> dict[str, Any]:
        known = {name: plain(value) for name, value in values.items()}
        return {name: self.aliases.get(v, v) if name in MODEL_PARAMETERS and isinstance(v, str) else v for name, v in known.items()}

    def _fixed_parameters(self) -> dict[str, Any]:
        """What every trial's rungs have in common; of `fan_out` that is the first value."""
        train, _, evaluation = self.split({})
        draws = random_configurations(self.space, 32, seed=0) if is_define_by_run(self.space) else [self.space]
        searched = {"subject"}.union(*(expand(draw) for draw in draws))  # type: ignore[arg-type]
        return {name: value for name, value in {**asdict(train), **asdict(evaluation)}.items() if name not in searched}


def _normalised(study: Study) -> dict[str, Any]:
    """The fields in the one form that everything else reads, however the file wrote them."""
    values: dict[str, Any] = {name: tuple(_as_row(row, name) for row in getattr(study, name)) for name in ("rows", "try_first")}
    values |= {
        name: carried_values(getattr(study, name), f"`{name}`")
        for name in ("fixed", "fan_out", "aliases")
    }
    values |= {name: carried(getattr(study, name), f"`{name}`") for name in ("subject", "model")}
    if study.baseline is not None:
        baseline = _as_row(study.baseline, "baseline")
        values["baseline"] = Row(baseline.configuration, {**baseline.labels, "baseline": True})
    for name in ("metrics", "pareto", "loggers"):
        given = getattr(study, name)
        if isinstance(given, str):  # as --set gives it
            values[name] = tuple(text.strip() for text in given.split(",") if text.strip())
        elif isinstance(given, (list, tuple)):
            values[name] = tuple(given)
    if values.get("loggers") == (OFF,):
        values["loggers"] = ()
    if study.early_stopping is False or study.early_stopping == "off":
        values["early_stopping"] = None
    length_is_sampled = is_define_by_run(study.space) or "epochs" in study.space
    if study.epochs is not None or not length_is_sampled:
        values["epochs"] = _as_epochs(study.epochs)
    return values


def _as_row(row: Any, place: str) -> Row:
    if isinstance(row, Mapping):
        given = {name: value for name, value in row.items() if name not in ("labels", "trial")}
        row = Row(given, row.get("labels", {}), row.get("trial", ""))
    if not (isinstance(row, Row) and isinstance(row.configuration, Mapping) and isinstance(row.labels, Mapping)):
        raise StudyError(f"`{place}` lists configurations, but one is {row!r}. Use e.g. {{'rank': 16, 'labels': {{'note': 'mine'}}}}.")
    return Row(
        carried_values(row.configuration, f"`{place}`"),
        carried(row.labels, f"a label in `{place}`"),
        row.trial,
    )


def _row_words(row: Row) -> dict[str, Any]:
    """The row as JSON; without an id it is as it was before rows had any."""
    return {name: value for name, value in asdict(row).items() if name != "trial" or value}


def _as_epochs(epochs: Any) -> Epochs:
    if epochs is None:
        return DEFAULT_EPOCHS
    if isinstance(epochs, Epochs):
        return epochs
    if isinstance(epochs, (list, tuple)) and epochs:
        return Epochs(max=epochs[-1], rungs=tuple(epochs))
    return Epochs(max=epochs)


def _points_before_rows(points: Sequence[Row], rows: Sequence[Row]) -> tuple[Row, ...]:
    """Start points first; a row that repeats one only lends it its labels."""
    merged: list[Row] = []
    for point in points:
        if all(point.configuration != earlier.configuration for earlier in merged):
            merged.append(point)
    n_points = len(merged)
    for row in rows:
        twin = next((i for i in range(n_points) if merged[i].configuration == row.configuration), None)
        if twin is None:
            merged.append(row)
        else:
            merged[twin] = Row(row.configuration, {**row.labels, **merged[twin].labels})
    return tuple(merged)


def _jsonable(value: Any) -> Any:
    return plain(value) if plain(value) is not value else str(value)
