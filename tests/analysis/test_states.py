"""One vocabulary for states, and equal configurations once: in tables, on the page and in a terminal."""

from __future__ import annotations

import io

import numpy as np
import pytest
from rich.console import Console

from analysis.__main__ import main
from analysis.load import load_study_records
from analysis.pareto import pareto_front
from analysis.report_numbers import report_numbers
from analysis.selection import best_set, paired_comparisons
from analysis.tables import best_of_each, pivot, ranked_trials
from analysis.text import print_ranked
from sweep.records import Records, state_word
from sweep.wording import WORDS


@pytest.fixture
def repeated_dir(tmp_path):
    """Trials 0, 2 and 4 are one configuration, of which trial 4 was stopped early; trial 1 is better, trial 3 failed with its launch."""
    records = Records(tmp_path / "repeated", clock=lambda: 1.0)
    for key, lpips in (("a3", 0.7), ("a6", 0.6), ("b6", 0.3)):
        images = [{"prompt": "p", "seed": i, "lpips": lpips + 0.01 * i} for i in range(12)]
        row = {"evaluation_key": key, "training_key": key[0], "epoch": int(key[1]), "lpips": lpips, "fid": 100 * lpips, "n_images": 12}
        records.append_evaluation(row, images)
    records.append_evaluation({"evaluation_key": "c", "training_key": "none", "epoch": 0, "lpips": 0.9, "n_images": 12})
    for number, (training, key, epoch, objective, state) in enumerate(
        [("a", "a6", 6, 0.6, "COMPLETE"), ("b", "b6", 6, 0.3, "COMPLETE"), ("a", "a6", 6, 0.6, "COMPLETE"), (None, None, 0, None, "FAIL"), ("a", "a3", 3, 0.7, "PRUNED")]
    ):
        trial = {"trial": f"t{number:04d}", "number": number, "configuration": {"rank": 4 if training == "a" else 8}, "state": state, "training_key": training}
        scored = {"best_epoch": epoch, "objective": objective, "rung_values": [[epoch, objective, key]]} if key else {"cause": "interrupted", "reason": "interrupted: stopped"}
        records.append_trial({**trial, **scored, "labels": {"baseline": True} if number == 2 else {}})
    return records.study_dir


def test_a_state_has_one_name_everywhere(repeated_dir, capsys):
    assert (WORDS["PRUNED"], WORDS["COMPLETE"], WORDS["FAIL"], WORDS["RUNNING"]) == ("stopped early", "done", "failed", "running")
    assert [state_word("FAIL", cause) for cause in (None, float("nan"), "damaged", "configuration", "interrupted")] == ["failed"] * 4 + ["not finished"]
    numbers = report_numbers(load_study_records(repeated_dir))
    assert numbers["counts"] == {"done": 3, "not finished": 1, "stopped early": 1}
    assert {trial["state"] for trial in numbers["trials"]} == {"done", "not finished", "-"}
    assert any(trial["trial"].startswith("no adapter") for trial in numbers["trials"])
    for format in ("text", "markdown", "latex"):
        assert main(["tables", str(repeated_dir), "--format", format]) == 0
        said = capsys.readouterr().out
        assert "no adapter" in said and "done" in said and not any(word in said for word in ("COMPLETE", "CONTROL", "complete", " control "))


def test_equal_configurations_are_shown_once_with_the_others_named(repeated_dir):
    records = load_study_records(repeated_dir)
    ranked = ranked_trials(records)
    assert ranked["trial"].tolist() == ["t0001", "t0000", "t0003", "control"] and ranked["rank_number"].dropna().tolist() == [1, 2]
    assert ranked["equal_trials"].tolist()[:3] == [(), ("t0002", "t0004"), ()]
    assert ranked["vs_baseline"].iloc[0] == pytest.approx(-0.3)  # the baseline is one of the equal ones
    out = io.StringIO()
    print_ranked(records, ranked, Console(file=out, width=300))
    assert "t0000 (and 2 equal)" in out.getvalue() and "t0000 stands for t0002, t0004 too" in out.getvalue()
    assert any("t0000 stands for t0002, t0004 too" in line for line in report_numbers(records)["cannot_tell"])


def test_equal_configurations_count_once_in_every_table(repeated_dir):
    records = load_study_records(repeated_dir)
    assert best_set(records)["trial"].tolist() == ["t0001", "t0000"]
    assert paired_comparisons(records, "t0004")["trial"].tolist() == ["t0001"] == pareto_front(records)["trial"].tolist()
    assert pivot(records, "rank")["n"].tolist() == [1, 1] and best_of_each(records, "rank")["n_trials"].tolist() == [1, 1]


def test_labels_keep_equal_configurations_apart(repeated_dir):
    written = Records(repeated_dir, clock=lambda: 2.0)
    row = {"trial": "t0005", "number": 5, "configuration": {"rank": 4}, "state": "COMPLETE", "training_key": "a", "labels": {"experiment": 2}}
    written.append_trial({**row, "best_epoch": 6, "objective": 0.6, "rung_values": [[6, 0.6, "a6"]]})
    ranked = ranked_trials(load_study_records(repeated_dir))
    assert ranked["trial"].tolist()[:3] == ["t0001", "t0000", "t0005"] and np.isfinite(ranked["lpips"].iloc[2])
