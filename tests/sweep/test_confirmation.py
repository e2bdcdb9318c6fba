"""Confirmation: a study file of the finalists under fresh seeds, and the verdict over seeds, by hand."""

import itertools
import math
from dataclasses import fields, replace
from types import SimpleNamespace

import numpy as np
import pytest
from ray import tune
from scipy.stats import ttest_rel

from sweep import launch_commands
from sweep.cli import main
from sweep.confirmation import (
    FRESH_SEED,
    KEPT_FIELDS,
    REPLACED_FIELDS,
    confirmation_source,
    finalists_of,
    one_of_each,
)
from sweep.errors import StudyError
from sweep.folder import StudyFolder
from sweep.objective import Objective
from sweep.records import Records
from sweep.searcher import COMPLETE, FAIL, PRUNED, Searcher
from sweep.study import Epochs, Study, load_study
from sweep.trial_rows import Trial
from sweep.verdict import Verdict, judge, lines_of, verdict_of
from trainables.config import Prompt, training_key


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
    assert [searched.trial for searched in searched_by(again)] == ["t5", "t2"]


def searched_by(study):
    searcher = Searcher(study)
    return [searcher.ask() for _ in range(study.n_trials)]


def test_every_field_of_a_study_is_kept_or_replaced_on_purpose():
    assert sorted(KEPT_FIELDS + REPLACED_FIELDS) == sorted(f.name for f in fields(Study))


PROTOCOL = {
    "fan_out": {"guidance": [7.5, 4.0], "steps": (5, 6)},
    "fixed": {
        "prompts": (Prompt(text='{trigger}\'s "hat"'), Prompt(text="{trigger}, wink", seen=False)),
        "negative_prompt": "blurry",
        "denoiser": "euler",
        "mask_weight": 2.0,
        "buckets": True,
        "learning_rate": np.float64(1e-3),
        "infer_vae": "embedded:base",
    },
    "perceptual": "lpips:alex",
    "pooled": "inception",
    "metrics": ("clip_t", "dinov2"),
    "objective": Objective(lpips=0.5, dinov2=0.5, scales={"lpips": 0.7}),
    "pareto": ("lpips", "dinov2"),
    "loggers": ("tensorboard",),
    "aliases": {"mine": "embedded:base"},
    "model": "mine",
    "max_concurrent": 3,
}


def test_its_study_keeps_the_whole_protocol():
    study = Study(name="s", space={"rank": tune.choice([4, 8])}, epochs=Epochs(max=9), **PROTOCOL)
    again = confirmed(study, [row(0, 0.2, rank=4), row(1, 0.3, rank=8)], n_images=200)
    fresh = {"eval_seed": FRESH_SEED, "images_per_prompt": 100}
    for before, after in zip(({"rank": 4}, {"rank": 8}), again.listed, strict=True):
        train, _, evaluation = study.split(before)
        train_again, epochs, evaluation_again = again.split(after.configuration)
        assert train_again == replace(train, train_seed=FRESH_SEED) and epochs == (3,)
        assert evaluation_again == replace(evaluation, **fresh) and evaluation_again.guidance == 7.5
        further = [replace(one, **fresh) for one in study.fan_out_configs(evaluation)]
        assert list(again.fan_out_configs(evaluation_again)) == further and len(further) == 3
    kept = [name for name in KEPT_FIELDS if name != "fan_out"]
    assert {name: getattr(again, name) for name in kept} == {
        name: getattr(study, name) for name in kept
    }


@pytest.mark.parametrize(
    "fan_out",
    [
        {"eval_seed": [0, 7]},
        {"images_per_prompt": [2, 8]},
        {"prompts": [["{trigger}"], ["a", "b"]]},
    ],
)
def test_whatever_is_fanned_out_is_confirmed_on_fresh_noise_and_enough_pictures(fan_out):
    study = Study(
        name="s", space={"rank": tune.choice([4, 8])}, epochs=Epochs(max=9), fan_out=fan_out
    )
    again = confirmed(study, [row(0, 0.2, rank=4), row(1, 0.3, rank=8)])
    evaluation = again.split(again.listed[0].configuration)[2]
    every = (evaluation, *again.fan_out_configs(evaluation))
    assert all(one.eval_seed >= FRESH_SEED for one in every) and evaluation.n_images >= 40
    assert len(every) == (1 if "images_per_prompt" in fan_out else 2)
    assert len({one.eval_seed for one in every}) == len(fan_out.get("eval_seed", [0]))


def test_finalists_of_other_prompts_have_equally_many_pictures():
    choices = [["{trigger}", "a", "b"], ["{trigger}", "a", "b", "c", "d"]]
    study = Study(name="s", space={"prompts": tune.choice(choices)}, epochs=Epochs(max=9))
    again = confirmed(study, [row(0, 0.2, prompts=choices[0]), row(1, 0.3, prompts=choices[1])])
    assert [again.split(one.configuration)[2].n_images for one in again.listed] == [45, 45]


def test_the_networks_are_those_of_the_study_whatever_models_the_finalists_have():
    study = Study(
        name="s", space={"model": tune.choice(["sd15", "embedded:base"])}, epochs=Epochs(max=9)
    )
    again = confirmed(
        study, [row(0, 0.2, model="embedded:base", rank=4), row(1, 0.3, model="embedded:base")]
    )
    assert again.backbones == study.backbones == {"perceptual": "lpips:alex", "pooled": "inception"}


def test_a_confirmation_is_confirmed_under_seeds_of_its_own():
    study = Study(name="s", space={"rank": tune.choice([4, 8])}, epochs=Epochs(max=9))
    finalists = [row(0, 0.2, rank=4), row(1, 0.3, rank=8)]
    again = confirmed(confirmed(study, finalists), finalists)
    train, _, evaluation = again.split(again.listed[0].configuration)
    assert (train.train_seed, evaluation.eval_seed) == (2 * FRESH_SEED, 2 * FRESH_SEED)


def test_trials_that_differ_in_their_seeds_only_are_one_finalist():
    rows = [
        row(0, 0.5, rank=4),
        row(1, 0.3, rank=8, train_seed=1),
        row(2, 0.4, rank=8, train_seed=0),
    ]
    rows += [row(3, 0.35, rank=8, best_epoch=6), row(4, 0.1, FAIL, rank=2), row(5, None, rank=2)]
    assert [one["trial"] for one in finalists_of(one_of_each(rows), top=5)] == ["t1", "t3", "t0"]
    with pytest.raises(StudyError, match="t1 has none that is scored"):
        finalists_of(one_of_each(rows[1:3]), top=5)


SCHEDULES = ("linear", "cosine", "cosine_with_restarts", "polynomial")


@pytest.mark.parametrize("schedule", [*SCHEDULES, "constant", "constant_with_warmup"])
@pytest.mark.parametrize("asked", [{}, {"epochs": 9}])
def test_the_winner_is_trained_as_it_was_and_scored_where_it_was_at_its_best(schedule, asked):
    space = {"rank": tune.choice([4, 8]), **({"epochs": tune.choice([9, 12])} if asked else {})}
    study = Study(
        name="s", space=space, epochs=Epochs(max=9, rungs=(3,)), fixed={"lr_schedule": schedule}
    )
    # Records of a sampled length name the epochs where the trial was stopped.
    finalists = [
        {**row(n, 0.2 + n, rank=4 + 4 * n, **({"epochs": 3} if asked else {})), "sampled": asked}
        for n in (0, 1)
    ]
    again = confirmed(study, finalists)
    train, epochs, _ = again.split(again.listed[0].configuration)
    before, _, _ = study.split({"rank": 4, **asked})
    digests = {"model_digest": "m", "subject_digest": "s"}
    key = training_key(replace(before, train_seed=FRESH_SEED), epochs=9, **digests)
    assert epochs == (3,) and training_key(train, epochs=3, **digests) == key
    assert train.schedule_epochs == (9 if schedule in SCHEDULES else None)


# -- the verdict ---------------------------------------------------------------------------------


def named(*rows):
    return [f"t{n}" for n in rows]


def test_a_winner_that_is_better_than_the_second_of_the_study_holds():
    lines = verdict_of([row(7, 0.1), row(1, 0.2)], [trial("t7", 0.2, 0.3, 0.4), trial("t1", 0.5, 0.7, 0.6)])
    assert lines[0] == "holds: t7 is the best of 2 again, 0.3000, and better than t1."
    # Differences -0.3, -0.4, -0.2: standard error 0.0577, t = -5.196 at 2 degrees of freedom.
    assert (
        "t7 less t1, which was second in the study: -0.3000, standard error 0.0577 over 3 training seeds; p 0.018"
        in lines[1]
    )
    assert "another number of pictures" in lines[2] and len(lines) == 3


def test_the_numbers_are_those_of_a_paired_t_test_and_of_the_analysis_of_variance():
    values = {"a": (0.2, 0.35, 0.4), "b": (0.5, 0.7, 0.61)}
    found = judge(["a", "b"], values).fixed
    paired = ttest_rel(values["a"], values["b"], alternative="less")
    assert (found.p_better, found.mean) == pytest.approx((paired.pvalue, -0.287), abs=5e-4)
    values["c"] = (0.45, 0.3, 0.55)
    # By hand: what trial and seed leave over of the 3 x 3 table has 4 degrees of freedom.
    table = np.array([values[name] for name in "abc"])
    rest = table - table.mean(axis=1)[:, None] - table.mean(axis=0) + table.mean()
    assert judge(list("abc"), values).fixed.standard_error == pytest.approx(
        math.sqrt(2 / 3 * (rest**2).sum() / 4)
    )


def test_a_winner_that_another_finalist_beats_does_not_hold_whoever_that_is():
    values = {
        "t0": (0.5, 0.51, 0.49),
        "t1": (0.52, 0.5, 0.51),
        "t2": (0.2, 0.22, 0.19),
        "t3": (0.6, 0.61, 0.6),
    }
    found = judge(named(0, 1, 2, 3), values)
    assert (found.verdict, found.worst.rival, found.place) == (Verdict.DOES_NOT_HOLD, "t2", 2)
    lines = lines_of(found)
    assert (
        lines[0]
        == "does not hold: t0 is number 2 of 4 now, 0.5000, and t2 is the best, 0.2033; t2 is better than it."
    )
    assert "p 0.000 for worse, one-sided, corrected for 3 rivals" in lines[2]


def test_what_seeds_could_have_done_is_not_settled():
    lines = verdict_of([row(7, 0.1), row(1, 0.2)], [trial("t7", 0.4, 0.5), trial("t1", 0.5, 0.3)])
    # Differences -0.1 and 0.2: mean 0.05, standard error 0.15, t = 1/3 at 1 degree of freedom: p =
    # 1/2 - atan(1/3) / pi.
    assert (
        lines[0]
        == "not settled: t7 is number 2 of 2 now, 0.4500, and t1 is the best, 0.4000; the difference is within what seeds do."
    )
    assert "0.0500, standard error 0.1500 over 2 training seeds; p 0.398 for worse" in lines[1]


def test_one_seed_or_no_rival_settles_nothing():
    lines = verdict_of([row(7, 0.1), row(1, 0.2)], [trial("t7", 0.4), trial("t1", 0.5)])
    assert (
        lines[0].startswith("not settled: t7 is the best of 2 again")
        and "-0.1000 over 1 training seed" in lines[1]
    )
    assert "Use --seeds 3 or more" in lines[2]
    failed = Trial("c", 0, {}, {"was": "t7"}, state=FAIL)
    assert verdict_of([row(7, 0.1), row(1, 0.2)], [failed, trial("t1", 0.5, 0.6)]) == [
        "not settled: t7, which won, could not be scored again."
    ]
    assert verdict_of([row(7, 0.1), row(1, 0.2)], [trial("t7", 0.4, 0.5)]) == [
        "not settled: no rival of t7 could be scored again."
    ]
    # The rival is the next one in the order of the study, not the one that is nearest now.
    assert (
        judge(named(0, 1, 2, 3), {"t0": (0.1, 0.2), "t2": (0.9, 0.8), "t3": (0.1, 0.3)}).fixed.rival
        == "t2"
    )


N_SIMULATED = 600
"""Two standard errors of a rate of 5 % are then 1.8 %, of 80 % 3.3 %."""


def verdicts(rng, k, s, *, advantage=0.0, spread=None, skewed=False, seed_effect=1.0):
    """Of k finalists under s common seeds, the first of which is better than each other one by
    `advantage` standard errors of their
    difference."""
    for _ in range(N_SIMULATED):
        noise = rng.exponential(size=(k, s)) - 1 if skewed else rng.normal(size=(k, s))
        table = noise * (np.ones(k) if spread is None else spread(k))[
            :, None
        ] + seed_effect * rng.normal(size=s)
        table[0] -= advantage * math.sqrt(2 / s)
        yield judge(named(*range(k)), dict(zip(named(*range(k)), table, strict=True))).verdict


CASES = [(k, s, False) for k in (2, 5, 10) for s in (2, 3, 5)] + [(2, 3, True), (5, 3, True), (10, 2, True)]


@pytest.mark.parametrize("k, s, skewed", CASES)
def test_equal_finalists_are_told_apart_in_at_most_5_percent(k, s, skewed):
    found = list(verdicts(np.random.default_rng([k, s, skewed]), k, s, skewed=skewed))
    rate = sum(verdict is not Verdict.NOT_SETTLED for verdict in found) / len(found)
    assert rate <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / N_SIMULATED)


@pytest.mark.parametrize("k", [2, 10])
def test_equal_finalists_of_one_seed_are_never_told_apart(k):
    found = itertools.islice(verdicts(np.random.default_rng(k), k, 1), 20)
    assert set(found) == {Verdict.NOT_SETTLED}


@pytest.mark.parametrize("k, s", [(5, 3), (3, 5), (10, 2)])
def test_a_winner_three_standard_errors_better_than_every_rival_holds_in_80_percent(k, s):
    found = list(verdicts(np.random.default_rng([k, s]), k, s, advantage=3.0))
    assert found.count(Verdict.HOLDS) / len(found) >= 0.8 - 2 * math.sqrt(0.8 * 0.2 / N_SIMULATED)
    assert Verdict.DOES_NOT_HOLD not in found


# -- the command ---------------------------------------------------------------------------------

SOURCE = """
from ray import tune
from sweep import Epochs, Study
study = Study(
    space={"rank": tune.choice([4, 8, 16])},
    fan_out={"guidance": [7.5, 4.0]},
    fixed={"lr_schedule": "cosine"},
    epochs=Epochs(max=9, rungs=(3,)),
)
"""


@pytest.fixture
def storage(tmp_path):
    """A study of three scored trials, of which t0002 is the best and t0000 the second."""
    folder = StudyFolder(tmp_path / "sweeps", "s")
    folder.root.mkdir(parents=True)
    folder.write_study(load_study("s.py", {"name": "s"}, source=SOURCE), {})
    for number, (rank, objective) in enumerate([(4, 0.3), (8, 0.4), (16, 0.2)]):
        trial = {"study": "s", "trial": f"t000{number}", "number": number, "state": COMPLETE}
        best = {"best_epoch": 3, "objective": objective, "rung_values": [[3, objective, "e"]]}
        Records(folder.root).append_trial({**trial, "configuration": {"rank": rank}, **best})
    return tmp_path / "sweeps"


@pytest.mark.parametrize("given, name", [([], "s-confirm"), (["--name", "again"], "again")])
def test_the_command_launches_its_study_and_ends_with_the_verdict(
    storage, monkeypatch, capsys, given, name
):
    launched = []

    def launch(study, *rest, **options):
        launched.append(study)
        values = {"t0002": (0.1, 0.11, 0.1), "t0000": (0.3, 0.31, 0.3)}
        trials = {one: trial(one, *objectives) for one, objectives in values.items()}
        return SimpleNamespace(trials=trials, finished=True), 0

    monkeypatch.setattr(launch_commands, "_run_to_end", launch)
    assert main(["confirm", "s", "--top", "2", "--storage", str(storage), *given]) == 0
    (study,) = launched
    assert (study.name, [one.trial for one in searched_by(study)]) == (name, ["t0002", "t0000"])
    train, epochs, evaluation = study.split(study.listed[0].configuration)
    assert (train.schedule_epochs, epochs, evaluation.guidance) == (9, (3,), 7.5)
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "holds: t0002 is the best of 2 again, 0.1033, and better than t0000."
    assert "t0002 less t0000, which was second in the study: -0.2000" in said[1]


def test_a_single_finalist_is_no_confirmation(storage, capsys):
    assert main(["confirm", "s", "--top", "1", "--storage", str(storage)]) == 2
    assert "--top" in capsys.readouterr().err
