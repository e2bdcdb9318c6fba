"""Confirmation: a study file of the finalists under fresh seeds, and the verdict over seeds, by hand."""

import math

import pytest
from ray import tune

from sweep.confirmation import FRESH_SEED, confirmation_source, finalists_of, verdict_of
from sweep.errors import StudyError
from sweep.objective import Objective
from sweep.searcher import COMPLETE, FAIL, PRUNED
from sweep.study import Epochs, Study, load_study
from sweep.trial_rows import Trial


def row(number, objective, state=COMPLETE, best_epoch=3, **configuration):
    return {"trial": f"t{number}", "number": number, "state": state, "objective": objective, "best_epoch": best_epoch, "configuration": configuration}


def trial(was, *objectives, epoch=3):
    mean = sum(objectives) / len(objectives)
    return Trial(f"c-{was}", 0, {}, {"was": was}, state=COMPLETE, rungs=[(epoch, mean, "key")], seed_objectives={epoch: objectives})


def test_the_finalists_are_the_best_that_did_not_fail():
    rows = [row(0, 0.5), row(1, 0.3, PRUNED), row(2, 0.1, FAIL), row(3, None), row(4, 0.3)]
    assert [one["trial"] for one in finalists_of(rows, top=2)] == ["t1", "t4"]
    with pytest.raises(StudyError, match="none is"):
        finalists_of(rows[2:4], top=2)


def confirmed(study, finalists, **asked):
    source = confirmation_source(study, finalists, **{"n_images": 40, "n_seeds": 3, **asked})
    return load_study("s-confirm.py", {"name": "s-confirm"}, source=source)


def test_its_study_trains_each_as_long_as_it_was_best_under_fresh_seeds_on_fresh_noise():
    study = Study(
        name="s",
        model="embedded:realistic",
        space={"rank": tune.choice([4, 8]), "train_seed": tune.choice([0, 1])},
        epochs=Epochs(max=9, rungs=(3,)),
        fixed={"prompts": ["{trigger}", "{trigger}, smile", "{trigger}, wink"], "guidance": 2.0},
        objective=Objective(fid=1.0, scales={("fid", "embedded:pooled"): 100.0}),
    )
    again = confirmed(study, [row(5, 0.2, rank=8, train_seed=1), row(2, 0.3, best_epoch=9, rank=4, train_seed=0)])
    first, second = again.listed
    assert (first.labels, second.labels) == ({"was": "t5", "rank_before": 1}, {"was": "t2", "rank_before": 2})
    train, epochs, evaluation = again.split(first.configuration)
    assert (train.rank, train.train_model, epochs[-1], again.split(second.configuration)[1][-1]) == (8, "embedded:realistic", 3, 9)
    assert [one.train_seed for one in again.replicates(train)] == [FRESH_SEED, FRESH_SEED + 1, FRESH_SEED + 2]
    assert (evaluation.eval_seed, evaluation.guidance, evaluation.infer_model) == (FRESH_SEED, 2.0, "embedded:realistic")
    assert evaluation.n_images >= 40 and evaluation.images_per_prompt == math.ceil(40 / 3)
    assert (again.objective, again.reduction_factor, again.kind) == (study.objective, None, "rows")


def test_a_schedule_that_depends_on_the_length_keeps_its_length():
    study = Study(name="s", space={"rank": tune.choice([4, 8])}, epochs=Epochs(max=9, rungs=(3,)), fixed={"lr_schedule": "cosine"})
    (first,) = confirmed(study, [row(0, 0.2, best_epoch=3, rank=4)]).listed
    assert first.configuration["epochs"] == 9


def test_a_winner_that_is_first_again_is_confirmed_and_the_next_is_named():
    lines = verdict_of([row(7, 0.1), row(1, 0.2)], [trial("t7", 0.2, 0.3, 0.4), trial("t1", 0.5, 0.7, 0.6)])
    assert lines[0] == "confirmed: t7 is the best of 2 again, 0.3000."
    # Differences -0.3, -0.4, -0.2: standard error 0.0577, Student's t at 2 degrees of freedom 4.303.
    assert "t7 less t1: -0.3000 [-0.5484, -0.0516] over 3 training seeds: they differ" in lines[1]


def test_a_winner_that_is_not_says_by_how_much_and_whether_that_can_be_told():
    lines = verdict_of([row(7, 0.1), row(1, 0.2)], [trial("t7", 0.4, 0.5), trial("t1", 0.5, 0.3)])
    assert lines[0] == "not confirmed: t7 is number 2 of 2 now, 0.4500; t1 is the best, 0.4000."
    # Differences -0.1 and 0.2: mean 0.05, standard error 0.15, Student's t at 1 degree of freedom 12.706.
    assert "0.0500 [-1.8559, 1.9559] over 2 training seeds: they cannot be told apart" in lines[1]


def test_one_seed_has_no_interval_and_a_winner_that_failed_is_not_confirmed():
    assert "-0.1000 over 1 training seed: they cannot be told apart" in verdict_of([row(7, 0.1)], [trial("t7", 0.4), trial("t1", 0.5)])[1]
    failed = Trial("c", 0, {}, {"was": "t7"}, state=FAIL)
    assert verdict_of([row(7, 0.1)], [failed, trial("t1", 0.5)]) == ["not confirmed: t7, which won, could not be scored again."]
