"""Plans: counted by hand for small studies."""

from __future__ import annotations

import json

from ray import tune

from sweep.folder import StudyFolder
from sweep.plan import Costs, Rates, make_plan, measured_rates, rates_for, render_plan
from sweep.records import Records
from sweep.study import Epochs, Study
from trainables.config import TrainConfig, pack_signature

RUNGS = Epochs(max=12, rungs=(3, 6))


def test_rows_with_equal_training_values_are_one_training():
    rows = [{"rank": rank, "guidance": guidance} for rank in (4, 8) for guidance in (2.0, 4.0, 6.0)]
    plan = make_plan(Study(rows=rows, epochs=RUNGS))
    expected = Costs(trainings=2, epochs_asked=72, epochs_trained=24, evaluations_asked=18, evaluations_computed=18, controls=3)
    assert plan.exact and plan.costs == plan.low == plan.high == expected


def test_a_longer_trial_contains_a_shorter_one():
    grid = {"epochs": tune.grid_search([4, 12]), "guidance": tune.grid_search([2.0, 4.0])}
    plan = make_plan(Study(space=grid, sampler="grid", epochs=Epochs(max=12, rungs=(4,))))
    # Rungs of a 12-epoch trial are 4 and 12, so the 4-epoch ones are computed already.
    assert plan.costs == Costs(
        trainings=1, epochs_asked=32, epochs_trained=12, evaluations_asked=6, evaluations_computed=4, controls=2
    )


def test_a_schedule_that_depends_on_the_length_keeps_lengths_apart_and_the_plan_says_so():
    plan = make_plan(Study(rows=[{"epochs": 4}, {"epochs": 12}], fixed={"lr_schedule": "cosine"}, epochs=12))
    assert (plan.costs.trainings, plan.costs.epochs_trained) == (2, 16)
    assert any("cosine depends on the length" in note for note in plan.notes)


def test_fan_out_costs_evaluations_at_the_last_epoch_only():
    plan = make_plan(Study(rows=[{"rank": 4}, {"rank": 8}], fan_out={"guidance": [2.0, 4.0, 6.0]}, epochs=RUNGS))
    assert (plan.costs.evaluations_asked, plan.costs.evaluations_computed, plan.costs.controls) == (2 * (3 + 2), 10, 3)


def test_a_sampled_study_is_an_estimate_that_repeats_itself():
    study = Study(space={"rank": tune.choice([4, 8]), "guidance": tune.choice([2.0, 4.0])}, samples=12, epochs=RUNGS)
    plan, again = make_plan(study), make_plan(study)
    assert plan == again and not plan.exact
    assert plan.costs.trainings == 2 and plan.costs.epochs_trained == 24 and plan.costs.epochs_asked == 144
    assert plan.low.evaluations_computed <= plan.costs.evaluations_computed <= plan.high.evaluations_computed <= 12
    assert any("Estimated" in note for note in plan.notes) and any("1 in 3" in note for note in plan.notes)


def test_a_continuous_training_value_is_named_as_what_prevents_sharing():
    plan = make_plan(Study(space={"learning_rate": tune.loguniform(1e-4, 1e-2)}, samples=8))
    assert plan.costs.trainings == 8 and any(note.startswith("learning_rate is drawn from a range") for note in plan.notes)
    evaluation_only = make_plan(Study(space={"guidance": tune.uniform(1.0, 8.0)}, samples=8))
    assert evaluation_only.costs.trainings == 1 and not any("range" in note for note in evaluation_only.notes)


def test_the_plan_says_which_trainings_share_a_pack_and_which_train_alone():
    rows = [{"rank": rank, "guidance": guidance} for rank in (4, 8) for guidance in (2.0, 4.0)]
    assert make_plan(Study(rows=rows)).notes[-1] == "All trainings can advance together in packs."
    assert "one training: it runs alone" in make_plan(Study(rows=rows[:2])).notes[-1]
    mixed = make_plan(Study(rows=[*rows, {"rank": 4, "guidance": 2.0, "batch": 4}])).notes[-1]
    assert mixed == "Packs hold trainings of one batch; together: 2 with batch=2, alone: batch=4."
    layers = make_plan(Study(rows=[*rows, {"rank": 4, "targets": "attention+ff"}, {"rank": 4, "train_text_encoder": True}])).notes[-1]
    assert layers.startswith("Packs hold trainings of one targets, train_text_encoder; together: 2 with targets=attention, train_text_encoder=False")
    assert "alone: targets=attention+ff, train_text_encoder=False; targets=attention, train_text_encoder=True" in layers


def test_the_plan_says_what_a_text_encoder_in_training_switches_off():
    def notes(**fixed):
        return [note for note in make_plan(Study(rows=[{"rank": 4}], fixed=fixed)).notes if note.startswith("train_text_encoder")]

    assert notes() == notes(text_encoder_learning_rate=1e-4) == []
    (note,) = notes(train_text_encoder=True)
    assert "in each training step" in note and "Latents are still computed once" in note


def test_the_plan_says_what_training_parameters_switch_off_or_cost():
    notes = make_plan(Study(space={"shuffle_tags": tune.choice([False, True])}, samples=4)).notes
    assert any("draw captions anew" in note and "Latents are still computed once" in note for note in notes)
    assert notes[-1] == "All trainings can advance together in packs."
    prior = {"prior_images": tune.choice([None, "women"])}
    notes = make_plan(Study(space=prior, fixed={"prior_prompt": "a woman"}, samples=4)).notes
    assert any("doubles the batch" in note for note in notes) and "one prior_preservation" in notes[-1]
    notes = make_plan(Study(space={"optimizer": tune.choice(["adamw", "prodigy"])}, samples=4)).notes
    assert any("prodigy multiplies" in note and "0.001 here" in note for note in notes) and "one optimizer" in notes[-1]
    assert not any("tags" in note or "prodigy" in note or "prior" in note for note in make_plan(Study(rows=[{"rank": 4}])).notes)


def test_a_define_by_run_space_is_planned_too():
    plan = make_plan(Study(space=lambda trial: {"rank": trial.suggest_categorical("rank", [4, 8])}, samples=8))
    assert plan.costs.trainings == 2 and plan.n_trials == 8


def test_time_is_unknown_until_it_was_measured():
    study = Study(rows=[{"rank": 4, "guidance": 2.0}, {"rank": 4, "guidance": 4.0}], epochs=10)
    assert make_plan(study).hours is None
    assert "Time: unknown" in render_plan(make_plan(study))
    # 10 epochs at 20 an hour, 2 evaluations and 2 controls at 8 an hour; alone 20 epochs at 10 an hour.
    measured = make_plan(study, rates=Rates(device="CPU", epochs_per_hour=20, epochs_per_hour_alone=10, evaluations_per_hour=8))
    assert measured.hours == 1.0 and "about 60 minutes, against 2.5 hours" in render_plan(measured)


def test_rates_of_another_model_are_none_of_the_studys(tmp_path):
    folder = StudyFolder(tmp_path, "s")
    Records(folder.root).append_evaluation({"evaluation_key": "a", "seconds_generate": 3.0, "seconds_score": 1.0})
    measured = {"device": "cpu", "epochs_per_hour": 40.0, "epochs_per_hour_alone": 10.0}
    like = [str(value) for value in pack_signature(TrainConfig(train_model="embedded:base"))]
    folder.pack_size.write_text(json.dumps(measured | {"config": like}))
    rows = [{"rank": 4}, {"rank": 16}]
    assert rates_for(Study(rows=rows, model="embedded:base"), folder) == measured_rates(folder) is not None
    assert rates_for(Study(rows=rows, model="sd15"), folder) is None
    assert rates_for(Study(rows=[{"batch": 4}]), folder) is None
    folder.pack_size.write_text(json.dumps(measured))  # of an earlier version, which did not say
    assert rates_for(Study(rows=rows, model="sd15"), folder) == measured_rates(folder)


def test_rates_are_what_the_last_launch_of_the_study_measured(tmp_path):
    folder = StudyFolder(tmp_path, "s")
    assert measured_rates(folder) is None
    Records(folder.root).append_evaluation({"evaluation_key": "a", "seconds_generate": 3.0, "seconds_score": 1.0})
    Records(folder.root).append_evaluation({"evaluation_key": "b", "seconds_generate": 7.0, "seconds_score": 1.0})
    assert measured_rates(folder) is None
    folder.pack_size.write_text(json.dumps({"device": "cpu", "epochs_per_hour": 40.0, "epochs_per_hour_alone": 10.0}))
    assert measured_rates(folder) == Rates(device="cpu", epochs_per_hour=40.0, epochs_per_hour_alone=10.0, evaluations_per_hour=600.0)
    damaged = ("", "[]", '{"device"', '{"epochs_per_hour": "x", "epochs_per_hour_alone": 1}', '{"epochs_per_hour": 0, "epochs_per_hour_alone": 1}')
    for text in damaged:  # it is measured anew by the next launch
        folder.pack_size.write_text(text)
        assert measured_rates(folder) is None
    folder.pack_size.write_bytes(b"\xff\xfe")
    assert measured_rates(folder) is None


def test_the_table_shows_what_sharing_saves():
    text = render_plan(make_plan(Study(name="paper", rows=[{"guidance": 2.0}, {"guidance": 4.0}], epochs=10)))
    assert "paper: 2 trials" in text and "10 (2.0x)" in text


def test_replicates_cost_as_many_trainings_and_evaluations_more_and_no_further_control():
    rows = [{"rank": 4, "guidance": 2.0}, {"rank": 4, "guidance": 4.0}]
    plan = make_plan(Study(rows=rows, epochs=RUNGS, train_seeds=3))
    expected = Costs(trainings=3, epochs_asked=72, epochs_trained=36, evaluations_asked=18, evaluations_computed=18, controls=2)
    assert plan.costs == expected and any("under 3 seeds" in note for note in plan.notes)
    # Trainings of each trial alone: 2 trials x 3 seeds; all 3 distinct ones share a pack.
    assert "6" in render_plan(plan).splitlines()[4] and plan.notes[-1] == "All trainings can advance together in packs."
