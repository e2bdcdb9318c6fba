"""A disk that takes no more ends a launch in one line that says what is free and what is needed; no trial has failed, and a relaunch goes on."""

import errno
import os
import pickle
import subprocess

import numpy as np
import pytest

from sweep.causes import Cause
from sweep.errors import AdapterError, DiskError, RecordsError, SweepError
from sweep.folder import StudyFolder
from sweep.records import TRIALS, Records, as_rows
from sweep.room import bytes_needed, disk_error, refusal_of
from sweep.searcher import COMPLETE, FAIL, PRUNED, RUNNING
from sweep.trial_rows import trial_row
from tests.sweep.fakes import FakeContent, FakeDeviceMaker, a_trial
from tests.sweep.test_driver import Bench, listed_study
from tests.sweep.test_runner import a_study


@pytest.mark.parametrize(("number", "word", "way_out"), [(errno.ENOSPC, "is full", "sweep gc"), (errno.EDQUOT, "over its quota", "quota raised"), (errno.EROFS, "read-only", "--storage")])
def test_the_line_names_the_disk_what_is_free_and_the_way_out(tmp_path, number, word, way_out):
    wrapped = RecordsError("A study's folder must be writable.")
    wrapped.__cause__ = OSError(number, os.strerror(number), str(tmp_path / "s" / "records" / "x.parquet"))
    line = str(disk_error(refusal_of(wrapped), StudyFolder(tmp_path, "s"), 10))
    assert word in line and way_out in line and str(tmp_path / "s" / "records") in line and "\n" not in line and "no trial has failed" in line
    assert (" free" in line) == (number != errno.EROFS)


def test_the_storage_is_another_place_than_one_whose_name_it_begins(tmp_path):
    full = DiskError("full", path=str(tmp_path / "s-of-others"))
    line = str(disk_error(full, StudyFolder(tmp_path / "s", "a"), 10))
    assert "Make room there" in line and "sweep gc" not in line


def test_other_errors_are_no_refusals():
    for error in (OSError(errno.EIO, "away"), AdapterError("damaged"), PermissionError(errno.EACCES, "no"), MemoryError()):
        assert refusal_of(error) is None


def test_a_disk_error_keeps_what_it_knows_on_its_way_between_processes():
    error = pickle.loads(pickle.dumps(DiskError("full", number=errno.EDQUOT, path="/a")))
    assert (str(error), error.number, error.path, error.cause) == ("full", errno.EDQUOT, "/a", Cause.DISK)


def test_what_is_needed_is_what_trials_have_taken_so_far_times_those_that_are_left(tmp_path):
    folder = StudyFolder(tmp_path, "s")
    records = Records(folder.root)
    assert bytes_needed(folder, 10) is None
    for number in range(2):
        pictures = np.random.default_rng(number).integers(0, 255, (2, 8, 8, 3), np.uint8)
        records.append_evaluation({"evaluation_key": f"key{number}@3", "training_key": "k"}, [{"prompt": "p"}] * 2, pictures)
        records.append_trial(trial_row(a_trial(number, COMPLETE, (3, 0.5)), "s"))
    stored = sum(path.stat().st_size for path in (folder.root / "pictures").rglob("*.png"))
    assert bytes_needed(folder, 10) == round(stored / 2 * 8)


class FullAfter:
    """Records of trials that take so many rows, and then no more."""

    def __init__(self, n: int) -> None:
        self.rows, self.left = [], n

    def append_trial(self, row) -> None:
        if self.left == 0:
            raise RecordsError("not writable") from OSError(errno.ENOSPC, "No space left on device")
        self.left -= 1
        self.rows.append(row)


@pytest.mark.parametrize("n_rows", range(1, 12))
def test_a_driver_whose_rows_are_refused_ends_with_every_trial_unfinished_or_done(n_rows):
    driver, pool, worker = Bench(listed_study()).prepare()
    driver._records = FullAfter(n_rows)
    try:
        driver.fill()
        for _ in range(200):
            for trial in driver.live:
                driver.hear(trial.id, pool.next_rung(trial.id, trial.epochs))
            worker.turn()
    except SweepError as error:
        driver.fail(error)
    driver.end_all()
    assert refusal_of(driver.fatal) is not None and driver.stop_cause is Cause.DISK and not driver.live
    assert all(trial.is_unfinished or trial.state in (COMPLETE, PRUNED) for trial in driver.trials.values())
    assert all(row["state"] != FAIL or row["cause"] == "disk" for row in driver._records.rows)


@pytest.fixture
def small_disk(tmp_path):
    """A folder on a disk of 700 kB, and what makes it larger."""
    where = tmp_path / "disk"
    where.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=700k", "tmpfs", str(where)], capture_output=True).returncode:
        pytest.skip("mounting a small tmpfs is refused here")
    yield where, lambda: subprocess.run(["mount", "-o", "remount,size=50m", str(where)], check=True)
    subprocess.run(["umount", "-l", str(where)], check=True)


@pytest.mark.ray
def test_a_launch_on_a_disk_that_fills_ends_at_once_and_goes_on_when_there_is_room(small_disk, ray_home, monkeypatch):
    from sweep.keys import Keys
    from sweep.runner import Launch, launch

    monkeypatch.setenv("HOME", str(ray_home))
    storage, make_room = small_disk
    study = a_study()
    how = Launch(storage, make_device=FakeDeviceMaker(epoch_s=0.05), keys=Keys(study, FakeContent()), max_concurrent=3)
    with pytest.raises(DiskError, match="is full .* free; the rest of the study needs about .* launch the study again"):
        launch(study, how)
    rows = as_rows(Records(storage / "s").latest_trials(), TRIALS)
    assert all(row["state"] in (RUNNING, COMPLETE, PRUNED) or row["cause"] in ("disk", "interrupted") for row in rows)
    make_room()
    driver, _ = launch(study, how)
    assert {trial.state for trial in driver.trials.values()} <= {COMPLETE, PRUNED} and len(driver.trials) == 10
