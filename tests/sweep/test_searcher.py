"""The searcher over a real Optuna, without trainings: what it suggests, in which order, and what it makes of the past."""

import json
import math

import optuna
import pytest
from ray import tune

from sweep.errors import StudyError
from sweep.pareto import generation_size
from sweep.searcher import COMPLETE, FAIL, PRUNED, RUNNING, PastTrial, Searcher
from sweep.space import choices_of, is_grid
from sweep.study import Epochs, Study
from trainables.config import EvalConfig, Prompt

SPACE = {"rank": tune.choice([4, 8, 16]), "learning_rate": tune.loguniform(1e-4, 1e-2)}


def value_of(configuration) -> float:
    return abs(math.log10(configuration["learning_rate"] / 1e-3)) + 1 / configuration["rank"]


def run(searcher: Searcher, n: int = 1000) -> list:
    """Ask and tell one after the other, as at concurrency 1."""
    suggestions = []
    while len(suggestions) < n and (suggestion := searcher.ask()) is not None:
        suggestions.append(suggestion)
        value = value_of(suggestion.configuration)
        searcher.report(suggestion.trial, 3, value)
        searcher.finish(suggestion.trial, COMPLETE, value=value)
    return suggestions


def past_of(suggestions, state=COMPLETE) -> list[PastTrial]:
    return [PastTrial(s.number, state, s.configuration, s.sampled, s.labels, ((3, value_of(s.configuration)),)) for s in suggestions]


def in_optuna(journal) -> list:
    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(journal)))
    return optuna.load_study(study_name="s", storage=storage).trials


def test_a_seeded_study_repeats_itself_configuration_by_configuration():
    study = Study(space=SPACE, samples=12, study_seed=3)
    assert run(Searcher(study)) == run(Searcher(study))
    assert run(Searcher(study)) != run(Searcher(Study(space=SPACE, samples=12, study_seed=4)))


def test_a_relaunched_study_goes_on_as_if_it_had_not_stopped():
    study = Study(space=SPACE, samples=14, study_seed=1)
    whole = run(Searcher(study))
    first = run(Searcher(study), n=6)
    rest = run(Searcher(study, past=past_of(first)))
    assert [s.trial for s in rest] == [f"t{i:04d}" for i in range(6, 14)]
    assert [s.configuration for s in [*first, *rest]] == [s.configuration for s in whole]


AXES = ("lpips", "diversity")


def vector_of(configuration) -> tuple[float, float]:
    """Low lpips wants a rate of 1e-3 and a high rank, high diversity a rate of 3e-3 and a low rank."""
    miss = [abs(math.log10(configuration["learning_rate"] / best)) for best in (1e-3, 3e-3)]
    return miss[0] + 1 / configuration["rank"], 1 - miss[1] + 1 / configuration["rank"]


def run_of_several(searcher: Searcher, n: int = 1000) -> list:
    suggestions = []
    while len(suggestions) < n and (suggestion := searcher.ask()) is not None:
        suggestions.append(suggestion)
        if suggestion.number % 7 == 5:
            searcher.finish(suggestion.trial, FAIL, reason="loss is NaN")
            continue
        searcher.report(suggestion.trial, 3, value_of(suggestion.configuration))
        searcher.finish(suggestion.trial, COMPLETE, value=value_of(suggestion.configuration), vector=vector_of(suggestion.configuration))
    return suggestions


def past_of_several(suggestions) -> list[PastTrial]:
    return [
        PastTrial(s.number, FAIL, s.configuration, s.sampled, s.labels)
        if s.number % 7 == 5
        else PastTrial(s.number, COMPLETE, s.configuration, s.sampled, s.labels, ((3, value_of(s.configuration)),), vector_of(s.configuration))
        for s in suggestions
    ]


@pytest.mark.parametrize("cut", [2, 5, 9, 12, 18])
@pytest.mark.parametrize("sampler", ["nsga2", "tpe", "random"])
def test_a_relaunched_study_of_several_metrics_goes_on_as_if_it_had_not_stopped(tmp_path, sampler, cut):
    baseline = {"rank": 8, "learning_rate": 1e-3}
    study = Study(name="s", space=SPACE, samples=24, study_seed=1, pareto=AXES, sampler=sampler, baseline=baseline)
    whole = run_of_several(Searcher(study, journal=tmp_path / "optuna.journal"))
    first = run_of_several(Searcher(study), n=cut)
    # The last one was cut off before it had ended: it is tried again.
    past = [*past_of_several(first[:-1]), *past_of(first[-1:], RUNNING)]
    rest = run_of_several(Searcher(study, past=past))
    assert [s.configuration for s in [*first[:-1], *rest]] == [s.configuration for s in whole]


def test_later_generations_of_nsga2_are_better_on_every_axis_than_the_first_one_which_is_random():
    space = {"rank": tune.choice(list(range(1, 65))), "alpha": tune.choice([float(alpha) for alpha in range(1, 65)])}
    searcher = Searcher(Study(space=space, samples=192, pareto=AXES, sampler="nsga2"))
    costs = []
    while (suggestion := searcher.ask()) is not None:
        costs.append(suggestion.configuration["rank"] + suggestion.configuration["alpha"])
        searcher.finish(suggestion.trial, COMPLETE, value=0.5, vector=(costs[-1], -costs[-1]))  # less lpips, more diversity: no trade-off
    n = generation_size(192)
    assert sum(costs[-4 * n :]) / 4 < 0.75 * sum(costs[:n])


def test_optunas_view_of_a_study_of_several_metrics_has_their_names_directions_and_values(tmp_path):
    study = Study(name="s", space=SPACE, samples=5, pareto=AXES)
    first = run_of_several(Searcher(study), n=3)
    past = [*past_of_several(first), PastTrial(3, PRUNED, first[0].configuration, rungs=((3, 0.5),), vector=(0.5, 0.5))]
    past.append(PastTrial(4, COMPLETE, first[1].configuration, rungs=((3, 0.5),)))  # scored before a metric was asked for
    Searcher(study, journal=tmp_path / "optuna.journal", past=past)
    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(tmp_path / "optuna.journal")))
    seen = optuna.load_study(study_name="s", storage=storage)
    assert [direction.name for direction in seen.directions] == ["MINIMIZE", "MAXIMIZE"] and seen.metric_names == list(AXES)
    assert [t.state.name for t in seen.trials] == ["COMPLETE", "COMPLETE", "COMPLETE", "PRUNED", "FAIL"]
    assert [tuple(t.values) for t in seen.trials[:3]] == [vector_of(s.configuration) for s in first]


def test_no_two_draws_of_a_relaunch_repeat_earlier_ones():
    study = Study(space={"learning_rate": tune.loguniform(1e-4, 1e-2)}, sampler="random", samples=10, fixed={"rank": 8})
    searcher = Searcher(study)
    first = [searcher.ask() for _ in range(5)]
    past = [PastTrial(s.number, COMPLETE, s.configuration, rungs=((3, 0.1),)) for s in first]
    second_searcher = Searcher(study, past=past)
    second = [second_searcher.ask() for _ in range(5)]
    rates = {s.configuration["learning_rate"] for s in [*first, *second]}
    assert len(rates) == 10


def test_baseline_and_start_points_come_first_and_open_names_are_sampled():
    study = Study(space=SPACE, samples=4, baseline={"rank": 16, "learning_rate": 1e-3}, try_first=[{"rank": 4}])
    searcher = Searcher(study)
    baseline, start, third = (searcher.ask() for _ in range(3))
    assert baseline.configuration == {"rank": 16, "learning_rate": 1e-3} and baseline.labels["baseline"]
    assert start.configuration["rank"] == 4 and 1e-4 <= start.configuration["learning_rate"] <= 1e-2
    assert set(third.configuration) == {"rank", "learning_rate"}


@pytest.mark.parametrize(
    "baseline",
    [{"rank": 64, "learning_rate": 1e-3}, {"rank": 4, "learning_rate": 1e-3, "dropout": 0.1}],
)
def test_a_baseline_outside_of_the_space_is_tried_and_is_no_news_for_the_sampler(
    baseline, tmp_path
):
    study = Study(name="s", space=SPACE, samples=4, baseline=baseline)
    asked = run(Searcher(study, journal=tmp_path / "optuna.journal"))
    assert asked[0].configuration == baseline and asked[0].labels["baseline"]
    trials = in_optuna(tmp_path / "optuna.journal")
    assert [t.state.name for t in trials] == ["FAIL", "COMPLETE", "COMPLETE", "COMPLETE"]
    for state in (RUNNING, COMPLETE):  # also after a relaunch, whether or not it had ended
        searcher = Searcher(
            study, journal=tmp_path / "again.journal", past=past_of(asked[:1], state)
        )
        again = run(searcher)
        assert len(again) == (4 if state == RUNNING else 3)
        assert (baseline in [s.configuration for s in again]) == (state == RUNNING)
        assert in_optuna(tmp_path / "again.journal")[0].state.name == "FAIL"


def test_samples_count_every_trial():
    study = Study(space=SPACE, samples=5, try_first=[{"rank": 4}, {"rank": 8}])
    assert len(run(Searcher(study))) == 5


def test_listed_rows_run_in_their_order_with_their_labels_and_each_is_an_optuna_trial(tmp_path):
    rows = [{"rank": 4, "labels": {"row": "a"}}, {"rank": 8, "learning_rate": 1e-3, "labels": {"row": "b"}}, {"rank": 4, "learning_rate": 2e-3}]
    study = Study(name="s", rows=rows)
    searcher = Searcher(study, journal=tmp_path / "optuna.journal")
    asked = []
    while (suggestion := searcher.ask()) is not None:
        asked.append(suggestion)
        searcher.finish(suggestion.trial, COMPLETE, value=0.5)
    assert [s.configuration for s in asked] == [{"rank": 4}, {"rank": 8, "learning_rate": 1e-3}, {"rank": 4, "learning_rate": 2e-3}]
    assert [s.labels.get("row") for s in asked] == ["a", "b", None]
    assert [t.params["rank"] for t in in_optuna(tmp_path / "optuna.journal")] == [4, 8, 4]


def test_a_grid_is_enumerated_whole():
    study = Study(space={"rank": tune.grid_search([4, 8]), "alpha": tune.choice([4.0, 8.0, 16.0])}, sampler="grid")
    searcher = Searcher(study)
    asked = [searcher.ask().configuration for _ in range(6)]
    assert searcher.ask() is None
    assert asked == [{"rank": r, "alpha": a} for r in (4, 8) for a in (4.0, 8.0, 16.0)]


def test_optunas_view_has_states_rung_values_by_epoch_and_reasons(tmp_path):
    study = Study(name="s", space=SPACE, samples=3)
    searcher = Searcher(study, journal=tmp_path / "optuna.journal")
    for state, value in ((COMPLETE, 0.4), (PRUNED, None), (FAIL, None)):
        suggestion = searcher.ask()
        if state != FAIL:
            searcher.report(suggestion.trial, 3, 0.5)
        searcher.finish(suggestion.trial, state, value=value, reason="" if state != FAIL else "loss is NaN")
    complete, pruned, failed = in_optuna(tmp_path / "optuna.journal")
    assert (complete.state.name, complete.value, complete.intermediate_values) == ("COMPLETE", 0.4, {3: 0.5})
    assert (pruned.state.name, pruned.intermediate_values) == ("PRUNED", {3: 0.5})
    assert (failed.state.name, failed.user_attrs["reason"]) == ("FAIL", "loss is NaN")


def test_the_past_is_in_optunas_view_under_its_numbers(tmp_path):
    study = Study(name="s", space=SPACE, samples=8)
    first = run(Searcher(study), n=3)
    past = [
        *past_of(first[:1]),
        PastTrial(1, PRUNED, first[1].configuration, rungs=((3, 0.7), (6, 0.6))),
        PastTrial(2, FAIL, first[2].configuration),
    ]
    searcher = Searcher(study, journal=tmp_path / "optuna.journal", past=past)
    assert searcher.ask().trial == "t0003"
    trials = in_optuna(tmp_path / "optuna.journal")
    assert [t.state.name for t in trials] == ["COMPLETE", "PRUNED", "FAIL", "RUNNING"]
    assert trials[1].intermediate_values == {3: 0.7, 6: 0.6}
    assert trials[0].params == first[0].configuration


def test_an_unfinished_trial_is_asked_again_under_its_number_with_its_values():
    study = Study(space=SPACE, samples=5)
    first = run(Searcher(study), n=3)
    past = [*past_of(first[:1]), *past_of(first[1:2], RUNNING), *past_of(first[2:])]
    again = Searcher(study, past=past).ask()
    assert (again.trial, again.configuration) == ("t0001", first[1].configuration)


def test_a_listed_row_that_was_tried_is_not_tried_again():
    study = Study(space=SPACE, samples=5, try_first=[{"rank": 4}, {"rank": 8}])
    past = [PastTrial(0, COMPLETE, {"rank": 4, "learning_rate": 1e-3}, rungs=((3, 0.5),))]
    searcher = Searcher(study, past=past)
    assert searcher.ask().configuration["rank"] == 8
    assert searcher.n_trials == 5


def test_rows_that_contain_one_another_or_repeat_are_trials_of_their_own():
    study = Study(rows=[{}, {"rank": 4}, {"rank": 4, "learning_rate": 2e-3}, {"rank": 4}])
    past = [PastTrial(0, COMPLETE, {}), PastTrial(1, COMPLETE, {"rank": 4})]
    searcher = Searcher(study, past=past)
    assert [searcher.ask().configuration for _ in range(2)] == [{"rank": 4, "learning_rate": 2e-3}, {"rank": 4}]
    assert searcher.ask() is None


def test_raised_samples_add_trials_and_lowered_ones_add_none():
    first = run(Searcher(Study(space=SPACE, samples=4)))
    assert len(run(Searcher(Study(space=SPACE, samples=6), past=past_of(first)))) == 2
    assert run(Searcher(Study(space=SPACE, samples=2), past=past_of(first))) == []


def test_a_changed_space_keeps_what_still_fits_it_and_sets_the_rest_aside(tmp_path):
    first = run(Searcher(Study(space=SPACE, samples=6)))
    narrower = Study(name="s", space={**SPACE, "rank": tune.choice([8, 16, 32])}, samples=9)
    searcher = Searcher(narrower, journal=tmp_path / "optuna.journal", past=past_of(first))
    assert len(run(searcher)) == 3
    states = [t.state.name for t in in_optuna(tmp_path / "optuna.journal")]
    assert states[:6] == ["FAIL" if s.configuration["rank"] == 4 else "COMPLETE" for s in first]


def conditional(trial):
    rank = 2 ** trial.suggest_int("log_rank", 2, 5)
    if trial.suggest_categorical("schedule", ["constant", "warm"]) == "warm":
        return {"rank": rank, "lr_schedule": "constant_with_warmup", "lr_warmup_steps": trial.suggest_int("warm_up", 10, 100)}
    return {"rank": rank}


def test_a_define_by_run_space_is_sampled_and_rebuilt(tmp_path):
    study = Study(name="s", space=conditional, samples=12)
    searcher = Searcher(study)
    first = []
    for _ in range(6):
        suggestion = searcher.ask()
        first.append(suggestion)
        searcher.finish(suggestion.trial, COMPLETE, value=1 / suggestion.configuration["rank"])
    assert all(s.configuration["rank"] == 2 ** s.sampled["log_rank"] for s in first)
    past = [PastTrial(s.number, COMPLETE, s.configuration, s.sampled, rungs=((3, 0.5),)) for s in first]
    rebuilt = Searcher(study, journal=tmp_path / "optuna.journal", past=past)
    assert rebuilt.ask().trial == "t0006"
    assert [t.params for t in in_optuna(tmp_path / "optuna.journal")[:6]] == [s.sampled for s in first]


def test_a_define_by_run_space_that_returns_no_dict_is_refused():
    searcher = Searcher(Study(space=conditional, samples=2))
    object.__setattr__(searcher._study, "space", lambda trial: 7)
    with pytest.raises(StudyError, match="returned 7"):
        searcher.ask()


def sampled_length(sampler_space, asked, **fixed) -> Study:
    rungs = Epochs(max=300, rungs=(30, 100))
    return Study(
        name="s",
        space=sampler_space,
        epochs=rungs,
        samples=2,
        try_first=[] if callable(sampler_space) else [{"epochs": asked}],
        fixed=fixed,
    )


def length_by_run(trial):
    return {"epochs": trial.suggest_categorical("epochs", [30, 300])}


def hidden_length_by_run(trial):
    return {"epochs": 100 * trial.suggest_int("hundreds", 3, 3)}


WORSE_AT_THE_END = ((30, 0.2), (100, 0.5), (300, 0.9))


@pytest.mark.parametrize(
    "space, fixed, rungs, told",
    [
        ({"epochs": tune.choice([30, 300])}, {}, WORSE_AT_THE_END, ("COMPLETE", 30, 0.2)),
        ({"epochs": tune.randint(20, 301)}, {}, WORSE_AT_THE_END, ("COMPLETE", 30, 0.2)),
        ({"epochs": tune.choice([100, 300])}, {}, WORSE_AT_THE_END, ("COMPLETE", 100, 0.5)),
        ({"epochs": tune.choice([200, 300])}, {}, WORSE_AT_THE_END, ("COMPLETE", 300, 0.9)),
        ({"epochs": tune.choice([30, 300])}, {}, WORSE_AT_THE_END[:2], ("COMPLETE", 30, 0.2)),
        ({"epochs": tune.choice([200, 300])}, {}, WORSE_AT_THE_END[:2], ("PRUNED", 300, None)),
        # A rung of a cosine over 300 epochs is no training of 30 epochs.
        (
            {"epochs": tune.choice([30, 300])},
            {"lr_schedule": "cosine"},
            WORSE_AT_THE_END,
            ("COMPLETE", 300, 0.9),
        ),
        (
            {"epochs": tune.choice([30, 300])},
            {"lr_schedule": "cosine"},
            WORSE_AT_THE_END[:1],
            ("PRUNED", 300, None),
        ),
        (hidden_length_by_run, {}, WORSE_AT_THE_END, ("COMPLETE", None, 0.9)),
        (hidden_length_by_run, {}, WORSE_AT_THE_END[:2], ("PRUNED", None, None)),
    ],
)
def test_under_a_sampled_length_optuna_gets_a_value_with_the_epochs_it_was_reached_at(
    tmp_path, space, fixed, rungs, told
):
    study = sampled_length(space, 300, **fixed)
    searcher = Searcher(study, journal=tmp_path / "optuna.journal")
    suggestion = searcher.ask()
    for epoch, value in rungs:
        searcher.report(suggestion.trial, epoch, value)
    state = PRUNED if fixed and len(rungs) == 1 else COMPLETE
    searcher.finish(
        suggestion.trial,
        state,
        value=min(value for _, value in rungs) if state == COMPLETE else None,
    )
    (live,) = in_optuna(tmp_path / "optuna.journal")
    assert (
        live.state.name,
        live.params.get("epochs"),
        live.value if told[0] == "COMPLETE" else None,
    ) == told
    # A relaunch tells it the same: the configuration has the length where the trial was stopped,
    # `sampled` the one that was asked for.
    configuration = {
        **suggestion.configuration,
        "epochs": rungs[-1][0] if state == COMPLETE else 300,
    }
    Searcher(
        study,
        journal=tmp_path / "again.journal",
        past=[PastTrial(0, state, configuration, suggestion.sampled, rungs=rungs)],
    )
    again = in_optuna(tmp_path / "again.journal")[0]
    assert (again.state, again.params, again.value, again.intermediate_values) == (
        live.state,
        live.params,
        live.value,
        live.intermediate_values,
    )


def test_a_past_trial_that_the_study_no_longer_allows_is_no_news_under_a_sampled_length(tmp_path):
    study = sampled_length({"epochs": tune.choice([30, 300])}, 300, buckets=True)
    class_images = {"prior_images": "women", "prior_prompt": "a woman"}  # not together with buckets
    past = PastTrial(0, COMPLETE, {"epochs": 300, **class_images}, rungs=WORSE_AT_THE_END)
    Searcher(study, journal=tmp_path / "optuna.journal", past=[past])
    assert in_optuna(tmp_path / "optuna.journal")[0].state.name == "FAIL"


def test_under_a_sampled_length_several_metrics_are_those_of_the_epochs_that_optuna_gets(tmp_path):
    study = Study(
        name="s",
        space={"epochs": tune.choice([100, 300])},
        epochs=Epochs(max=300, rungs=(30, 100)),
        samples=1,
        pareto=("lpips", "epochs"),
    )
    searcher = Searcher(study, journal=tmp_path / "optuna.journal")
    suggestion = searcher.ask()
    vectors = {30: (0.1, 30.0), 100: (0.2, 100.0), 300: (0.3, 300.0)}
    for epoch, value in ((30, 0.2), (100, 0.5), (300, 0.9))[
        : 2 if suggestion.configuration["epochs"] == 100 else 3
    ]:
        searcher.report(suggestion.trial, epoch, value)
    searcher.finish(suggestion.trial, COMPLETE, value=0.2, vector=vectors[30], vectors=vectors)
    (seen,) = in_optuna(tmp_path / "optuna.journal")
    assert (seen.params["epochs"], tuple(seen.values)) == (100, vectors[100])


# Every domain that ray.tune has: its values, or the words that refuse it.
EVERY_DOMAIN = {
    "choice": (lambda: tune.choice([8, 16]), {8, 16}),
    "uniform": (lambda: tune.uniform(8.0, 16.0), (8.0, 16.0)),
    "quniform": (
        lambda: tune.quniform(8.0, 16.0, 0.8),
        {8.0, 8.8, 9.6, 10.4, 11.2, 12.0, 12.8, 13.6, 14.4, 15.2, 16.0},
    ),
    "loguniform": (lambda: tune.loguniform(8.0, 16.0), (8.0, 16.0)),
    "qloguniform": (lambda: tune.qloguniform(0.8, 2.4, 0.8), {0.8, 1.6, 2.4}),
    "randint": (lambda: tune.randint(8, 11), {8, 9, 10}),
    "lograndint": (lambda: tune.lograndint(8, 11), {8, 9, 10}),
    "qrandint": (lambda: tune.qrandint(5, 32, 10), {10, 20, 30}),
    "qlograndint": (lambda: tune.qlograndint(5, 32, 10), {10, 20, 30}),
    "randn": (lambda: tune.randn(8.0, 1.0), "of another kind"),
    "qrandn": (lambda: tune.qrandn(8.0, 1.0, 0.5), "of another kind"),
    "sample_from": (lambda: tune.sample_from(lambda config: 8), "of another kind"),
    "grid_search": (lambda: tune.grid_search([8, 16]), "sampler='grid'"),
}


def test_no_domain_of_ray_tune_is_left_out_here():
    public = {name: getattr(tune, name) for name in tune.__all__}
    domains = {
        name
        for name, made in public.items()
        if getattr(made, "__module__", "") in (tune.uniform.__module__, tune.grid_search.__module__)
    }
    assert {name for name in domains if not isinstance(public[name], type)} == set(EVERY_DOMAIN)


@pytest.mark.parametrize("sampler", ["tpe", "random"])
@pytest.mark.parametrize(
    "name", [name for name, (_, values) in EVERY_DOMAIN.items() if not isinstance(values, str)]
)
def test_every_domain_gives_its_values_and_optuna_knows_those_that_were_tried(
    tmp_path, name, sampler
):
    make, values = EVERY_DOMAIN[name]
    study = Study(name="s", space={"alpha": make()}, samples=40, sampler=sampler, fixed={"rank": 8})
    searcher, drawn = Searcher(study, journal=tmp_path / "optuna.journal"), []
    while (suggestion := searcher.ask()) is not None:
        drawn.append(suggestion.configuration["alpha"])
        searcher.report(suggestion.trial, 3, drawn[-1])
        searcher.finish(suggestion.trial, COMPLETE, value=float(drawn[-1]))
    assert (
        set(drawn) <= values
        if isinstance(values, set)
        else all(values[0] <= value <= values[1] for value in drawn)
    )
    if isinstance(values, set) and sampler == "random":
        assert set(drawn) == values
    assert [
        trial.params["alpha"] for trial in in_optuna(tmp_path / "optuna.journal")
    ] == pytest.approx(drawn, rel=1e-9)
    past = [
        PastTrial(i, COMPLETE, {"alpha": value}, rungs=((3, value),))
        for i, value in enumerate(drawn[:20])
    ]
    Searcher(study, journal=tmp_path / "again.journal", past=past)
    assert [trial.state.name for trial in in_optuna(tmp_path / "again.journal")] == [
        "COMPLETE"
    ] * 20


@pytest.mark.parametrize(
    "name", [name for name, (_, values) in EVERY_DOMAIN.items() if isinstance(values, str)]
)
def test_every_other_domain_is_refused_when_the_study_is_loaded(name):
    make, words = EVERY_DOMAIN[name]
    with pytest.raises(StudyError, match=words):
        Study(space={"alpha": make()})


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda: tune.randint(8, 8), "from 8 to 8 holds no number"),
        (lambda: tune.lograndint(16, 8), "from 16 to 8 holds no number"),
        (lambda: tune.uniform(2.0, 1.0), "from 2.0 to 1.0 holds no number"),
        (lambda: tune.qrandint(11, 19, 10), "holds no multiple of 10 and no number"),
        (lambda: tune.qlograndint(11, 19, 10), "holds no multiple of 10 and no number"),
        (
            lambda: tune.qrandint(8, 64, 0),
            "quantum of a range must be a positive whole number.* is 0",
        ),
        (
            lambda: tune.qrandint(8, 64, 0.5),
            "quantum of a range must be a positive whole number.* is 0.5",
        ),
        (
            lambda: tune.quniform(8.0, 16.0, -0.8),
            "quantum of a range must be a positive number.* is -0.8",
        ),
        (lambda: tune.randint(4.0, 64.5), "lower end of a range must be a whole number.* is 4.0"),
        (lambda: tune.grid_search(5), "takes a list, but that of `alpha` is 5"),
    ],
)
def test_a_range_that_holds_nothing_is_refused_when_the_study_is_loaded(make, words):
    with pytest.raises(StudyError, match=words):
        Study(space={"alpha": make()})


def test_a_start_point_off_the_quantum_is_none_of_the_space():
    with pytest.raises(StudyError, match="rank=20 is outside of.*quantum.*8"):
        Study(space={"rank": tune.qlograndint(8, 64, 8)}, try_first=[{"rank": 20}])
    assert Study(space={"rank": tune.qlograndint(8, 64, 8)}, try_first=[{"rank": 24}]).listed[
        0
    ].configuration == {"rank": 24}


PROMPTS = (Prompt(text="{trigger}, smile"), Prompt(text="a photo of {trigger}", seen=False))


@pytest.mark.parametrize(
    "space",
    [
        {"prompts": tune.choice([PROMPTS, PROMPTS[:1], ["{trigger}"]])},
        {"prompts": tune.grid_search([PROMPTS, ["{trigger}"]])},
    ],
)
def test_choices_of_prompts_are_tried_recorded_and_known_after_a_relaunch(tmp_path, space):
    study = Study(
        name="s", space=space, samples=3, sampler="grid" if is_grid(space["prompts"]) else "tpe"
    )
    searcher = Searcher(study, journal=tmp_path / "optuna.journal")
    asked = []
    while (suggestion := searcher.ask()) is not None:
        asked.append(suggestion)
        searcher.finish(suggestion.trial, COMPLETE, value=0.5)
    recorded = [json.loads(json.dumps(dict(s.configuration))) for s in asked]
    assert recorded == [s.configuration for s in asked]
    wanted = {
        tuple(map(str, choice)): EvalConfig(prompts=choice).prompts
        for choice in choices_of(space["prompts"])
    }
    assert all(study.split(c)[2].prompts == wanted[tuple(map(str, c["prompts"]))] for c in recorded)
    past = [
        PastTrial(i, COMPLETE, c, s.sampled, rungs=((3, 0.5),))
        for i, (c, s) in enumerate(zip(recorded, asked, strict=True))
    ]
    again = Searcher(study, journal=tmp_path / "again.journal", past=past)
    assert again.ask() is None
    before, after = (in_optuna(tmp_path / f"{name}.journal") for name in ("optuna", "again"))
    assert [t.params for t in after] == [t.params for t in before] and {
        t.state.name for t in after
    } == {"COMPLETE"}


def test_a_define_by_run_space_that_optuna_cannot_store_is_refused_with_a_way_out():
    def tuples(trial):
        return {"prompts": trial.suggest_categorical("prompts", [PROMPTS, PROMPTS[:1]])}

    with pytest.raises(
        StudyError,
        match=r"`prompts` of .*tuples has tuple.*VALUES\[trial.suggest_categorical\('prompts', list\(VALUES\)\)\]",
    ):
        Study(space=tuples, samples=2)
    values = {"two": PROMPTS, "one": PROMPTS[:1]}
    study = Study(
        space=lambda trial: {"prompts": values[trial.suggest_categorical("prompts", list(values))]},
        samples=2,
    )
    drawn = Searcher(study).ask()
    assert study.split(drawn.configuration)[2].prompts == values[drawn.sampled["prompts"]]
    assert json.loads(json.dumps(drawn.configuration)) == drawn.configuration


def test_a_define_by_run_space_that_raises_ends_in_one_line():
    def raising(trial):
        if trial.number > 40:
            raise KeyError("alpha")
        return {"rank": trial.suggest_int("rank", 4, 8)}

    searcher = Searcher(Study(space=raising, samples=60, sampler="random"))
    for _ in range(41):
        searcher.ask()
    with pytest.raises(StudyError, match="raising raises KeyError: 'alpha'"):
        searcher.ask()


def test_samples_can_be_raised_and_lowered_while_a_listed_study_runs():
    rows = [{"rank": rank} for rank in (2, 4, 8, 16, 32)]
    searcher = Searcher(Study(rows=rows, samples=2))
    assert searcher.ask().configuration == {"rank": 2} and searcher.n_trials == 2
    searcher.change(Study(rows=rows))
    assert searcher.n_trials == 5
    searcher.change(Study(rows=rows, samples=2))
    assert searcher.ask().configuration == {"rank": 4} and searcher.exhausted and searcher.ask() is None and searcher.n_trials == 2
    searcher.change(Study(rows=rows, samples=4))
    assert [searcher.ask().configuration["rank"] for _ in range(2)] == [8, 16] and searcher.exhausted and searcher.n_trials == 4


def test_an_unfinished_trial_is_tried_again_however_few_samples_are_wanted_later():
    study = Study(space=SPACE, samples=5)
    first = run(Searcher(study), n=3)
    searcher = Searcher(study, past=past_of(first[:3], RUNNING))
    searcher.change(Study(space=SPACE, samples=1))
    assert [s.trial for s in run(searcher)] == ["t0000", "t0001", "t0002"] and searcher.n_trials == 3
