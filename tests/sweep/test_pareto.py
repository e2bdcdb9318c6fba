"""Vectors and fronts by hand."""

import pytest

from sweep.errors import ObjectiveError
from sweep.messages import Outcome
from sweep.pareto import add_vectors, directions_of, front_of, notes_on, vector_of
from sweep.searcher import COMPLETE
from sweep.study import Study
from sweep.trial_rows import Trial


def a_trial(number: int, *vector: float) -> Trial:
    return Trial(f"t{number:04d}", number, {}, state=COMPLETE, rungs=[(3, 0.5, f"key{number}")], vectors={3: vector} if vector else {})


def test_a_vector_is_the_mean_over_training_seeds_as_it_was_measured_and_the_epoch():
    seeds = [{"lpips": 0.25, "diversity": 0.5}, {"lpips": 0.75, "diversity": 0.25}]
    assert vector_of(("lpips", "diversity", "epochs"), 6, seeds) == (0.5, 0.375, 6.0)
    assert directions_of(("lpips", "diversity", "epochs", "dinov2_unseen")) == ["minimize", "maximize", "minimize", "maximize"]
    with pytest.raises(ObjectiveError, match="`pareto` needs `fid`.*lpips"):
        vector_of(("lpips", "fid"), 6, [{"lpips": 0.5}])
    with pytest.raises(ObjectiveError, match="`pareto` needs a finite `fid`.*nan"):
        vector_of(("lpips", "fid"), 6, [{"lpips": 0.5, "fid": float("nan")}])


def test_the_front_has_ties_and_nobody_who_is_beaten_and_more_diversity_is_better():
    trials = [a_trial(0, 0.2, 0.1), a_trial(1, 0.4, 0.3), a_trial(2, 0.4, 0.2), a_trial(3, 0.2, 0.1), a_trial(4), a_trial(5, 0.5, 0.3)]
    assert [trial.id for trial in front_of(trials, ("lpips", "diversity"))] == ["t0000", "t0003", "t0001"]
    assert [trial.id for trial in front_of(trials, ("lpips", "fid"))] == ["t0000", "t0003"]
    assert front_of([], ("lpips", "fid")) == []


def test_vectors_are_rebuilt_from_the_evaluations_and_a_trial_without_them_has_none():
    known, unscored, lost = a_trial(0), a_trial(1), a_trial(2)
    known.rungs = [(3, 0.5, "a", "b"), (6, 0.75, "c", "c")]
    outcomes = {key: Outcome({"lpips": lpips, "fid": 10 * lpips}) for key, lpips in (("a", 0.25), ("b", 0.75), ("c", 1.0))}
    outcomes["key1"] = Outcome({"lpips": 0.5})  # made before fid was asked for
    add_vectors([known, unscored, lost], ("lpips", "fid"), outcomes)
    assert known.vectors == {3: (0.5, 5.0), 6: (1.0, 10.0)} and known.vector == (0.5, 5.0)
    assert unscored.vector == lost.vector == ()


def test_a_study_says_how_it_looks_for_a_front_and_that_nothing_is_stopped():
    space = lambda trial: {"rank": trial.suggest_int("rank", 4, 16)}  # noqa: E731
    (how, conditional) = notes_on(Study(space=space, samples=40, pareto=("lpips", "diversity"), sampler="nsga2"))
    assert how.startswith("NSGA-II, in generations of 5, looks for low lpips and high diversity at once. Early stopping is off")
    assert "sampler='tpe'" in conditional
    assert notes_on(Study(space=space, pareto=("lpips", "fid")))[0].startswith("TPE looks for low lpips and low fid")
    assert notes_on(Study(space=space)) == [] == notes_on(Study(rows=[{}, {"rank": 4}], pareto=("lpips", "fid")))
