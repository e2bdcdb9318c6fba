"""The paper's tables: the published 24 rows as records give the published findings; files, figure and sheets say the same."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from analysis.__main__ import main
from analysis.load import load_study_records
from analysis.paper import findings, paper_rows, paper_table
from analysis.paper_figure import values_across_experiments
from analysis.published import published_rows
from sweep.records import Records

NETWORKS = {"perceptual_backbone": "lpips:alex", "pooled_backbone": "inception"}
SEEN, UNSEEN = "a", "b"


@pytest.fixture
def paper_dir(tmp_path, recorded) -> Path:
    return Path(shutil.copytree(recorded, tmp_path / "paper"))


@pytest.fixture(scope="module")
def recorded(tmp_path_factory) -> Path:
    """The published rows as a study's records, and experiment 0. Of each image set two pictures: LPIPS 0.1 below (seen), 0.1 above (unseen)."""
    records = Records(tmp_path_factory.mktemp("study") / "paper", clock=lambda: 1.0)
    rows = published_rows().to_dict("records")
    zero = {"experiment": 0, "guidance": 4.0, "train_model": "sd15", "infer_model": "sd15", "caption": "v1", "lpips": 0.9, "fid": 300.0}
    for number, row in enumerate([zero, *rows]):
        labels = {name: row[name] for name in ("table", "experiment", "guidance") if name in row}
        _record(records, number, row, labels)
    records.compact()
    (records.study_dir / "study.json").write_text(json.dumps({"scale": "full: the numbers"}))
    return records.study_dir


def _record(records: Records, number: int, row: dict, labels: dict) -> None:
    key = f"e{number}"
    pictures = records.study_dir / "pictures"
    pictures.mkdir(parents=True, exist_ok=True)
    images = []
    for seed, (prompt, shift) in enumerate(((SEEN, -0.1), (UNSEEN, 0.1))):
        Image.new("RGB", (8, 8), (number * 10, 0, 0)).save(pictures / f"{key}-{seed}.png")
        values = {"lpips": row["lpips"] + shift, "seen": prompt == SEEN, "path": f"pictures/{key}-{seed}.png"}
        images.append({"prompt": prompt, "seed": seed, **values})
    evaluation = {"evaluation_key": key, "training_key": f"k{number}", "epoch": 300, "configuration": {}, "n_images": 2, "n_references": 151}
    records.append_evaluation({**evaluation, **NETWORKS, "lpips": row["lpips"], "fid": row["fid"]}, images)
    configuration = {name: row[name] for name in ("train_model", "infer_model", "caption", "guidance")}
    trial = {"trial": f"t{number:04d}", "number": number, "state": "COMPLETE", "configuration": configuration, "labels": labels}
    records.append_trial({**trial, "best_epoch": 300, "epochs": 300, "objective": row["lpips"], "rung_values": [[300, row["lpips"], key]]})


def test_the_published_rows_give_the_published_findings(paper_dir):
    rows = paper_rows(load_study_records(paper_dir))
    found = findings(rows).set_index(["metric", "side"])
    for side in ("published", "here"):
        lpips, fid = found.loc[("lpips", side)], found.loc[("fid", side)]
        assert (lpips["value"], lpips["experiment"], lpips["guidance"]) == (0.752, 4, 4.0)
        assert (fid["value"], fid["guidance"], fid["train_model"], fid["infer_model"], fid["caption"]) == (181.6, 4.0, "sd15", "sd15", "v3")


def test_both_tables_are_12_rows_in_the_papers_order_joined_to_their_published_values(paper_dir):
    rows = paper_rows(load_study_records(paper_dir))
    for table in (4, 5):
        own, published = paper_table(rows, table), published_rows().query("table == @table")
        assert list(zip(own["experiment"], own["guidance"], strict=True)) == list(zip(published["experiment"], published["guidance"], strict=True))
        assert own["lpips"].tolist() == own["lpips_published"].tolist() == published["lpips"].tolist()
    assert rows[rows["table"].isna()]["experiment"].tolist() == [0] and len(rows) == 25


def test_seen_and_unseen_prompts_have_means_of_their_own(paper_dir):
    rows = paper_rows(load_study_records(paper_dir))
    assert (rows["lpips"] - rows["lpips_seen"]).tolist() == pytest.approx([0.1] * 25)
    assert (rows["lpips_unseen"] - rows["lpips"]).tolist() == pytest.approx([0.1] * 25)


def test_a_study_that_is_half_finished_has_empty_rows_and_keeps_the_published_ones(paper_dir):
    records = Records(paper_dir)
    failed = {"trial": "t0001", "number": 1, "state": "FAIL", "configuration": {}, "labels": {"table": 4, "experiment": 1, "guidance": 4.0}}
    records.append_trial({**failed, "reason": "diverged"})
    row = paper_table(paper_rows(load_study_records(paper_dir)), 4).iloc[0]
    assert pd.isna(row["lpips"]) and row["lpips_published"] == 0.809 and row["state"] == "FAIL"


def test_another_study_is_told_what_its_trials_lack(study_dir, capsys):
    assert main(["paper", str(study_dir)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "labelled table, experiment, guidance" in error and "are: baseline" in error and "paper.py" in error
    assert not (study_dir / "paper").exists()


def test_the_figure_has_every_value_at_its_experiment(paper_dir):
    values = values_across_experiments(paper_rows(load_study_records(paper_dir)))
    assert values.groupby(["metric", "side"]).size().to_dict() == {(m, s): 25 if s == "here" else 24 for m in ("fid", "lpips") for s in ("here", "published")}
    best = values.query("metric == 'lpips' and side == 'here' and place == '4.4' and guidance == 4").iloc[0]
    assert best["value"] == 0.752 and best["low"] <= 0.752 <= best["high"]
    assert set(values["place"]) == {"0"} | {f"{t}.{e}" for t in (4, 5) for e in (1, 2, 3, 4)}


def test_the_command_writes_markdown_latex_csv_and_pictures(paper_dir, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["paper", "paper", "--storage", str(paper_dir.parent), "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "Lowest LPIPS, published: 0.752" in printed and "24 of 24 rows scored. Scale full: the numbers." in printed
    text = (out / "paper.md").read_text()
    assert "Lowest FID, here: 181.6 (table 5, experiment 4, guidance 4; sd15 to sd15, captions v3)" in text
    table = pd.read_csv(out / "table-4.csv")
    assert len(table) == 12 and {"lpips", "lpips_low", "lpips_published", "lpips_seen", "fid_published"} <= set(table.columns)
    latex = (out / "table-5.tex").read_text()
    assert latex.count(r"\\") >= 13 and r"LPIPS [95 \%]" in latex and r"train\_model" in latex and "181.6" in latex
    sheets = {path.name for path in out.glob("*.png")} - {"across-experiments.png"}
    assert len(sheets) == 2 * 9 and "best-table-4-experiment-4.png" in sheets
    assert all(f"({name})" in text for name in sheets) and not list(out.glob(".part*"))


def test_the_figure_is_drawn_where_matplotlib_is_installed(paper_dir, tmp_path):
    pytest.importorskip("matplotlib", reason="the figure needs the report extra")
    assert main(["paper", str(paper_dir), "--out", str(tmp_path / "out")]) == 0
    assert Image.open(tmp_path / "out" / "across-experiments.png").width > 800


def test_without_matplotlib_everything_else_is_written_and_a_line_says_so(paper_dir, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert main(["paper", str(paper_dir), "--out", str(tmp_path / "out")]) == 0
    assert "report]" in capsys.readouterr().err and (tmp_path / "out" / "table-4.csv").exists()
    assert "across" not in (tmp_path / "out" / "paper.md").read_text()


def test_a_missing_picture_is_named_and_nothing_is_half_written(paper_dir, tmp_path, capsys):
    (paper_dir / "pictures" / "e7-0.png").unlink()
    assert main(["paper", str(paper_dir), "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "e7-0.png" in error and "Restore" in error and list((tmp_path / "out").iterdir()) == []


def test_the_shipped_values_are_those_that_the_paper_study_is_labelled_for():
    rows = published_rows()
    assert len(rows) == 24 and len(rows.drop_duplicates(["train_model", "infer_model", "caption", "guidance"])) == 24
