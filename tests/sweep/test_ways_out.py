"""The ways out that messages name, taken: what is quoted in a message is run, and leads out. Starts no Ray."""

import json
import re
import shlex

import pytest
from PIL import Image

from sweep.cli import main
from sweep.folder import StudyFolder
from sweep.keys import Keys
from sweep.launch_commands import _say_if_changed
from sweep.launches import Launches, Request, write_launches
from sweep.record_files import in_commands
from sweep.study import load_study
from tests.sweep.test_cli import STUDY


@pytest.fixture(params=["usual storage", "another storage"])
def folder(request, tmp_path, monkeypatch) -> StudyFolder:
    """A study that was launched and has ended."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(STUDY)
    study = load_study(tmp_path / "mine.py")
    folder = StudyFolder("sweeps" if request.param == "usual storage" else tmp_path / "my sweeps", "mine")
    folder.write_study(study, Keys(study).content_digests())
    write_launches(folder.launches, Launches(Request(file=str(tmp_path / "mine.py"), directory=str(tmp_path))))
    return folder


def said(capsys, *words, code: int = 2) -> str:
    capsys.readouterr()
    assert main([str(word) for word in words]) == code
    out, err = capsys.readouterr()
    return " ".join((out + err).split())


def way_out(text: str, command: str) -> list[str]:
    """The words of the quoted command behind `sweep`."""
    found = [shlex.split(words) for words in re.findall(r"`(?:python -m )?sweep (.*?)`", text)]
    (words,) = [words for words in found if words[0] == command]
    return words


def on(folder: StudyFolder, *words: str) -> list[str]:
    return [*words, "--storage", str(folder.storage)]


def test_the_study_in_a_command_is_found_from_here(folder, capsys):
    assert ("--storage" in in_commands(folder.root)) == (folder.storage.name != "sweeps")
    assert main(["status", *shlex.split(in_commands(folder.root))]) == 0


@pytest.mark.parametrize("command", ["stop", "pause"])
def test_a_study_that_does_not_run_is_resumed_by_the_command_named(folder, capsys, command):
    words = way_out(said(capsys, *on(folder, command, "mine")), "resume")
    assert main(["status", *words[1:]]) == 0  # resume itself would train


def test_changed_limits_are_used_by_the_command_named(folder, capsys):
    words = way_out(said(capsys, *on(folder, "set", "mine", "samples=7"), code=0), "resume")
    assert main(["status", *words[1:]]) == 0


def test_a_study_in_use_is_ended_by_the_command_named(folder, capsys):
    with folder.held("elsewhere"):
        assert main(way_out(str(folder.in_use()), "stop")) == 0
        text = said(capsys, *on(folder, "resume", "mine"))
        words = way_out(text, "set")
        assert main([word if word != "KEY=VALUE" else "samples=9" for word in words]) == 0
        assert main(way_out(said(capsys, *on(folder, "gc")[0:1], "--storage", folder.storage), "stop")) == 0


@pytest.mark.parametrize("part", ["study.json", "launches.json"])
@pytest.mark.parametrize("content", [None, "{", "[]"], ids=["missing", "cut", "other"])
def test_a_damaged_file_of_a_study_is_mended_by_the_command_named(folder, capsys, part, content):
    file = folder.root / part
    file.unlink()
    if content is not None:
        file.write_text(content)
    elif part == "launches.json":
        return  # a study without one is whole
    # A study without its description is new to a plan.
    command = on(folder, *(("plan", "mine.py") if content else ("set", "mine", "samples=7")))
    words = way_out(said(capsys, *command), "repair")
    assert main([*words, "--yes"]) == 0
    assert main(command) == 0


def test_a_study_file_that_has_changed_is_taken_by_the_command_named(folder, capsys):
    """It goes on with this study, and begins no other one of the file's own name."""
    file = folder.storage.parent / "my file.py"
    file.write_text(STUDY + "\n# changed\n")
    _say_if_changed(folder, Request(file=str(file)))
    words = way_out(capsys.readouterr().out, "launch")
    assert words[1] == str(file) and "mine" in words
    capsys.readouterr()
    assert main(["plan", *words[1:]]) == 0 and "disk: " in capsys.readouterr().out
    folder.source.unlink()
    write_launches(folder.launches, Launches(Request(file="/no/such/file.py")))
    words = way_out(said(capsys, *on(folder, "repair", "mine", "--yes"), code=1), "launch")
    assert main(["plan", str(file), *words[2:]]) == 0 and "disk: " in capsys.readouterr().out


def test_photographs_without_captions_are_planned_by_the_set_that_is_named(folder, tmp_path, capsys):
    photos = tmp_path / "photos"
    photos.mkdir()
    for i, colour in enumerate(("red", "blue")):
        Image.new("RGB", (64, 64), colour).save(photos / f"{i}.png")
    (photos / "subject.json").write_text(json.dumps({"trigger": "jenny"}))
    study_file = tmp_path / "searched.py"
    searched = '{"caption": tune.choice(["v1", "v2"]), "rank": tune.choice([4, 8])}'
    study_file.write_text(
        f"from ray import tune\nfrom sweep import Study\nstudy = Study(space={searched},"
        ' baseline={"caption": "v2", "rank": 4}, try_first=[{"caption": "v2", "rank": 8}])'
    )
    for file in (study_file, tmp_path / "mine.py"):
        words = ["plan", str(file), "--name", "new", "--set", "subject=photos"]
        advice = re.search(r"Use (--set \S+),", said(capsys, *words))[1]
        assert main([*words, *shlex.split(advice)]) == 0


def test_a_study_that_is_not_there_is_answered_with_those_that_are(folder, capsys):
    text = said(capsys, *on(folder, "status", "mien"))
    assert "holds mine" in text and main(on(folder, "status", "mine")) == 0
