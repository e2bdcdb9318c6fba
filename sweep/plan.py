"""Plan: what a study will cost before anything runs: trials, distinct trainings, epochs, evaluations; alone versus shared.

Exact where the configurations are known beforehand; for sampled studies an estimate from seeded random draws. Touches neither
subject, model nor device. Time is stated only where an earlier launch of the study has measured the device."""

from __future__ import annotations

import io
import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields, replace

from sweep.folder import StudyFolder
from sweep.pareto import notes_on
from sweep.record_files import read_view
from sweep.space import choices_of, is_define_by_run, random_configurations
from sweep.study import Row, Study
from trainables.config import PACK_PARAMETERS, TRAIN_PARAMETERS, TrainConfig, pack_signature

N_SIMULATIONS = 32
UNKNOWN_TIME = "unknown: this device has not been measured"


@dataclass(frozen=True, kw_only=True)
class Rates:
    """What one device has been measured to do."""

    device: str
    epochs_per_hour: float  # of trainings in a pack
    epochs_per_hour_alone: float
    evaluations_per_hour: float


@dataclass(frozen=True, kw_only=True)
class Costs:
    """Counts of one set of trials. `asked` is every trial on its own, the other is what is computed once each."""

    trainings: int
    epochs_asked: int
    epochs_trained: int
    evaluations_asked: int
    evaluations_computed: int
    controls: int

    def hours(self, rates: Rates, *, shared: bool) -> float:
        epochs_h = self.epochs_trained / rates.epochs_per_hour if shared else self.epochs_asked / rates.epochs_per_hour_alone
        evaluations = self.evaluations_computed if shared else self.evaluations_asked
        return epochs_h + (evaluations + self.controls) / rates.evaluations_per_hour


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a study will cost. For an estimate, `costs` is the median of its simulations, `low` and `high` their ends."""

    study: str
    n_trials: int
    train_seeds: int
    exact: bool
    costs: Costs
    low: Costs
    high: Costs
    notes: tuple[str, ...]
    rates: Rates | None = None

    @property
    def hours(self) -> float | None:
        """With everything shared, as it will run; None where nothing has been measured."""
        return None if self.rates is None else self.costs.hours(self.rates, shared=True)


def measured_rates(folder: StudyFolder) -> Rates | None:
    """What the last launch of the study measured of its device; None where there was none, or it scored nothing."""
    from sweep.records import Records  # pandas, which no other plan needs

    if (measured := read_view(folder.pack_size)) is None:
        return None
    evaluations = Records(folder.root).evaluations()
    seconds = (evaluations["seconds_generate"] + evaluations["seconds_score"]).mean()
    rates = {name: measured.get(name) for name in ("epochs_per_hour", "epochs_per_hour_alone")}
    if not all(isinstance(rate, (int, float)) and rate > 0 for rate in (*rates.values(), seconds)):
        return None
    return Rates(device=str(measured.get("device")), **rates, evaluations_per_hour=3600 / seconds)


def rates_for(study: Study, folder: StudyFolder) -> Rates | None:
    """`measured_rates`, where that was of trainings like the study's: of its models, batch and
    precision. Another model's speed says nothing."""
    like = (read_view(folder.pack_size) or {}).get("config")
    trainings = _trainings(study, next(iter(_simulated(study, exact=_is_exact(study)))))
    signatures = [[str(value) for value in pack_signature(training)] for training in trainings]
    return measured_rates(folder) if like is None or like in signatures else None


def make_plan(study: Study, *, rates: Rates | None = None) -> Plan:
    """The costs of the study, without early stopping: with it they are upper bounds, and a note says so."""
    exact = _is_exact(study)
    simulated = list(_simulated(study, exact=exact))
    simulations = [_costs(study, configurations) for configurations in simulated]
    return Plan(
        study=study.name,
        n_trials=study.n_trials,
        train_seeds=study.train_seeds,
        exact=exact,
        costs=_across(simulations, statistics.median),
        low=_across(simulations, min),
        high=_across(simulations, max),
        notes=(*_notes(study, exact=exact), pack_note(_trainings(study, simulated[0]), exact=exact)),
        rates=rates,
    )


def render_plan(plan: Plan, *, width: int = 110) -> str:
    """The plan as a table in text."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{plan.study}: {plan.n_trials} trials", title_justify="left")
    for heading in ("", "each trial alone", "shared", "saved"):
        table.add_column(heading, justify="left" if not heading else "right")
    for label, asked, done in _lines(plan):
        table.add_row(label, f"{asked}", _with_range(plan, done), _saved(plan, asked, done))
    console = Console(file=io.StringIO(), width=width)
    console.print(table)
    for line in (_time_line(plan), *plan.notes):
        console.print(line, highlight=False, markup=False)
    return console.file.getvalue()  # type: ignore[attr-defined]


def _is_exact(study: Study) -> bool:
    """Whether it is known beforehand which configurations there will be."""
    return study.kind != "sampled" or len(_complete(study, study.listed)) >= study.n_trials


def _costs(study: Study, configurations: Iterable[dict]) -> Costs:
    lengths: dict[object, int] = {}
    evaluations, controls = set(), set()
    epochs_asked = evaluations_asked = 0
    for configuration in configurations:
        train, rungs, evaluation = study.split(configuration)
        due = [(epoch, evaluation) for epoch in rungs] + [(rungs[-1], extra) for extra in study.fan_out_configs(evaluation)]
        controls |= {config for _, config in due}
        for replicate in study.replicates(train):
            training = training_identity(replicate, rungs)
            lengths[training] = max(lengths.get(training, 0), rungs[-1])
            evaluations |= {(training, epoch, config) for epoch, config in due}
            epochs_asked, evaluations_asked = epochs_asked + rungs[-1], evaluations_asked + len(due)
    return Costs(
        trainings=len(lengths),
        epochs_asked=epochs_asked,
        epochs_trained=sum(lengths.values()),
        evaluations_asked=evaluations_asked,
        evaluations_computed=len(evaluations),
        controls=len(controls),
    )


def training_identity(train: TrainConfig, rungs: Sequence[int]) -> tuple[TrainConfig, int | None]:
    """What trials must have in common to share one training: all that changes weights, and the length where the schedule needs it."""
    length = (train.schedule_epochs or rungs[-1]) if train.schedule_has_length else None
    return replace(train, schedule_epochs=None), length


def pack_note(trainings: Iterable[TrainConfig], *, exact: bool) -> str:
    """Which of the trainings advance together, and which have a pack to themselves."""
    packs = Counter(pack_signature(config) for config in trainings)
    telling = [i for i in range(len(PACK_PARAMETERS)) if len({signature[i] for signature in packs}) > 1]
    if not telling:
        return "All trainings can advance together in packs." if packs.total() > 1 else "There is one training: it runs alone."
    words = {signature: ", ".join(f"{PACK_PARAMETERS[i]}={signature[i]}" for i in telling) for signature in packs}
    shared = [f"{n} with {words[signature]}" for signature, n in packs.most_common() if n > 1]
    alone = [words[signature] for signature, n in packs.items() if n == 1]
    lists = [f"together: {'; '.join(shared)}"] * bool(shared) + [f"alone: {'; '.join(alone)}"] * bool(alone)
    return f"Packs hold trainings of one {', '.join(PACK_PARAMETERS[i] for i in telling)}; {'' if exact else 'e.g. '}{', '.join(lists)}."


def _trainings(study: Study, configurations: Iterable[dict]) -> list[TrainConfig]:
    """Each once, in the order of the configurations."""
    return list(dict.fromkeys(r for configuration in configurations for r in study.replicates(study.split(configuration)[0])))


def _simulated(study: Study, *, exact: bool) -> Iterable[list[dict]]:
    """Lists of complete configurations that the study may come to try."""
    listed = [dict(row.configuration) for row in study.listed][: study.n_trials]
    if exact:
        yield listed
        return
    for simulation in range(N_SIMULATIONS):
        draws = random_configurations(study.space, study.n_trials, seed=study.study_seed + simulation)
        yield [{**draw, **start} for draw, start in zip(draws, listed + [{}] * len(draws), strict=False)]


def _complete(study: Study, rows: Sequence[Row]) -> list[Row]:
    if is_define_by_run(study.space):
        return []
    return [row for row in rows if all(name in row.configuration for name in study.space)]  # type: ignore[union-attr]


def _across(simulations: Sequence[Costs], of: Callable[[list[int]], float]) -> Costs:
    return Costs(**{f.name: round(of([getattr(costs, f.name) for costs in simulations])) for f in fields(Costs)})


def _notes(study: Study, *, exact: bool) -> Iterable[str]:
    if study.scale_text:
        yield f"At scale {study.scale_text}."
    if not exact:
        yield f"Estimated from {N_SIMULATIONS} seeded random draws of the space; a sampler that narrows in shares more."
    if study.train_seeds > 1:
        yield f"Every configuration is trained under {study.train_seeds} seeds, and judged by their mean when all of them are there."
    yield from notes_on(study)
    if study.reduction_factor is not None and len(study.rungs) > 1:
        yield (
            f"Upper bounds: early stopping may end all but the best 1 in {study.reduction_factor:g} "
            f"at epoch{'s' if len(study.rungs) > 2 else ''} {', '.join(str(rung) for rung in study.rungs[:-1])}."
        )
    schedules = sorted({training.lr_schedule for training in study.telling_trainings("lr_schedule") if training.length_dependent})
    if schedules:
        yield f"lr_schedule {', '.join(schedules)} depends on the length: trainings of other lengths are other trainings and share nothing."
    yield from _training_notes(study)
    domains = {} if is_define_by_run(study.space) else study.space
    continuous = [name for name, domain in domains.items() if choices_of(domain) is None and name in TRAIN_PARAMETERS]
    if continuous:
        yield f"{', '.join(continuous)} is drawn from a range, so hardly two trials share a training. Use tune.choice to let them."
    if study.fan_out:
        n_extra = len(study.fan_out_configs(study.split({})[2]))
        yield f"fan_out over {', '.join(study.fan_out)} adds {n_extra} evaluations to each trial's last epoch; rungs use the first value."


def _training_notes(study: Study) -> Iterable[str]:
    """What the study's training parameters switch off, or ask for."""
    telling = study.telling_trainings
    if any(training.draws_tags for training in telling("shuffle_tags", "tag_dropout")):
        yield (
            "shuffle_tags and tag_dropout draw captions anew at each step: the text encoder then runs beside the training, not once per "
            "caption; only strings that come again are looked up. Latents are still computed once."
        )
    if any(training.train_text_encoder for training in telling("train_text_encoder")):
        yield (
            "train_text_encoder: captions are encoded in each training step, and prompts by each adapter's own text encoder, instead of once per "
            "string. Latents are still computed once."
        )
    if any(training.buckets for training in telling("buckets")):
        yield "buckets: each batch is of one size, and a pack holds trainings of one subject, so that their steps have equal sizes."
    if any(training.prior_preservation for training in telling("prior_images")):
        yield "prior_images doubles the batch of its trainings: each step shows as many class images as images of the subject."
    rates = {training.learning_rate for training in telling("optimizer", "learning_rate") if training.optimizer == "prodigy"}
    if any(rate < 0.1 for rate in rates):
        yield (
            f"prodigy multiplies the step size that it finds with learning_rate, which is {min(rates):g} here and usually 1. "
            "A conditional space gives each optimizer its own (search_spaces/conditional.py)."
        )


def _lines(plan: Plan) -> list[tuple[str, int, str]]:
    return [
        ("trainings", plan.n_trials * plan.train_seeds, "trainings"),
        ("epochs trained", plan.costs.epochs_asked, "epochs_trained"),
        ("evaluations", plan.costs.evaluations_asked, "evaluations_computed"),
        ("control evaluations (no adapter)", plan.costs.controls, "controls"),
    ]


def _with_range(plan: Plan, name: str) -> str:
    low, middle, high = (getattr(costs, name) for costs in (plan.low, plan.costs, plan.high))
    return f"{middle}" if low == high else f"about {middle} ({low} to {high})"


def _saved(plan: Plan, asked: int, name: str) -> str:
    done = getattr(plan.costs, name)
    return f"{asked - done} ({asked / done:.1f}x)" if done and asked > done else ""


def _time_line(plan: Plan) -> str:
    if plan.rates is None:
        return f"Time: {UNKNOWN_TIME}."
    alone = plan.costs.hours(plan.rates, shared=False)
    return f"Time on one {plan.rates.device}: about {_duration(plan.hours or 0)}, against {_duration(alone)} for each trial alone."


def _duration(hours: float) -> str:
    if hours >= 2:
        return f"{hours:.1f} hours"
    return f"{hours * 60:.0f} minutes" if hours * 60 >= 2 else f"{hours * 3600:.0f} seconds"
