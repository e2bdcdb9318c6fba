"""Names and files that no file system takes, in every command: one line, exit code 2. Starts no Ray."""

import errno
import os
from pathlib import Path

import pytest

from analysis.__main__ import main as analysis_main
from sweep.cli import main
from sweep.errors import RecordsError, StudyError
from sweep.folder import StudyFolder, find_study_folder
from sweep.study import Study
from trainables.errors import StorageError
from trainables.storage import MOST_NAME_BYTES, line_of, place, require_plain_name

LONG = "n" * 300
OF_A_STUDY = [
    ("status", LONG),
    ("watch", LONG),
    ("stop", LONG),
    ("pause", LONG),
    ("set", LONG, "samples=3"),
    ("rescore", LONG, "--perceptual", "lpips:vgg"),
    ("rm", LONG, "--yes"),
    ("resume", LONG),
    ("confirm", LONG),
    ("export", LONG, "--best"),
    ("generate", LONG, "--best", "--prompt", "x"),
    ("score", "x.safetensors", "--study", LONG),
    ("status", f"folder/{LONG}"),
    ("launch", "search_spaces/captions.py", "--name", LONG),
    ("launch", "search_spaces/captions.py", "--name", "n" * (MOST_NAME_BYTES + 1)),
    ("plan", "search_spaces/captions.py", "--set", f"name={LONG}"),
    ("submit", "search_spaces/captions.py", "--name", LONG),
]
OF_FILES = [
    ("list", "--storage", LONG),
    ("gc", "--storage", LONG),
    ("launch", f"{LONG}.py"),
    ("plan", f"{LONG}.py"),
    ("check", LONG),
    ("caption", LONG),
    ("prepare", LONG, "out", "--trigger", "x"),
    ("launch", "search_spaces/captions.py", "--set", f"subject={LONG}"),
    ("launch", "search_spaces/captions.py", "--set", f"model={LONG}"),
    ("generate", "--adapter", f"{LONG}.safetensors", "--model", "embedded:base", "--prompt", "x", "--trigger", "x"),
]


NOBODY = "~nobody-of-this-name/x"
OF_NOBODY = [
    ("check", NOBODY),
    ("caption", NOBODY),
    ("prepare", NOBODY, "out", "--trigger", "x"),
    ("plan", "search_spaces/captions.py", "--set", f"subject={NOBODY}"),
    ("plan", "search_spaces/captions.py", "--set", f"model={NOBODY}"),
    ("plan", "search_spaces/captions.py", "--set", f"train_vae={NOBODY}"),
    ("generate", "--adapter", NOBODY, "--model", "embedded:base", "--prompt", "x", "--trigger", "x"),
    ("class-images", NOBODY, "women", "--prompt", "a woman"),
]


def one_line(capsys, run, arguments) -> str:
    assert run(list(arguments)) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: ") and "Traceback" not in lines[0]
    return lines[0]


@pytest.mark.parametrize("arguments", OF_A_STUDY + OF_FILES, ids=lambda a: " ".join(part.replace(LONG, "LONG") for part in a)[:60])
def test_a_name_that_no_file_system_takes_is_one_line_in_every_command(arguments, capsys, tmp_path):
    storage = [] if "--storage" in arguments or arguments[0] in ("check", "caption", "prepare", "submit") else ["--storage", str(tmp_path / "sweeps")]
    line = one_line(capsys, main, [*arguments, *storage])
    assert "nnnn" in line and ("bytes" in line or "too long" in line)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", ["tables", "report", "figures", "paper", "compare"])
def test_a_name_that_no_file_system_takes_is_one_line_in_the_analysis(command, capsys):
    assert "255" in one_line(capsys, analysis_main, [command, LONG, *([LONG] if command == "compare" else [])])


def test_names_are_limited_in_bytes_and_in_one_place(tmp_path):
    longest = "n" * MOST_NAME_BYTES
    assert StudyFolder(tmp_path, longest).root.name == Study(name=longest).name == require_plain_name(longest, "A name") == longest
    (tmp_path / f".removing-{longest}").mkdir()  # the file system takes what is made of it
    for name in (longest + "n", "ä" * 101):
        with pytest.raises(StorageError, match=f"at most {MOST_NAME_BYTES} bytes.*{len(name.encode())}"):
            StudyFolder(tmp_path, name)
    with pytest.raises(StudyError, match="There is no study"):
        find_study_folder(longest, tmp_path)
    with pytest.raises(StorageError, match="4095 bytes"):
        place("/".join(["a" * 200] * 30))


@pytest.mark.parametrize("number", [errno.EACCES, errno.ENOSPC, errno.ENOTDIR, errno.EIO, errno.ENAMETOOLONG, errno.ELOOP])
def test_an_error_of_the_file_system_is_one_line_with_its_file_and_a_way_out(number):
    line = line_of(OSError(number, os.strerror(number), "/a/file"))
    assert "/a/file" in line and os.strerror(number) in line and "\n" not in line and line.endswith(".")
    assert line_of(OSError("no number")) == "Files must be usable, but a file or folder is not: no number. Check that it is what its name says, and its disk."


def test_a_home_that_cannot_be_written_is_named_and_the_way_out_leads_out(tmp_path, monkeypatch):
    (tmp_path / "home").write_text("a file where the home folder should be")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    with pytest.raises(RecordsError, match=rf"{tmp_path}/home/.cache/lora-sweep.*cannot be written.*XDG_CACHE_HOME"), StudyFolder("s3://b/p", "s").held():
        pass
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = StudyFolder("s3://b/p", "s")
    folder.here.mkdir(parents=True)  # what `held` does first
    assert str(folder.here).startswith(str(tmp_path / "cache"))


def test_ray_gets_a_token_where_the_home_folder_cannot_keep_one(tmp_path, monkeypatch):
    from sweep.ray_session import _provide_token

    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    _provide_token()
    assert "RAY_AUTH_TOKEN" not in os.environ
    (tmp_path / "home").write_text("a file where the home folder should be")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("RAY_AUTH_TOKEN", "")  # so that it is taken away again
    _provide_token()
    assert len(os.environ["RAY_AUTH_TOKEN"]) == 32


@pytest.mark.parametrize("arguments", OF_NOBODY, ids=" ".join)
def test_the_home_of_a_user_that_there_is_not_is_one_line(arguments, capsys):
    one_line(capsys, main, arguments)


def test_a_storage_in_the_home_folder_is_that_one(monkeypatch, tmp_path, capsys):
    """As `--storage=~/sweeps` arrives: a shell leaves `~` alone after the equals sign."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    StudyFolder("~/sweeps", "mine").write_study(Study(samples=1), {})
    assert [file.name for file in tmp_path.iterdir()] == ["sweeps"]
    assert main(["list", "--storage=~/sweeps"]) == 0 and "mine" in capsys.readouterr().out
    assert place("~nobody-of-this-name") == Path("~nobody-of-this-name")
