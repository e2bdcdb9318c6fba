"""Fronts by hand, and against the definition."""

from __future__ import annotations

import numpy as np
import pytest

from analysis.load import load_study_records
from analysis.pareto import is_on_front, pareto_front, quality_against_epochs
from sweep.records import RecordsError


def test_a_front_by_hand_with_ties_and_missing_values():
    values = np.array([[1, 3], [2, 2], [3, 1], [3, 3], [2, 2], [1, 4], [np.nan, 0], [0, np.inf]], dtype=float)
    assert is_on_front(values).tolist() == [True, True, True, False, True, False, False, False]
    assert is_on_front(np.empty((0, 2))).tolist() == []


def test_the_front_is_what_nothing_dominates():
    values = np.random.default_rng(0).integers(0, 12, (80, 2)).astype(float)
    dominated = [any((other <= own).all() and (other < own).any() for other in values) for own in values]
    assert is_on_front(values).tolist() == [not found for found in dominated]


def test_the_best_trial_is_alone_where_it_wins_both_and_epochs_buy_quality(study_dir):
    records = load_study_records(study_dir)
    assert pareto_front(records)["trial"].tolist() == ["t0003"]
    steps = quality_against_epochs(records)
    assert steps[["epoch", "trial"]].to_numpy().tolist() == [[3, "t0003"], [6, "t0003"]] and steps["objective"].tolist() == pytest.approx([0.5, 0.3])
    with pytest.raises(RecordsError, match="lower is better, but `diversity`"):
        pareto_front(records, "lpips", "diversity")
