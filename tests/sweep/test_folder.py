"""Who may write in a study's folder: one process at a time, and none that another has replaced."""

import os

import pytest

from sweep.errors import LeaseLostError, RecordsError
from sweep.folder import StudyFolder
from sweep.launches import FINISHED, LaunchLog, Request, read_launches
from sweep.live_file import LiveFile, read_moment
from sweep.moment import Moment
from sweep.records import Records
from tests.sweep.test_records import evaluation_row, trial_row
from trainables import leases
from trainables.leases import STALE_S


@pytest.fixture
def folder(tmp_path):
    return StudyFolder(tmp_path, "s")


def fall_silent(folder: StudyFolder) -> None:
    """As if the holder had slept: its lease is old, and it knows how long it has not refreshed
    it."""
    lease = folder.root / ".lease"
    os.utime(lease, (lease.stat().st_mtime - STALE_S - 1,) * 2)


def test_a_launch_that_slept_and_was_replaced_writes_nothing_and_says_who_has_the_study(folder):
    with folder.held("slept") as slept:
        records = Records(folder.root, launch="slept", guard=slept.require)
        log = LaunchLog(folder.launches, "slept", Request(), guard=slept.require)
        records.append_trial(trial_row())
        fall_silent(folder)
        with folder.held("other") as other:
            LaunchLog(folder.launches, "other", Request(), guard=other.require).end(FINISHED)
            before = (folder.launches.read_text(), sorted(folder.root.rglob("*")))
            for write in (
                lambda: records.append_trial(trial_row(1)),
                lambda: records.append_evaluation(evaluation_row()),
                lambda: log.end(FINISHED),
                slept.require,
            ):
                with pytest.raises(
                    LeaseLostError,
                    match=rf"process {os.getpid()} on .* has taken s over.*sweep watch s",
                ):
                    write()
            assert before == (folder.launches.read_text(), sorted(folder.root.rglob("*")))
            other.require()
        with pytest.raises(LeaseLostError, match="holds s no longer.*sweep resume s"):
            records.append_trial(trial_row(1))
    assert folder.holder is None and [
        entry.id for entry in read_launches(folder.launches).entries
    ] == ["slept", "other"]


def test_a_worker_writes_for_its_launch_only_while_that_has_the_lease_however_silent_its_driver_is(
    folder,
):
    with folder.held("slept"):
        folder.require_held_by("slept")
        fall_silent(folder)
        assert folder.holder is None
        folder.require_held_by(
            "slept"
        )  # nobody has taken it: what is scored meanwhile is not thrown away
        with folder.held("other"):
            folder.require_held_by("other")
            with pytest.raises(LeaseLostError, match="has taken s over"):
                folder.require_held_by("slept")
    with pytest.raises(LeaseLostError, match="holds s no longer"):
        folder.require_held_by("slept")


def test_a_storage_that_does_not_answer_is_no_lost_lease(folder, monkeypatch):
    monkeypatch.setattr("trainables.storage.PATIENCE_S", 0.0)
    with folder.held("mine") as mine:
        read = leases._FileClaims.standing
        monkeypatch.setattr(
            leases._FileClaims,
            "standing",
            lambda self, key, **_: (_ for _ in ()).throw(OSError(5, "Input/output error")),
        )
        with pytest.raises(RecordsError, match="must be writable.*Input/output error"):
            mine.require()
        with pytest.raises(OSError, match="Input/output"):
            mine.loss()
        monkeypatch.setattr(leases._FileClaims, "standing", read)
        mine.require()


def test_a_launch_that_was_replaced_leaves_the_live_file_to_the_other_one(folder):
    with LiveFile(folder.live, "slept", Moment("s", 0.0), every_s=1000.0) as slept:
        slept._ended.set()
        slept._writer.join()
        with LiveFile(folder.live, "other", Moment("s", 1.0), every_s=1000.0) as other:
            other._ended.set()
            other._writer.join()
            slept.__exit__()
            assert read_moment(folder.live, "other") is not None
    assert not folder.live.exists()
