"""A study survives what happens to its files: compactions that are killed, tampered records, a copy, a move, another kind of storage."""

import shutil
from dataclasses import replace

import pandas as pd
import pytest

from analysis.__main__ import main as analysis_main
from sweep import record_files
from sweep import records as records_module
from sweep.cli import main
from sweep.device import PackDevice
from sweep.driver import Driver, run_here
from sweep.errors import RecordsError, StorageError, StudyError
from sweep.folder import StudyFolder, find_study_folder
from sweep.keys import Keys
from sweep.one_trial import one_trial_study, run_trial_here
from sweep.pool import Pool
from sweep.records import EVALUATIONS, TABLES, TRIALS, Records, as_rows, place
from sweep.scheduler import Asha
from sweep.searcher import COMPLETE, Searcher
from sweep.study import Epochs, Row, Study
from sweep.trial_rows import past_of, trial_of_row
from sweep.worker import Worker, known_outcomes
from tests.sweep.fakes import OBJECTIVE, SPACE, FakeContent, FakeDevice
from tests.sweep.test_records import evaluation_row, image_rows, pictures, trial_row
from tests.sweep.test_repeatability import launched, study  # noqa: F401  the latter is a fixture


@pytest.fixture(params=["folder", "store"])
def storage(request, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return place(request.getfixturevalue("s3") if request.param == "store" else tmp_path / "sweeps")


def filled(study_dir, n: int = 4) -> Records:
    records = Records(study_dir, clock=lambda: 1.0)
    for number in range(n):
        records.append_trial(trial_row(number))
        records.append_trial(trial_row(number, "COMPLETE", objective=number / 10))
        records.append_evaluation(evaluation_row(f"e{number}"), image_rows(), pictures() if number == 0 else None)
    return records


def tables_of(records: Records) -> tuple[pd.DataFrame, ...]:
    return records.trials(), records.evaluations(), records.images()


def assert_same(before, after) -> None:
    for old, new in zip(before, after, strict=True):
        pd.testing.assert_frame_equal(old, new)


def test_records_read_write_and_compact_alike_in_a_folder_and_in_a_store(storage):
    records = filled(storage / "s")
    before = tables_of(records)
    assert [len(frame) for frame in before] == [8, 4, 12] and records.evaluation("e1")["lpips"] == 0.5
    picture = storage / "s" / before[2]["path"][0]
    assert picture.read_bytes().startswith(b"\x89PNG")
    records.compact()
    assert_same(before, tables_of(Records(storage / "s")))
    assert [len(list((storage / "s" / "records" / table.name).glob("*.parquet"))) for table in TABLES] == [1, 1, 1]
    assert Records(storage / "s").evaluation("e1")["lpips"] == 0.5


class Killed(BaseException):
    """Nobody catches it, as nobody hears SIGKILL."""


@pytest.mark.parametrize("point", range(24))
def test_a_compaction_that_is_killed_at_any_point_loses_and_doubles_nothing(tmp_path, monkeypatch, point):
    records = filled(tmp_path / "s")
    before, left = tables_of(records), [point]

    def step(do, *arguments, **options):
        left[0] -= 1
        if left[0] < 0:
            raise Killed
        return do(*arguments, **options)

    write, remove = records_module.write_atomically, record_files.remove
    monkeypatch.setattr(records_module, "write_atomically", lambda *a, **o: step(write, *a, **o))
    monkeypatch.setattr(records_module, "remove", lambda parts: [step(remove, [part]) for part in parts])
    try:
        records.compact()
    except Killed:
        pass
    monkeypatch.undo()
    assert (left[0] < 0) == (point < 3 + 8 + 4 + 4)  # one part written and the old ones removed, of each table
    assert_same(before, tables_of(Records(tmp_path / "s")))
    Records(tmp_path / "s").compact()
    assert_same(before, tables_of(Records(tmp_path / "s")))


def test_a_listing_that_a_compaction_overlaps_loses_nothing(tmp_path, monkeypatch):
    """The directory was read before the merged part was there, and past a part that went meanwhile."""
    records = filled(tmp_path / "s")
    before, list_parts = records.trials(), Records._parts

    def torn(self, table):
        parts = list_parts(self, table)
        monkeypatch.undo()
        aside = tmp_path / "aside"
        shutil.copytree(tmp_path / "s", aside)
        records.compact()
        for part in parts[2:]:  # these two were read before they went, the others were missed
            shutil.copy(aside / "records" / table.name / part.name, part)
        return parts[2:]

    monkeypatch.setattr(Records, "_parts", torn)
    pd.testing.assert_frame_equal(Records(tmp_path / "s").trials(), before)


def test_two_compactions_at_once_lose_nothing(tmp_path, monkeypatch):
    records, other = filled(tmp_path / "s"), Records(tmp_path / "s")
    before, remove = tables_of(records), records_module.remove

    def other_first(parts):
        monkeypatch.setattr(records_module, "remove", remove)
        other.append_trial(trial_row(9))
        other.compact()
        remove(parts)

    monkeypatch.setattr(records_module, "remove", other_first)
    records.compact()
    after = tables_of(Records(tmp_path / "s"))
    assert_same(before[1:], after[1:])
    pd.testing.assert_frame_equal(before[0], after[0].iloc[:-1].reset_index(drop=True), check_dtype=False)
    assert after[0]["trial"].iloc[-1] == "t0009"


def test_a_writer_merges_its_own_parts_when_they_are_many(tmp_path, monkeypatch):
    monkeypatch.setattr(records_module, "MOST_PARTS", 5)
    records = Records(tmp_path / "s")
    for number in range(12):
        records.append_trial(trial_row(number))
    assert len(list((tmp_path / "s" / "records" / "trials").glob("*.parquet"))) <= 8 and len(records.trials()) == 12


@pytest.mark.parametrize("path", ["../../x", "/etc/passwd", "pictures/../../x", "..", "C:/x", "a\\..\\x", "\\\\host\\x"])
def test_a_path_in_records_that_leads_out_of_the_study_is_refused(tmp_path, monkeypatch, path):
    records = filled(tmp_path / "s", 1)
    with pytest.raises(RecordsError, match="lies in its study's folder.*e9"):
        records.append_evaluation(evaluation_row("e9"), [{"prompt": "p", "path": path}])
    monkeypatch.setattr(records_module, "_within_the_study", lambda rows, table: rows)
    records.append_evaluation(evaluation_row("e9"), [{"prompt": "p", "path": path}])
    monkeypatch.undo()
    with pytest.raises(RecordsError, match="lies in its study's folder.*e9.*tampered"):
        Records(tmp_path / "s").images()


def test_names_that_would_lead_out_of_the_storage_are_refused(tmp_path, capsys):
    for name in ("../x", "a/b", "/etc", ".hidden"):
        with pytest.raises(StorageError, match="A study's name"):
            StudyFolder(tmp_path, name)
        with pytest.raises(StorageError, match="key of a row"):
            Records(tmp_path / "s").append_trial(trial_row() | {"trial": name})
        with pytest.raises(StorageError, match="An evaluation's key|key of a row"):
            Records(tmp_path / "s").append_evaluation(evaluation_row(name), image_rows(), pictures())
    assert not (tmp_path / "s").exists()


def test_credentials_in_an_address_are_refused_by_every_command_and_printed_by_none(capsys):
    address = "s3://AKIAKEY:secretsecret@bucket/sweeps"
    assert main(["status", "s", "--storage", address]) == 2
    assert main(["plan", "search_spaces/captions.py", "--storage", address]) == 2
    assert analysis_main(["tables", "s", "--storage", address]) == 2
    said = "".join(capsys.readouterr())
    assert "AWS_ACCESS_KEY_ID" in said and "secretsecret" not in said and "AKIAKEY" not in said and "Traceback" not in said


def one_trial() -> Study:
    fixed = {"rank": 16, "learning_rate": 1e-3, "guidance": 4.0}
    return one_trial_study(Study(name="s", space=SPACE, fixed={}, baseline=Row(fixed), epochs=Epochs(max=3, rungs=(1,)), objective=OBJECTIVE))


def test_a_study_runs_goes_on_and_is_read_in_a_folder_and_in_a_store(storage, capsys):
    alone = one_trial()
    for _ in range(2):
        device = FakeDevice()
        driver, _ = run_trial_here(alone, storage, make_device=lambda folder, device=device: device, keys=Keys(alone, FakeContent()))
        assert [trial.state for trial in driver.trials.values()] == [COMPLETE]
        assert len(Records(storage / alone.name).evaluations()) == 3  # two rungs and the control
    folder = find_study_folder(alone.name, str(storage))
    assert folder.exists and folder.holder is None and folder.root == storage / alone.name
    with folder.held():
        assert folder.holder is not None
        with pytest.raises(StudyError, match="in use by process"), StudyFolder(str(storage), alone.name).held():
            pass
    assert folder.holder is None
    assert main(["status", alone.name, "--storage", str(storage)]) == 0 and "1 done of 1" in capsys.readouterr().out
    assert main(["status", str(folder.root)]) == 0 and main(["status", "none", "--storage", str(storage)]) == 2
    assert alone.name in capsys.readouterr().err
    assert analysis_main(["tables", alone.name, "--storage", str(storage)]) == 0 and "t0000" in capsys.readouterr().out
    stored = b"".join(path.read_bytes() for path in storage.rglob("*") if path.is_file())
    assert b"not-to-be-printed" not in stored and b"AKIATEST" not in stored


def test_two_machines_do_not_launch_the_same_study_in_a_store(s3, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "one"))
    one = StudyFolder(s3, "s")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "other"))
    other = StudyFolder(s3, "s")
    with one.held():
        with pytest.raises(StudyError, match="in use by process"), other.held():
            pass
    with other.held():
        assert other.holder is not None


def went_on(study: Study, storage) -> Driver:  # noqa: F811
    records = Records(storage / "s")
    past = [trial_of_row(row) for row in as_rows(records.latest_trials(), TRIALS)]
    pool = Pool(known_outcomes(records))
    device = PackDevice(device="cpu", n_threads=1, adapters=storage / "adapters", n_slots=2, backbones=study.backbones)
    device.open()
    searcher = Searcher(study, past=[past_of(trial) for trial in past])
    driver = Driver(study, Keys(study), searcher, Asha(study.rungs, None), pool, records, max_concurrent=2, past=past)
    run_here(driver, pool, Worker("w", pool, device, records, objective=study.objective, sleep=lambda seconds: None).turn)
    return driver


@pytest.mark.parametrize("with_adapters", [True, False])
def test_a_study_that_was_moved_goes_on_with_or_without_its_adapters(study, tmp_path, with_adapters):  # noqa: F811
    study = replace(study, samples=2)
    first, _ = launched(study, tmp_path / "here", max_concurrent=2)
    shutil.copytree(tmp_path / "here" / "s", tmp_path / "there" / "s")
    if with_adapters:
        shutil.copytree(tmp_path / "here" / "adapters", tmp_path / "there" / "adapters")
    shutil.rmtree(tmp_path / "here")
    moved = Records(tmp_path / "there" / "s")
    again = went_on(replace(study, samples=3), tmp_path / "there")
    assert again.started_now == {"t0002"}
    rows = {row["trial"]: row["objective"] for row in as_rows(moved.latest_trials(), TRIALS)}
    assert len(rows) == 3 and {t.id: t.objective for t in first.trials.values()}.items() <= rows.items()
    assert {key for t in again.trials.values() for _, _, *keys in t.rungs for key in keys} <= {
        row["evaluation_key"] for row in as_rows(moved.evaluations(), EVALUATIONS)
    }


def test_a_study_with_nothing_left_to_do_ends_without_ray_and_one_with_something_left_does_not(tmp_path, monkeypatch):
    from sweep import runner

    alone = one_trial()
    run_trial_here(alone, tmp_path, make_device=lambda folder: FakeDevice(), keys=Keys(alone, FakeContent()))
    before = tables_of(Records(tmp_path / alone.name))

    def no_ray(address, device):
        raise AssertionError("Ray was started")

    monkeypatch.setattr(runner, "ray_session", no_ray)
    driver, snapshot = runner.launch(alone, runner.Launch(tmp_path, keys=Keys(alone, FakeContent())))
    assert not driver.started_now and driver.best.id == "t0000" and snapshot["requests_open"] == 0
    assert_same(before, tables_of(Records(tmp_path / alone.name)))
    more = replace(alone, rows=(*alone.rows, Row({"rank": 4})))
    with pytest.raises(AssertionError, match="Ray was started"):
        runner.launch(more, runner.Launch(tmp_path, keys=Keys(more, FakeContent())))
