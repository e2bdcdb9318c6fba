"""Loading a study's records: by name, by folder, half finished, copied, missing."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from analysis.load import load_study_records
from sweep.records import Records, RecordsError

REPOSITORY = Path(__file__).parents[2]


def test_a_study_is_found_by_its_name_and_by_its_folder(study_dir):
    by_name = load_study_records("captions", study_dir.parent)
    by_folder = load_study_records(study_dir)
    assert by_name.folder == by_folder.folder and by_name.name == "captions"


def test_configurations_labels_and_metrics_become_columns(study_dir):
    records = load_study_records(study_dir)
    assert records.parameters == ("caption", "rank", "guidance") and records.labels == ("label.baseline",)
    assert list(records.trials["rank"]) == [4, 16, 4, 16, 4, 4] and records.trials["rank"].dtype == "Int64"
    assert set(records.evaluations["eval.guidance"]) == {3.0} and set(records.evaluations["dino"]) == {0.5}
    assert len(records.rungs) == 8 and len(records.images) == 9 * 20


def test_a_sampled_length_does_not_hide_the_epochs_reached(tmp_path):
    records = Records(tmp_path / "lengths")
    records.append_trial({"trial": "t0000", "number": 0, "state": "PRUNED", "configuration": {"epochs": 12}, "epochs": 4})
    trial = load_study_records(tmp_path / "lengths").trials.iloc[0]
    assert (trial["epochs"], trial["epochs_asked"]) == (4, 12)


def test_a_missing_study_names_those_that_are_there(study_dir):
    with pytest.raises(RecordsError, match="no caption;.*holds captions.*--storage"):
        load_study_records("caption", study_dir.parent)


def test_analysis_imports_nothing_that_touches_a_device():
    for path in (REPOSITORY / "analysis").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            for module in [*names, node.module or ""] if isinstance(node, ast.ImportFrom) else names:
                assert module.split(".")[0] not in ("torch", "ray", "diffusers", "transformers", "trainables"), path
                assert not module.startswith("sweep") or module == "sweep.records", path
