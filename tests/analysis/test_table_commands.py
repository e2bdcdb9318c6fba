"""The commands: every table in every format, files whole or not at all, one line for what is wrong; the paper's rows show its findings."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

from analysis.__main__ import EXAMPLES, main
from analysis.published import published_rows
from analysis.table_commands import TABLES
from analysis.text import texts_of
from sweep.records import Records

ROOT = Path(__file__).resolve().parents[2]

ARGUMENTS = {"pivot": ["--by", "caption", "rank"], "interaction": ["--by", "caption", "rank"]}


@pytest.mark.parametrize("table", TABLES)
def test_every_table_is_written_and_reads_back(study_dir, tmp_path, capsys, table):
    out = tmp_path / "table.csv"
    assert main(["tables", str(study_dir), "--table", table, *ARGUMENTS.get(table, []), "-o", str(out)]) == 0
    assert (len(pd.read_csv(out)) > 0) == (table != "seen") and capsys.readouterr().out == "" and not list(tmp_path.glob(".part*"))  # all prompts are seen


@pytest.mark.parametrize("state", [None, "FAIL"])
@pytest.mark.parametrize("table", [name for name in TABLES if name not in ("paired", "best", *ARGUMENTS)])
def test_a_study_without_a_scored_trial_has_tables_too(tmp_path, capsys, table, state):
    (tmp_path / "s" / "records").mkdir(parents=True)
    if state:
        Records(tmp_path / "s").append_trial({"trial": "t0000", "number": 0, "state": state, "configuration": {"rank": 4}, "reason": "all black"})
    assert main(["tables", str(tmp_path / "s"), "--table", table]) == 0
    assert ("all black" in capsys.readouterr().out) == (table == "failures" and state == "FAIL")


def test_formats_say_the_same_and_markdown_keeps_its_cells(study_dir, tmp_path, capsys):
    Records(study_dir).append_trial({"trial": "t0004", "number": 4, "state": "FAIL", "configuration": {}, "reason": "a | b_c"})
    arguments = ["tables", str(study_dir), "--table", "failures"]
    written = {}
    for format in ("text", "csv", "markdown", "latex"):
        assert main([*arguments, "--format", format]) == 0
        written[format] = capsys.readouterr().out
    assert r"| a \| b_c | 1 |" in written["markdown"] and r"a | b\_c & 1 &" in written["latex"]
    assert pd.read_csv(io.StringIO(written["csv"]))["reason"].tolist() == ["a | b_c"]
    for suffix in ("md", "tex", "txt", "parquet"):
        assert main([*arguments, "-o", str(tmp_path / f"t.{suffix}")]) == 0
    assert (tmp_path / "t.md").read_text() == written["markdown"] and pd.read_parquet(tmp_path / "t.parquet")["n"].tolist() == [1]


def test_numbers_are_short_where_they_were_given_and_have_four_digits_where_measured():
    assert texts_of(pd.Series([1e-5, 0.001, 16.0, None])) == ["1e-05", "0.001", "16", "-"]
    assert texts_of(pd.Series([0.123456789, 0.000012345678])) == ["0.1235", "1e-05"]


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--table", "pivot"], "one or more.*--by"),
        (["--table", "interaction", "--by", "rank"], "by 2 parameters, but 1"),
        (["--table", "pivot", "--by", "dropout"], "`dropout` is none of"),
        (["--table", "best", "--value", "dino_"], "no `dino_`"),
        (["--table", "importance", "--method", "forest"], "'forest'"),
        (["--table", "paired", "--with", "t0099"], "no trial t0099"),
        (["--format", "parquet"], "-o FILE"),
        (["-o", "table.doc"], r"\.csv.*table\.doc.*--format"),
        (["-o", "nowhere/table.csv"], "nowhere/table.csv cannot"),
    ],
)
def test_what_is_wrong_is_one_line(study_dir, tmp_path, capsys, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    assert main(["tables", str(study_dir), *arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and re.search(message, error)
    assert sorted(tmp_path.rglob("*")) == before


def test_two_studies_are_compared_on_common_pictures(study_dir, tmp_path, capsys):
    other = Records(tmp_path / "other", clock=lambda: 1.0)
    images = [{"prompt": f"p{p}", "seen": True, "seed": s, "lpips": 0.2 + 0.01 * s} for p in range(5) for s in range(4)]
    networks = {"perceptual_backbone": "embedded:perceptual", "pooled_backbone": "embedded:pooled"}
    row = {"evaluation_key": "e3-6", "training_key": "k", "epoch": 6, "lpips": 0.215, "fid": 20.0, "n_images": 20, "n_references": 99}
    other.append_evaluation({**row, **networks}, images)  # a key that the other study has, too
    trial = {"trial": "t0000", "number": 0, "state": "COMPLETE", "configuration": {"rank": 4}, "best_epoch": 6, "objective": 0.2}
    other.append_trial({**trial, "rung_values": [[6, 0.2, "e3-6"]]})
    assert main(["compare", str(study_dir), str(tmp_path / "other"), "--csv"]) == 0
    printed = capsys.readouterr()
    table = pd.read_csv(io.StringIO(printed.out)).set_index("study")
    assert table.loc["other", ["vs_first", "vs_first_low", "vs_first_n"]].tolist() == pytest.approx([-0.1, -0.1, 20])
    assert table["trial"].tolist() == ["t0003", "t0000"] and "n_references is 151, 99" in printed.err
    assert main(["compare", str(study_dir), str(tmp_path / "other"), "--trials", "--csv"]) == 0
    assert pd.read_csv(io.StringIO(capsys.readouterr().out))["study"].tolist() == ["other"] + ["captions"] * 4
    assert main(["compare", str(study_dir)]) == 2 and "two studies or more" in capsys.readouterr().err


def written(
    folder, subject, images, *, name="a", steps=20, prompts=("p",), searched=None, formula="lpips"
):
    """A study of one trial, with as much in study.json as names its subject; None: it has none."""
    records = Records(folder / name, clock=lambda: 1.0)
    (folder / name).mkdir()
    if subject is not None:
        described = {"subject": subject, "content": {f"images of {subject}": images}}
        (folder / name / "study.json").write_text(json.dumps(described))
    rows = [{"prompt": "p", "seen": True, "seed": s, "lpips": 0.1 * s} for s in range(4)]
    configuration = {"steps": steps, "prompts": list(prompts), "guidance": searched or 3.0}
    row = {"evaluation_key": "e", "training_key": "k", "epoch": 3, "configuration": configuration}
    networks = {
        "perceptual_backbone": "lpips:alex",
        "pooled_backbone": "inception",
        "n_images": 4096,
    }
    records.append_evaluation({**row, **networks, "lpips": 0.15, "fid": 20.0}, rows)
    trial = {"trial": "t0000", "number": 0, "state": "COMPLETE", "best_epoch": 3, "objective": 0.2}
    given = {"rank": 4} | ({"guidance": searched} if searched else {})
    ended = {"configuration": given, "objective_formula": formula, "rung_values": [[3, 0.2, "e"]]}
    records.append_trial({**trial, **ended})
    return str(folder / name)


@pytest.mark.parametrize("form", [[], ["--trials"]])
def test_values_of_two_subjects_stand_side_by_side_with_a_word_and_without_a_difference(
    tmp_path, capsys, form
):
    first = written(tmp_path, "anna", "1234567890")
    other = written(tmp_path, "bert", "abcdef0123", name="b")
    assert main(["compare", first, other, *form, "--csv"]) == 0
    printed = capsys.readouterr()
    table = pd.read_csv(io.StringIO(printed.out)).set_index("study")
    assert table["subject"].to_dict() == {"a": "anna", "b": "bert"}
    assert "No value can be compared: the subject is anna in a, bert in b." in printed.err
    assert form or table["vs_first"].isna().all()


def test_a_subject_whose_images_have_changed_is_another_one(tmp_path, capsys):
    studies = [
        written(tmp_path, "anna", images, name=name)
        for name, images in (("a", "1234567890"), ("b", "abcdef0123"))
    ]
    assert main(["compare", *studies, "--csv"]) == 0
    assert (
        "the subject is anna (images 12345678) in a, anna (images abcdef01) in b"
        in capsys.readouterr().err
    )


def test_studies_of_one_protocol_are_compared_and_what_differs_is_named(
    tmp_path, capsys
):
    first = written(tmp_path, "anna", "12")
    assert (
        main(
            ["compare", first, written(tmp_path, "anna", "12", name="same", searched=5.0), "--csv"]
        )
        == 0
    )
    printed = capsys.readouterr()
    assert pd.read_csv(io.StringIO(printed.out))["vs_first"].tolist()[1] == 0
    (note,) = printed.err.splitlines()
    assert note.startswith("vs_first does not cover what another training seed would do in a and ")
    other = written(tmp_path, "anna", "12", name="b", steps=9, prompts=("q",), formula="fid")
    assert main(["compare", first, other, "--csv"]) == 0
    said = capsys.readouterr().err
    assert "objective cannot be compared: it is lpips in a, fid in b." in said
    assert "Pictures were generated in other ways: steps is 20 in a, 9 in b; prompts." in said
    assert main(["compare", first, written(tmp_path, None, "", name="copied"), "--csv"]) == 0
    assert "copied has no study.json" in capsys.readouterr().err


def test_the_papers_rows_show_its_findings(tmp_path, capsys):
    records = Records(tmp_path / "published", clock=lambda: 1.0)
    for number, row in enumerate(published_rows().to_dict("records")):
        key, metrics = f"e{number}", {name: row[name] for name in ("lpips", "fid")}
        networks = {"perceptual_backbone": "lpips:alex", "pooled_backbone": "inception", "n_images": 20, "n_references": 151}
        records.append_evaluation({"evaluation_key": key, "training_key": f"k{number // 3}", "epoch": 300, **networks, **metrics})
        configuration = {name: row[name] for name in ("train_model", "infer_model", "caption", "guidance")}
        trial = {"trial": f"t{number:04d}", "number": number, "state": "COMPLETE", "configuration": configuration}
        records.append_trial({**trial, "labels": {"experiment": row["experiment"]}, "best_epoch": 300, "objective": row["lpips"], "rung_values": [[300, row["lpips"], key]]})

    def table(*arguments):
        assert main(["tables", str(tmp_path / "published"), "--csv", *arguments]) == 0
        printed = capsys.readouterr()
        assert "20 images is mostly bias" in printed.err or arguments[1] == "pivot"
        return pd.read_csv(io.StringIO(printed.out))

    lowest = table("--table", "ranked").iloc[0]
    assert (lowest["lpips"], lowest["label.experiment"], lowest["guidance"]) == (0.752, 4, 4.0)
    lowest = table("--table", "best", "--by", "train_model", "infer_model", "caption", "--value", "fid").iloc[0]
    assert lowest[["train_model", "infer_model", "caption", "guidance", "fid"]].tolist() == ["sd15", "sd15", "v3", 4.0, 181.6]
    front = table("--table", "pareto")
    assert front["lpips"].min() == 0.752 and front["fid"].min() == 181.6
    cells = table("--table", "pivot", "--by", "caption", "guidance", "--value", "fid")
    assert cells["n"].sum() == 24 and cells.loc[cells["best"].idxmin(), ["caption", "guidance"]].tolist() == ["v3", 4.0]


@pytest.mark.parametrize("command", EXAMPLES)
def test_the_help_of_every_command_has_an_example(command, capsys):
    with pytest.raises(SystemExit):
        main([command, "--help"])
    assert f"example: python -m analysis {command} " in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_command_that_is_interrupted_says_so_in_one_line(study_dir, monkeypatch, capsys, number):
    def interrupted(*arguments, **options) -> None:
        os.kill(os.getpid(), number)
        time.sleep(5)

    monkeypatch.setattr("analysis.table_commands.load_study_records", interrupted)
    assert main(["tables", str(study_dir)]) == 130
    assert capsys.readouterr().err == "error: interrupted\n"


@pytest.mark.parametrize("format", ["text", "csv"])
def test_a_reader_that_has_seen_enough_is_no_failure(study_dir, format):
    """As `| head -1` closes the pipe."""
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "analysis", "tables", str(study_dir), "--format", format]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, cwd=ROOT, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, b"")
