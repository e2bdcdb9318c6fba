"""The best of many: sets by hand, coverage by simulation, ties, one trial, none."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from analysis.load import load_study_records
from analysis.selection import best_set, optimism_of_the_best, paired_comparisons, selection_statement
from sweep.records import Records, RecordsError


def study(folder, lpips, baseline: int | None = None):
    """A study whose trial i has the pictures lpips[i]; the columns are pairs of prompt and noise."""
    records = Records(folder, clock=lambda: 1.0)
    for number, values in enumerate(np.asarray(lpips, dtype=float)):
        images = [{"prompt": f"p{i // 4}", "seed": i % 4, "lpips": value} for i, value in enumerate(values)]
        key, mean = f"e{number}", float(np.nanmean(values))
        records.append_evaluation({"evaluation_key": key, "training_key": f"k{number}", "epoch": 3, "lpips": mean, "n_images": len(images)}, images)
        trial = {"trial": f"t{number:04d}", "number": number, "state": "COMPLETE", "configuration": {"rank": number}}
        labels = {"baseline": True} if number == baseline else {}
        records.append_trial({**trial, "labels": labels, "best_epoch": 3, "objective": mean, "rung_values": [[3, mean, key]]})
    return load_study_records(folder)


def test_what_cannot_be_told_from_the_best_is_in_its_set(tmp_path):
    noise = 0.1 * np.random.default_rng(0).normal(size=(3, 20)) + np.random.default_rng(1).normal(size=20)
    best = best_set(study(tmp_path / "s", noise + np.array([[0.0], [0.005], [0.5]]))).set_index("trial")
    assert best.loc[["t0000", "t0001", "t0002"], "in_set"].tolist() == [True, True, False]
    assert best.loc["t0002", "p_best"] < 1e-6 and best["n"].tolist() == [20] * 3 and best["difference"].min() == 0


def test_trials_that_tie_are_all_in_the_set(tmp_path):
    best = best_set(study(tmp_path / "s", [[0.5, 0.6, 0.7]] * 3))
    assert best["in_set"].all() and best["p_best"].tolist() == [1, 1, 1] and best["difference"].tolist() == [0, 0, 0]


def test_the_truly_best_is_in_the_set_as_often_as_promised_however_many_there_are(tmp_path):
    rng, kept, first = np.random.default_rng(2), [], []
    records = study(tmp_path / "s", np.zeros((12, 16)))
    for _ in range(60):  # all are equally good: any of them is truly the best
        values = rng.normal(size=(12, 16)).ravel()
        best = best_set(records_with(records, values))
        kept.append(best.set_index("trial").loc["t0003", "in_set"])
        first.append(best["trial"].iloc[0] == "t0003")
    assert np.mean(kept) >= 0.9 and np.mean(first) < 0.2


def test_the_best_of_many_looks_better_than_it_is_by_what_is_said(tmp_path):
    rng, said, at_most, true = np.random.default_rng(3), [], [], []
    records = study(tmp_path / "s", np.zeros((20, 16)))
    for i in range(15):
        values = rng.normal(size=(20, 16))  # all truly 0: what the best looks better by is its mean
        found = optimism_of_the_best(records_with(records, values.ravel()), seed=i).iloc[0]
        said.append(found["optimism"])
        at_most.append(found["optimism_at_most"])
        true.append(-values.mean(axis=1).min())
    assert np.mean(at_most) == pytest.approx(np.mean(true), rel=0.15)  # all are equal: this is the case that it is for
    assert 0.4 * np.mean(true) < np.mean(said) < np.mean(true)
    assert optimism_of_the_best(records, seed=0)["optimism"].tolist() == [0.0]


def test_pairs_with_the_baseline_or_a_named_trial_have_p_values_corrected_for_all(tmp_path):
    noise = np.random.default_rng(5).normal(size=20)
    spread = np.tile([0.1, -0.1], 10)
    records = study(tmp_path / "s", [noise, noise - 0.2 + spread, noise + 0.3], baseline=0)
    pairs = paired_comparisons(records).set_index("trial")
    half = 2.0930 * spread.std(ddof=1) / 20**0.5  # t at 19 degrees
    assert pairs.loc["t0001", ["difference", "low", "high"]].tolist() == pytest.approx([-0.2, -0.2 - half, -0.2 + half], abs=1e-5)
    assert pairs.loc["t0002", "p"] == pytest.approx(0, abs=1e-9) and pairs.loc["t0001", "p_holm"] >= pairs.loc["t0001", "p"]
    assert paired_comparisons(records, "t0002")["difference"].tolist() == pytest.approx([-0.5, -0.3])
    with pytest.raises(RecordsError, match="no trial t0009"):
        paired_comparisons(records, "t0009")
    with pytest.raises(RecordsError, match="lpips or lpips_nearest.*`fid`"):
        best_set(records, value="fid")


def test_missing_pictures_leave_the_common_ones(tmp_path):
    values = np.random.default_rng(1).normal(size=(2, 6))
    values[1, 2:] = np.nan
    pair = paired_comparisons(study(tmp_path / "s", values), "t0000").iloc[0]
    assert pair["n"] == 2 and pair["difference"] == pytest.approx((values[1, :2] - values[0, :2]).mean())


def test_one_trial_is_its_own_set_and_none_has_a_sentence(tmp_path):
    one = study(tmp_path / "one", [[0.5, 0.6]])
    assert best_set(one)[["trial", "in_set"]].to_numpy().tolist() == [["t0000", True]]
    assert "t0000, 0.550" in selection_statement(best_set(one), optimism_of_the_best(one))
    (tmp_path / "empty" / "records").mkdir(parents=True)
    empty = load_study_records(tmp_path / "empty")
    assert best_set(empty).empty and selection_statement(best_set(empty), optimism_of_the_best(empty)).startswith("No trial")


def records_with(records, values):
    from dataclasses import replace

    return replace(records, images=records.images.assign(lpips=pd.Series(values, index=records.images.index)))
