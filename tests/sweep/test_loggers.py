"""Which loggers a study may name, and what is said before anything starts where one cannot be used."""

import os
import subprocess
import sys

import pytest

from sweep import loggers
from sweep.cli import main
from sweep.comparison import EXTENDS, SAME, compare_studies
from sweep.confirmation import confirmation_source
from sweep.errors import StudyError
from sweep.folder import StudyFolder
from sweep.launches import LaunchLog, Request
from sweep.loggers import LoggedTrial, event_folder, make_logger, require_loggers
from sweep.study import Study, load_study

STUDY = """
from sweep import Study

study = Study(rows=[{"rank": 8}], loggers=("mlflow",))
"""


@pytest.fixture
def study_file(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(STUDY)
    return path


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (("tensorbord",), "tensorboard, wandb, mlflow, but one is 'tensorbord'. Did you mean `tensorboard`"),
        (("wandb", "wandb"), "wandb twice"),
        (3, "must be a list of loggers, but it is 3"),
    ],
)
def test_what_is_no_logger_is_refused(given, says):
    with pytest.raises(StudyError, match=says):
        Study(loggers=given)


def test_loggers_are_given_in_the_study_or_on_the_command_line_which_can_switch_them_off(study_file):
    assert Study().loggers == () and load_study(study_file).loggers == ("mlflow",)
    assert load_study(study_file, {"loggers": "tensorboard, wandb"}).loggers == ("tensorboard", "wandb")
    assert load_study(study_file, {"loggers": "off"}).loggers == ()


def test_a_relaunch_may_change_loggers_freely():
    without, with_one, with_two = (Study(loggers=names).describe() for names in ((), ("wandb",), ("tensorboard", "wandb")))
    for old, new in ((without, with_one), (with_one, with_two), (with_two, without)):
        assert {verdict[0]: verdict[1] for verdict in compare_studies(old, new) if verdict[1] != SAME} == {"loggers": EXTENDS}


def test_a_confirmation_tells_the_same_loggers():
    finalist = {"trial": "t0000", "configuration": {"rank": 8}, "best_epoch": 3}
    assert "loggers=('tensorboard',)," in confirmation_source(Study(loggers=("tensorboard",)), [finalist], n_images=20, n_seeds=1)


def test_a_flag_is_remembered_and_a_resume_repeats_it_or_gives_another(study_file, tmp_path, monkeypatch):
    started = []
    monkeypatch.setattr("sweep.launch_commands._run", lambda study, *_, **__: started.append(study))
    assert main(["launch", str(study_file), "--logger", "tensorboard", "--logger", "wandb"]) == 0
    assert started[0].loggers == ("tensorboard", "wandb")
    folder = StudyFolder(tmp_path / "sweeps", "mine")
    folder.root.mkdir(parents=True)
    folder.write_study(started[0], {})
    LaunchLog(folder.launches, "a", Request(dict(started[0].overrides))).end("interrupted")
    for options in ((), ("--logger", "off"), ("--logger", "mlflow")):
        assert main(["resume", str(folder.root), *options]) == 0
    assert [study.loggers for study in started[1:]] == [("tensorboard", "wandb"), (), ("mlflow",)]


def test_a_package_that_is_missing_is_one_line_before_anything_is_written(study_file, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(loggers.MODULES, "mlflow", "no_such_package")
    assert main(["launch", str(study_file), "--storage", str(tmp_path / "sweeps")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: The logger mlflow needs the package no_such_package") and "lora-sweep[mlflow]" in line
    assert not (tmp_path / "sweeps").exists()


def test_a_folder_that_is_called_as_a_package_is_none(tmp_path, monkeypatch):
    (tmp_path / "a_folder_of_runs").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(loggers.MODULES, "wandb", "a_folder_of_runs")
    with pytest.raises(StudyError, match="a_folder_of_runs, but it is not installed"):
        require_loggers(["wandb"])


def test_without_a_login_wandb_is_refused_unless_it_is_offline(tmp_path):
    pytest.importorskip("wandb", reason="needs pip install -e '.[wandb]'")
    program = "from sweep.loggers import require_loggers; require_loggers(['wandb'])"
    clean = {name: value for name, value in os.environ.items() if not name.startswith("WANDB")} | {"HOME": str(tmp_path), "NETRC": str(tmp_path / "none")}
    run = lambda **env: subprocess.run([sys.executable, "-c", program], env={**clean, **env}, capture_output=True, text=True)  # noqa: E731
    assert "Use `wandb login`, WANDB_API_KEY, or WANDB_MODE=offline" in run().stderr
    assert run(WANDB_MODE="offline").returncode == 0


def test_events_of_a_study_in_a_store_lie_on_this_machine_which_is_said(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = StudyFolder("s3://bucket/sweeps", "s")
    logger = make_logger("tensorboard", folder)
    assert event_folder(folder).is_relative_to(tmp_path) and len(caplog.records) == 1
    assert f"they are in {event_folder(folder)}" in caplog.records[0].getMessage()
    trial = LoggedTrial("t0000", {}, str(event_folder(folder) / "t0000"), {"state": "FAIL", "epochs": 0})
    logger.log_trial_start(trial)
    logger.log_trial_end(trial, failed=True)
    assert logger.has_ended("t0000") and not logger.has_ended("t0001")
