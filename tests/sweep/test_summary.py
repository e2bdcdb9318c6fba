"""The end of a launch: the ranked table and what sharing saved, by plain stand-ins for the driver."""

import io
import shlex
from types import SimpleNamespace

import pytest
from rich.console import Console

from sweep.folder import StudyFolder
from sweep.objective import Objective
from sweep.searcher import COMPLETE, FAIL, PRUNED
from sweep.summary import (
    _print_places,
    _print_ranking,
    equal_lines,
    front_lines,
    photograph_lines,
    ranked_table,
    ranking,
    saved_text,
    sharing_text,
)
from tests.sweep.fakes import a_driver, a_trial


def test_the_end_says_what_sharing_saved():
    trials = [a_trial(i, COMPLETE, (3, 0.5), (6, 0.25), training_key="A") for i in range(2)]
    assert sharing_text(a_driver(*trials), {"epochs_trained": 6, "rungs_scored": 3}) == (
        "2 trials from 1 distinct training; 12 epochs asked for and 6 trained, 4 scores asked for and 3 computed; "
        "sharing saved 50% of the epochs and 25% of the scores."
    )
    assert saved_text((6, 2), (6, 2)) == "nothing"


def test_the_ranking_has_the_best_first_and_the_control_in_its_place():
    backbones = {"perceptual_backbone": "embedded:perceptual", "pooled_backbone": "embedded:pooled"}
    control = {"training_key": "none", "lpips": 0.6, "fid": 120.0, "configuration": {"infer_model": "m", "guidance": 3.0}, **backbones}
    driver = a_driver(a_trial(0, COMPLETE, (3, 0.75)), a_trial(1, COMPLETE, (3, 0.5)), a_trial(2, FAIL, (3, 0.1)))
    rows = ranking(driver, {"c": control, "of another subject": {**control, "lpips": 0.0, "fid": 0.0}})
    assert [row["trial"] for row in rows] == ["t0001", "no adapter", "t0000"]
    assert [row["rank"] for row in rows] == ["1", "", "2"]


def test_photographs_stand_under_the_ranking_however_many_trials_there_are():
    row = {"training_key": "photographs", "lpips": 0.25, "fid": None, "objective": None}
    driver = a_driver(*(a_trial(i, COMPLETE, (3, 0.1 * i)) for i in range(3)), photographs={"p", "not scored"})
    (line,) = photograph_lines(driver, {"p": row})
    assert (line["trial"], line["lpips"], line["fid"], line["rank"]) == ("your held-out photographs", 0.25, None, "")
    console = Console(file=io.StringIO(), width=140)
    console.print(ranked_table([*ranking(driver, {}), line], n_rows=1))
    text = console.file.getvalue()
    assert "your held-out photographs" in text and "0.2500" in text and "t0002" not in text


BACKBONES = {"perceptual_backbone": "embedded:perceptual", "pooled_backbone": "embedded:pooled"}


def scored(guidance, lpips, **rest):
    """An image set; its objective is `lpips` of OBJECTIVE where FID is 200 times that."""
    configuration = {
        "infer_model": "m",
        "guidance": guidance,
        "prompts": [{"text": "a", "seen": True}],
    }
    return {"configuration": configuration, "lpips": lpips, "fid": 200 * lpips, **BACKBONES, **rest}


def drawn(rows, width=140):
    console = Console(file=io.StringIO(), width=width)
    console.print(ranked_table(rows))
    return console.file.getvalue()


def test_the_control_in_the_ranking_is_the_one_that_was_scored_as_the_trials_were():
    # Fan-out: trials are ranked at guidance 7.5; without an adapter guidance 2 happens to score
    # better.
    evaluations = {
        "c": scored(7.5, 0.7),
        "d": scored(2.0, 0.4),
        "key0@3": scored(7.5, 0.6),
        "key1@3": scored(7.5, 0.5),
    }
    driver = a_driver(
        a_trial(0, COMPLETE, (3, 0.6)), a_trial(1, COMPLETE, (3, 0.5)), controls={"c", "d"}
    )
    rows = ranking(driver, evaluations)
    assert [(row["trial"], row["objective"]) for row in rows] == [
        ("t0001", 0.5),
        ("t0000", 0.6),
        ("no adapter", 0.7),
    ]
    assert "guidance=7.5" in rows[-1]["configuration"] and drawn(rows).count("no adapter") == 1


def test_trials_that_were_scored_in_several_ways_have_each_their_own_control_beside_them():
    evaluations = {
        "c": scored(7.5, 0.7),
        "d": scored(2.0, 0.4),
        "key0@3": scored(7.5, 0.6),
        "key1@3": scored(2.0, 0.3),
    }
    trials = (
        a_trial(0, COMPLETE, (3, 0.6)),
        a_trial(1, COMPLETE, (3, 0.3)),
        a_trial(2, COMPLETE, (3, 0.65)),
    )
    rows = ranking(a_driver(*trials, controls={"c", "d"}), evaluations)
    assert [(row["trial"], row["no_adapter"]) for row in rows] == [
        ("t0001", 0.4),
        ("t0000", 0.7),
        ("t0002", None),
    ]
    line = next(line for line in drawn(rows, width=200).splitlines() if "t0000" in line)
    assert "0.6000 │     0.7000" in line


def test_a_control_is_ranked_by_similarities_too():
    objective = Objective(dinov2=1.0)
    study = SimpleNamespace(name="s", objective=objective, train_seeds=1)
    row = scored(4.0, 0.5, further_metrics={"dinov2": 0.75})
    (control,) = ranking(a_driver(study=study), {"c": row})
    assert (control["trial"], control["objective"]) == ("no adapter", 0.25)
    assert ranking(a_driver(study=study), {"c": scored(4.0, 0.5)}) == []


def test_a_long_ranking_is_cut_but_never_loses_the_control():
    rows = [{"rank": str(i), "trial": f"t{i:04d}", "objective": i / 100, "spread": None, "epoch": 3, "lpips": 0.5, "fid": 1.0, "state": "done", "labels": "", "configuration": ""}
            for i in range(30)]  # fmt: skip
    rows.append({**rows[0], "trial": "no adapter", "rank": ""})
    console = Console(file=io.StringIO(), width=120)
    console.print(ranked_table(rows, n_rows=5))
    assert "t0004" in console.file.getvalue() and "t0005" not in console.file.getvalue() and "no adapter" in console.file.getvalue()


def test_replicated_trials_show_means_over_their_seeds_and_the_spread_of_the_objective():
    trial = a_trial(0, COMPLETE)
    trial.rungs, trial.seed_objectives = [(3, 0.5, "a", "b")], {3: (0.4, 0.6)}
    row = ranking(a_driver(trial), {"a": {"lpips": 1.0, "fid": 10.0}, "b": {"lpips": 2.0, "fid": 30.0}})[0]
    assert (row["lpips"], row["fid"]) == (1.5, 20.0) and abs(row["spread"] - 0.2 / 2**0.5) < 1e-12
    console = Console(file=io.StringIO(), width=120)
    console.print(ranked_table([row]))
    assert "0.5000 ± 0.1414" in console.file.getvalue()


@pytest.mark.parametrize("width", [80, 140])
def test_a_ranking_shows_configurations_whole_at_every_width(width):
    driver = a_driver(a_trial(0, COMPLETE, (3, 0.25), labels={"baseline": True, "row": "first"}), a_trial(1, PRUNED, (3, 0.5)))
    driver.trials["t0000"].configuration = {"caption": "v2", "rank": 16, "learning_rate": 0.001, "guidance": 4.0}
    console = Console(file=io.StringIO(), width=width)
    _print_ranking(console, ranking(driver, {}), n_rows=12)
    text = console.file.getvalue()
    assert "caption=v2 rank=16 learning_rate=0.001 guidance=4" in text and "t0000 (baseline)" in text and "row=first" in text
    assert "│ 0.2500 │" in " ".join(text.split())  # nothing of the numbers is cut


def test_the_front_is_told_by_its_first_metric_with_what_each_trial_has():
    trials = [a_trial(n, COMPLETE, (6, 0.5), vectors={6: vector}) for n, vector in enumerate([(0.41237, 60.0), (0.3, 90.25), (0.5, 61.0)])]
    trials.append(a_trial(3, FAIL, (6, 0.1), vectors={6: (0.1, 1.0)}))
    assert front_lines(trials, ("lpips", "fid"), "s") == [
        "Pareto front: 2 of 3 trials are beaten by none in lpips and fid at once",
        "  t0001  lpips 0.3  fid 90.25 at epoch 6  rank=8",
        "  t0000  lpips 0.4124  fid 60 at epoch 6  rank=8",
    ]
    many = [a_trial(n, COMPLETE, (6, 0.5), vectors={6: (n, -n)}) for n in range(15)]
    assert front_lines(many, ("lpips", "fid"), "s")[-1] == (
        "  and 3 more: `python -m analysis tables s --table pareto`"
    )
    assert front_lines(trials, (), "s") == front_lines([], ("lpips", "fid"), "s") == []


def test_equal_configurations_have_one_rank_and_one_place_on_the_front():
    same = {"training_key": "A", "vectors": {6: (0.3, 60.0)}}
    trials = [
        a_trial(0, COMPLETE, (3, 0.5), (6, 0.3), **same),
        a_trial(1, COMPLETE, (6, 0.4), training_key="B", vectors={6: (0.4, 50.0)}),
        a_trial(2, COMPLETE, (6, 0.3), labels={"baseline": True}, **same),
        a_trial(3, COMPLETE, (6, 0.3), labels={"row": "another"}, **same),
        a_trial(4, FAIL, (6, 0.1), **same),
    ]
    rows = ranking(a_driver(*trials), {})
    assert [(row["rank"], row["trial"]) for row in rows] == [
        ("1", "t0000 (baseline) (and 1 equal)"),
        ("2", "t0003"),
        ("3", "t0001"),
    ]
    (line,) = equal_lines(trials)
    assert line.startswith("t0000 stands for t0002 too")
    front = front_lines([t for t in trials if t.number != 3], ("lpips", "fid"), "s")
    assert front[0].startswith("Pareto front: 2 of 2 ") and len(front) == 3


def test_the_commands_at_the_end_lead_to_a_study_in_any_storage(tmp_path):
    folder = StudyFolder(tmp_path / "my sweeps", "s")
    folder.here.mkdir(parents=True)
    folder.journal.touch()
    console = Console(file=io.StringIO(), width=300)
    study = SimpleNamespace(kind="sampled", name="s")
    _print_places(console, a_driver(n_ended=0, study=study), folder)
    said = dict(line.split("   ", 1) for line in console.file.getvalue().splitlines())
    storage = str(tmp_path / "my sweeps")
    assert shlex.split(said["next"])[-3:] == ["s", "--storage", storage]
    assert shlex.split(said["to go on"].split(": what")[0])[-3:] == ["s", "--storage", storage]
    assert shlex.split(said["the sampler's view"])[-1] == str(folder.journal)
