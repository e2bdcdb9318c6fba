"""Fronts by hand, and against the definition."""

from __future__ import annotations

import json

import numpy as np
import pytest

from analysis.figures import trade_off
from analysis.load import load_study_records
from analysis.pareto import front_notes, is_on_front, pareto_front, quality_against_epochs
from sweep.records import Records, RecordsError


def test_a_front_by_hand_with_ties_and_missing_values():
    values = np.array([[1, 3], [2, 2], [3, 1], [3, 3], [2, 2], [1, 4], [np.nan, 0], [0, np.inf]], dtype=float)
    assert is_on_front(values).tolist() == [True, True, True, False, True, False, False, False]
    assert is_on_front(np.empty((0, 2))).tolist() == []


@pytest.mark.parametrize("n_axes", [2, 3])
def test_the_front_is_what_nothing_dominates(n_axes):
    values = np.random.default_rng(0).integers(0, 12, (80, n_axes)).astype(float)
    dominated = [any((other <= own).all() and (other < own).any() for other in values) for own in values]
    assert is_on_front(values).tolist() == [not found for found in dominated]


def test_the_best_trial_is_alone_where_it_wins_both_and_epochs_buy_quality(study_dir):
    records = load_study_records(study_dir)
    assert pareto_front(records)["trial"].tolist() == ["t0003"]
    steps = quality_against_epochs(records)
    assert steps[["epoch", "trial"]].to_numpy().tolist() == [[3, "t0003"], [6, "t0003"]] and steps["objective"].tolist() == pytest.approx([0.5, 0.3])
    for axes, message in [(("lpips", "dropout"), "`dropout` is none"), (("lpips",), "two or three.*lpips"), (("fid", "clip_i"), "no trial has a `clip_i`")]:
        with pytest.raises(RecordsError, match=message):
            pareto_front(records, *axes)


@pytest.fixture
def trade_off_dir(tmp_path):
    """A study that weighs lpips, diversity and epochs: what each trial has stands in its name's order below."""
    records = Records(tmp_path / "traded", clock=lambda: 1.0)
    for number, (lpips, diversity, epoch) in enumerate([(0.2, 0.1, 6), (0.4, 0.3, 6), (0.4, 0.2, 6), (0.4, 0.2, 3), (0.5, 0.05, 1)]):
        key, network = f"e{number}", {"perceptual_backbone": "embedded:perceptual"}
        records.append_evaluation(
            {"evaluation_key": key, "training_key": f"k{number}", "epoch": epoch, "lpips": lpips, "diversity": diversity, "fid": 10.0 - number, **network}, []
        )
        ended = {"state": "COMPLETE", "best_epoch": epoch, "objective": lpips, "rung_values": [[epoch, lpips, key]]}
        records.append_trial({"trial": f"t{number:04d}", "number": number, "configuration": {"rank": number}, **ended})
    (tmp_path / "traded" / "study.json").write_text(json.dumps({"pareto": ["lpips", "diversity", "epochs"]}))
    return tmp_path / "traded"


def test_a_study_that_weighs_metrics_has_the_front_of_its_own_in_every_table(trade_off_dir):
    records = load_study_records(trade_off_dir)
    front = pareto_front(records)  # more diversity is better; t0002 is t0003 at twice the epochs
    assert list(front.columns) == ["trial", "rank", "lpips", "diversity", "epochs", "n_images"]
    assert front["trial"].tolist() == ["t0000", "t0001", "t0003", "t0004"]
    assert pareto_front(records, "diversity", "lpips")["trial"].tolist() == ["t0001", "t0000"]
    assert pareto_front(records, "lpips", "fid")["trial"].tolist() == ["t0000", "t0003", "t0004"]
    assert front_notes(records) == [
        "Ranks are the objective's. Beaten by none in lpips, diversity and epochs at once (--table pareto): t0000, t0001, t0003, t0004."
    ]
    assert trade_off(records)["is_on_front"].sum() == 4


def test_a_study_that_weighs_nothing_has_no_line_on_it(study_dir):
    assert front_notes(load_study_records(study_dir)) == []
