"""Learning curves, survival, costs and failures; numbers follow from conftest.py by hand."""

from __future__ import annotations

import json

import pandas as pd
import pytest

from analysis.cost import cost, failures
from analysis.curves import learning_curves, survival
from analysis.load import load_study_records
from sweep.records import Records


def test_a_learning_curve_is_a_trainings_values_by_epoch(study_dir):
    curves = learning_curves(load_study_records(study_dir))
    own = curves[curves["training"] == "t0002"]
    assert own["epoch"].tolist() == [3, 6] and own["objective"].tolist() == pytest.approx([0.6, 0.4]) and own["n_trials"].tolist() == [1, 1]
    assert len(curves) == 8 and set(curves["guidance"]) == {3.0}  # the control is no training


def test_curves_of_a_study_that_searches_prompts_are_sorted(tmp_path):
    """Values of one parameter may be lists, or of several kinds: prompts, and a scale or none."""
    records = Records(tmp_path / "s", clock=lambda: 1.0)
    choices = [[{"text": "b"}], [{"text": "a"}], [{"text": "a"}, {"text": "c"}]]
    for number, prompts in enumerate(choices):
        given = {"prompts": prompts, "denoiser": ["ddim", 3, None][number]}
        for epoch in (6, 3):
            row = {"training_key": "k", "epoch": epoch, "configuration": given, "lpips": 0.5}
            records.append_evaluation({"evaluation_key": f"e{number}-{epoch}", **row}, [])
        rungs = [[6, 0.5, f"e{number}-6"]]
        trial = {"trial": f"t{number:04d}", "number": number, "configuration": given}
        records.append_trial({**trial, "state": "COMPLETE", "rung_values": rungs})
    curves = learning_curves(load_study_records(records.study_dir))
    assert curves["epoch"].tolist() == [3, 6] * 3
    assert curves["prompts"].tolist() == [choices[i] for i in (2, 2, 1, 1, 0, 0)]


def test_survival_counts_who_was_stopped_who_failed_and_who_went_on(study_dir):
    records = Records(study_dir)
    early = {"configuration": {"rank": 4}, "best_epoch": 3, "objective": 0.9, "rung_values": [[3, 0.9, "e0-3"]]}
    records.append_trial({"trial": "t0006", "number": 6, "state": "PRUNED", **early})
    records.append_trial({"trial": "t0007", "number": 7, "state": "FAIL", "reason": "loss is NaN", **early})
    found = survival(load_study_records(study_dir)).set_index("epoch")
    assert found.loc[3, ["n_reached", "n_stopped", "n_failed", "n_on"]].tolist() == [6, 1, 1, 4]
    assert found.loc[6, ["n_reached", "n_on", "best"]].tolist() == pytest.approx([4, 4, 0.3])
    assert failures(load_study_records(study_dir)).to_numpy().tolist() == [["loss is NaN", 2, 0.25, "t0004, t0007"]]


def test_what_two_trials_share_is_done_once_and_saved_once(study_dir):
    records = Records(study_dir)
    shared = {"configuration": {"rank": 4}, "best_epoch": 6, "objective": 0.6, "rung_values": [[3, 0.8, "e0-3"], [6, 0.6, "e0-6"]]}
    records.append_trial({"trial": "t0006", "number": 6, "state": "COMPLETE", **shared})
    table = cost(load_study_records(study_dir)).set_index("work")
    assert table.loc["training", ["asked", "done", "saved"]].tolist() == [30, 24, 6]
    assert table.loc["evaluation", ["asked", "done", "saved"]].tolist() == [11, 9, 2]
    assert table["device_seconds"].isna().all()  # no probe, and these evaluations were not timed
    (study_dir / "pack.json").write_text(json.dumps({"epochs_per_hour": 3600.0}))
    (study_dir / "launches.json").write_text(json.dumps({"request": {}, "launches": [{"gpu_hours": 0.5}, {"gpu_hours": 0.25}]}))
    table = cost(load_study_records(study_dir)).set_index("work")
    assert table.loc["training", "device_seconds"] == 24 and table.loc["GPUs held", "device_seconds"] == 2700


@pytest.mark.parametrize("state", [None, "FAIL", "RUNNING"])
def test_a_study_without_a_score_has_empty_tables(tmp_path, state):
    (tmp_path / "s" / "records").mkdir(parents=True)
    if state:
        Records(tmp_path / "s").append_trial({"trial": "t0000", "number": 0, "state": state, "configuration": {"rank": 4}})
    records = load_study_records(tmp_path / "s")
    assert learning_curves(records).empty and survival(records).empty
    assert cost(records)["asked"].tolist() == [0, 0] and cost(records)["saved_share"].isna().all()
    assert failures(records)["reason"].tolist() == (["no reason recorded"] if state == "FAIL" else [])
    assert isinstance(learning_curves(records), pd.DataFrame)
