"""Tables: rank, control, baseline, pivots; numbers follow from conftest.py by hand."""

from __future__ import annotations

import io
from dataclasses import replace

import pandas as pd
import pytest
from rich.console import Console

from analysis.__main__ import main
from analysis.load import load_study_records
from analysis.tables import best_of_each, pivot, ranked_trials
from analysis.text import print_ranked
from sweep.records import Records


@pytest.fixture
def ranked(study_dir) -> pd.DataFrame:
    return ranked_trials(load_study_records(study_dir))


def test_trials_are_ranked_by_objective_and_controls_and_failures_have_no_rank(ranked):
    assert list(ranked["trial"]) == ["t0003", "t0002", "t0001", "t0000", "t0005", "t0004", "control"]
    assert ranked["rank_number"].dropna().tolist() == [1, 2, 3, 4]
    assert ranked["is_control"].tolist() == [False] * 6 + [True]


def test_metrics_are_those_of_the_best_rung_with_their_n_and_networks(ranked):
    best = ranked.iloc[0]
    assert (best["evaluation_key"], best["best_epoch"]) == ("e3-6", 6)
    assert best["lpips"] == pytest.approx(0.315) and best["fid"] == pytest.approx(30.0)
    assert (best["n_images"], best["n_references"], best["pooled_backbone"]) == (20, 151, "embedded:pooled")
    assert best["lpips_low"] < best["lpips"] < best["lpips_high"]


def test_the_control_stands_in_the_table_with_its_own_values(ranked):
    control = ranked[ranked["is_control"]].iloc[0]
    assert (control["objective"], control["fid"], control["guidance"]) == (0.95, 90.0, 3.0) and pd.isna(control["rank"])


def test_a_file_that_was_scored_beside_the_trials_is_a_row_of_its_own_without_a_rank(study_dir, ranked):
    row = {"evaluation_key": "f", "training_key": "file:0123", "adapter_file": "old", "epoch": 0, "configuration": {"guidance": 3.0}}
    images = [{"prompt": "p0", "seen": True, "seed": seed, "lpips": 0.1 + 0.01 * seed} for seed in range(4)]
    Records(study_dir).append_evaluation({**row, "n_images": 4, "n_references": 151, "lpips": 0.115, "fid": 9.0, "objective": 0.1}, images)
    records = load_study_records(study_dir)
    table = ranked_trials(records)
    assert list(table["trial"]) == [*ranked["trial"][:-1], "old", "control"]
    file = table[table["is_file"]].iloc[0]
    assert (file["state"], file["objective"], file["fid"], file["guidance"], file["is_control"]) == ("FILE", 0.1, 9.0, 3.0, False)
    assert pd.isna(file["rank_number"]) and file["vs_baseline"] == pytest.approx(-0.5)  # on the four pictures that both have
    assert table["rank_number"].dropna().tolist() == [1, 2, 3, 4]
    out = io.StringIO()
    print_ranked(records, table, Console(file=out, width=300))
    assert "old" in out.getvalue() and "file" in out.getvalue()


def test_the_order_of_rows_of_equal_objective_is_not_that_in_which_they_were_recorded(study_dir):
    counts = {"epoch": 0, "n_images": 4, "n_references": 151, "fid": 90.0, "objective": 0.95}
    for key, training, file in (
        ("control-2", "none", None),
        ("a-control", "none", None),
        ("file-2", "file:2", "old"),
        ("file-1", "file:1", "older"),
    ):
        row = {"evaluation_key": key, "training_key": training, "adapter_file": file}
        Records(study_dir).append_evaluation({**row, "configuration": {"guidance": 2.0}, **counts}, [])
    records = load_study_records(study_dir)
    backwards = replace(records, evaluations=records.evaluations[::-1].reset_index(drop=True))
    tables = [ranked_trials(one)["evaluation_key"].dropna() for one in (records, backwards)]
    for keys in tables:
        assert keys.tail(5).tolist() == ["file-1", "file-2", "a-control", "control", "control-2"]


def test_trials_are_paired_with_the_baseline_image_by_image(ranked):
    by_trial = ranked.set_index("trial")
    assert by_trial.loc["t0003", ["vs_baseline", "vs_baseline_low", "vs_baseline_high"]].tolist() == pytest.approx([-0.3] * 3)
    assert by_trial.loc["t0003", "vs_baseline_n"] == 20
    assert by_trial.loc["control", "vs_baseline"] == pytest.approx(0.3)
    assert pd.isna(by_trial.loc["t0000", "vs_baseline"]) and by_trial.loc["t0004", "vs_baseline_n"] == 0


def test_a_study_without_baseline_labels_or_images_still_has_a_table(tmp_path):
    records = Records(tmp_path / "bare")
    row = {"trial": "t0000", "number": 0, "state": "COMPLETE", "configuration": {"rank": 4}}
    records.append_trial({**row, "objective": 0.5, "best_epoch": 3})
    table = ranked_trials(load_study_records(tmp_path / "bare"))
    assert table["vs_baseline"].isna().all() and table["lpips"].isna().all() and table["rank_number"].tolist() == [1]


def test_a_trial_that_failed_after_a_good_score_is_not_ranked(study_dir):
    failed = {"trial": "t0006", "number": 6, "state": "FAIL", "configuration": {"caption": "v1", "rank": 4, "guidance": 3.0}}
    Records(study_dir).append_trial({**failed, "objective": 0.01, "best_epoch": 3, "reason": "training diverged"})
    records = load_study_records(study_dir)
    row = ranked_trials(records).set_index("trial").loc["t0006"]
    assert pd.isna(row["rank_number"]) and ranked_trials(records)["trial"].iloc[0] == "t0003"
    assert pivot(records, "caption", "guidance").set_index("caption")["n"].tolist() == [2, 2]


def test_a_pivot_says_the_best_the_mean_and_n(study_dir):
    by_caption = pivot(load_study_records(study_dir), "caption", "guidance").set_index("caption")
    assert by_caption["n"].tolist() == [2, 2]
    assert by_caption["best"].tolist() == pytest.approx([0.5, 0.3]) and by_caption["mean"].tolist() == pytest.approx([0.55, 0.35])
    with pytest.raises(KeyError, match="`dropout` is none of caption, rank, guidance"):
        pivot(load_study_records(study_dir), "dropout", "rank")


def test_nothing_is_cut_in_a_file_and_a_narrow_terminal_gets_the_narrow_form(study_dir):
    records = load_study_records(study_dir)
    file, terminal = io.StringIO(), io.StringIO()
    print_ranked(records, ranked_trials(records), Console(file=file))
    print_ranked(records, ranked_trials(records), Console(file=terminal, force_terminal=True, width=80, color_system=None))
    assert "-0.300 [-0.300, -0.300]" in file.getvalue() and "151 references" in file.getvalue() and "…" not in file.getvalue()
    assert "caption=v2" in terminal.getvalue() and "…" not in terminal.getvalue()
    assert max(len(line) for line in terminal.getvalue().splitlines()) <= 80


def test_the_command_prints_csv_and_says_in_one_line_what_is_missing(study_dir, capsys):
    assert main(["tables", "captions", "--storage", str(study_dir.parent), "--csv"]) == 0
    assert pd.read_csv(io.StringIO(capsys.readouterr().out))["trial"].iloc[0] == "t0003"
    assert main(["tables", str(study_dir), "--pivot", "rank", "caption"]) == 0
    assert main(["tables", "nothing", "--storage", str(study_dir.parent)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and "holds captions" in error


@pytest.fixture
def replicated_dir(tmp_path):
    """Two trials under two training seeds each; under the second seed every image is 0.1 worse, and trial 1 is 0.2 better than trial 0."""
    records = Records(tmp_path / "replicated", clock=lambda: 1.0)
    for number, lpips in enumerate((0.6, 0.4)):
        keys = [f"e{number}-{seed}" for seed in (0, 1)]
        for key, value in zip(keys, (lpips, lpips + 0.1), strict=True):
            images = [{"prompt": "p", "seed": i, "lpips": value + 0.01 * i} for i in range(4)]
            row = {"evaluation_key": key, "training_key": "k", "epoch": 6, "lpips": value + 0.015, "fid": 100 * value, "n_images": 4}
            records.append_evaluation({**row, "n_references": 151}, images)
        trial = {"trial": f"t{number:04d}", "number": number, "state": "COMPLETE", "configuration": {"rank": 4 + number}}
        scored = {"best_epoch": 6, "objective": lpips + 0.05, "seed_objectives": [lpips, lpips + 0.1], "rung_values": [[6, lpips + 0.05, *keys]]}
        records.append_trial({**trial, **scored, "labels": {"baseline": True} if number == 0 else {"note": "mine"}})
    return records.study_dir


def test_metrics_of_a_replicated_trial_are_means_over_its_seeds_and_its_interval_covers_both(replicated_dir):
    best = ranked_trials(load_study_records(replicated_dir)).set_index("trial").loc["t0001"]
    assert (best["lpips"], best["fid"], best["n_train_seeds"]) == (pytest.approx(0.465), pytest.approx(45.0), 2)
    assert best["objective_spread"] == pytest.approx(0.1 / 2**0.5)
    # Seed means 0.415 and 0.515 lie 0.05 from their mean: t at about 1 degree of freedom makes far more of it than the images' spread.
    assert best["lpips_low"] < 0.415 and best["lpips_high"] > 0.515
    assert (best["vs_baseline"], best["vs_baseline_low"], best["vs_baseline_n"]) == (pytest.approx(-0.2), pytest.approx(-0.2), 4)


def test_the_printed_table_says_what_its_intervals_cover_and_shows_labels_and_spread(replicated_dir, study_dir):
    file = io.StringIO()
    records = load_study_records(replicated_dir)
    print_ranked(records, ranked_trials(records), Console(file=file))
    text = file.getvalue()
    assert "0.4500 ± 0.0707" in text and "the images and the 2 training seeds" in text and "note" in text and "mine" in text
    file, records = io.StringIO(), load_study_records(study_dir)
    print_ranked(records, ranked_trials(records), Console(file=file))
    assert "the images, not training seeds" in file.getvalue() and "±" not in file.getvalue()


def test_the_best_of_each_caption_is_named_with_how_many_it_was_picked_from(study_dir):
    best = best_of_each(load_study_records(study_dir), "caption")
    assert best[["caption", "trial", "n_trials"]].to_numpy().tolist() == [["v2", "t0003", 2], ["v1", "t0001", 2]]
    assert best["lpips"].tolist() == pytest.approx([0.315, 0.515]) and (best["lpips_low"] < best["lpips"]).all()
    assert pivot(load_study_records(study_dir), "caption", "rank", "guidance", value="fid")["best"].tolist() == pytest.approx([60, 50, 40, 30])
    assert pivot(load_study_records(study_dir), "label.baseline")["n"].tolist() == [1]
    with pytest.raises(KeyError, match="no `reason`"):
        pivot(load_study_records(study_dir), "caption", value="reason")


def test_a_baseline_under_several_seeds_is_paired_with_a_trial_of_one(replicated_dir):
    records = Records(replicated_dir, clock=lambda: 1.0)
    images = [{"prompt": "p", "seed": i, "lpips": 0.3 + 0.01 * i} for i in range(4)]
    records.append_evaluation({"evaluation_key": "e2", "training_key": "k", "epoch": 6, "lpips": 0.315, "n_images": 4}, images)
    trial = {"trial": "t0002", "number": 2, "state": "COMPLETE", "configuration": {"rank": 6}, "best_epoch": 6, "objective": 0.3}
    records.append_trial({**trial, "rung_values": [[6, 0.3, "e2"]]})
    row = ranked_trials(load_study_records(replicated_dir)).set_index("trial").loc["t0002"]
    assert (row["vs_baseline"], row["vs_baseline_n"]) == (pytest.approx(-0.35), 4)  # 0.3 against 0.6 and 0.7
