"""Where a study's training images lie, whatever folder the report is made in."""

import json
from types import SimpleNamespace

import pytest

from analysis.pictures import subject_folder


@pytest.mark.parametrize("recorded_in", ["study.json", "launches.json"])
def test_a_relative_subject_is_meant_from_where_the_study_was_launched(tmp_path, monkeypatch, recorded_in):
    study, home, away = (tmp_path / name for name in ("study", "home", "away"))
    for folder in (study, home / "photos", away / "photos"):
        folder.mkdir(parents=True)
    described = {"subject": "photos"}
    if recorded_in == "study.json":
        described["directory"] = str(home)
    else:
        (study / recorded_in).write_text(json.dumps({"request": {"directory": str(home)}, "launches": []}))
    (study / "study.json").write_text(json.dumps(described))
    for folder in (home, away):
        monkeypatch.chdir(folder)
        assert subject_folder(SimpleNamespace(folder=study)) == home / "photos"
    (home / "photos").rmdir()
    assert subject_folder(SimpleNamespace(folder=study)) is None  # and not the other one of that name


DEEP = "[" * 100_000


@pytest.mark.parametrize("launches", ['{"request": 3}', '{"request": [1]}', "[]", "{", DEEP])
def test_a_damaged_list_of_launches_is_one_that_says_nothing(tmp_path, monkeypatch, launches):
    (tmp_path / "photos").mkdir()
    (tmp_path / "study.json").write_text(json.dumps({"subject": "photos"}))
    (tmp_path / "launches.json").write_text(launches)
    monkeypatch.chdir(tmp_path)
    found = subject_folder(SimpleNamespace(folder=tmp_path))
    assert found is not None and found.resolve() == tmp_path / "photos"
    (tmp_path / "study.json").write_text(launches)
    assert subject_folder(SimpleNamespace(folder=tmp_path)) is None
