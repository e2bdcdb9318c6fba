"""Optuna's journal as a view: whatever becomes of its file, the study goes on, and the file is
whole again once it can be."""

import errno
import logging
import os

import optuna
import pytest

from sweep.journal import RETRY_S, JournalView
from sweep.searcher import Searcher
from sweep.study import Study
from tests.sweep.fakes import FakeClock
from tests.sweep.test_searcher import SPACE, in_optuna, run


@pytest.fixture
def clock(monkeypatch):
    clock = FakeClock()
    monkeypatch.setattr("sweep.searcher.JournalView", lambda path: JournalView(path, clock=clock))
    return clock


def lines_of(caplog) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "sweep.journal"]


def searched(journal, study=None) -> list:
    return run(
        Searcher(study or Study(name="s", space=SPACE, samples=6, study_seed=3), journal=journal)
    )


def remove(journal):
    journal.unlink()


def move_folder(journal):
    journal.parent.rename(journal.parent.with_name("away"))


def cut(journal):
    os.truncate(journal, 30)


def cover(journal):
    journal.unlink()
    journal.mkdir()


def by_another(journal):
    other = journal.with_name("other")
    other.write_text("another launch's\n")
    os.replace(other, journal)


TROUBLES = [remove, move_folder, cut, cover, by_another]


@pytest.mark.parametrize("trouble", TROUBLES)
def test_a_study_finds_the_same_whatever_becomes_of_its_journal(tmp_path, clock, caplog, trouble):
    undisturbed = searched(None)
    journal = tmp_path / "here" / "optuna.journal"
    journal.parent.mkdir()
    searcher = Searcher(Study(name="s", space=SPACE, samples=6, study_seed=3), journal=journal)
    first = run(searcher, n=2)
    trouble(journal)
    rest = run(searcher)
    assert [*first, *rest] == undisturbed
    assert len(lines_of(caplog)) == (trouble not in (remove, cut))  # these two are mended at once
    if trouble is by_another:
        assert journal.read_text() == "another launch's\n"


@pytest.mark.parametrize("trouble", TROUBLES)
def test_the_journal_is_whole_again_once_it_can_be_written(tmp_path, clock, caplog, trouble):
    journal = tmp_path / "here" / "optuna.journal"
    journal.parent.mkdir()
    searcher = Searcher(Study(name="s", space=SPACE, samples=6, study_seed=3), journal=journal)
    run(searcher, n=2)
    trouble(journal)
    run(searcher, n=2)
    if trouble is move_folder:
        journal.parent.with_name("away").rename(journal.parent)
    elif trouble is cover:
        journal.rmdir()
    elif trouble is by_another:
        return  # it stays the other one's
    clock.sleep(RETRY_S)
    run(searcher)
    assert [trial.state.name for trial in in_optuna(journal)] == ["COMPLETE"] * 6
    said = lines_of(caplog)
    assert len(said) in (0, 2) and all("is written again" in line for line in said[1:])


@pytest.mark.parametrize("failing", ["open", "write", "replace"])
@pytest.mark.parametrize(
    "number", [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EIO, errno.ESTALE]
)
def test_an_append_that_is_refused_ends_nothing_and_is_said_once(
    tmp_path, clock, caplog, monkeypatch, failing, number
):
    journal = tmp_path / "optuna.journal"
    undisturbed = searched(None)
    searcher = Searcher(Study(name="s", space=SPACE, samples=6, study_seed=3), journal=journal)
    first = run(searcher, n=1)

    def refuse(*_, **__):
        raise OSError(number, os.strerror(number))

    place = {
        "open": ("builtins.open", refuse),
        "write": ("sweep.journal.JournalView._write", refuse),
        "replace": ("os.replace", refuse),
    }
    if failing != "write":
        journal.unlink()  # so that it is written anew
    monkeypatch.setattr(*place[failing])
    middle = run(searcher, n=3)
    monkeypatch.undo()
    (said,) = lines_of(caplog)
    assert os.strerror(number) in said and str(journal) in said and "the study goes on" in said
    clock.sleep(RETRY_S)
    assert [*first, *middle, *run(searcher)] == undisturbed
    assert len(in_optuna(journal)) == 6 and [path.name for path in tmp_path.iterdir()] == [
        "optuna.journal"
    ]


def test_a_damaged_or_foreign_journal_of_an_earlier_launch_is_replaced(tmp_path, caplog):
    journal = tmp_path / "optuna.journal"
    for content in (b"", b"\xff\xfe\n", b'{"op_code": 0', b"[]\n[]\n"):
        journal.write_bytes(content)
        searched(journal)
        assert len(in_optuna(journal)) == 6
    assert lines_of(caplog) == []


def test_a_folder_that_is_not_there_is_one_line(tmp_path, caplog):
    searched(tmp_path / "nowhere" / "optuna.journal")
    (said,) = lines_of(caplog)
    assert "No such file or directory" in said and not (tmp_path / "nowhere").exists()


def test_optuna_reads_from_the_view_what_its_own_file_gives(tmp_path):
    path = tmp_path / "optuna.journal"
    view = optuna.storages.JournalStorage(JournalView(path))
    study = optuna.create_study(study_name="s", storage=view, direction="minimize")
    study.enqueue_trial({"x": 1.5}, user_attrs={"note": "é\n"})
    study.optimize(
        lambda trial: trial.suggest_float("x", 0, 2) + trial.suggest_categorical("c", [0, 0.5]),
        n_trials=5,
    )
    own = optuna.load_study(
        study_name="s",
        storage=optuna.storages.JournalStorage(
            optuna.storages.journal.JournalFileBackend(str(path))
        ),
    )
    assert own.trials == study.trials


@pytest.fixture(autouse=True)
def heard(caplog):
    caplog.set_level(logging.WARNING)
